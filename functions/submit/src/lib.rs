//! `submit`: takes collections of URLs, sends each to VMRay once, and answers with the verdicts.
//!
//! Lambda freezes a function once it has answered, so the API ([`api`]) accepts and waits, and only the [`worker`]
//! sends. What calls mean stands in [`calls`], what is known in the [`ledger`]; a [`queue`] says where work is.

mod access;
pub mod api;
pub mod calls;
mod error;
pub mod hash;
pub mod lambda;
pub mod ledger;
pub mod metrics;
pub mod options;
pub mod queue;
mod quota;
mod service;
pub mod settings;
mod turns;
pub mod url;
pub mod worker;

pub use error::ServiceError;
pub use service::Submit;
pub use worker::Work;
