//! What `ingest` can be told. All of it is checked at once, before any call.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::history::{Beginning, HistoryOrder};
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use mapping::{IocType, LabelKind, LabelStyle, MappingSettings, RelationshipKind, VerdictSet};
use runtime::settings::parse::{self, Parsed, choices, items, shown, whole};
use runtime::settings::{
    BOOLEAN, Host, HttpSettings, Lookup, MILLISECONDS, PROCESS, Reader, Setting, SettingsError, Unset,
    Warning, parse_duration, read_secret_arn, read_table_name, read_verify_tls, setting, warn_of_plain_http,
};
use stix::{BundleLimits, Color, TlpMarking};
use url::Url;
use vmray::VmraySettings;
use vmray::model::Verdict;

/// The longest overlap: what is behind it is remembered in the cursor, which has an end.
const MAX_OVERLAP: Duration = Duration::from_hours(7 * 24);

/// The longest memory: what people delete in OpenCTI comes back only behind it.
const MAX_MEMORY: Duration = Duration::from_hours(30 * 24);

/// How far ahead of our clock a server's may be.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::hours(24);

/// A bundle below this would split every sample, and above it no platform takes it.
const BUNDLE_BYTES: RangeInclusive<usize> = 64 * 1024..=64 * 1024 * 1024;

const COLOR: &str = "`#rrggbb`";

/// What only `ingest` reads, in the order in which people meet it.
#[rustfmt::skip] // one setting a line, however long
pub const SETTINGS: &[Setting] = &[
    setting("OPENCTI_URL", "URL", Unset::Refused, "address of the OpenCTI platform"),
    setting("CONNECTOR_ID", "text, best a UUID", Unset::Refused, "identity of this connector in OpenCTI; the cursor belongs to it"),
    setting("CONNECTOR_NAME", "text, at least 2 characters", Unset::Means("VMRay"), "name of this connector in OpenCTI"),
    setting("CONNECTOR_SCOPE", "list", Unset::Means("not-applicable"), "what the connector says it imports"),
    setting("CONNECTOR_QUEUE_THRESHOLD", "megabytes", Unset::Means("500"), "nothing is fetched while the connector's queue on the platform is larger"),
    setting("VMRAY_INITIAL_FETCH_DATE", "YYYY-MM-DD or RFC 3339", Unset::Refused, "where the first run begins, by the time at which a submission was finished; UTC unless it has an offset"),
    setting("HISTORY", "newest-first, oldest-first, none", Unset::Means("newest-first"), "what a beginning makes of the time from the initial date on: the last day first and then the days before it, backwards; all in one, oldest first; or only the last day"),
    setting("VMRAY_SAMPLE_VERDICT", "list of malicious, suspicious", Unset::Means("malicious"), "verdicts of the samples to ingest"),
    setting("VMRAY_IOCS_VERDICT", "list of malicious, suspicious", Unset::Means("malicious"), "verdicts of the IOCs to ingest"),
    setting("VMRAY_DEFAULT_TLP", "TLP:CLEAR, WHITE, GREEN, AMBER, AMBER+STRICT, RED", Unset::Means("TLP:AMBER"), "marking of everything that is ingested"),
    setting("VMRAY_THREAT_NAMES_COLOR", COLOR, Unset::Means("#d60904"), "colour of the labels for threat names"),
    setting("VMRAY_CLASSIFICATIONS_COLOR", COLOR, Unset::Means("#fa560a"), "colour of the labels for classifications"),
    setting("VMRAY_VTI_COLOR", COLOR, Unset::Means("#40f5ef"), "colour of the labels for VMRay Threat Identifiers"),
    setting("VMRAY_MITRE_COLOR", COLOR, Unset::Means("#a9f723"), "colour of the labels for MITRE ATT&CK techniques"),
    setting("VMRAY_IOC_TYPES", "list of files, processes, domains, urls, mutexes, registry, ips, emails, email_addresses, filenames", Unset::Means("files,processes,domains,urls,mutexes,registry,ips,emails,email_addresses"), "which IOCs are ingested"),
    setting("VMRAY_LABELS", "list of threat_names, classifications, vti, mitre, or none", Unset::Means("threat_names,classifications,vti,mitre"), "which labels are made"),
    setting("VMRAY_RELATIONSHIPS", "list of based-on, characterizes, drops, indicates, located-at, related-to, resolves-to, uses, or none", Unset::Means("based-on,characterizes,drops,indicates,located-at,related-to,resolves-to,uses"), "which relationships are made"),
    setting("VMRAY_CONFIDENCE", "0 to 100", Unset::Nothing, "confidence of everything that is ingested; unset: OpenCTI decides by the connector's user"),
    setting("OPENCTI_VERIFY_TLS", BOOLEAN, Unset::Means("true"), "whether the platform's certificate is checked"),
    setting("INGEST_CONCURRENCY", "1 to 64", Unset::Means("16"), "samples that are read at the same time"),
    setting("BUNDLE_MAX_OBJECTS", "1 to 100000", Unset::Means("2000"), "most objects in one bundle"),
    setting("BUNDLE_MAX_BYTES", "bytes, or with KiB or MiB", Unset::Means("4MiB"), "largest bundle, before compression"),
    setting("OPENCTI_COMPRESSION", "gzip, off", Unset::Means("gzip"), "how bundles are sent; `off` for proxies that do not pass compressed requests on"),
    setting("FEED_OVERLAP", "ISO 8601 duration, at most P7D", Unset::Means("PT15M"), "how far behind its position each run looks again"),
    setting("PLATFORM_MEMORY", "ISO 8601 duration, at most P30D, or PT0S", Unset::Means("P7D"), "how long an object that OpenCTI has imported is not pushed again; `PT0S` pushes everything always"),
    setting("HISTORY_QUEUE_MESSAGES", "1 to 1000000", Unset::Means("2000"), "history is pushed only while fewer messages wait in the connector's queue on the platform: one for each object"),
    setting("QUARANTINE_MAX_ATTEMPTS", "1 to 1000", Unset::Means("10"), "after how many failures a sample is given up"),
    setting("OPENCTI_TIMEOUT_MS", MILLISECONDS, Unset::Means("120000"), "longest time for a request to OpenCTI"),
    setting("SAMPLE_TIMEOUT_MS", MILLISECONDS, Unset::Means("120000"), "longest time for reading one sample"),
    setting("QUEUE_RECHECK_MS", MILLISECONDS, Unset::Means("60000"), "how often the platform's queue is asked for during a run, and while history is left, fresh submissions are looked for"),
];

