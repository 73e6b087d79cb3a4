//! One sample's facts, read from VMRay in as few calls as the answer allows: sample, then IOCs, then VTIs and
//! techniques together, then the relatives that are not clean.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{join_all, try_join};
use mapping::{Relative, RelativeRole, SampleFacts, VerdictSet};
use serde::{Deserialize, Serialize};
use stix::{LeftOut, LeftOutReason};
use tokio::sync::OnceCell;
use vmray::client::{VmrayClient, VmrayError};
use vmray::model::{Sample, SampleId, Submission, Verdict};

/// Most relatives that are read and linked per sample; archives have thousands.
const MOST_RELATIVES: usize = 20;

/// Samples kept for relations: they are mostly analysed within minutes of each other.
const MOST_CACHED: usize = 1000;

/// A sample to be ingested.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubmittedSample {
    pub id: SampleId,
    /// Its submissions that are not clean.
    pub submissions: Vec<Submission>,
}

/// What is known of a sample.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Everything.
    Facts(Box<SampleFacts>, LeftOut),
    /// Its verdict is not one that is asked for.
    Filtered,
    /// VMRay has not put this together yet.
    Waiting(&'static str),
}

/// What samples say about VMRay.
#[derive(Debug)]
pub(crate) enum Testimony {
    /// It gives this one whole.
    Given(SampleId),
    /// It does not even give this one, and why.
    Refused(SampleId, String),
    /// They are deleted, or there is none.
    Silent,
}

impl Testimony {
    /// One that is given outweighs any that is not.
    fn or(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Given(_), _) | (Self::Refused(..), Self::Refused(..) | Self::Silent) => self,
            _ => other,
        }
    }
}

/// Reads samples for one run.
#[derive(Debug)]
pub(crate) struct SampleReader<'a> {
    vmray: &'a VmrayClient,
    verdicts: &'a VerdictSet,
    cache: Mutex<SampleCache>,
}

type CacheSlot = Arc<OnceCell<Arc<Sample>>>;

#[derive(Debug, Default)]
struct SampleCache {
    slots: HashMap<SampleId, CacheSlot>,
    order: VecDeque<SampleId>,
}

impl SampleCache {
    fn slot(&mut self, id: SampleId) -> CacheSlot {
        if let Some(slot) = self.slots.get(&id) {
            return Arc::clone(slot);
        }
        if self.order.len() >= MOST_CACHED
            && let Some(oldest) = self.order.pop_front()
        {
            self.slots.remove(&oldest);
        }
        self.order.push_back(id);
        Arc::clone(self.slots.entry(id).or_default())
    }
}

impl<'a> SampleReader<'a> {
    /// Reads samples whose verdict is one of `verdicts`.
    #[must_use]
    pub(crate) fn new(vmray: &'a VmrayClient, verdicts: &'a VerdictSet) -> Self {
        Self { vmray, verdicts, cache: Mutex::default() }
    }

    /// Everything about one sample, for these submissions of it.
    pub(crate) async fn read(
        &self,
        id: SampleId,
        submissions: Vec<Submission>,
    ) -> Result<Reading, VmrayError> {
        let sample = self.sample(id).await?;
        let is_wanted =
            |verdict: Option<Verdict>| verdict.is_some_and(|verdict| self.verdicts.contains(&verdict));
        let judged = sample.verdict.is_some_and(|verdict| verdict != Verdict::NotAvailable);
        // VMRay may judge a submission before it has put together what it knows of the sample.
        let may_come = !judged && submissions.iter().any(|submission| is_wanted(submission.verdict));
        if !is_wanted(sample.verdict) && !may_come {
            return Ok(Reading::Filtered);
        }
        let iocs = self.vmray.iocs(id).await?;
        if !iocs.is_finished() {
            return Ok(Reading::Waiting("IOCs"));
        }
        if !is_wanted(sample.verdict) {
            return Ok(Reading::Filtered);
        }
        let (indicators, techniques) =
            try_join(self.vmray.threat_indicators(id), self.vmray.techniques(id)).await?;
        if !indicators.is_finished() {
            return Ok(Reading::Waiting("threat indicators"));
        }
        if !techniques.is_finished() {
            return Ok(Reading::Waiting("ATT&CK techniques"));
        }
        let mut left_out = LeftOut::default();
        let relatives = self.relatives(&sample, &mut left_out).await?;
        let facts = SampleFacts {
            sample: Arc::unwrap_or_clone(sample),
            submissions,
            iocs: iocs.data,
            threat_indicators: indicators.data,
            techniques: techniques.data,
            relatives,
        };
        Ok(Reading::Facts(Box::new(facts), left_out))
    }

    /// Whether VMRay gives all of any of these samples, of which the first is asked for first. An error is about none of
    /// them.
    pub(crate) async fn testimony(
        &self,
        candidates: &[SampleId],
        each: Duration,
    ) -> Result<Testimony, VmrayError> {
        let Some((first, others)) = candidates.split_first() else { return Ok(Testimony::Silent) };
        let mut testimony = self.testimony_of(*first, each).await?;
        if !matches!(testimony, Testimony::Given(_)) {
            for other in join_all(others.iter().map(|sample| self.testimony_of(*sample, each))).await {
                testimony = testimony.or(other?);
            }
        }
        Ok(testimony)
    }

