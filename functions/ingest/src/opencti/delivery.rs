//! Pushing bundles: one call each, never a work of our own. The platform makes the work itself and its workers close
//! it, so that nothing of ours can be left open.

use std::collections::HashSet;

use common::http::Deadline;
use common::mapping::MappedSample;
use common::stix::{Bundle, StixId};
use common::vmray::model::SampleId;
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
struct Data {
    #[serde(rename = "stixBundlePush")]
    pushed: Option<bool>,
}

/// How the platform treated a sample.
#[derive(Debug)]
pub enum Delivered {
    /// Accepted; imported a little later.
    Accepted(SampleId),
    /// Not taken, however often, while the platform answers.
    Refused(SampleId, OpenctiError),
}

/// Pushes bundles and counts them.
#[derive(Debug)]
pub struct Delivery<'a> {
    opencti: &'a OpenctiClient,
    connector_id: &'a str,
    /// Map and validate only.
    dry_run: bool,
    until: Deadline,
    pushed_labels: HashSet<StixId>,
    /// Bundles accepted.
    pub bundles: u64,
    /// Objects in them.
    pub objects: u64,
}

impl<'a> Delivery<'a> {
    /// For one run, which pushes nothing after `until`. A dry run counts and pushes nothing at all.
    #[must_use]
    pub fn new(opencti: &'a OpenctiClient, connector_id: &'a str, dry_run: bool, until: Deadline) -> Self {
        Self { opencti, connector_id, dry_run, until, pushed_labels: HashSet::new(), bundles: 0, objects: 0 }
    }

    /// Pushes the samples as one bundle. One that is too large is halved at once; one that is refused is pushed again
    /// sample by sample. An error is not the samples' fault: the run stops.
    pub async fn push(&mut self, samples: Vec<MappedSample>) -> Result<Vec<Delivered>, OpenctiError> {
        let mut results = Vec::with_capacity(samples.len());
        let mut pending = vec![samples];
        while let Some(samples) = pending.pop() {
            match self.push_once(&samples).await {
                Ok(()) => results.extend(samples.iter().map(|sample| Delivered::Accepted(sample.sample_id))),
                Err(OpenctiError::TooLarge { .. }) if samples.len() > 1 => pending.extend(halve(samples)),
                Err(error @ OpenctiError::TooLarge { .. }) => {
                    for sample in samples {
                        results.push(self.push_in_parts(sample, &error).await?);
                    }
                }
                Err(error @ (OpenctiError::Refused { .. } | OpenctiError::Failing { .. })) => {
                    if samples.len() > 1 {
                        tracing::warn!(%error, samples = samples.len(), "a bundle was not taken: pushing its samples one by one");
                        pending.extend(samples.into_iter().rev().map(|sample| vec![sample]));
                    } else {
                        results
                            .extend(samples.iter().map(|s| Delivered::Refused(s.sample_id, error.clone())));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(results)
    }

    /// One sample that is too large alone: each part stands alone, and the platform unites the reports.
    async fn push_in_parts(
        &mut self,
        sample: MappedSample,
        too_large: &OpenctiError,
    ) -> Result<Delivered, OpenctiError> {
        let id = sample.sample_id;
        let mut pending = vec![sample];
        let mut first = true;
        while let Some(part) = pending.pop() {
            let outcome = if std::mem::take(&mut first) {
                Err(too_large.clone())
            } else {
                self.push_once(std::slice::from_ref(&part)).await
            };
            match outcome {
                Ok(()) => {}
                Err(error @ OpenctiError::TooLarge { .. }) => match common::stix::halve(part) {
                    Ok((one, other)) => pending.extend([other, one]),
                    Err(_) => return Ok(Delivered::Refused(id, error)),
                },
                Err(error @ (OpenctiError::Refused { .. } | OpenctiError::Failing { .. })) => {
                    return Ok(Delivered::Refused(id, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Delivered::Accepted(id))
    }

    async fn push_once(&mut self, samples: &[MappedSample]) -> Result<(), OpenctiError> {
        let bundle = Bundle::merge(samples, &self.pushed_labels);
        if !self.dry_run {
            let variables = Variables { connector_id: self.connector_id, bundle: &bundle.json };
            let data: Data = self.opencti.call_until(self.until, PUSH, variables).await?;
            if data.pushed == Some(false) {
                return Err(OpenctiError::Refused {
                    operation: PUSH.name,
                    code: "FALSE".to_owned(),
                    message: "the platform answered false".to_owned(),
                });
            }
        }
        self.bundles += 1;
        self.objects += bundle.object_count as u64;
        self.pushed_labels.extend(bundle.label_ids());
        Ok(())
    }
}

fn halve(mut samples: Vec<MappedSample>) -> [Vec<MappedSample>; 2] {
    let newer = samples.split_off(samples.len() / 2);
    // The last pending is pushed first: oldest first.
    [newer, samples]
}
