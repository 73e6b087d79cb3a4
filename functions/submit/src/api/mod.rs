//! The HTTP API: what callers send and what they get.

pub mod body;
pub mod fault;
pub mod options;
mod words;
