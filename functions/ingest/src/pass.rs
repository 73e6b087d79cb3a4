//! One pass over samples: they are read, mapped, packed and pushed, and those that fail go to quarantine.

use mapping::MappedSample;
use tracing::info;
use vmray::model::SampleId;

use crate::analysis::{SubmittedSample, Testimony};
use crate::arrivals::Arrivals;
use crate::delivery::{DeliveredSample, Delivery};
use crate::pipeline::{Arrival, Pipeline, PreparedSample};
use crate::progress::Progress;
use crate::proof::Systemic;
use crate::quarantine::{FailedSample, QuarantineReason};
use crate::settings::RunSettings;
use crate::stop::Stop;

/// Failures that are written down together, at the same time: what is under way when the time is over must not take
/// long.
const WRITTEN_TOGETHER: usize = 16;

pub(crate) struct SamplePass<'p, 'a, 'c, 's> {
    settings: &'p RunSettings,
    pipeline: &'p Pipeline<'p>,
    delivery: &'p mut Delivery<'a>,
    progress: &'p mut Progress<'a, 'c, 's>,
    arrivals: Arrivals,
}

impl<'p, 'a, 'c, 's> SamplePass<'p, 'a, 'c, 's> {
    /// Reads, maps, packs and delivers samples, and puts those that fail into quarantine. Says which of these are worth
    /// another try. When the run is to stop, what had been decided is settled and saved.
    pub(crate) async fn over(
        samples: Vec<SubmittedSample>,
        settings: &'p RunSettings,
        pipeline: &'p Pipeline<'p>,
        delivery: &'p mut Delivery<'a>,
        progress: &'p mut Progress<'a, 'c, 's>,
    ) -> Result<Vec<SubmittedSample>, Stop> {
        if samples.is_empty() {
            return Ok(Vec::new());
        }
        progress.note_tried(&samples);
        let arrivals = Arrivals::new(settings.bundle, &samples);
        let mut pass = Self { settings, pipeline, delivery, progress, arrivals };
        let ended = pass.read_and_deliver(samples).await;
        if !matches!(&ended, Err(stop) if stop.is_of_the_store()) {
            pass.put_into_quarantine().await?;
        }
        ended.map(|()| pass.arrivals.again)
    }

    /// Reading goes on while a bundle is pushed. It ends when the delivery stops.
    async fn read_and_deliver(&mut self, samples: Vec<SubmittedSample>) -> Result<(), Stop> {
        let (to, mut from) = self.pipeline.channel();
        let pipeline = self.pipeline;
        let reading = async {
            pipeline.run(samples, to).await;
            Ok(())
        };
        let delivering = async {
            while let Some(arrival) = from.recv().await {
                self.arrive(arrival).await?;
            }
            self.deliver_rest().await?;
            self.decide_refusals().await?;
            self.prove().await?;
            if self.arrivals.is_complete() { Ok(()) } else { Err(Stop::OutOfTime) }
        };
        futures::future::try_join(reading, delivering).await.map(|_| ())
    }

    /// Takes one sample; delivers when a bundle is full.
    async fn arrive(&mut self, (sample, prepared): Arrival) -> Result<(), Stop> {
        match prepared {
            PreparedSample::Unfinished => return Ok(()),
            PreparedSample::Fatal(error) => {
                self.deliver_rest().await?;
                return Err(error.into());
            }
            PreparedSample::Filtered => {
                self.progress.answer.skipped += sample.submissions.len() as u64;
                self.progress.leave_behind(&[sample]).await?;
            }
            PreparedSample::Failed(reason, detail) => {
                info!(sample_id = sample.id.0, %reason, detail, "a sample could not be ingested");
                let failed = FailedSample { sample, reason, detail };
                if reason.is_the_samples_own() {
                    self.arrivals.failures.push(failed);
                } else {
                    self.arrivals.unproven.add(failed);
                }
            }
            PreparedSample::Mapped(mapped) => {
                self.progress.remember_witness(sample.id);
                for group in self.arrivals.pack(sample, *mapped, self.settings.bundle) {
                    self.deliver(group).await?;
                }
            }
        }
        self.arrivals.finished += 1;
        if self.arrivals.unproven.is_enough() {
            self.prove().await?;
        }
        if self.arrivals.failures.len() >= WRITTEN_TOGETHER && !self.pipeline.is_late() {
            self.put_into_quarantine().await?;
        }
        Ok(())
    }

