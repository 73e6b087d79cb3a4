//! This connector on the platform: register, ping, the marking's existence, the queue, and what became of earlier
//! pushes.
//!
//! Facts it stands on: registering is an upsert and leaves the state alone; a ping while a reset is pending only
//! clears the reset, any other ping stores exactly the state it carries, and a missing one wipes it; only a reset (or
//! creation) changes `connector_state_timestamp`. An import with an unknown marking is stored *without* marking.
//! Registering patches what is left out to null, which the platform refuses once another client, such as the Python
//! library, has sent it: so every field that the library sends is sent here as well.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{OpenctiClient, OpenctiError, Operation};

const REGISTER: Operation = Operation {
    name: "registerConnector",
    document: "mutation RegisterConnector($input: RegisterConnectorInput) { registerConnector(input: $input) { id connector_state connector_state_timestamp } }",
};

const PING: Operation = Operation {
    name: "pingConnector",
    document: "mutation PingConnector($id: ID!, $state: String, $connectorInfo: ConnectorInfoInput) { pingConnector(id: $id, state: $state, connectorInfo: $connectorInfo) { id connector_state connector_state_timestamp } }",
};

const MARKING: Operation = Operation {
    name: "markingDefinition",
    document: "query MarkingDefinition($id: String!) { markingDefinition(id: $id) { id standard_id definition } }",
};

const QUEUE: Operation = Operation {
    name: "connector queue",
    document: "query ConnectorQueue($id: String!) { connector(id: $id) { id connector_queue_details { messages_number messages_size } } }",
};

const WORKS: Operation = Operation {
    name: "connector works",
    document: "query ConnectorWorks($id: String!) { connector(id: $id) { id works { id status timestamp errors { message source } tracking { import_expected_number import_processed_number } } } }",
};

const ABOUT: Operation = Operation { name: "about", document: "query About { about { version } }" };

const ME: Operation = Operation {
    name: "me",
    document: "query Me { me { name capabilities { name } effective_confidence_level { max_confidence } allowed_marking { standard_id } } }",
};

/// The connector as the platform holds it.
#[derive(Debug, Clone, Deserialize)]
pub struct Registration {
    /// JSON text, empty, or null.
    #[serde(default)]
    pub connector_state: Option<String>,
    /// Changes only at creation and at an operator's reset.
    #[serde(default)]
    pub connector_state_timestamp: Option<String>,
}

impl Registration {
    /// The state as valid JSON: the web interface parses it.
    #[must_use]
    pub fn state(&self) -> &str {
        match self.connector_state.as_deref().map(str::trim) {
            None | Some("" | "null") => "{}",
            Some(state) => state,
        }
    }

    /// Where the Python connector stood, if it was here before and this product was not.
    #[must_use]
    pub fn python_last_run(&self) -> Option<DateTime<Utc>> {
        let state: Value = serde_json::from_str(self.connector_state.as_deref()?).ok()?;
        if state.get("bridge").is_some() {
            return None;
        }
        let last_run = state.get("last_run")?;
        match last_run {
            Value::Number(seconds) =>
            {
                #[expect(clippy::cast_possible_truncation, reason = "whole epoch seconds are meant")]
                DateTime::from_timestamp(seconds.as_f64()? as i64, 0)
            }
            Value::String(text) => parse_time(text.trim()),
            _ => None,
        }
    }
}

/// RFC 3339, or without a zone, which then is UTC.
fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    let zoned = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    let naive = || {
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
            .map(|time| time.and_utc())
    };
    zoned.ok().or_else(naive)
}

/// What the connector's page shows beside the state.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectorInfo {
    /// Always: between runs nothing of the connector exists; the page shows "External schedule".
    pub run_and_terminate: bool,
    /// The last run did nothing because the queue was full.
    pub buffering: bool,
    /// Decimal megabytes.
    pub queue_threshold: f64,
    /// Decimal megabytes.
    pub queue_messages_size: f64,
    /// When the last run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run_datetime: Option<DateTime<Utc>>,
}

/// A work as far as feedback needs it.
#[derive(Debug, Clone, Deserialize)]
pub struct ConnectorWork {
    /// Its id.
    pub id: String,
    /// `wait`, `progress` or `complete`.
    #[serde(default)]
    pub status: String,
    /// When it was made, by the platform's clock and in its spelling.
    #[serde(default)]
    pub timestamp: String,
    /// Objects that the platform's workers refused.
    #[serde(default)]
    pub errors: Option<Vec<WorkError>>,
    /// How far it is.
    #[serde(default)]
    pub tracking: Option<WorkTracking>,
}

