//! What `submit` can be told. All of it is checked at once, before any call.

use std::time::Duration;

use runtime::settings::parse::{self, Parsed};
use runtime::settings::{
    BOOLEAN, Host, HttpSettings, Lookup, MILLISECONDS, PROCESS, Reader, Setting, SettingsError, Unset,
    Warning, parse_duration, read_secret_arn, read_table_name, setting,
};
use url::Url;
use vmray::VmraySettings;
use vmray::parameters;

use crate::options::Options;

/// What only `submit` reads, in the order in which people meet it.
#[rustfmt::skip] // one setting a line, however long
pub const SETTINGS: &[Setting] = &[
    setting("QUEUE_URL", "URL", Unset::RefusedOnLambda, "SQS queue between the API and the worker; on one machine the queue is in the process"),
    setting("SUBMIT_CONCURRENCY", "1 to 64", Unset::Means("16"), "URLs that one worker sends to VMRay at the same time"),
    setting("REUSE_WINDOW", "ISO 8601 duration", Unset::Means("P7D"), "how long a known URL is answered from its last submission instead of being sent again"),
    setting("VERDICT_TIMEOUT", "ISO 8601 duration", Unset::Means("PT24H"), "how long a URL may be without a verdict before it is answered as `timed_out`"),
    setting("BATCH_RETENTION", "ISO 8601 duration, at least P1D", Unset::Means("P35D"), "how long batches, idempotency keys and what is known of URLs are kept"),
    setting("LEDGER_SCOPE", "caller, deployment", Unset::Means("caller"), "whether what one caller has submitted is reused for the others"),
    setting("MAX_URLS_PER_REQUEST", "1 to 10000", Unset::Means("1000"), "most URLs in one call"),
    setting("MAX_URLS_PER_CALLER_DAY", "whole number", Unset::Means("20000"), "most URLs that one caller may have sent to VMRay on one day (UTC); known URLs do not count"),
    setting("SUBMIT_COMMENT", "text", Unset::Nothing, "comment of submissions whose caller gives none"),
    setting("SUBMIT_TAGS", "list", Unset::Nothing, "tags of submissions whose caller gives none"),
    setting("SUBMIT_RETENTION_DAYS", "0, 60, 120, 180, 360", Unset::Nothing, "days after which VMRay deletes a submission, 0: never; unset: VMRay's own default"),
    setting("SUBMIT_MAX_RECURSIVE_SAMPLES", "0 to 50", Unset::Nothing, "samples inside a sample that are analysed too; unset: the API key's default"),
    setting("SUBMIT_MAX_DYNAMIC_ANALYSES_PER_SAMPLE", "0 to 10", Unset::Nothing, "most dynamic analyses of one sample; unset: the API key's default"),
    setting("SUBMIT_REPUTATION_LOOKUPS", BOOLEAN, Unset::Nothing, "whether VMRay asks reputation services; unset: the API key's default"),
    setting("SUBMIT_WHOIS_LOOKUPS", BOOLEAN, Unset::Nothing, "whether VMRay asks WHOIS; unset: the API key's default"),
    setting("SUBMIT_ANALYSIS_CACHING", "disabled, enabled, smart, legacy", Unset::Nothing, "whether VMRay may answer from earlier analyses; unset: the API key's default"),
    setting("SUBMIT_ALLOW_SHAREABLE", BOOLEAN, Unset::Means("false"), "whether callers may let VMRay share hashes with third parties"),
    setting("ALLOW_SENSITIVE_URLS", BOOLEAN, Unset::Means("false"), "whether password-reset links, signed URLs and the like may be sent to VMRay"),
    setting("UNWRAP_LINKS", BOOLEAN, Unset::Means("true"), "whether the target of a link that a mail gateway has wrapped is judged and sent instead of the link"),
    setting("OWN_DOMAINS", "list of hosts", Unset::Nothing, "hosts whose URLs are never sent, subdomains included; `own_domains` of the secret are added"),
    setting("DENY", "list of hosts, `*.suffix`, networks", Unset::Nothing, "whose URLs are never sent; `deny` of the secret is added"),
    setting("VERDICT_REFRESH_MS", MILLISECONDS, Unset::Means("10000"), "how often VMRay is asked for the verdicts of a batch while a caller asks for it"),
    setting("SUBMIT_TIMEOUT_MS", MILLISECONDS, Unset::Means("30000"), "longest time for submitting one URL"),
    setting("SUBMIT_RETRY_MS", MILLISECONDS, Unset::Means("5000"), "first pause before URLs that VMRay did not take are tried again; it doubles up to 15 minutes"),
    setting("LOOKUP_PAUSE_MS", MILLISECONDS, Unset::Means("10000"), "pause between two look-ups of a submission whose outcome is not known"),
    setting("LOOKUP_SETTLE_MS", MILLISECONDS, Unset::Means("20000"), "how long such a submission is looked for at least, before its URL is sent again"),
];

