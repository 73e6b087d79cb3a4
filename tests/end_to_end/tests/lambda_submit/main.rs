//! The Lambda function `submit`, driven through the Runtime API: as the API behind HTTP events, and as the worker behind
//! its queue.
//!
//! Needs moto; run it with `tests/run`, or alone with
//! `tests/aws/with-emulators cargo test -p end_to_end --test lambda_submit`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a helper that fails fails its test"
)]

mod ambiguous;
mod kills;
mod messages;
mod outage;
mod quota;
mod refusals;
mod repeats;
mod scale;
mod scene;
mod sending;
mod verdicts;
mod wrong_world;