/// How many objects of a work are done. Not set before a worker has seen it.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkTracking {
    /// Objects of the push.
    #[serde(default)]
    pub import_expected_number: Option<u64>,
    /// Those that were imported or refused.
    #[serde(default)]
    pub import_processed_number: Option<u64>,
}

impl ConnectorWork {
    /// How many objects it had, when all of them are done. A work that a reset cut off is complete with fewer.
    #[must_use]
    pub fn imported(&self) -> Option<u64> {
        let tracking = self.tracking.as_ref().filter(|_| self.status == "complete")?;
        tracking.import_expected_number.filter(|expected| tracking.import_processed_number == Some(*expected))
    }

    #[cfg(test)]
    pub(crate) fn for_tests(
        timestamp: &str,
        processed: Option<u64>,
        expected: Option<u64>,
        errors: Vec<WorkError>,
    ) -> Self {
        let tracking = WorkTracking { import_expected_number: expected, import_processed_number: processed };
        Self {
            id: format!("work_{timestamp}"),
            status: if processed.is_some() { "complete" } else { "wait" }.to_owned(),
            timestamp: timestamp.to_owned(),
            errors: Some(errors),
            tracking: Some(tracking),
        }
    }
}

/// One refused object.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkError {
    /// Usually a Python dict printed as text.
    #[serde(default)]
    pub message: Option<String>,
    /// The object's JSON.
    #[serde(default)]
    pub source: Option<String>,
}

/// Who the token belongs to.
#[derive(Debug, Clone, Deserialize)]
pub struct Me {
    /// The account's name.
    pub name: String,
    /// What it may do.
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// Its maximum confidence.
    #[serde(default)]
    pub effective_confidence_level: Option<ConfidenceLevel>,
    /// The markings it may use.
    #[serde(default)]
    pub allowed_marking: Option<Vec<Marking>>,
}

/// A capability.
#[derive(Debug, Clone, Deserialize)]
pub struct Capability {
    /// Such as `CONNECTORAPI`.
    pub name: String,
}

/// An account's confidence level.
#[derive(Debug, Clone, Deserialize)]
pub struct ConfidenceLevel {
    /// 0 to 100.
    #[serde(default)]
    pub max_confidence: Option<i64>,
}

/// A marking.
#[derive(Debug, Clone, Deserialize)]
pub struct Marking {
    /// Its STIX id.
    #[serde(default)]
    pub standard_id: Option<String>,
}

/// The connector's name and kind, as registered.
#[derive(Debug, Clone)]
pub struct Identity<'a> {
    /// `CONNECTOR_ID`.
    pub id: &'a str,
    /// `CONNECTOR_NAME`.
    pub name: &'a str,
    /// `CONNECTOR_SCOPE`.
    pub scope: &'a [String],
}

/// Registers the connector, or finds it registered.
pub async fn register(
    opencti: &OpenctiClient,
    identity: &Identity<'_>,
) -> Result<Registration, OpenctiError> {
    #[derive(Deserialize)]
    struct Data {
        #[serde(rename = "registerConnector")]
        registered: Registration,
    }
    let input = json!({
        "id": identity.id,
        "name": identity.name,
        "type": "EXTERNAL_IMPORT",
        "scope": identity.scope,
        "auto": false,
        "auto_update": false,
        "enrichment_resolution": "none",
        "only_contextual": false,
        "playbook_compatible": false,
        "listen_callback_uri": null,
    });
    let data: Data = opencti.call(REGISTER, json!({ "input": input })).await?;
    Ok(data.registered)
}

/// Shows the connector alive and stores `state`, which must be JSON text.
pub async fn ping(
    opencti: &OpenctiClient,
    id: &str,
    state: &str,
    info: Option<&ConnectorInfo>,
) -> Result<Registration, OpenctiError> {
    #[derive(Deserialize)]
    struct Data {
        #[serde(rename = "pingConnector")]
        pinged: Registration,
    }
    let variables = match info {
        Some(info) => json!({ "id": id, "state": state, "connectorInfo": info }),
        None => json!({ "id": id, "state": state }),
    };
    let data: Data = opencti.call(PING, variables).await?;
    Ok(data.pinged)
}

