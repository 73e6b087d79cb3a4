//! Handing a bundle to the platform.

use runtime::http::Deadline;
use serde::{Deserialize, Serialize};

use super::client::{OpenctiClient, OpenctiError, Operation};

const PUSH: Operation = Operation {
    name: "stixBundlePush",
    document: "mutation StixBundlePush($connectorId: String!, $bundle: String!) { stixBundlePush(connectorId: $connectorId, bundle: $bundle) }",
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Variables<'a> {
    connector_id: &'a str,
    bundle: &'a str,
}

#[derive(Deserialize)]
struct Pushed {
    #[serde(rename = "stixBundlePush")]
    pushed: Option<bool>,
}

/// Pushes a bundle, which must be JSON text, until `until`. The platform makes a work for it, and its workers end that.
pub async fn push(
    opencti: &OpenctiClient,
    until: Deadline,
    connector_id: &str,
    bundle: &str,
) -> Result<(), OpenctiError> {
    let answer: Pushed = opencti.call_until(until, PUSH, Variables { connector_id, bundle }).await?;
    if answer.pushed == Some(true) {
        return Ok(());
    }
    Err(OpenctiError::Refused {
        operation: PUSH.name,
        code: "NOT_PUSHED".to_owned(),
        message: "the platform did not say that it took the bundle".to_owned(),
    })
}
