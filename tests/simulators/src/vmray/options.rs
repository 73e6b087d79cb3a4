//! How the simulated VMRay is set up.

use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};

use super::submit::SubmitOptions;
use crate::estate::Estate;

/// Which release of the server is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerProfile {
    /// 2026.2.1: everything of the published specification.
    Current,
    /// 4.2.0 as recorded: fewer fields, no `sample_verdict`, no `_last_id`, other web links, `system_info` only for administrators.
    Old,
}

/// Whether the ends of a range `a~b` belong to it: VMRay does not say, so a client must stand all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeBounds {
    /// `a <= x <= b`
    Inclusive,
    /// `a <= x < b`
    HalfOpen,
    /// `a < x < b`
    Exclusive,
}

/// The server, its data and its keys.
#[derive(Clone, Debug)]
pub struct VmrayOptions {
    /// Submissions and samples.
    pub estate: Estate,
    /// Keys in force.
    pub api_keys: Vec<String>,
    /// Waited before each request is handled.
    pub latency: Duration,
    /// The server's release.
    pub profile: ServerProfile,
    /// Items in one answer; more come by continuation.
    pub api_items_per_request: usize,
    /// Items of one request with all of its continuations; more are cut off (`truncated`).
    pub max_api_items: usize,
    /// What the ends of ranges mean.
    pub bounds: RangeBounds,
    /// The server's clock against UTC: all times it speaks of are shifted by this.
    pub clock_offset: TimeDelta,
    /// How submitting works.
    pub submit: SubmitOptions,
    /// Compresses answers for clients that accept it.
    pub gzip: bool,
    /// Keeps the bodies of requests.
    pub record_bodies: bool,
    /// The port; 0 takes a free one.
    pub port: u16,
}

impl Default for VmrayOptions {
    fn default() -> Self {
        Self {
            estate: Estate::new(),
            api_keys: vec!["vmray-key".to_owned()],
            latency: Duration::ZERO,
            profile: ServerProfile::Current,
            api_items_per_request: 100,
            max_api_items: 1000,
            bounds: RangeBounds::Inclusive,
            clock_offset: TimeDelta::zero(),
            submit: SubmitOptions::default(),
            gzip: true,
            record_bodies: true,
            port: 0,
        }
    }
}

impl RangeBounds {
    /// Whether a time is in the range.
    pub(super) fn holds(self, from: NaiveDateTime, time: NaiveDateTime, to: NaiveDateTime) -> bool {
        match self {
            Self::Inclusive => from <= time && time <= to,
            Self::HalfOpen => from <= time && time < to,
            Self::Exclusive => from < time && time < to,
        }
    }
}
