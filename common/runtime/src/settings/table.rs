//! Tables of settings: what the documentation shows and where defaults are taken from.

/// What it means that a variable is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unset {
    /// The program does not start.
    Refused,
    /// The program does not start on Lambda.
    RefusedOnLambda,
    /// Nothing is set, and the meaning says what happens then.
    Nothing,
    /// The same as this text.
    Means(&'static str),
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// What its text is, in a few words.
    pub kind: &'static str,
    /// What it means when it is not set.
    pub unset: Unset,
    /// What it does.
    pub meaning: &'static str,
}

/// A row of a table.
#[must_use]
pub const fn setting(name: &'static str, kind: &'static str, unset: Unset, meaning: &'static str) -> Setting {
    Setting { name, kind, unset, meaning }
}

/// The kind of a setting that is a number of milliseconds.
pub const MILLISECONDS: &str = "milliseconds";
/// The kind of a setting that is on or off.
pub const BOOLEAN: &str = "true, false";

/// What every process of the product reads, in the order in which people meet it.
#[rustfmt::skip] // one setting a line, however long
pub const PROCESS: &[Setting] = &[
    setting("CONNECTOR_LOG_LEVEL", "debug, info, warn, error", Unset::Means("info"), "how much is logged"),
    setting("DISABLE_PROXY", BOOLEAN, Unset::Means("false"), "pass over HTTPS_PROXY and NO_PROXY, which are honoured otherwise"),
    setting("TABLE_NAME", "text", Unset::RefusedOnLambda, "DynamoDB table for cursors, quarantine and ledger; unset on one machine: a file"),
    setting("SECRET_ARN", "ARN", Unset::RefusedOnLambda, "secret of AWS Secrets Manager with the keys; unset on one machine: the variables below"),
    setting("HTTP_CONNECT_TIMEOUT_MS", MILLISECONDS, Unset::Means("5000"), "longest time for connecting"),
    setting("RETRY_BASE_MS", MILLISECONDS, Unset::Means("500"), "first pause before a request is tried again; it doubles"),
];

/// What only the local binary reads; on Lambda it comes from elsewhere.
#[rustfmt::skip] // one setting a line, however long
pub const LOCAL: &[Setting] = &[
    setting("CONNECTOR_DURATION_PERIOD", "ISO 8601 duration", Unset::Nothing, "time between two runs: on Lambda the schedule of the deployment, on one machine `--every`; unset: one run"),
    setting("VMRAY_API_KEY", "secret", Unset::Nothing, "VMRay's API key; on Lambda `vmray_api_key` of the secret"),
    setting("OPENCTI_TOKEN", "secret", Unset::Nothing, "OpenCTI's token; on Lambda `opencti_token` of the secret"),
    setting("CA_BUNDLE", "path of a PEM file", Unset::Nothing, "certificates to trust besides the system's; on Lambda `ca_bundle` of the secret, as text"),
    setting("CALLERS", "JSON object", Unset::Nothing, "who may submit; on Lambda `callers` of the secret; unset: `serve` makes one key and prints it once"),
];