/// Every setting that `ingest` reads.
pub const TABLES: [&[Setting]; 3] = [SETTINGS, vmray::SETTINGS, PROCESS];

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

/// From when on submissions are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSettings {
    /// Where the first run begins.
    pub initial_fetch: DateTime<Utc>,
    /// How far behind the position each run looks again, at most 7 days.
    pub overlap: Duration,
    /// In which order a beginning takes what VMRay has already.
    pub history: HistoryOrder,
}

impl FeedSettings {
    /// How far behind the position each run looks again.
    #[must_use]
    pub fn look_back(&self) -> TimeDelta {
        TimeDelta::from_std(self.overlap).unwrap_or_default()
    }

    /// Where a new deployment begins at `now`, and one that was reset.
    #[must_use]
    pub fn beginning(&self, now: DateTime<Utc>) -> Beginning {
        Beginning::new(self.history, self.initial_fetch, now)
    }
}

/// How a run works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSettings {
    /// Samples at the same time, 1 to 64.
    pub concurrency: usize,
    /// The largest bundle, before compression.
    pub bundle: BundleLimits,
    /// How long an object that the platform has imported is not pushed again; zero: it always is.
    pub platform_memory: Duration,
    /// After how many failures a sample is given up, at least 1.
    pub quarantine_max_attempts: u32,
    /// The longest that reading one sample may take.
    pub sample_timeout: Duration,
    /// How often the platform's queue is asked for during a run, and fresh submissions are looked for.
    pub queue_recheck: Duration,
    /// History is pushed only while fewer messages wait, at least 1.
    pub history_queue_messages: u64,
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
        let mut reader = Reader::new(lookup, &TABLES);
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

impl ConnectorSettings {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let id = reader.required("CONNECTOR_ID", parse::text);
        if id.as_ref().is_some_and(|id| uuid::Uuid::parse_str(id).is_err()) {
            reader.warn("CONNECTOR_ID", "not a UUID; OpenCTI advises one");
        }
        let name = reader.value("CONNECTOR_NAME", connector_name);
        let scope = reader.value("CONNECTOR_SCOPE", parse::list);
        let queue_threshold_mb = reader.value("CONNECTOR_QUEUE_THRESHOLD", positive_decimal);
        Some(Self { id: id?, name: name?, scope: scope?, queue_threshold_mb: queue_threshold_mb? })
    }
}

