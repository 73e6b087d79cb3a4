//! Settings: read from variables, checked all at once.
//!
//! Nothing in here touches the process's environment: a lookup function is handed in, and the clock too. Every variable
//! is described in [`SETTINGS`]; what it is when unset is taken from there, so that the documentation cannot drift
//! from the code. A blank variable counts as unset.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use url::Url;

#[cfg(feature = "aws")]
pub mod aws;
mod duration;
mod parse;
mod reader;
mod submit;
mod table;

pub use duration::parse_duration;
pub use submit::{
    GateSettings, LedgerScope, SubmitDefaults, SubmitDeployment, SubmitLimits, SubmitSettings, SubmitTimes,
};
pub use table::{Function, SETTINGS, SettingDoc, Unset, markdown_table};

use crate::{
    mapping::{IocType, LabelStyle, MappingSettings},
    stix::BundleLimits,
};
use reader::Reader;

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
pub struct Problem {
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
    pub problems: Vec<Problem>,
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("{}: {}", p.name, p.message)).collect::<Vec<_>>().join("; ")
}

/// All that `ingest` can be told.
#[derive(Debug, Clone, PartialEq)]
pub struct IngestSettings {
    /// Where documents and keys are.
    pub deployment: Deployment,
    /// How much is logged.
    pub log_level: tracing::Level,
    /// What the connector is called in `OpenCTI`.
    pub connector: ConnectorSettings,
    /// The `OpenCTI` server.
    pub opencti: OpenctiSettings,
    /// The VMRay server.
    pub vmray: VmraySettings,
    /// What holds for every HTTP request.
    pub http: HttpSettings,
    /// From when on submissions are read.
    pub feed: FeedSettings,
    /// What becomes of an analysis.
    pub mapping: MappingSettings,
    /// How a run works.
    pub run: RunSettings,
}

/// Where documents and keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deployment {
    /// DynamoDB and Secrets Manager.
    Lambda {
        /// The table (`TABLE_NAME`).
        table_name: String,
        /// The secret (`SECRET_ARN`).
        secret_arn: String,
    },
    /// One machine.
    Local {
        /// A DynamoDB table instead of a file (`TABLE_NAME`).
        table_name: Option<String>,
        /// A Secrets Manager secret instead of variables (`SECRET_ARN`).
        secret_arn: Option<String>,
    },
}

/// What the connector is called in `OpenCTI`.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectorSettings {
    /// Its identity; the cursor belongs to it.
    pub id: String,
    /// The name that people see, at least 2 characters.
    pub name: String,
    /// What it says it imports, at least one.
    pub scope: Vec<String>,
    /// Nothing is fetched while its queue on the platform is larger than this: megabytes (10^6 bytes), more than 0.
    pub queue_threshold_mb: f64,
}

/// The `OpenCTI` server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenctiSettings {
    /// The platform's address; its path ends with `/`, so that `join("graphql")` works.
    pub url: Url,
    /// Whether its certificate is checked.
    pub verify_tls: bool,
    /// How requests are sent.
    pub compression: Compression,
    /// The longest a request may take.
    pub timeout: Duration,
}

/// How request bodies are sent to `OpenCTI`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `Content-Encoding: gzip`.
    Gzip,
    /// As they are, for proxies that do not pass compressed requests on.
    Off,
}

/// The VMRay server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmraySettings {
    /// The server's address without `rest`; its path ends with `/`, so that `join("rest/…")` works.
    pub server: Url,
    /// Whether its certificate is checked.
    pub verify_tls: bool,
    /// The longest a request may take.
    pub timeout: Duration,
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

/// From when on submissions are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSettings {
    /// Where the first run begins.
    pub initial_fetch: DateTime<Utc>,
    /// How far behind the position each run looks again, at most 7 days.
    pub overlap: Duration,
}

/// How a run works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSettings {
    /// Samples at the same time, 1 to 64.
    pub concurrency: usize,
    /// The largest bundle, before compression.
    pub bundle: BundleLimits,
    /// After how many failures a sample is given up, at least 1.
    pub quarantine_max_attempts: u32,
    /// The longest that reading one sample may take.
    pub sample_timeout: Duration,
    /// How often the platform's queue is asked for during a run.
    pub queue_recheck: Duration,
}

