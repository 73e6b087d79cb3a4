//! `ingest`: moves VMRay sandbox results into `OpenCTI` as STIX 2.1.
//!
//! One call of [`Ingest::handle`] is one invocation. It comes in at `run`, which takes the steps around it (lease,
//! connector, feedback), goes through `ingestion` from feed, analysis and mapping to delivery, and a [`RunAnswer`] comes
//! back. Lambda and the local binary call the same function.

pub mod answer;
pub mod cursor;
pub mod event;
pub mod history;
pub mod opencti;
pub mod quarantine;
pub mod settings;

mod analysis;
mod arrivals;
mod clients;
mod delivery;
mod error;
mod feed;
mod handled;
mod ingestion;
mod memory;
mod order;
mod pass;
mod pipeline;
mod portion;
mod progress;
mod proof;
mod run;
mod stop;
mod times;

pub use answer::{RunAnswer, RunStatus};
pub use clients::Clients;
pub use error::{FailureKind, RunError};
pub use event::{IngestEvent, Manual};
pub use run::{Ingest, LeaseKind};
pub use times::TimeLimit;
