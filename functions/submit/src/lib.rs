//! `submit`: takes collections of URLs, sends each to VMRay once, and answers with the verdicts.
//!
//! Lambda freezes a function once it has answered, so the API ([`api`]) accepts and waits, and only the [`worker`]
//! sends. What both know stands in the [`ledger`]; a [`queue`] says where work is.

mod accept;
pub mod api;
pub mod hash;
pub mod lambda;
pub mod ledger;
pub mod lookup;
pub mod metrics;
pub mod queue;
mod quota;
pub mod service;
pub mod settings;
mod turns;
pub mod url;
mod verdicts;
pub mod view;
pub mod worker;

pub use service::{ServiceError, Submit};
pub use worker::Work;
