//! Back-pressure: nothing is fetched for a platform that cannot keep up, and history only while little waits there.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::client::OpenctiClient;
use super::connector::{self, QueueSize};

/// How full the connector's queue on the platform is.
#[derive(Debug)]
pub struct BackPressure {
    threshold: f64,
    room: u64,
    recheck: Duration,
    asked: Option<Instant>,
    /// As last asked.
    told: QueueSize,
    /// Objects that what was told may not show yet, and when they were pushed.
    pushed: Vec<(Instant, u64)>,
}

impl BackPressure {
    /// Full from `threshold` decimal megabytes on, with room for history below `room` messages; asked for at most every
    /// `recheck`.
    #[must_use]
    pub fn new(threshold: f64, room: u64, recheck: Duration) -> Self {
        Self { threshold, room, recheck, asked: None, told: QueueSize::default(), pushed: Vec::new() }
    }

    /// Whether the platform cannot keep up. One that cannot say is taken as not full, as its own connectors do.
    pub async fn is_full(&mut self, opencti: &OpenctiClient, id: &str) -> bool {
        self.ask(opencti, id).await;
        self.told.megabytes >= self.threshold
    }

    /// Whether so little waits that history may be added.
    pub async fn has_room(&mut self, opencti: &OpenctiClient, id: &str) -> bool {
        self.ask(opencti, id).await;
        self.waiting() < self.room
    }

    /// So many objects were pushed.
    pub fn note_push(&mut self, objects: u64) {
        self.pushed.push((Instant::now(), objects));
    }

    /// As last asked, in decimal megabytes.
    #[must_use]
    pub fn megabytes(&self) -> f64 {
        self.told.megabytes
    }

    async fn ask(&mut self, opencti: &OpenctiClient, id: &str) {
        if self.asked.is_some_and(|asked| asked.elapsed() < self.recheck) {
            return;
        }
        self.asked = Some(Instant::now());
        self.take(connector::queue_size(opencti, id).await.unwrap_or_else(|error| {
            warn!(%error, "could not ask how full the connector's queue is");
            QueueSize::default()
        }));
    }

    /// The broker collects its figures every few seconds. A push of the last half period may be missing in them, and
    /// counts beside them until they are asked for again.
    fn take(&mut self, told: QueueSize) {
        self.told = told;
        self.pushed.retain(|(at, _)| at.elapsed() < self.recheck / 2);
    }

    fn waiting(&self) -> u64 {
        self.told.messages + self.pushed.iter().map(|(_, objects)| objects).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(messages: u64) -> QueueSize {
        QueueSize { messages, megabytes: 0.0 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_counts_until_the_figures_must_show_it() {
        let mut queue = BackPressure::new(500.0, 2000, Duration::from_mins(1));
        queue.take(told(0));
        queue.note_push(1500);
        tokio::time::advance(Duration::from_secs(20)).await;
        queue.note_push(700);
        assert_eq!(queue.waiting(), 2200);
        tokio::time::advance(Duration::from_secs(20)).await;
        queue.take(told(1400));
        assert_eq!(queue.waiting(), 1400 + 700, "the first is in the figures, the second may not be");
        tokio::time::advance(Duration::from_mins(1)).await;
        queue.take(told(900));
        assert_eq!(queue.waiting(), 900);
    }
}