/// Every setting that `submit` reads.
pub const TABLES: [&[Setting]; 3] = [SETTINGS, vmray::SETTINGS, PROCESS];

/// All that `submit` can be told.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmitSettings {
    /// Where documents, keys and messages are.
    pub deployment: SubmitDeployment,
    /// How much is logged.
    pub log_level: tracing::Level,
    /// The VMRay server.
    pub vmray: VmraySettings,
    /// What holds for every HTTP request.
    pub http: HttpSettings,
    /// What callers may do.
    pub limits: SubmitLimits,
    /// What is submitted when the caller does not say otherwise.
    pub defaults: SubmitDefaults,
    /// Which URLs are never sent.
    pub gate: GateSettings,
    /// How long things are waited for and remembered.
    pub times: SubmitTimes,
    /// URLs that one worker sends at the same time, 1 to 64.
    pub concurrency: usize,
    /// Whether callers share what is known of URLs.
    pub scope: LedgerScope,
}

/// Where documents, keys and messages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitDeployment {
    /// DynamoDB, Secrets Manager and SQS.
    Lambda {
        /// The table (`TABLE_NAME`).
        table_name: String,
        /// The secret (`SECRET_ARN`).
        secret_arn: String,
        /// The queue (`QUEUE_URL`).
        queue_url: String,
    },
    /// One machine.
    Local {
        /// A Secrets Manager secret instead of variables (`SECRET_ARN`).
        secret_arn: Option<String>,
    },
}

/// What callers may do; a caller's own limits come before these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubmitLimits {
    /// In one call, 1 to 10,000.
    pub urls_per_request: usize,
    /// Sent to VMRay on one day.
    pub urls_per_caller_day: u64,
}

/// What is submitted when the caller does not say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubmitDefaults {
    /// How VMRay analyses.
    pub options: Options,
    /// Callers may ask for `shareable`.
    pub allow_shareable: bool,
}

/// Which URLs are never sent. The lists are only split here: the gate knows what may stand in them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateSettings {
    /// The deployment's own hosts.
    pub own_domains: Vec<String>,
    /// Hosts, suffixes and networks.
    pub deny: Vec<String>,
    /// Links with tokens may be sent.
    pub allow_sensitive: bool,
    /// The target of a wrapped link is sent instead of the link.
    pub unwrap_links: bool,
}

/// How long things are waited for and remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubmitTimes {
    /// A known URL is answered from its last submission.
    pub reuse_window: Duration,
    /// A URL may be without a verdict.
    pub verdict_timeout: Duration,
    /// Batches and what is known of URLs are kept.
    pub retention: Duration,
    /// Between two questions for the verdicts of a chunk.
    pub refresh: Duration,
    /// One POST to VMRay.
    pub submit_timeout: Duration,
    /// Before what VMRay did not take is tried again, at first.
    pub retry: Duration,
    /// Between two look-ups of an unknown outcome.
    pub lookup_pause: Duration,
    /// From an unknown outcome to the look-up after which it counts as not sent.
    pub lookup_settle: Duration,
}

/// Whether callers share what is known of URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerScope {
    /// Each caller has a ledger.
    Caller,
    /// One ledger for all.
    Deployment,
}

impl SubmitSettings {
    /// Reads every setting of `submit`: either all of them are right, or the error names each wrong variable.
    pub fn read(lookup: Lookup<'_>, host: Host) -> Result<(Self, Vec<Warning>), SettingsError> {
        let mut reader = Reader::new(lookup, &TABLES);
        let settings = Self::read_parts(&mut reader, host);
        reader.finish(settings)
    }

