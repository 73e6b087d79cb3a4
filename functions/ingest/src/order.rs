//! What a run is to do, and by what means.

use chrono::{DateTime, TimeDelta, Utc};
use vmray::client::Window;

use crate::answer::RunAnswer;
use crate::clients::Clients;
use crate::cursor::Cursor;
use crate::event::Manual;
use crate::history::HistoryOrder;
use crate::memory::PlatformMemory;
use crate::settings::IngestSettings;
use crate::times::Times;

/// `submission_finish_time` is asked up to this far in the future: clocks of on-prem servers differ.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::hours(24);

#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub settings: &'a IngestSettings,
    pub clients: &'a Clients,
    pub times: Times,
    /// A window, or a dry run; without it everything new.
    pub manual: Option<Manual>,
    pub started_at: DateTime<Utc>,
    /// What the platform has; in a window or a dry run everything is pushed.
    pub memory: Option<&'a PlatformMemory<'a>>,
    /// Is told how far the run is after each bundle.
    pub progress: Option<&'a (dyn Fn(&RunAnswer) + Send + Sync)>,
}

impl Order<'_> {
    /// Whether history is worked off: not by manual windows and dry runs, which move nothing.
    #[must_use]
    pub(crate) fn takes_history(&self) -> bool {
        self.manual.is_none() && self.settings.feed.history != HistoryOrder::LastDay
    }

    /// What is asked of VMRay.
    #[must_use]
    pub(crate) fn window(&self, cursor: &Cursor) -> Window {
        let feed = &self.settings.feed;
        let position = cursor.position.unwrap_or(feed.initial_fetch);
        // Behind the position rows may appear late. Looking for them goes on where a run was cut off, if it was.
        let going_on = cursor.go_on_from.filter(|from| *from < position);
        let from = going_on.unwrap_or(position - feed.look_back());
        // What was not asked for from the start is not now.
        let from = from.max(cursor.start.unwrap_or(feed.initial_fetch));
        let manual = self.manual.unwrap_or_default();
        Window {
            from: manual.from.unwrap_or(from),
            to: manual.to.unwrap_or(self.started_at + CLOCK_TOLERANCE),
        }
    }
}