impl OpenctiSettings {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let url = reader.required("OPENCTI_URL", |text| parse::server(text, "graphql"));
        warn_of_plain_http(reader, "OPENCTI_URL", url.as_ref());
        let verify_tls = read_verify_tls(reader, "OPENCTI_VERIFY_TLS");
        let compression = reader.value("OPENCTI_COMPRESSION", compression);
        let timeout = reader.value("OPENCTI_TIMEOUT_MS", parse::milliseconds);
        Some(Self { url: url?, verify_tls: verify_tls?, compression: compression?, timeout: timeout? })
    }
}

impl FeedSettings {
    fn read(reader: &mut Reader<'_>, now: DateTime<Utc>) -> Option<Self> {
        let initial_fetch = reader.required("VMRAY_INITIAL_FETCH_DATE", |text| start(text, now));
        let overlap = reader.value("FEED_OVERLAP", |text| duration(text, MAX_OVERLAP, "P7D"));
        let history = reader.value("HISTORY", history_order);
        Some(Self { initial_fetch: initial_fetch?, overlap: overlap?, history: history? })
    }
}

fn read_mapping(reader: &mut Reader<'_>) -> Option<MappingSettings> {
    let sample_verdicts = reader.value("VMRAY_SAMPLE_VERDICT", verdicts);
    let iocs_verdicts = reader.value("VMRAY_IOCS_VERDICT", verdicts);
    let marking = reader.value("VMRAY_DEFAULT_TLP", marking);
    let label_style = read_label_style(reader);
    let ioc_types = reader.value("VMRAY_IOC_TYPES", |text| choices(text, IocType::ALL));
    let labels = reader.value("VMRAY_LABELS", labels);
    let relationships = reader.value("VMRAY_RELATIONSHIPS", relationships);
    let confidence = reader.optional("VMRAY_CONFIDENCE", confidence);
    Some(MappingSettings {
        sample_verdicts: sample_verdicts?,
        iocs_verdicts: iocs_verdicts?,
        ioc_types: ioc_types?,
        labels: labels?,
        relationships: relationships?,
        label_style: label_style?,
        marking: marking?,
        confidence: confidence?,
    })
}

fn read_label_style(reader: &mut Reader<'_>) -> Option<LabelStyle> {
    let threat_names = reader.value("VMRAY_THREAT_NAMES_COLOR", color);
    let classifications = reader.value("VMRAY_CLASSIFICATIONS_COLOR", color);
    let vti = reader.value("VMRAY_VTI_COLOR", color);
    let mitre = reader.value("VMRAY_MITRE_COLOR", color);
    Some(LabelStyle {
        threat_names: threat_names?,
        classifications: classifications?,
        vti: vti?,
        mitre: mitre?,
    })
}

impl RunSettings {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let concurrency = reader.value("INGEST_CONCURRENCY", |text| whole(text, 1..=64));
        let max_objects = reader.value("BUNDLE_MAX_OBJECTS", |text| whole(text, 1..=100_000));
        let max_bytes = reader.value("BUNDLE_MAX_BYTES", bundle_bytes);
        let platform_memory = reader.value("PLATFORM_MEMORY", |text| duration(text, MAX_MEMORY, "P30D"));
        let quarantine_max_attempts = reader.value("QUARANTINE_MAX_ATTEMPTS", |text| whole(text, 1..=1000));
        let sample_timeout = reader.value("SAMPLE_TIMEOUT_MS", parse::milliseconds);
        let queue_recheck = reader.value("QUEUE_RECHECK_MS", parse::milliseconds);
        let history_queue_messages =
            reader.value("HISTORY_QUEUE_MESSAGES", |text| whole(text, 1..=1_000_000));
        Some(Self {
            concurrency: concurrency?,
            bundle: BundleLimits { max_objects: max_objects?, max_bytes: max_bytes? },
            platform_memory: platform_memory?,
            quarantine_max_attempts: quarantine_max_attempts?,
            sample_timeout: sample_timeout?,
            queue_recheck: queue_recheck?,
            history_queue_messages: history_queue_messages?,
        })
    }
}

