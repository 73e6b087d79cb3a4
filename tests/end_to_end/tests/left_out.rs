//! Says what `cargo test` leaves out without the feature `emulators`.
#![cfg(not(feature = "emulators"))]

#[test]
#[ignore = "deployment, event_source, lambda_ingest and lambda_submit need emulators of AWS: run tests/run"]
fn the_functions_on_lambda() {}
