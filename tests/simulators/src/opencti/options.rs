//! How the simulated OpenCTI is set up.

use std::time::Duration;

use super::ids;

/// When pushed bundles are imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// Before the push is answered.
    Immediate,
    /// When `Platform::import` is called; until then they are in the queue, and a reset purges them.
    Held,
    /// One after the other, each in its share of a second.
    Paced {
        /// How many objects the workers import in a second.
        objects_per_second: u32,
    },
}

/// What the broker tells of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// What waits in it.
    Current,
    /// What waited at the last `Platform::collect_statistics`: nothing right after a push.
    Collected,
}

#[derive(Clone, Debug)]
pub struct OpenctiOptions {
    /// Tokens in force, all of the same account.
    pub tokens: Vec<String>,
    /// The account's highest confidence.
    pub max_confidence: i64,
    /// The release: `6.9.0`, `7.260817.0`; it decides which fields exist and how ids are made.
    pub version: String,
    /// The markings that exist, such as `TLP:AMBER`.
    pub markings: Vec<String>,
    /// Those that the account may use.
    pub allowed_markings: Vec<String>,
    /// When bundles are imported.
    pub workers: Workers,
    /// What the queue's figures show.
    pub statistics: Statistics,
    /// Waited before each request is handled.
    pub latency: Duration,
    /// The platform's limit of a request body, counted inflated.
    pub max_body_bytes: usize,
    /// The limit of a proxy before it, counted as sent: HTTP 413.
    pub proxy_limit_bytes: Option<usize>,
    /// Compresses answers for clients that accept it.
    pub gzip: bool,
    /// Keeps the bodies of requests.
    pub record_bodies: bool,
    /// Keeps pushed bundles.
    pub keep_bundles: bool,
    /// The port; 0 takes a free one.
    pub port: u16,
}

impl Default for OpenctiOptions {
    fn default() -> Self {
        let markings: Vec<String> = ids::MARKINGS.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self {
            tokens: vec!["opencti-token".to_owned()],
            max_confidence: 100,
            version: "7.260817.0".to_owned(),
            allowed_markings: markings.clone(),
            markings,
            workers: Workers::Immediate,
            statistics: Statistics::Current,
            latency: Duration::ZERO,
            max_body_bytes: 50 << 20,
            proxy_limit_bytes: None,
            gzip: true,
            record_bodies: true,
            keep_bundles: true,
            port: 0,
        }
    }
}
