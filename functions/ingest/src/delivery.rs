//! Pushing bundles: one call each, never a work of our own. The platform makes the work itself and its workers close
//! it, so that nothing of ours can be left open.

use std::collections::HashSet;

use mapping::MappedSample;
use runtime::http::Deadline;
use stix::{Body, Bundle, LeftOut, Object, StixId, Timestamp, everything};
use vmray::model::SampleId;

use crate::memory::PushedObject;
use crate::memory::known::Known;
use crate::opencti::back_pressure::BackPressure;
use crate::opencti::client::{OpenctiClient, OpenctiError};
use crate::opencti::push::push;
use crate::proof::{Systemic, Unproven};

/// After so many bundles a run looks again what the platform has: of many more it would not show all works.
const BUNDLES_BETWEEN_LOOKS: u64 = 10;

/// How the platform treated a sample.
#[derive(Debug)]
pub(crate) enum DeliveredSample {
    /// Accepted; imported a little later.
    Accepted(SampleId),
    /// Not taken, however often, while it takes others.
    Refused(SampleId, OpenctiError),
}

/// Why nothing more is pushed.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The platform as a whole failed.
    #[error(transparent)]
    Opencti(#[from] OpenctiError),
    /// It takes nothing at all.
    #[error(transparent)]
    Systemic(#[from] Systemic),
}

/// A bundle that the platform took.
#[derive(Debug)]
pub(crate) struct Push {
    /// How many objects it has.
    pub size: u64,
    /// What is to be remembered of it.
    pub objects: Vec<PushedObject>,
}

/// Pushes bundles and counts them.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    opencti: &'a OpenctiClient,
    connector_id: &'a str,
    /// Map and validate only.
    dry_run: bool,
    back_pressure: &'a mut BackPressure,
    /// What is pushed is history: it waits for room in the platform's queue.
    is_history: bool,
    until: Deadline,
    pushed_labels: HashSet<StixId>,
    /// Samples that were refused, and the platform has taken nothing since.
    refused: Unproven<(SampleId, OpenctiError)>,
    /// What the platform has, once that was looked up.
    known: Option<Known>,
    /// How many bundles there were then.
    known_at: u64,
    /// What was pushed and is not written down yet.
    pub pushed: Vec<Push>,
    /// Bundles accepted.
    pub bundles: u64,
    /// Objects in them.
    pub objects: u64,
    /// Objects that the platform has already.
    pub left_out: u64,
}

impl<'a> Delivery<'a> {
    /// For one run, which pushes nothing after `until`. A dry run counts and pushes nothing at all.
    #[must_use]
    pub(crate) fn new(
        opencti: &'a OpenctiClient,
        connector_id: &'a str,
        dry_run: bool,
        back_pressure: &'a mut BackPressure,
        until: Deadline,
    ) -> Self {
        Self {
            opencti,
            connector_id,
            dry_run,
            back_pressure,
            is_history: false,
            until,
            pushed_labels: HashSet::new(),
            refused: Unproven::default(),
            known: None,
            known_at: 0,
            pushed: Vec::new(),
            bundles: 0,
            objects: 0,
            left_out: 0,
        }
    }

    /// What is pushed from now on is history.
    pub(crate) fn turn_to_history(&mut self) {
        self.is_history = true;
    }

    /// Whether the platform cannot keep up, or has no room for history.
    pub(crate) async fn is_held_back(&mut self) -> bool {
        if self.dry_run {
            return false;
        }
        self.back_pressure.is_full(self.opencti, self.connector_id).await
            || (self.is_history && !self.back_pressure.has_room(self.opencti, self.connector_id).await)
    }

    /// Whether it is time to look what the platform has.
    pub(crate) fn wants_to_know(&self) -> bool {
        self.known.is_none() || self.bundles >= self.known_at + BUNDLES_BETWEEN_LOOKS
    }

    /// What the platform has is left out from now on.
    pub(crate) fn know(&mut self, known: Known) {
        self.known = Some(known);
        self.known_at = self.bundles;
    }

