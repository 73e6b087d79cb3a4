//! One suite of promises for every store: on SQLite always, on moto and on DynamoDB Local when `TEST_MOTO_ENDPOINT` and
//! `TEST_DYNAMODB_LOCAL_ENDPOINT` say where they are (`tests/aws/with-emulators` does). An endpoint that is given and
//! does not answer fails the tests; one that is not given leaves its tests out, and they say so.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]
#![cfg(any(feature = "aws", feature = "sqlite"))]

mod store_suite;

#[cfg(feature = "aws")]
#[path = "store_suite/dynamodb.rs"]
mod dynamodb;
#[cfg(feature = "sqlite")]
#[path = "store_suite/sqlite.rs"]
mod sqlite;
