//! VMRay and OpenCTI, simulated over HTTP on the loopback interface.
//!
//! For the demo, the end-to-end tests and the benchmarks. Both behave as their real counterparts do where a client can
//! notice: paging, truncation, aggregation that is not finished, resets, refused objects. [`faults`] adds what goes wrong
//! between the two sides. An [`estate::Estate`] is the data behind VMRay.

pub mod estate;
pub mod faults;
pub mod opencti;
mod server;
pub mod vmray;

pub use server::{Authorization, RequestRecord};
