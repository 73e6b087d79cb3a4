//! Pushing bundles: one call each, never a work of our own. The platform makes the work itself and its workers close
//! it, so that nothing of ours can be left open.

use std::collections::{BTreeSet, HashSet};

use mapping::MappedSample;
use runtime::http::Deadline;
use serde::{Deserialize, Serialize};
use stix::{Bundle, StixId};
use vmray::model::SampleId;

use super::client::{OpenctiClient, OpenctiError, Operation};
use crate::health::TOO_MANY;

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
    /// Samples that earlier runs could not bring in either.
    suspects: BTreeSet<SampleId>,
    /// Bundles accepted.
    pub bundles: u64,
    /// Objects in them.
    pub objects: u64,
}

impl<'a> Delivery<'a> {
    /// For one run, which pushes nothing after `until`. A dry run counts and pushes nothing at all.
    #[must_use]
    pub fn new(
        opencti: &'a OpenctiClient,
        connector_id: &'a str,
        dry_run: bool,
        until: Deadline,
        suspects: BTreeSet<SampleId>,
    ) -> Self {
        Self {
            opencti,
            connector_id,
            dry_run,
            until,
            pushed_labels: HashSet::new(),
            suspects,
            bundles: 0,
            objects: 0,
        }
    }

    /// Pushes the samples as one bundle. One that is too large is halved at once; one that is refused is pushed again
    /// sample by sample. An error is not the samples' fault and stops the run; what was decided before it is in
    /// `results` all the same.
    pub async fn push(
        &mut self,
        samples: Vec<MappedSample>,
        results: &mut Vec<Delivered>,
    ) -> Result<(), OpenctiError> {
        let mut pending = vec![samples];
        while let Some(samples) = pending.pop() {
            if let Some(error) = self.refuses_everything(results) {
                return Err(error);
            }
            match self.push_once(&samples).await {
                Ok(()) => results
                    .extend(samples.iter().map(|sample| Delivered::Accepted(SampleId(sample.sample_id)))),
                Err(error) if error.is_about_the_bundle() => match <[MappedSample; 1]>::try_from(samples) {
                    Ok([sample]) => results.push(self.push_alone(sample, error).await?),
                    Err(samples) => {
                        tracing::warn!(%error, samples = samples.len(), "a bundle was not taken: pushing it in parts");
                        pending.extend(parts(samples, &error));
                    }
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the last samples were refused one after the other: a platform that is down need not be asked for each of
    /// a hundred more.
    fn refuses_everything(&self, results: &[Delivered]) -> Option<OpenctiError> {
        let refused = |result: &&Delivered| matches!(result, Delivered::Refused(sample, error) if !error.is_too_large() && !self.suspects.contains(sample));
        let in_a_row = results.iter().rev().take_while(refused).count();
        match results.last() {
            Some(Delivered::Refused(_, error)) if in_a_row >= TOO_MANY => Some(error.clone()),
            _ => None,
        }
    }

    /// One sample whose bundle was not taken. If it was too large it goes in parts: each stands alone, and the platform
    /// unites the reports.
    async fn push_alone(
        &mut self,
        sample: MappedSample,
        mut error: OpenctiError,
    ) -> Result<Delivered, OpenctiError> {
        let id = SampleId(sample.sample_id);
        let mut refused = vec![sample];
        let mut pending = Vec::new();
        loop {
            if let Some(part) = refused.pop() {
                match stix::halve(part) {
                    Ok((one, other)) if error.is_too_large() => pending.extend([other, one]),
                    _ => return Ok(Delivered::Refused(id, error)),
                }
            }
            let Some(part) = pending.pop() else { return Ok(Delivered::Accepted(id)) };
            match self.push_once(std::slice::from_ref(&part)).await {
                Ok(()) => {}
                Err(again) if again.is_about_the_bundle() => {
                    error = again;
                    refused.push(part);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn push_once(&mut self, samples: &[MappedSample]) -> Result<(), OpenctiError> {
        let bundle = Bundle::merge(samples, &self.pushed_labels);
        if !self.dry_run {
            let variables = Variables { connector_id: self.connector_id, bundle: &bundle.json };
            let data: Data = self.opencti.call_until(self.until, PUSH, variables).await?;
            if data.pushed != Some(true) {
                return Err(OpenctiError::Refused {
                    operation: PUSH.name,
                    code: "NOT_PUSHED".to_owned(),
                    message: "the platform did not say that it took the bundle".to_owned(),
                });
            }
        }
        self.bundles += 1;
        self.objects += bundle.object_count as u64;
        self.pushed_labels.extend(bundle.label_ids());
        Ok(())
    }
}

/// What to push instead of samples that were not taken together: halves when that was too large, else each alone. The
/// last is pushed first, and that is the oldest.
fn parts(mut samples: Vec<MappedSample>, error: &OpenctiError) -> Vec<Vec<MappedSample>> {
    if error.is_too_large() {
        let newer = samples.split_off(samples.len() / 2);
        return vec![newer, samples];
    }
    samples.into_iter().rev().map(|sample| vec![sample]).collect()
}
