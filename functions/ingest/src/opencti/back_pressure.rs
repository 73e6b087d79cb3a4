//! Back-pressure: nothing is fetched for a platform that cannot keep up.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::client::OpenctiClient;
use super::connector;

/// How full the connector's queue on the platform is.
#[derive(Debug)]
pub struct BackPressure {
    threshold: f64,
    recheck: Duration,
    asked: Option<Instant>,
    /// As last asked, in decimal megabytes.
    pub megabytes: f64,
}

impl BackPressure {
    /// Full from `threshold` decimal megabytes on; asked for at most every `recheck`.
    #[must_use]
    pub fn new(threshold: f64, recheck: Duration) -> Self {
        Self { threshold, recheck, asked: None, megabytes: 0.0 }
    }

    /// Asks at most every `recheck`. A platform that cannot say is taken as not full, as its own connectors do.
    pub async fn is_full(&mut self, opencti: &OpenctiClient, id: &str) -> bool {
        if self.asked.is_none_or(|asked| asked.elapsed() >= self.recheck) {
            self.asked = Some(Instant::now());
            self.megabytes = connector::queue_megabytes(opencti, id).await.unwrap_or_else(|error| {
                warn!(%error, "could not ask how full the connector's queue is");
                0.0
            });
        }
        self.megabytes >= self.threshold
    }
}