/// Whether the marking exists and this token may use it.
pub async fn marking_exists(opencti: &OpenctiClient, standard_id: &str) -> Result<bool, OpenctiError> {
    #[derive(Deserialize)]
    struct Data {
        #[serde(rename = "markingDefinition")]
        marking: Option<Value>,
    }
    let data: Data = opencti.call(MARKING, json!({ "id": standard_id })).await?;
    Ok(data.marking.is_some())
}

/// What waits to be imported. Nothing when the platform does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QueueSize {
    /// One for each object.
    pub messages: u64,
    /// Decimal.
    pub megabytes: f64,
}

/// What waits in the connector's queue.
pub async fn queue_size(opencti: &OpenctiClient, id: &str) -> Result<QueueSize, OpenctiError> {
    #[derive(Deserialize)]
    struct Data {
        connector: Option<Connector>,
    }
    #[derive(Deserialize)]
    struct Connector {
        connector_queue_details: Option<Details>,
    }
    #[derive(Deserialize)]
    struct Details {
        messages_number: Option<f64>,
        messages_size: Option<f64>,
    }
    let data: Data = opencti.call(QUEUE, json!({ "id": id })).await?;
    let Some(details) = data.connector.and_then(|connector| connector.connector_queue_details) else {
        return Ok(QueueSize::default());
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count; negative ones are 0"
    )]
    let messages = details.messages_number.unwrap_or(0.0) as u64;
    Ok(QueueSize { messages, megabytes: details.messages_size.unwrap_or(0.0) / 1e6 })
}

/// The connector's recent works with their errors.
pub async fn works(opencti: &OpenctiClient, id: &str) -> Result<Vec<ConnectorWork>, OpenctiError> {
    #[derive(Deserialize)]
    struct Data {
        connector: Option<Connector>,
    }
    #[derive(Deserialize)]
    struct Connector {
        works: Option<Vec<Option<ConnectorWork>>>,
    }
    let data: Data = opencti.call(WORKS, json!({ "id": id })).await?;
    let works = data.connector.and_then(|connector| connector.works).unwrap_or_default();
    Ok(works.into_iter().flatten().collect())
}

/// The platform's version, such as `6.9.0`.
pub async fn version(opencti: &OpenctiClient) -> Result<String, OpenctiError> {
    #[derive(Deserialize)]
    struct Data {
        about: About,
    }
    #[derive(Deserialize)]
    struct About {
        version: String,
    }
    let data: Data = opencti.call(ABOUT, json!({})).await?;
    Ok(data.about.version)
}

/// The token's account.
pub async fn me(opencti: &OpenctiClient) -> Result<Me, OpenctiError> {
    #[derive(Deserialize)]
    struct Data {
        me: Me,
    }
    let data: Data = opencti.call(ME, json!({})).await?;
    Ok(data.me)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(state: &str) -> Registration {
        Registration { connector_state: Some(state.to_owned()), connector_state_timestamp: None }
    }

    #[test]
    fn the_python_connectors_place_is_found() {
        for (state, expected) in [
            (
                r#"{"last_run": "2026-11-22T05:16:25", "failed_sample_id": null}"#,
                Some("2026-11-22T05:16:25Z"),
            ),
            (r#"{"last_run": "2026-11-22T05:16:25+02:00"}"#, Some("2026-11-22T03:16:25Z")),
            (r#"{"last_run": 1767323045}"#, Some("2026-01-02T03:04:05Z")),
            (r#"{"bridge": 1, "last_run": 1767323045}"#, None),
            (r#"{"last_run": null}"#, None),
            (r#"{"last_run": "soon"}"#, None),
            ("", None),
            ("not json", None),
        ] {
            let expected = expected.map(|text| text.parse::<DateTime<Utc>>().unwrap());
            assert_eq!(registration(state).python_last_run(), expected, "{state}");
        }
    }

    #[test]
    fn an_empty_state_is_pinged_as_an_empty_object() {
        for state in ["", " ", "null"] {
            assert_eq!(registration(state).state(), "{}");
        }
        assert_eq!(registration(r#"{"a":1}"#).state(), r#"{"a":1}"#);
    }
}