/// Only `CONNECTOR_LOG_LEVEL`, for logging that starts before the settings are read; a wrong one is `info` here and
/// reported there.
#[must_use]
pub fn log_level(lookup: Lookup<'_>) -> tracing::Level {
    Reader::new(lookup).value("CONNECTOR_LOG_LEVEL", parse::log_level).unwrap_or(tracing::Level::INFO)
}

impl IngestSettings {
    /// Reads every setting of `ingest`; `now` is what a future start is measured against.
    ///
    /// Either all of them are right, or the error names each wrong variable.
    pub fn read(
        lookup: Lookup<'_>,
        host: Host,
        now: DateTime<Utc>,
    ) -> Result<(Self, Vec<Warning>), SettingsError> {
        let mut reader = Reader::new(lookup);
        let settings = Self::read_parts(&mut reader, host, now);
        reader.finish(settings)
    }

    /// Reads all parts before it looks at any, so that no problem hides another.
    fn read_parts(reader: &mut Reader<'_>, host: Host, now: DateTime<Utc>) -> Option<Self> {
        let deployment = Deployment::read(reader, host);
        let connector = ConnectorSettings::read(reader);
        let log_level = reader.value("CONNECTOR_LOG_LEVEL", parse::log_level);
        let opencti = OpenctiSettings::read(reader);
        let vmray = VmraySettings::read(reader);
        let http = HttpSettings::read(reader);
        let feed = FeedSettings::read(reader, now);
        let mapping = read_mapping(reader);
        let run = RunSettings::read(reader);
        Some(Self {
            deployment: deployment?,
            log_level: log_level?,
            connector: connector?,
            opencti: opencti?,
            vmray: vmray?,
            http: http?,
            feed: feed?,
            mapping: mapping?,
            run: run?,
        })
    }
}

impl Deployment {
    fn read(reader: &mut Reader<'_>, host: Host) -> Option<Self> {
        match host {
            Host::Lambda => {
                let table_name = read_table_name(reader);
                let secret_arn = read_secret_arn(reader);
                Some(Self::Lambda { table_name: table_name?, secret_arn: secret_arn? })
            }
            Host::Local => {
                let table_name = reader.optional("TABLE_NAME", parse::text)?;
                let secret_arn = reader.optional("SECRET_ARN", parse::text)?;
                if secret_arn.is_none() {
                    // The values are for `secrets`; here they are only missed together with everything else.
                    let vmray = reader.required("VMRAY_API_KEY", |_| Ok(()));
                    let opencti = reader.required("OPENCTI_TOKEN", |_| Ok(()));
                    vmray.and(opencti)?;
                }
                Some(Self::Local { table_name, secret_arn })
            }
        }
    }
}

fn read_table_name(reader: &mut Reader<'_>) -> Option<String> {
    reader.required("TABLE_NAME", parse::text)
}

fn read_secret_arn(reader: &mut Reader<'_>) -> Option<String> {
    reader.required("SECRET_ARN", parse::text)
}

impl ConnectorSettings {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let id = reader.required("CONNECTOR_ID", parse::text);
        if id.as_ref().is_some_and(|id| uuid::Uuid::parse_str(id).is_err()) {
            reader.warn("CONNECTOR_ID", "not a UUID; OpenCTI advises one");
        }
        let name = reader.value("CONNECTOR_NAME", parse::name);
        let scope = reader.value("CONNECTOR_SCOPE", parse::list);
        let queue_threshold_mb = reader.value("CONNECTOR_QUEUE_THRESHOLD", parse::positive_decimal);
        Some(Self { id: id?, name: name?, scope: scope?, queue_threshold_mb: queue_threshold_mb? })
    }
}

impl OpenctiSettings {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let url = reader.required("OPENCTI_URL", |text| parse::server(text, "graphql"));
        warn_of_plain_http(reader, "OPENCTI_URL", url.as_ref());
        let verify_tls = read_verify_tls(reader, "OPENCTI_VERIFY_TLS");
        let compression = reader.value("OPENCTI_COMPRESSION", parse::compression);
        let timeout = reader.value("OPENCTI_TIMEOUT_MS", parse::milliseconds);
        Some(Self { url: url?, verify_tls: verify_tls?, compression: compression?, timeout: timeout? })
    }
}