    /// Reads all parts before it looks at any, so that no problem hides another.
    fn read_parts(reader: &mut Reader<'_>, host: Host) -> Option<Self> {
        let deployment = SubmitDeployment::read(reader, host);
        let log_level = reader.value("CONNECTOR_LOG_LEVEL", parse::log_level);
        let vmray = VmraySettings::read(reader);
        let http = HttpSettings::read(reader);
        let limits = SubmitLimits::read(reader);
        let defaults = SubmitDefaults::read(reader);
        let gate = GateSettings::read(reader);
        let times = SubmitTimes::read(reader);
        let concurrency = reader.value("SUBMIT_CONCURRENCY", |text| parse::whole(text, 1..=64));
        let scope = reader.value("LEDGER_SCOPE", scope);
        Some(Self {
            deployment: deployment?,
            log_level: log_level?,
            vmray: vmray?,
            http: http?,
            limits: limits?,
            defaults: defaults?,
            gate: gate?,
            times: times?,
            concurrency: concurrency?,
            scope: scope?,
        })
    }
}

impl SubmitDeployment {
    fn read(reader: &mut Reader<'_>, host: Host) -> Option<Self> {
        match host {
            Host::Lambda => {
                let table_name = read_table_name(reader);
                let secret_arn = read_secret_arn(reader);
                let queue_url = reader.required("QUEUE_URL", |text| {
                    // Handed to the SDK as it is; only what can never be one is refused.
                    Url::parse(text).map(|_| text.to_owned()).map_err(|error| format!("not a URL ({error})"))
                });
                Some(Self::Lambda { table_name: table_name?, secret_arn: secret_arn?, queue_url: queue_url? })
            }
            Host::Local => {
                let secret_arn = reader.optional("SECRET_ARN", parse::text)?;
                if secret_arn.is_none() {
                    reader.required("VMRAY_API_KEY", |_| Ok(()))?;
                }
                Some(Self::Local { secret_arn })
            }
        }
    }
}

impl SubmitLimits {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let urls_per_request = reader.value("MAX_URLS_PER_REQUEST", |text| parse::whole(text, 1..=10_000));
        let urls_per_caller_day =
            reader.value("MAX_URLS_PER_CALLER_DAY", |text| parse::whole(text, 0..=1_000_000_000));
        Some(Self { urls_per_request: urls_per_request?, urls_per_caller_day: urls_per_caller_day? })
    }
}

impl SubmitDefaults {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let comment = reader.optional("SUBMIT_COMMENT", parameters::comment);
        let tags = reader.optional("SUBMIT_TAGS", parameters::tags);
        let retention_days = reader.optional("SUBMIT_RETENTION_DAYS", parameters::retention);
        let max_recursive_samples =
            reader.optional("SUBMIT_MAX_RECURSIVE_SAMPLES", parameters::recursive_samples);
        let max_dynamic_analyses_per_sample =
            reader.optional("SUBMIT_MAX_DYNAMIC_ANALYSES_PER_SAMPLE", parameters::dynamic_analyses);
        let reputation_lookups = reader.optional("SUBMIT_REPUTATION_LOOKUPS", parse::boolean);
        let whois_lookups = reader.optional("SUBMIT_WHOIS_LOOKUPS", parse::boolean);
        let analysis_caching = reader.optional("SUBMIT_ANALYSIS_CACHING", parameters::caching);
        let allow_shareable = reader.value("SUBMIT_ALLOW_SHAREABLE", parse::boolean);
        let options = Options {
            comment: comment?,
            tags: tags?.unwrap_or_default(),
            retention_days: retention_days?,
            max_recursive_samples: max_recursive_samples?,
            max_dynamic_analyses_per_sample: max_dynamic_analyses_per_sample?,
            reputation_lookups: reputation_lookups?,
            whois_lookups: whois_lookups?,
            analysis_caching: analysis_caching?,
            ..Options::default()
        };
        Some(Self { options, allow_shareable: allow_shareable? })
    }
}

impl GateSettings {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let own_domains = reader.optional("OWN_DOMAINS", parse::list);
        let deny = reader.optional("DENY", parse::list);
        let allow_sensitive = reader.value("ALLOW_SENSITIVE_URLS", parse::boolean);
        let unwrap_links = reader.value("UNWRAP_LINKS", parse::boolean);
        if allow_sensitive == Some(true) {
            reader.warn("ALLOW_SENSITIVE_URLS", "links that open accounts or files are sent to VMRay");
        }
        Some(Self {
            own_domains: own_domains?.unwrap_or_default(),
            deny: deny?.unwrap_or_default(),
            allow_sensitive: allow_sensitive?,
            unwrap_links: unwrap_links?,
        })
    }
}