fn connector_name(text: &str) -> Parsed<String> {
    // OpenCTI refuses to register a shorter one.
    if text.chars().count() < 2 {
        Err("too short; expected at least 2 characters".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

fn compression(text: &str) -> Parsed<Compression> {
    match text.to_ascii_lowercase().as_str() {
        "gzip" => Ok(Compression::Gzip),
        "off" => Ok(Compression::Off),
        _ => Err(format!("`{}` is not known; expected gzip or off", shown(text))),
    }
}

/// `newest-first`, `oldest-first` or `none`.
pub fn history_order(text: &str) -> Parsed<HistoryOrder> {
    match text.to_ascii_lowercase().as_str() {
        "newest-first" => Ok(HistoryOrder::NewestFirst),
        "oldest-first" => Ok(HistoryOrder::OldestFirst),
        "none" => Ok(HistoryOrder::LastDay),
        _ => Err(format!("`{}` is not known; expected newest-first, oldest-first or none", shown(text))),
    }
}

fn confidence(text: &str) -> Parsed<u8> {
    whole(text, 0..=100)
}

fn positive_decimal(text: &str) -> Parsed<f64> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number > 0.0)
        .ok_or_else(|| "expected a number above 0".to_owned())
}

fn duration(text: &str, longest: Duration, in_words: &str) -> Parsed<Duration> {
    let duration = parse_duration(text)?;
    if duration > longest { Err(format!("too long; expected at most {in_words}")) } else { Ok(duration) }
}

/// `4194304`, `4096KiB` or `4 MiB`.
fn bundle_bytes(text: &str) -> Parsed<usize> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(end) => (&text[..end], text[end..].trim()),
        None => (text, ""),
    };
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" => Some(1),
        "kib" => Some(1024),
        "mib" => Some(1024 * 1024),
        _ => None,
    };
    factor
        .zip(number.parse::<usize>().ok())
        .and_then(|(factor, number)| number.checked_mul(factor))
        .filter(|bytes| BUNDLE_BYTES.contains(bytes))
        .ok_or_else(|| "expected 64KiB to 64MiB, such as 4MiB or 4194304".to_owned())
}

fn color(text: &str) -> Parsed<Color> {
    text.parse().map_err(|_| "expected a colour as #rrggbb".to_owned())
}

fn marking(text: &str) -> Parsed<TlpMarking> {
    text.parse().map_err(|_| {
        format!(
            "`{}` is no marking; expected TLP:CLEAR, WHITE, GREEN, AMBER, AMBER+STRICT or RED",
            shown(text)
        )
    })
}

fn verdicts(text: &str) -> Parsed<VerdictSet> {
    if items(text).any(|item| item.eq_ignore_ascii_case(Verdict::Clean.as_str())) {
        return Err(
            "`clean` is not ingested: harmless things would stand in OpenCTI as threats; expected a list of \
                    malicious, suspicious"
                .to_owned(),
        );
    }
    choices(text, &[Verdict::Malicious, Verdict::Suspicious])
}

fn labels(text: &str) -> Parsed<BTreeSet<LabelKind>> {
    choices_or_none(text, LabelKind::ALL)
}

fn relationships(text: &str) -> Parsed<BTreeSet<RelationshipKind>> {
    choices_or_none(text, RelationshipKind::ALL)
}

fn choices_or_none<T>(text: &str, allowed: &[T]) -> Parsed<BTreeSet<T>>
where
    T: Copy + Ord + Display + FromStr,
{
    if text.eq_ignore_ascii_case("none") { Ok(BTreeSet::new()) } else { choices(text, allowed) }
}

/// A date (its first second), a time with an offset, or a time without one (UTC); at most a day ahead of `now`.
fn start(text: &str, now: DateTime<Utc>) -> Parsed<DateTime<Utc>> {
    let start = DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").map(|time| time.and_utc()))
        .or_else(|_| {
            NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|day| day.and_time(NaiveTime::MIN).and_utc())
        })
        .map_err(|_| "expected a date as YYYY-MM-DD or a time as 2025-09-09T12:00:00Z".to_owned())?;
    if start > now + CLOCKS_DIFFER {
        return Err("in the future; nothing would ever be ingested before it".to_owned());
    }
    Ok(start)
}

#[cfg(test)]
mod tests;