    /// Reads a sample by the same calls as [`read`](Self::read), none of it from memory.
    async fn testimony_of(&self, id: SampleId, limit: Duration) -> Result<Testimony, VmrayError> {
        let everything = async {
            self.vmray.sample(id).await?;
            self.vmray.iocs(id).await?;
            try_join(self.vmray.threat_indicators(id), self.vmray.techniques(id)).await
        };
        match tokio::time::timeout(limit, everything).await {
            Ok(Ok(_)) => Ok(Testimony::Given(id)),
            Ok(Err(VmrayError::NotFound { .. })) => Ok(Testimony::Silent),
            Ok(Err(
                error
                @ (VmrayError::Unauthorized { .. } | VmrayError::Keys(_) | VmrayError::OutOfTime { .. }),
            )) => Err(error),
            Ok(Err(error)) => Ok(Testimony::Refused(id, error.to_string())),
            Err(_) => Ok(Testimony::Refused(id, format!("longer than {} ms", limit.as_millis()))),
        }
    }

    /// A sample is read once per run, as itself and as others' relative, also when two ask at the same time.
    async fn sample(&self, id: SampleId) -> Result<Arc<Sample>, VmrayError> {
        let slot = self.cache.lock().unwrap_or_else(PoisonError::into_inner).slot(id);
        slot.get_or_try_init(|| async { self.vmray.sample(id).await.map(Arc::new) }).await.cloned()
    }

    async fn relatives(&self, sample: &Sample, left_out: &mut LeftOut) -> Result<Vec<Relative>, VmrayError> {
        let mut candidates = candidates(sample);
        let over = candidates.len().saturating_sub(MOST_RELATIVES);
        left_out.add_many(LeftOutReason::RelativesOverLimit, u32::try_from(over).unwrap_or(u32::MAX));
        if sample.child_relations_truncated || sample.parent_relations_truncated {
            left_out.add(LeftOutReason::RelativesTruncated);
        }
        candidates.truncate(MOST_RELATIVES);
        let read = join_all(candidates.iter().map(|candidate| self.sample(candidate.id))).await;
        let mut relatives = Vec::new();
        for (candidate, sample) in candidates.into_iter().zip(read) {
            match sample {
                Ok(sample) if sample.verdict == Some(Verdict::Clean) => {}
                Ok(sample) => relatives.push(Relative {
                    role: candidate.role,
                    relation_type: candidate.kind,
                    sample: Arc::unwrap_or_clone(sample),
                }),
                Err(
                    VmrayError::NotFound { .. }
                    | VmrayError::Forbidden { .. }
                    | VmrayError::Rejected { .. }
                    | VmrayError::Malformed { .. }
                    | VmrayError::TooLarge { .. }
                    // Its tries are spent; it links itself to this sample when it is read.
                    | VmrayError::Unavailable { .. },
                ) => left_out.add(LeftOutReason::RelativeUnreadable),
                Err(error) => return Err(error),
            }
        }
        Ok(relatives)
    }
}

struct Candidate {
    id: SampleId,
    role: RelativeRole,
    kind: Option<String>,
}

/// Relatives that may not be clean. The relation itself often knows the verdict: then a clean one costs no call.
fn candidates(sample: &Sample) -> Vec<Candidate> {
    let children = sample.all_child_ids().into_iter().filter_map(|id| {
        let relation = sample.child_relations.iter().find(|relation| relation.child_id == Some(id));
        let clean = relation.is_some_and(|relation| relation.child_verdict == Some(Verdict::Clean));
        let kind = relation.and_then(|relation| relation.kind.clone());
        (!clean).then_some(Candidate { id, role: RelativeRole::Child, kind })
    });
    let parents = sample.all_parent_ids().into_iter().filter_map(|id| {
        let relation = sample.parent_relations.iter().find(|relation| relation.parent_id == Some(id));
        let clean = relation.is_some_and(|relation| relation.parent_verdict == Some(Verdict::Clean));
        let kind = relation.and_then(|relation| relation.kind.clone());
        (!clean).then_some(Candidate { id, role: RelativeRole::Parent, kind })
    });
    parents.chain(children).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relatives_known_to_be_clean_cost_no_call() {
        let sample: Sample = serde_json::from_value(serde_json::json!({
            "sample_id": 1, "sample_child_sample_ids": [2, 3, 4], "sample_parent_sample_ids": [5],
            "sample_child_relations": [
                {"relation_child_sample_id": 2, "relation_parent_sample_id": 1, "relation_child_sample_verdict": "clean"},
                {"relation_child_sample_id": 3, "relation_parent_sample_id": 1, "relation_child_sample_verdict": "malicious"},
            ],
        }))
        .unwrap();
        let ids: Vec<u64> = candidates(&sample).iter().map(|candidate| candidate.id.0).collect();
        assert_eq!(ids, [5, 3, 4]);
    }
}