impl SubmitTimes {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let reuse_window = reader.value("REUSE_WINDOW", parse::duration);
        let verdict_timeout = reader.value("VERDICT_TIMEOUT", parse::duration);
        let retention = reader.value("BATCH_RETENTION", retention);
        let refresh = reader.value("VERDICT_REFRESH_MS", parse::milliseconds);
        let submit_timeout = reader.value("SUBMIT_TIMEOUT_MS", parse::milliseconds);
        let retry = reader.value("SUBMIT_RETRY_MS", parse::milliseconds);
        let lookup_pause = reader.value("LOOKUP_PAUSE_MS", parse::milliseconds);
        let lookup_settle = reader.value("LOOKUP_SETTLE_MS", parse::milliseconds);
        Some(Self {
            reuse_window: reuse_window?,
            verdict_timeout: verdict_timeout?,
            retention: retention?,
            refresh: refresh?,
            submit_timeout: submit_timeout?,
            retry: retry?,
            lookup_pause: lookup_pause?,
            lookup_settle: lookup_settle?,
        })
    }
}

fn scope(text: &str) -> Result<LedgerScope, String> {
    match text.to_ascii_lowercase().as_str() {
        "caller" => Ok(LedgerScope::Caller),
        "deployment" => Ok(LedgerScope::Deployment),
        _ => Err("expected caller or deployment".to_owned()),
    }
}

/// Callers may come back after weeks; with less than a day a batch could be gone before its verdicts are there.
fn retention(text: &str) -> Parsed<Duration> {
    let retention = parse_duration(text)?;
    if retention < Duration::from_hours(24) {
        Err("too short; expected at least P1D".to_owned())
    } else {
        Ok(retention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMUM: [(&str, &str); 3] = [
        ("TABLE_NAME", "bridge"),
        ("SECRET_ARN", "arn:aws:secretsmanager:eu-central-1:1:secret:bridge"),
        ("QUEUE_URL", "https://sqs.eu-central-1.amazonaws.com/1/bridge"),
    ];

    fn read(host: Host, changes: &[(&str, &str)]) -> Result<(SubmitSettings, Vec<Warning>), SettingsError> {
        let lookup = |name: &str| {
            let found = changes.iter().chain(&MINIMUM).find(|(variable, _)| *variable == name);
            found.map(|(_, text)| (*text).to_owned())
        };
        SubmitSettings::read(&lookup, host)
    }

    #[test]
    fn the_minimum_is_enough_and_the_rest_has_defaults() {
        let (settings, warnings) = read(Host::Lambda, &[]).unwrap();
        assert_eq!(warnings, []);
        assert_eq!(settings.defaults, SubmitDefaults::default());
        assert_eq!(settings.limits, SubmitLimits { urls_per_request: 1000, urls_per_caller_day: 20_000 });
        assert_eq!(settings.times.reuse_window, Duration::from_hours(7 * 24));
        assert_eq!((settings.concurrency, settings.scope), (16, LedgerScope::Caller));
    }

    #[test]
    fn all_wrong_settings_are_named_at_once() {
        let wrong = [
            ("QUEUE_URL", "queue"),
            ("MAX_URLS_PER_REQUEST", "10001"),
            ("SUBMIT_TAGS", "two words"),
            ("SUBMIT_RETENTION_DAYS", "61"),
            ("SUBMIT_ANALYSIS_CACHING", "always"),
            ("REUSE_WINDOW", "a week"),
            ("SUBMIT_CONCURRENCY", "0"),
            ("LEDGER_SCOPE", "me"),
        ];
        let error = read(Host::Lambda, &wrong).unwrap_err();
        let names: Vec<_> = error.problems.iter().map(|problem| problem.name).collect();
        for (name, _) in wrong {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        assert_eq!(names.len(), wrong.len());
    }

    #[test]
    fn one_machine_needs_a_key_and_no_queue() {
        let error = read(Host::Local, &[("SECRET_ARN", "")]).unwrap_err();
        assert_eq!(error.problems[0].name, "VMRAY_API_KEY");
        let local = read(Host::Local, &[("SECRET_ARN", ""), ("VMRAY_API_KEY", "k")]).unwrap().0;
        assert_eq!(local.deployment, SubmitDeployment::Local { secret_arn: None });
    }
}
