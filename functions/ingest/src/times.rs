//! How the time of an invocation is spent.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use runtime::http::Deadline;
use tokio::time::Instant;

/// How long an invocation may take, from now.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimit(pub Duration);

impl TimeLimit {
    /// No limit in practice, for one machine.
    pub const NONE: Self = Self(Duration::from_hours(30 * 24));
}

/// What is left of the time, by what it may be spent on. Each stage leaves room for the ones behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// No new sample.
    pub start_until: Instant,
    /// A run that has only history left ends then.
    pub stay_until: Instant,
    /// No request to VMRay.
    pub read_until: Deadline,
    /// No push.
    pub push_until: Deadline,
    /// No call at all.
    pub end: Deadline,
    /// Whatever is still under way is left, or there would be no answer.
    pub answer_at: Instant,
    pub ends_at: DateTime<Utc>,
}

impl Times {
    pub(crate) fn new(limit: Duration, stay: Option<Duration>) -> Self {
        let now = Instant::now();
        let reserve = (limit / 4).min(Duration::from_secs(30));
        let before_end = |part: Duration| now + limit.saturating_sub(part);
        Self {
            start_until: before_end(reserve),
            stay_until: stay.map_or(before_end(reserve), |stay| before_end(reserve).min(now + stay)),
            read_until: Deadline::at(before_end(reserve * 2 / 3)),
            push_until: Deadline::at(before_end(reserve / 4)),
            // The cursor is saved and the lease given back after the last call.
            end: Deadline::at(before_end(reserve / 8)),
            answer_at: before_end(reserve / 32),
            ends_at: Utc::now() + TimeDelta::from_std(limit).unwrap_or(TimeDelta::days(30)),
        }
    }

    /// Listing ahead takes at most a quarter of the time, or a short invocation would never get to a sample.
    pub(crate) fn look_ahead_until(&self) -> Instant {
        let now = Instant::now();
        now + self.start_until.saturating_duration_since(now) / 4
    }
}
