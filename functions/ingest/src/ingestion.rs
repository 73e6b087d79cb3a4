//! From the feed to the platform: everything new, portion by portion, and what is due of the quarantine.

use vmray::client::Window;

use crate::analysis::{SampleReader, SubmittedSample};
use crate::delivery::Delivery;
use crate::order::Order;
use crate::pass::SamplePass;
use crate::pipeline::Pipeline;
use crate::progress::Progress;
use crate::stop::Stop;

/// Submissions that are listed before their samples are read: enough to see all submissions of one sample together, few
/// enough for the memory.
const LOOK_AHEAD: usize = 20_000;

/// One run while it reads and delivers.
pub(crate) struct Ingestion<'r, 'a, 'c, 's> {
    order: Order<'a>,
    pipeline: Pipeline<'r>,
    delivery: &'r mut Delivery<'a>,
    progress: &'r mut Progress<'a, 'c, 's>,
}

/// Ingests everything that is new in the window, and what is due of the quarantine.
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
    Ingestion { order, pipeline, delivery, progress }.everything(window).await
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

    async fn pass(&mut self, samples: Vec<SubmittedSample>) -> Result<Vec<SubmittedSample>, Stop> {
        let settings = &self.order.settings.run;
        // Boxed: the compiler gives up on a future of all layers in one.
        Box::pin(SamplePass::over(samples, settings, &self.pipeline, self.delivery, self.progress)).await
    }
}
