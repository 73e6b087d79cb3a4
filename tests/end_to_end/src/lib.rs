//! End-to-end tests: the real binaries against simulated servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a helper that fails fails its test"
)]

pub mod aws;
pub mod binary;
pub mod deployment;
pub mod event_source;
mod gateway;
pub mod http_api;
pub mod ingest;
pub mod knowledge;
pub mod lambda;
pub mod local;
pub mod queue;
pub mod runtime_api;
pub mod served;
pub mod submit;
pub mod template;
pub mod tls;
