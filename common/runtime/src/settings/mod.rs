//! Settings: read from variables, checked all at once.
//!
//! Nothing in here touches the process's environment: a lookup function is handed in. Each function has tables of its
//! own settings beside the ones in here; what a variable means when it is unset is taken from its table, so that the
//! documentation cannot drift from the code. A blank variable counts as unset.

use std::{fmt, time::Duration};

use url::Url;

mod duration;
pub mod parse;
mod reader;
mod table;

pub use duration::parse_duration;
pub use reader::Reader;
pub use table::{BOOLEAN, LOCAL, MILLISECONDS, PROCESS, Setting, Unset, setting};

/// Asks for the value of a variable; `None`: it is not set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where the program runs, which decides what must be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// In AWS Lambda: the table and the secret are needed.
    Lambda,
    /// On one machine: keys from the environment, documents in a file, unless told otherwise.
    Local,
}

/// Something that is accepted, and that the operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The variable.
    pub name: &'static str,
    /// What is unusual about it.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.message)
    }
}

/// One wrong setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongSetting {
    /// The variable.
    pub name: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Every wrong setting, at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} wrong setting(s): {}", .problems.len(), listed(.problems))]
pub struct SettingsError {
    /// In the order in which they were read, at least one.
    pub problems: Vec<WrongSetting>,
}

fn listed(problems: &[WrongSetting]) -> String {
    problems.iter().map(|p| format!("{}: {}", p.name, p.message)).collect::<Vec<_>>().join("; ")
}

/// What holds for every HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// The longest that connecting may take.
    pub connect_timeout: Duration,
    /// The first pause before a request is tried again; it doubles.
    pub retry_base: Duration,
    /// Whether `HTTPS_PROXY` and `NO_PROXY` are passed over.
    pub disable_proxy: bool,
}

/// Only `CONNECTOR_LOG_LEVEL`, for logging that starts before the settings are read; a wrong one is `info` here and
/// reported there.
#[must_use]
pub fn log_level(lookup: Lookup<'_>) -> tracing::Level {
    Reader::new(lookup, &[PROCESS])
        .value("CONNECTOR_LOG_LEVEL", parse::log_level)
        .unwrap_or(tracing::Level::INFO)
}

/// The DynamoDB table (`TABLE_NAME`), where it must be set.
pub fn read_table_name(reader: &mut Reader<'_>) -> Option<String> {
    reader.required("TABLE_NAME", parse::text)
}

/// The secret of Secrets Manager (`SECRET_ARN`), where it must be set.
pub fn read_secret_arn(reader: &mut Reader<'_>) -> Option<String> {
    reader.required("SECRET_ARN", parse::text)
}

/// A key that is sent to this very machine crosses no network: no warning.
pub fn warn_of_plain_http(reader: &mut Reader<'_>, name: &'static str, server: Option<&Url>) {
    if server.is_some_and(|url| url.scheme() == "http" && !parse::is_loopback(url)) {
        reader.warn(name, "http:// sends the API key unencrypted; use https://");
    }
}

/// Whether a server's certificate is checked, by the setting `name`.
pub fn read_verify_tls(reader: &mut Reader<'_>, name: &'static str) -> Option<bool> {
    let verify = reader.value(name, parse::boolean)?;
    if !verify {
        reader.warn(
            name,
            "TLS certificates are not checked: anybody on the way can read the API key; a CA bundle is the better way",
        );
    }
    Some(verify)
}

impl HttpSettings {
    /// Reads them all.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let connect_timeout = reader.value("HTTP_CONNECT_TIMEOUT_MS", parse::milliseconds);
        let retry_base = reader.value("RETRY_BASE_MS", parse::milliseconds);
        let disable_proxy = reader.value("DISABLE_PROXY", parse::boolean);
        Some(Self {
            connect_timeout: connect_timeout?,
            retry_base: retry_base?,
            disable_proxy: disable_proxy?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::LOCAL;

    #[test]
    fn the_keys_variables_are_in_the_table() {
        for name in crate::secrets::ENVIRONMENT_NAMES {
            assert!(LOCAL.iter().any(|setting| setting.name == name), "{name}");
        }
    }
}