impl VmraySettings {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let server = reader.value("VMRAY_SERVER", |text| parse::server(text, "rest"));
        warn_of_plain_http(reader, "VMRAY_SERVER", server.as_ref());
        let verify_tls = read_verify_tls(reader, "VMRAY_VERIFY_TLS");
        let timeout = reader.value("VMRAY_TIMEOUT_MS", parse::milliseconds);
        Some(Self { server: server?, verify_tls: verify_tls?, timeout: timeout? })
    }
}

/// A key that is sent to this very machine crosses no network: no warning.
fn warn_of_plain_http(reader: &mut Reader<'_>, name: &'static str, server: Option<&Url>) {
    if server.is_some_and(|url| url.scheme() == "http" && !parse::is_loopback(url)) {
        reader.warn(name, "http:// sends the API key unencrypted; use https://");
    }
}

fn read_verify_tls(reader: &mut Reader<'_>, name: &'static str) -> Option<bool> {
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
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
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

impl FeedSettings {
    fn read(reader: &mut Reader<'_>, now: DateTime<Utc>) -> Option<Self> {
        let initial_fetch = reader.required("VMRAY_INITIAL_FETCH_DATE", |text| parse::start(text, now));
        let overlap = reader.value("FEED_OVERLAP", parse::overlap);
        Some(Self { initial_fetch: initial_fetch?, overlap: overlap? })
    }
}

fn read_mapping(reader: &mut Reader<'_>) -> Option<MappingSettings> {
    let sample_verdicts = reader.value("VMRAY_SAMPLE_VERDICT", parse::verdicts);
    let iocs_verdicts = reader.value("VMRAY_IOCS_VERDICT", parse::verdicts);
    let marking = reader.value("VMRAY_DEFAULT_TLP", parse::marking);
    let label_style = read_label_style(reader);
    let ioc_types = reader.value("VMRAY_IOC_TYPES", |text| parse::choices(text, &IocType::ALL));
    let labels = reader.value("VMRAY_LABELS", parse::labels);
    let confidence = reader.optional("VMRAY_CONFIDENCE", parse::confidence);
    Some(MappingSettings {
        sample_verdicts: sample_verdicts?,
        iocs_verdicts: iocs_verdicts?,
        ioc_types: ioc_types?,
        labels: labels?,
        label_style: label_style?,
        marking: marking?,
        confidence: confidence?,
    })
}

fn read_label_style(reader: &mut Reader<'_>) -> Option<LabelStyle> {
    let threat_names = reader.value("VMRAY_THREAT_NAMES_COLOR", parse::color);
    let classifications = reader.value("VMRAY_CLASSIFICATIONS_COLOR", parse::color);
    let vti = reader.value("VMRAY_VTI_COLOR", parse::color);
    let mitre = reader.value("VMRAY_MITRE_COLOR", parse::color);
    Some(LabelStyle {
        threat_names: threat_names?,
        classifications: classifications?,
        vti: vti?,
        mitre: mitre?,
    })
}

impl RunSettings {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let concurrency = reader.value("INGEST_CONCURRENCY", |text| parse::whole(text, 1..=64));
        let max_objects = reader.value("BUNDLE_MAX_OBJECTS", |text| parse::whole(text, 1..=100_000));
        let max_bytes = reader.value("BUNDLE_MAX_BYTES", parse::bundle_bytes);
        let quarantine_max_attempts =
            reader.value("QUARANTINE_MAX_ATTEMPTS", |text| parse::whole(text, 1..=1000));
        let sample_timeout = reader.value("SAMPLE_TIMEOUT_MS", parse::milliseconds);
        let queue_recheck = reader.value("QUEUE_RECHECK_MS", parse::milliseconds);
        Some(Self {
            concurrency: concurrency?,
            bundle: BundleLimits { max_objects: max_objects?, max_bytes: max_bytes? },
            quarantine_max_attempts: quarantine_max_attempts?,
            sample_timeout: sample_timeout?,
            queue_recheck: queue_recheck?,
        })
    }
}

#[cfg(test)]
mod tests;