    /// Pushes the samples as one bundle. One that is too large is halved at once; one that is refused is pushed again
    /// sample by sample. An error is not the samples' fault and stops the run; what was decided before it is in
    /// `results` all the same.
    pub(crate) async fn push(
        &mut self,
        samples: Vec<MappedSample>,
        results: &mut Vec<DeliveredSample>,
    ) -> Result<(), DeliveryError> {
        let mut pending = vec![samples];
        while let Some(samples) = pending.pop() {
            match self.push_once(&samples).await {
                Ok(()) => {
                    self.works(results);
                    results.extend(
                        samples.iter().map(|sample| DeliveredSample::Accepted(SampleId(sample.sample_id))),
                    );
                }
                Err(error) if error.is_about_the_bundle() => match <[MappedSample; 1]>::try_from(samples) {
                    Ok([sample]) => self.push_alone(sample, error, results).await?,
                    Err(samples) => {
                        tracing::warn!(%error, samples = samples.len(), "a bundle was not taken: pushing it in parts");
                        pending.extend(parts(samples, &error));
                    }
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Decides about the samples that were refused: the platform takes others, or nothing at all.
    pub(crate) async fn decide(&mut self, results: &mut Vec<DeliveredSample>) -> Result<(), DeliveryError> {
        let Some((_, refusal)) = self.refused.last() else { return Ok(()) };
        let detail = refusal.to_string();
        match self.push_bundle(&author_alone()).await {
            Ok(()) => {
                self.works(results);
                Ok(())
            }
            Err(error) if error.is_about_the_bundle() => {
                let proof = format!("OpenCTI does not even take the author alone ({error})");
                Err(Systemic { count: self.refused.len(), proof, detail }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The platform has taken something: what was refused before is the samples' own fault.
    fn works(&mut self, results: &mut Vec<DeliveredSample>) {
        let refused = self.refused.prove().into_iter();
        results.extend(refused.map(|(sample, error)| DeliveredSample::Refused(sample, error)));
    }

    /// One sample whose bundle was not taken. If it was too large it goes in parts: each stands alone, and the platform
    /// unites the reports.
    async fn push_alone(
        &mut self,
        sample: MappedSample,
        mut error: OpenctiError,
        results: &mut Vec<DeliveredSample>,
    ) -> Result<(), DeliveryError> {
        let id = SampleId(sample.sample_id);
        let mut refused = Some(sample);
        let mut pending = Vec::new();
        loop {
            if let Some(part) = refused.take() {
                match stix::halve(part) {
                    Ok((one, other)) if error.is_too_large() => pending.extend([other, one]),
                    _ => {
                        self.refused.add((id, error));
                        return if self.refused.is_enough() { self.decide(results).await } else { Ok(()) };
                    }
                }
            }
            let Some(part) = pending.pop() else {
                results.push(DeliveredSample::Accepted(id));
                return Ok(());
            };
            match self.push_once(std::slice::from_ref(&part)).await {
                Ok(()) => self.works(results),
                Err(again) if again.is_about_the_bundle() => {
                    error = again;
                    refused = Some(part);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn push_once(&mut self, samples: &[MappedSample]) -> Result<(), OpenctiError> {
        let mut push = Push { size: 0, objects: Vec::new() };
        let mut left_out = 0;
        let bundle = Bundle::merge(samples, |object, analysed| {
            if self.pushed_labels.contains(&object.id()) {
                return false;
            }
            let selects = |known: &Known| known.select(object, analysed, &mut push.objects);
            let selected = self.known.as_ref().is_none_or(selects);
            left_out += u64::from(!selected);
            selected
        });
        push.size = bundle.object_count as u64;
        if push.size == 0 {
            self.left_out += left_out;
            return Ok(()); // the platform has all of it
        }
        if !self.dry_run {
            self.push_bundle(&bundle).await?;
            self.back_pressure.note_push(push.size);
        }
        self.left_out += left_out;
        self.bundles += 1;
        self.objects += push.size;
        self.pushed_labels.extend(bundle.label_ids());
        if let Some(known) = &mut self.known {
            push.objects.iter().for_each(|object| known.add(object.clone(), false));
        }
        self.pushed.push(push);
        Ok(())
    }

    async fn push_bundle(&self, bundle: &Bundle) -> Result<(), OpenctiError> {
        push(self.opencti, self.until, self.connector_id, &bundle.json).await
    }
}

/// The smallest bundle that is of any use. The platform has its only object already, or takes it as it is.
fn author_alone() -> Bundle {
    let author = Object::from(Body::Identity);
    let (sample_id, analysed, objects) = (0, Timestamp::CONSTANT, vec![author]);
    Bundle::merge(&[MappedSample { sample_id, analysed, objects, left_out: LeftOut::default() }], everything)
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
