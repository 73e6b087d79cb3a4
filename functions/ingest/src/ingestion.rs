//! From the feed to the platform: everything new, portion by portion, what is due of the quarantine, and then history
//! while there is room for it.

use tokio::time::{Instant, sleep_until};
use vmray::client::Window;

use crate::analysis::{SampleReader, SubmittedSample};
use crate::delivery::Delivery;
use crate::history::Day;
use crate::order::Order;
use crate::pass::SamplePass;
use crate::pipeline::Pipeline;
use crate::progress::Progress;
use crate::stop::Stop;

/// Submissions that are listed before their samples are read: enough to see all submissions of one sample together, few
/// enough for the memory.
const LOOK_AHEAD: usize = 20_000;

/// Samples of history between two looks at the clock and the platform's queue: about one bundle.
const HISTORY_STEP: usize = 16;

/// One run while it reads and delivers.
pub(crate) struct Ingestion<'r, 'a, 'c, 's> {
    order: Order<'a>,
    pipeline: Pipeline<'r>,
    delivery: &'r mut Delivery<'a>,
    progress: &'r mut Progress<'a, 'c, 's>,
}

/// Ingests everything that is new in the window, what is due of the quarantine, and history until it is time to look for
/// fresh submissions again.
pub(crate) async fn ingest<'a>(
    order: Order<'a>,
    window: Window,
    delivery: &mut Delivery<'a>,
    progress: &mut Progress<'a, '_, '_>,
) -> Result<(), Stop> {
    if delivery.is_held_back().await {
        return Err(Stop::Buffering);
    }
    let Order { settings, clients, times, .. } = order;
    let reader = SampleReader::new(&clients.vmray, &settings.mapping.sample_verdicts);
    let pipeline = Pipeline {
        reader: &reader,
        mapping: &settings.mapping,
        concurrency: settings.run.concurrency,
        sample_timeout: settings.run.sample_timeout,
        start_until: times.start_until,
    };
    let mut ingestion = Ingestion { order, pipeline, delivery, progress };
    ingestion.everything(window).await?;
    ingestion.history().await
}

impl Ingestion<'_, '_, '_, '_> {
    async fn everything(&mut self, window: Window) -> Result<(), Stop> {
        let mut feed = self.progress.feed(window);
        while let Some(listed) = feed.next(LOOK_AHEAD, self.order.times.look_ahead_until()).await? {
            let samples = self.progress.begin(listed, &mut feed).await?;
            let again = self.pass(samples).await?;
            if !self.pipeline.is_late() {
                self.pass(again).await?;
            }
            self.progress.save().await?;
            if self.pipeline.is_late() {
                return Err(Stop::OutOfTime);
            }
        }
        if self.order.manual.is_none() {
            self.progress.forget_long_gone().await?;
            self.pass(self.progress.due()).await?;
        }
        Ok(())
    }

    /// That it is not done when the time is over is no end before the run's time: what is fresh is handled.
    async fn history(&mut self) -> Result<(), Stop> {
        if !self.order.takes_history() || !self.progress.has_history() {
            return Ok(());
        }
        let look_again =
            (Instant::now() + self.order.settings.run.queue_recheck).min(self.order.times.stay_until);
        self.delivery.turn_to_history();
        let ended = self.days(look_again).await;
        if !matches!(&ended, Err(stop) if stop.is_of_the_store()) {
            self.progress.save().await?;
        }
        match ended {
            Err(Stop::Buffering) => sleep_until(look_again).await,
            Err(Stop::OutOfTime) => {}
            ended => ended?,
        }
        Ok(())
    }

    async fn days(&mut self, look_again: Instant) -> Result<(), Stop> {
        while let Some(day) = self.progress.turn_to_history() {
            self.day(day, look_again).await?;
            self.progress.finish_day();
            if Instant::now() >= look_again {
                return Err(Stop::OutOfTime);
            }
        }
        Ok(())
    }

    /// At least one step of a day is made, however soon it is time to look for fresh submissions again.
    async fn day(&mut self, day: Day, look_again: Instant) -> Result<(), Stop> {
        let mut feed = self.progress.feed(day.window());
        while let Some(listed) = feed.next(1, self.order.times.look_ahead_until()).await? {
            let mut samples = self.progress.begin(listed, &mut feed).await?;
            while !samples.is_empty() {
                if self.delivery.is_held_back().await {
                    return Err(Stop::Buffering);
                }
                let rest = samples.split_off(samples.len().min(HISTORY_STEP));
                let again = self.pass(std::mem::replace(&mut samples, rest)).await?;
                if !self.pipeline.is_late() {
                    self.pass(again).await?;
                }
                self.progress.save().await?;
                if !samples.is_empty() && Instant::now() >= look_again {
                    return Err(Stop::OutOfTime);
                }
            }
            self.progress.save().await?;
        }
        Ok(())
    }

    async fn pass(&mut self, samples: Vec<SubmittedSample>) -> Result<Vec<SubmittedSample>, Stop> {
        let settings = &self.order.settings.run;
        // Boxed: the compiler gives up on a future of all layers in one.
        Box::pin(SamplePass::over(samples, settings, &self.pipeline, self.delivery, self.progress)).await
    }
}
