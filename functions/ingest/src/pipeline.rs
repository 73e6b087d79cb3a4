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
use tokio::sync::mpsc::{OwnedPermit, Receiver, Sender, channel};
use tokio::time::Instant;
use vmray::client::VmrayError;

use crate::analysis::{Reading, SampleReader, SubmittedSample};
use crate::quarantine::QuarantineReason;

/// What became of a sample on our side.
#[derive(Debug)]
pub(crate) enum PreparedSample {
    /// Ready for the platform.
    Mapped(Box<MappedSample>),
    /// Its verdict is not one that is asked for.
    Filtered,
    /// It cannot be ingested now.
    Failed(QuarantineReason, String),
    /// The time was over before it was read.
    Unfinished,
    /// Not its fault: the run stops.
    Fatal(VmrayError),
}

/// A sample on its way to delivery.
pub(crate) type Arrival = (SubmittedSample, PreparedSample);

/// How samples are read and mapped.
#[derive(Debug)]
pub(crate) struct Pipeline<'a> {
    /// Reads them.
    pub reader: &'a SampleReader<'a>,
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
    /// Whether no sample is started any more.
    #[must_use]
    pub(crate) fn is_late(&self) -> bool {
        Instant::now() >= self.start_until
    }

    /// A channel for [`run`](Self::run). Four places for each sample that is read at a time: enough to keep reading
    /// while a bundle is pushed.
    #[must_use]
    pub(crate) fn channel(&self) -> (Sender<Arrival>, Receiver<Arrival>) {
        channel(self.concurrency * 4)
    }

    /// Reads and maps all samples and sends each on. Samples that were not started are not sent.
    pub(crate) async fn run(&self, samples: Vec<SubmittedSample>, to: Sender<Arrival>) {
        let mut in_order = InOrder::new(self.concurrency * 2);
        let readings = stream::iter(samples.into_iter().enumerate())
            .take_while(|_| std::future::ready(!self.is_late()))
            .map(|(index, sample)| {
                let to = to.clone();
                async move {
                    // First a place to put it, then a sample to read: what is read always has where to go.
                    let place = to.reserve_owned().await.ok()?;
                    let prepared = self.prepare(&sample).await;
                    Some((index, (place, (sample, prepared))))
                }
            })
            .buffer_unordered(self.concurrency);
        tokio::pin!(readings);
        while let Some(reading) = readings.next().await {
            let Some((index, reading)) = reading else { return }; // the run has stopped
            in_order.add(index, reading).into_iter().for_each(send);
        }
        in_order.finish().for_each(send);
    }

    async fn prepare(&self, sample: &SubmittedSample) -> PreparedSample {
        if self.is_late() {
            return PreparedSample::Unfinished;
        }
        let reading = self.reader.read(sample.id, sample.submissions.clone());
        let reading = match tokio::time::timeout(self.sample_timeout, reading).await {
            Ok(Ok(reading)) => reading,
            Ok(Err(error)) => return failure(error),
            Err(_) => {
                let limit = self.sample_timeout.as_millis();
                return PreparedSample::Failed(
                    QuarantineReason::TooSlow,
                    format!("sample {} took longer than {limit} ms", sample.id),
                );
            }
        };
        match reading {
            Reading::Filtered => PreparedSample::Filtered,
            Reading::Waiting(what) => PreparedSample::Failed(
                QuarantineReason::NotAggregated,
                format!("VMRay has not put the {what} together yet"),
            ),
            Reading::Facts(facts, left_out) => match map_sample(&facts, self.mapping) {
                Ok(mut mapped) => {
                    mapped.left_out.merge(&left_out);
                    PreparedSample::Mapped(Box::new(mapped))
                }
                Err(error) => PreparedSample::Failed(QuarantineReason::MappingError, error.to_string()),
            },
        }
    }
}

/// Whose fault an error is.
fn failure(error: VmrayError) -> PreparedSample {
    let reason = match error {
        VmrayError::Unauthorized { .. } | VmrayError::Keys(_) => return PreparedSample::Fatal(error),
        VmrayError::OutOfTime { .. } => return PreparedSample::Unfinished,
        VmrayError::Forbidden { .. } => QuarantineReason::Forbidden,
        VmrayError::NotFound { .. } => QuarantineReason::NotFound,
        VmrayError::Rejected { .. } | VmrayError::Malformed { .. } => QuarantineReason::Malformed,
        VmrayError::TooLarge { .. } => QuarantineReason::TooLarge,
        VmrayError::Unavailable { .. } => QuarantineReason::ServerError,
    };
    PreparedSample::Failed(reason, error.to_string())
}

fn send((place, arrival): (OwnedPermit<Arrival>, Arrival)) {
    place.send(arrival);
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
