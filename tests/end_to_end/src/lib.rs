//! End-to-end tests: the real binaries against simulated servers.

pub mod local;
