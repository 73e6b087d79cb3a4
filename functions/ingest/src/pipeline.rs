//! Reading and mapping many samples at once, handed on in order.
//!
//! `INGEST_CONCURRENCY` samples are read at a time. Results leave in the order of their submissions, so that bundles are
//! the same in every run; but a straggler holds up only so many before they pass it: the watermark above waits for it
//! anyway. How many results may be on their way to the platform is bounded too, or a slow platform would fill the
//! memory.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use mapping::{MappedSample, MappingSettings, map_sample};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use vmray::client::VmrayError;
use vmray::model::{SampleId, Submission};

use crate::analysis::{Reader, Reading};
use crate::quarantine::Reason;

/// One sample to be ingested.
#[derive(Clone, Debug)]
pub struct Work {
    /// The sample.
    pub sample_id: SampleId,
    /// Its submissions that are not clean.
    pub submissions: Vec<Submission>,
}

/// What became of a sample on our side.
#[derive(Debug)]
pub enum Outcome {
    /// Ready for the platform.
    Mapped(Box<MappedSample>),
    /// Its verdict is not one that is asked for.
    Filtered,
    /// It cannot be ingested now.
    Failed(Reason, String),
    /// The time was over before it was read.
    Unfinished,
    /// Not its fault: the run stops.
    Fatal(VmrayError),
}

/// A sample's outcome on its way to delivery; holds its place in the bounded number of those.
#[derive(Debug)]
pub struct Handed {
    /// The sample.
    pub work: Work,
    /// What became of it.
    pub outcome: Outcome,
    _place: Option<OwnedSemaphorePermit>,
}

/// How samples are read and mapped.
#[derive(Debug)]
pub struct Pipeline<'a> {
    /// Reads them.
    pub reader: &'a Reader<'a>,
    /// How they are mapped.
    pub mapping: &'a MappingSettings,
    /// How many at a time.
    pub concurrency: usize,
    /// The longest that one may take.
    pub sample_timeout: Duration,
    /// No sample is started after this.
    pub start_until: Instant,
}

impl Pipeline<'_> {
    /// Reads and maps all works and sends each outcome on. Works that were not started are not sent.
    pub async fn run(&self, works: Vec<Work>, to: UnboundedSender<Handed>) {
        // Four in flight or in line for each reader: enough to keep reading while a bundle is pushed.
        let places = std::sync::Arc::new(Semaphore::new(self.concurrency * 4));
        let mut in_order = InOrder::new(self.concurrency * 2);
        let readings = stream::iter(works.into_iter().enumerate())
            .take_while(|_| std::future::ready(Instant::now() < self.start_until))
            .map(|(index, work)| {
                let places = std::sync::Arc::clone(&places);
                async move {
                    let place = places.acquire_owned().await.ok();
                    let outcome = self.outcome(&work).await;
                    (index, Handed { work, outcome, _place: place })
                }
            })
            .buffer_unordered(self.concurrency);
        tokio::pin!(readings);
        while let Some((index, handed)) = readings.next().await {
            for ready in in_order.add(index, handed) {
                if to.send(ready).is_err() {
                    return; // the run has stopped
                }
            }
        }
        for ready in in_order.finish() {
            if to.send(ready).is_err() {
                return;
            }
        }
    }

    async fn outcome(&self, work: &Work) -> Outcome {
        if Instant::now() >= self.start_until {
            return Outcome::Unfinished;
        }
        let reading = self.reader.read(work.sample_id, work.submissions.clone());
        let reading = match tokio::time::timeout(self.sample_timeout, reading).await {
            Ok(Ok(reading)) => reading,
            Ok(Err(error)) => return failure(error),
            Err(_) => {
                let limit = self.sample_timeout.as_millis();
                return Outcome::Failed(
                    Reason::TooSlow,
                    format!("sample {} took longer than {limit} ms", work.sample_id),
                );
            }
        };
        match reading {
            Reading::Filtered => Outcome::Filtered,
            Reading::Waiting(what) => {
                Outcome::Failed(Reason::NotAggregated, format!("VMRay has not put the {what} together yet"))
            }
            Reading::Facts(facts, left_out) => match map_sample(&facts, self.mapping) {
                Ok(mut mapped) => {
                    mapped.left_out.merge(&left_out);
                    Outcome::Mapped(Box::new(mapped))
                }
                Err(error) => Outcome::Failed(Reason::MappingError, error.to_string()),
            },
        }
    }
}

/// Whose fault an error is.
fn failure(error: VmrayError) -> Outcome {
    let reason = match error {
        VmrayError::Unauthorized { .. } | VmrayError::Keys(_) => return Outcome::Fatal(error),
        VmrayError::OutOfTime { .. } => return Outcome::Unfinished,
        VmrayError::Forbidden { .. } => Reason::Forbidden,
        VmrayError::NotFound { .. } => Reason::NotFound,
        VmrayError::Rejected { .. } | VmrayError::Malformed { .. } => Reason::Malformed,
        VmrayError::TooLarge { .. } => Reason::TooLarge,
        VmrayError::Unavailable { .. } => Reason::ServerError,
    };
    Outcome::Failed(reason, error.to_string())
}

/// Puts results back into order, without waiting for a straggler for ever.
#[derive(Debug)]
struct InOrder<T> {
    next: usize,
    waiting: BTreeMap<usize, T>,
    most: usize,
}

impl<T> InOrder<T> {
    fn new(most: usize) -> Self {
        Self { next: 0, waiting: BTreeMap::new(), most }
    }

    /// What can go on now that this one is here.
    fn add(&mut self, index: usize, item: T) -> Vec<T> {
        self.waiting.insert(index, item);
        let mut ready = Vec::new();
        while let Some(first) = self.waiting.first_entry() {
            let index = *first.key();
            if index > self.next && ready.len() + self.waiting.len() <= self.most {
                break;
            }
            self.next = self.next.max(index + 1);
            ready.extend(self.waiting.pop_first().map(|(_, item)| item));
        }
        ready
    }

    fn finish(self) -> impl Iterator<Item = T> {
        self.waiting.into_values()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn results_leave_in_order() {
        let mut in_order = InOrder::new(4);
        assert!(in_order.add(1, 'b').is_empty());
        assert!(in_order.add(2, 'c').is_empty());
        assert_eq!(in_order.add(0, 'a'), ['a', 'b', 'c']);
    }

    #[test]
    fn a_straggler_is_passed_and_leaves_when_it_comes() {
        let mut in_order = InOrder::new(2);
        assert!(in_order.add(1, 'b').is_empty());
        assert!(in_order.add(2, 'c').is_empty());
        assert_eq!(in_order.add(3, 'd'), ['b', 'c', 'd']);
        assert_eq!(in_order.add(0, 'a'), ['a']);
        assert_eq!(in_order.add(4, 'e'), ['e']);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_doubled(order in Just((0..60_usize).collect::<Vec<_>>()).prop_shuffle(), most in 1_usize..20) {
            let mut in_order = InOrder::new(most);
            let mut out: Vec<usize> = order.iter().flat_map(|index| in_order.add(*index, *index)).collect();
            prop_assert!(in_order.waiting.len() <= most);
            out.extend(in_order.finish());
            out.sort_unstable();
            prop_assert_eq!(out, (0..60).collect::<Vec<_>>());
        }
    }
}
