//! `ingest`: moves VMRay sandbox results into `OpenCTI` as STIX 2.1.
//!
//! One call of [`Ingest::handle`] is one invocation. It comes in here, goes down through [`run`] into feed, analysis,
//! mapping and delivery, and an [`Answer`] comes back. Lambda and the local binary call the same function.

pub mod analysis;
pub mod answer;
pub mod cursor;
pub mod error;
pub mod event;
pub mod feed;
pub mod handled;
pub mod opencti;
pub mod pipeline;
pub mod progress;
pub mod proof;
pub mod quarantine;
pub mod run;
pub mod settings;

pub use answer::{Answer, Status};
pub use error::{FailureKind, RunError};
pub use event::{Event, Manual};
pub use run::{Ingest, LeaseKind, TimeLimit};
