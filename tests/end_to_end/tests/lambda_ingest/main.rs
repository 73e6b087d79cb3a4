//! The Lambda function `ingest`, driven through the Runtime API.
//!
//! Needs moto; run it with `tests/run`, or alone with
//! `tests/aws/with-emulators cargo test -p end_to_end --test lambda_ingest`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a helper that fails fails its test"
)]

mod answer;
mod cycle;
mod deadline;
mod history;
mod lease;
mod quarantine;
mod secrets;
mod store;