    /// Whether VMRay is to blame for the failures since it was last seen to work: then the run stops, else they are the
    /// samples' own.
    async fn prove(&mut self) -> Result<(), Stop> {
        let Some(last) = self.arrivals.unproven.last() else { return Ok(()) };
        let mut candidates = self.progress.witnesses();
        candidates.extend(self.arrivals.ahead());
        let proof = match self.pipeline.reader.testimony(&candidates, self.settings.sample_timeout).await? {
            Testimony::Given(sample) => {
                self.progress.remember_witness(sample);
                None
            }
            Testimony::Refused(sample, error) => {
                Some(format!("VMRay does not give sample {sample} either ({error})"))
            }
            Testimony::Silent if self.arrivals.unproven.is_few() => None,
            Testimony::Silent => Some("no sample was ever read".to_owned()),
        };
        if let Some(proof) = proof {
            let systemic =
                Systemic { count: self.arrivals.unproven.len(), proof, detail: last.detail.clone() };
            self.deliver_rest().await?;
            return Err(systemic.into());
        }
        self.arrivals.failures.extend(self.arrivals.unproven.prove());
        Ok(())
    }

    /// What is ready goes out, also before VMRay stops a run: the other server has done nothing wrong.
    async fn deliver_rest(&mut self) -> Result<(), Stop> {
        match self.arrivals.rest() {
            Some(rest) => self.deliver(rest).await,
            None => Ok(()),
        }
    }

    /// Pushes one bundle's samples and saves how far that brings us.
    async fn deliver(&mut self, samples: Vec<MappedSample>) -> Result<(), Stop> {
        // A sample that is begun is brought to its end: else its first part would be all that is ever pushed of it.
        let is_begun = samples.iter().any(|part| self.arrivals.is_begun(SampleId(part.sample_id)));
        if !is_begun && self.delivery.is_held_back().await {
            return Err(Stop::Buffering);
        }
        if self.delivery.wants_to_know() {
            self.delivery.know(self.progress.recall().await?);
        }
        let mut results = Vec::with_capacity(samples.len());
        let pushed = self.delivery.push(samples, &mut results).await;
        self.take(results).await?;
        self.progress.save().await?;
        self.progress.count(self.delivery);
        self.progress.report();
        Ok(pushed?)
    }

    /// Whether `OpenCTI` is to blame for the samples that it has refused since it last took one.
    async fn decide_refusals(&mut self) -> Result<(), Stop> {
        let mut results = Vec::new();
        let decided = self.delivery.decide(&mut results).await;
        self.take(results).await?;
        Ok(decided?)
    }

    /// Takes what the platform has made of samples.
    async fn take(&mut self, results: Vec<DeliveredSample>) -> Result<(), Stop> {
        let mut delivered = Vec::new();
        for result in results {
            match result {
                DeliveredSample::Accepted(id) => {
                    let Some((sample, left_out)) = self.arrivals.accepted(id) else { continue };
                    self.progress.answer.samples += 1;
                    self.progress.answer.left_out.merge(&left_out);
                    delivered.push(sample);
                }
                DeliveredSample::Refused(id, error) => {
                    let Some(sample) = self.arrivals.refused(id) else { continue };
                    let reason = if error.is_too_large() {
                        QuarantineReason::TooLarge
                    } else {
                        QuarantineReason::PushRefused
                    };
                    info!(sample_id = id.0, %reason, %error, "a sample could not be ingested");
                    self.arrivals.failures.push(FailedSample { sample, reason, detail: error.to_string() });
                }
            }
        }
        let pushes = std::mem::take(&mut self.delivery.pushed);
        self.progress.remember(pushes, &delivered).await?;
        self.progress.leave_behind(&delivered).await
    }

    async fn put_into_quarantine(&mut self) -> Result<(), Stop> {
        while !self.arrivals.failures.is_empty() {
            let several = self.arrivals.failures.len().min(WRITTEN_TOGETHER);
            let together: Vec<FailedSample> = self.arrivals.failures.drain(..several).collect();
            let worth_it = together.iter().filter(|failed| failed.reason != QuarantineReason::NotFound);
            self.arrivals.again.extend(worth_it.map(|failed| failed.sample.clone()));
            self.progress.put_into_quarantine(together).await?;
            if self.pipeline.is_late() {
                break; // the others come again in the next run
            }
        }
        let given_up = |id: SampleId| self.progress.has_given_up(id);
        self.arrivals.again.retain(|sample| !given_up(sample.id));
        Ok(())
    }
}
