//! Every setting in one table: what docs/settings.md shows and where defaults are taken from.

use std::fmt::Write as _;

/// Who reads a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// The function `ingest`, on Lambda and in the local binary.
    Ingest,
    /// The function `submit`, on Lambda and in the local binary.
    Submit,
    /// Only the local binary; on Lambda this comes from elsewhere.
    Local,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Submit => "submit",
            Self::Local => "local binary",
        }
    }
}

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
pub struct SettingDoc {
    /// The variable.
    pub name: &'static str,
    /// What its text is, in a few words.
    pub kind: &'static str,
    /// What it means when it is not set.
    pub unset: Unset,
    /// What it does.
    pub meaning: &'static str,
    /// Who reads it.
    pub functions: &'static [Function],
}

const INGEST: &[Function] = &[Function::Ingest];
const SUBMIT: &[Function] = &[Function::Submit];
const LOCAL: &[Function] = &[Function::Local];
const BOTH: &[Function] = &[Function::Ingest, Function::Submit];

const fn ingest(name: &'static str, kind: &'static str, unset: Unset, meaning: &'static str) -> SettingDoc {
    SettingDoc { name, kind, unset, meaning, functions: INGEST }
}

const fn submit(name: &'static str, kind: &'static str, unset: Unset, meaning: &'static str) -> SettingDoc {
    SettingDoc { name, kind, unset, meaning, functions: SUBMIT }
}

const fn local(name: &'static str, kind: &'static str, unset: Unset, meaning: &'static str) -> SettingDoc {
    SettingDoc { name, kind, unset, meaning, functions: LOCAL }
}

const fn both(name: &'static str, kind: &'static str, unset: Unset, meaning: &'static str) -> SettingDoc {
    SettingDoc { name, kind, unset, meaning, functions: BOTH }
}

const COLOR: &str = "`#rrggbb`";
const MILLISECONDS: &str = "milliseconds";
const BOOLEAN: &str = "true, false";

/// Every setting, in the order in which people meet them.
#[rustfmt::skip] // one setting a line, however long
pub const SETTINGS: &[SettingDoc] = &[
    ingest("OPENCTI_URL", "URL", Unset::Refused, "address of the OpenCTI platform"),
    ingest("CONNECTOR_ID", "text, best a UUID", Unset::Refused, "identity of this connector in OpenCTI; the cursor belongs to it"),
    ingest("CONNECTOR_NAME", "text, at least 2 characters", Unset::Means("VMRay"), "name of this connector in OpenCTI"),
    ingest("CONNECTOR_SCOPE", "list", Unset::Means("not-applicable"), "what the connector says it imports"),
    both("CONNECTOR_LOG_LEVEL", "debug, info, warn, error", Unset::Means("info"), "how much is logged"),
    ingest("CONNECTOR_QUEUE_THRESHOLD", "megabytes", Unset::Means("500"), "nothing is fetched while the connector's queue on the platform is larger"),
    local("CONNECTOR_DURATION_PERIOD", "ISO 8601 duration", Unset::Nothing, "time between two runs: on Lambda the schedule of the deployment, on one machine `--every`; unset: one run"),
    both("VMRAY_SERVER", "URL", Unset::Means("https://cloud.vmray.com"), "address of the VMRay server, with or without `/rest`"),
    ingest("VMRAY_INITIAL_FETCH_DATE", "YYYY-MM-DD or RFC 3339", Unset::Refused, "where the first run begins, by the time at which a submission was finished; UTC unless it has an offset"),
    ingest("VMRAY_SAMPLE_VERDICT", "list of malicious, suspicious", Unset::Means("malicious"), "verdicts of the samples to ingest"),
    ingest("VMRAY_IOCS_VERDICT", "list of malicious, suspicious", Unset::Means("malicious"), "verdicts of the IOCs to ingest"),
    ingest("VMRAY_DEFAULT_TLP", "TLP:CLEAR, WHITE, GREEN, AMBER, AMBER+STRICT, RED", Unset::Means("TLP:AMBER"), "marking of everything that is ingested"),
    ingest("VMRAY_THREAT_NAMES_COLOR", COLOR, Unset::Means("#d60904"), "colour of the labels for threat names"),
    ingest("VMRAY_CLASSIFICATIONS_COLOR", COLOR, Unset::Means("#fa560a"), "colour of the labels for classifications"),
    ingest("VMRAY_VTI_COLOR", COLOR, Unset::Means("#40f5ef"), "colour of the labels for VMRay Threat Identifiers"),
    ingest("VMRAY_MITRE_COLOR", COLOR, Unset::Means("#a9f723"), "colour of the labels for MITRE ATT&CK techniques"),
    ingest("VMRAY_IOC_TYPES", "list of files, processes, domains, urls, mutexes, registry, ips, emails, email_addresses, filenames", Unset::Means("files,processes,domains,urls,mutexes,registry,ips,emails,email_addresses"), "which IOCs are ingested"),
    ingest("VMRAY_LABELS", "list of threat_names, classifications, vti, mitre, or none", Unset::Means("threat_names,classifications,vti,mitre"), "which labels are made"),
    ingest("VMRAY_CONFIDENCE", "0 to 100", Unset::Nothing, "confidence of everything that is ingested; unset: OpenCTI decides by the connector's user"),
    both("VMRAY_VERIFY_TLS", BOOLEAN, Unset::Means("true"), "whether the VMRay server's certificate is checked"),
    ingest("OPENCTI_VERIFY_TLS", BOOLEAN, Unset::Means("true"), "whether the platform's certificate is checked"),
    both("DISABLE_PROXY", BOOLEAN, Unset::Means("false"), "pass over HTTPS_PROXY and NO_PROXY, which are honoured otherwise"),
    both("TABLE_NAME", "text", Unset::RefusedOnLambda, "DynamoDB table for cursors, quarantine and ledger; unset on one machine: a file"),
    both("SECRET_ARN", "ARN", Unset::RefusedOnLambda, "secret of AWS Secrets Manager with the keys; unset on one machine: the variables below"),
    local("VMRAY_API_KEY", "secret", Unset::Nothing, "VMRay's API key; on Lambda `vmray_api_key` of the secret"),
    local("OPENCTI_TOKEN", "secret", Unset::Nothing, "OpenCTI's token; on Lambda `opencti_token` of the secret"),
    local("CA_BUNDLE", "path of a PEM file", Unset::Nothing, "certificates to trust besides the system's; on Lambda `ca_bundle` of the secret, as text"),
    local("CALLERS", "JSON object", Unset::Nothing, "who may submit; on Lambda `callers` of the secret; unset: `serve` makes one key and prints it once"),
    ingest("INGEST_CONCURRENCY", "1 to 64", Unset::Means("16"), "samples that are read at the same time"),
    ingest("BUNDLE_MAX_OBJECTS", "1 to 100000", Unset::Means("2000"), "most objects in one bundle"),
    ingest("BUNDLE_MAX_BYTES", "bytes, or with KiB or MiB", Unset::Means("4MiB"), "largest bundle, before compression"),
    ingest("OPENCTI_COMPRESSION", "gzip, off", Unset::Means("gzip"), "how bundles are sent; `off` for proxies that do not pass compressed requests on"),
    ingest("FEED_OVERLAP", "ISO 8601 duration, at most P7D", Unset::Means("PT15M"), "how far behind its position each run looks again"),
    ingest("QUARANTINE_MAX_ATTEMPTS", "1 to 1000", Unset::Means("10"), "after how many failures a sample is given up"),
    submit("QUEUE_URL", "URL", Unset::RefusedOnLambda, "SQS queue between the API and the worker; on one machine the queue is in the process"),
    submit("SUBMIT_CONCURRENCY", "1 to 64", Unset::Means("16"), "URLs that one worker sends to VMRay at the same time"),
    submit("REUSE_WINDOW", "ISO 8601 duration", Unset::Means("P7D"), "how long a known URL is answered from its last submission instead of being sent again"),
    submit("VERDICT_TIMEOUT", "ISO 8601 duration", Unset::Means("PT24H"), "how long a URL may be without a verdict before it is answered as `timed_out`"),
    submit("BATCH_RETENTION", "ISO 8601 duration, at least P1D", Unset::Means("P35D"), "how long batches, idempotency keys and what is known of URLs are kept"),
    submit("LEDGER_SCOPE", "caller, deployment", Unset::Means("caller"), "whether what one caller has submitted is reused for the others"),
    submit("MAX_URLS_PER_REQUEST", "1 to 10000", Unset::Means("1000"), "most URLs in one call"),
    submit("MAX_URLS_PER_CALLER_DAY", "whole number", Unset::Means("20000"), "most URLs that one caller may have sent to VMRay on one day (UTC); known URLs do not count"),
    submit("SUBMIT_COMMENT", "text", Unset::Nothing, "comment of submissions whose caller gives none"),
    submit("SUBMIT_TAGS", "list", Unset::Nothing, "tags of submissions whose caller gives none"),
    submit("SUBMIT_RETENTION_DAYS", "0, 60, 120, 180, 360", Unset::Nothing, "days after which VMRay deletes a submission, 0: never; unset: VMRay's own default"),
    submit("SUBMIT_MAX_RECURSIVE_SAMPLES", "0 to 50", Unset::Nothing, "samples inside a sample that are analysed too; unset: the API key's default"),
    submit("SUBMIT_MAX_DYNAMIC_ANALYSES_PER_SAMPLE", "0 to 10", Unset::Nothing, "most dynamic analyses of one sample; unset: the API key's default"),
    submit("SUBMIT_REPUTATION_LOOKUPS", BOOLEAN, Unset::Nothing, "whether VMRay asks reputation services; unset: the API key's default"),
    submit("SUBMIT_WHOIS_LOOKUPS", BOOLEAN, Unset::Nothing, "whether VMRay asks WHOIS; unset: the API key's default"),
    submit("SUBMIT_ANALYSIS_CACHING", "disabled, enabled, smart, legacy", Unset::Nothing, "whether VMRay may answer from earlier analyses; unset: the API key's default"),
    submit("SUBMIT_ALLOW_SHAREABLE", BOOLEAN, Unset::Means("false"), "whether callers may let VMRay share hashes with third parties"),
    submit("ALLOW_SENSITIVE_URLS", BOOLEAN, Unset::Means("false"), "whether password-reset links, signed URLs and the like may be sent to VMRay"),
    submit("OWN_DOMAINS", "list of hosts", Unset::Nothing, "hosts whose URLs are never sent, subdomains included; `own_domains` of the secret are added"),
    submit("DENY", "list of hosts, `*.suffix`, networks", Unset::Nothing, "whose URLs are never sent; `deny` of the secret is added"),
    both("HTTP_CONNECT_TIMEOUT_MS", MILLISECONDS, Unset::Means("5000"), "longest time for connecting"),
    both("VMRAY_TIMEOUT_MS", MILLISECONDS, Unset::Means("30000"), "longest time for a request to VMRay"),
    ingest("OPENCTI_TIMEOUT_MS", MILLISECONDS, Unset::Means("120000"), "longest time for a request to OpenCTI"),
    both("RETRY_BASE_MS", MILLISECONDS, Unset::Means("500"), "first pause before a request is tried again; it doubles"),
    ingest("SAMPLE_TIMEOUT_MS", MILLISECONDS, Unset::Means("120000"), "longest time for reading one sample"),
    submit("VERDICT_REFRESH_MS", MILLISECONDS, Unset::Means("10000"), "how often VMRay is asked for the verdicts of a batch while somebody asks for it"),
    submit("SUBMIT_TIMEOUT_MS", MILLISECONDS, Unset::Means("30000"), "longest time for submitting one URL"),
    submit("SUBMIT_RETRY_MS", MILLISECONDS, Unset::Means("5000"), "first pause before URLs that VMRay did not take are tried again; it doubles up to 15 minutes"),
    submit("LOOKUP_PAUSE_MS", MILLISECONDS, Unset::Means("10000"), "pause between two look-ups of a submission whose outcome is not known"),
    submit("LOOKUP_SETTLE_MS", MILLISECONDS, Unset::Means("20000"), "how long such a submission is looked for at least, before its URL is sent again"),
    ingest("QUEUE_RECHECK_MS", MILLISECONDS, Unset::Means("60000"), "how often the platform's queue is asked for during a run"),
];

/// The setting called `name`.
pub(super) fn find(name: &str) -> Option<&'static SettingDoc> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

pub(super) fn meaning_of(name: &str) -> &'static str {
    find(name).map_or("", |setting| setting.meaning)
}

/// [`SETTINGS`] as a Markdown table, one line a setting, with a line break at the end.
#[must_use]
pub fn markdown_table() -> String {
    let mut table =
        String::from("| variable | value | when unset | meaning | read by |\n|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let unset = match setting.unset {
            Unset::Refused => "must be set".to_owned(),
            Unset::RefusedOnLambda => "must be set on Lambda".to_owned(),
            Unset::Nothing => String::new(),
            Unset::Means(default) => format!("`{default}`"),
        };
        let readers: Vec<_> = setting.functions.iter().map(|function| function.name()).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "| `{}` | {} | {unset} | {} | {} |",
            setting.name,
            setting.kind,
            setting.meaning,
            readers.join(", ")
        );
    }
    table
}
