//! What may become of a URL that is submitted, and what did.
//!
//! Without rules a URL is analysed: it is queued, in progress, and finished after a set time or when the test says so.
//! A URL that was analysed before is answered from the cache, unless the request wants another analysis. A
//! [`SubmitRule`] makes something else of certain URLs. Everything that is stored is a submission of the estate, found
//! by every list and look-up, and read by ingest.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Timelike as _, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::estate::Verdict;

/// How an analysis ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Status `success` with this verdict.
    Verdict(Verdict),
    /// Status `success`, and a null for a verdict.
    NoVerdict,
    /// Status `warning`, errors, and this verdict.
    Warning(Verdict),
    /// Status `error`, no verdict.
    Error,
}

impl Ending {
    pub(super) fn verdict(self) -> Option<Verdict> {
        match self {
            Self::Verdict(verdict) | Self::Warning(verdict) => Some(verdict),
            Self::NoVerdict | Self::Error => None,
        }
    }

    /// The members that tell this ending from a plain success.
    pub(super) fn members(self) -> Value {
        match self {
            Self::Verdict(_) | Self::NoVerdict => json!({}),
            Self::Warning(_) => json!({"submission_status": "warning", "submission_has_errors": true}),
            Self::Error => json!({"submission_status": "error", "submission_has_errors": true}),
        }
    }

    /// An ending by its name: a verdict, `none`, `warning`, `error`.
    pub(super) fn named(name: &str) -> Option<Self> {
        let verdicts = [Verdict::Malicious, Verdict::Suspicious, Verdict::Clean, Verdict::NotAvailable];
        match name {
            "none" => Some(Self::NoVerdict),
            "warning" => Some(Self::Warning(Verdict::Clean)),
            "error" => Some(Self::Error),
            _ => verdicts.into_iter().find(|verdict| verdict.name() == name).map(Self::Verdict),
        }
    }
}

/// When an analysis ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// So long after it was submitted.
    After(Duration),
    /// When the test calls one of the `finish` functions.
    WhenTold,
}

/// Since when a stored submission is in lists, in the search and behind its sample's hash. By its number it is found at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    /// At once.
    AtOnce,
    /// So long after it was submitted.
    After(Duration),
    /// When the test calls one of the `reveal` functions.
    WhenTold,
}

/// What becomes of `submission_metadata` in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataEcho {
    /// The very text that was sent.
    AsSent,
    /// The same JSON with spaces after colons and commas.
    Respaced,
    /// `{}`
    Dropped,
}

/// What the filter `submission_submission_metadata` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataFilter {
    /// Finds the submissions that echo exactly this text.
    Exact,
    /// Is refused with HTTP 400.
    Unsupported,
    /// Is accepted and finds everything.
    Ignored,
}

/// Whether a URL that was analysed before is analysed again: the default of the key, which a request can change by
/// `analysis_caching` and `reanalyze`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// It is analysed again.
    Disabled,
    /// The answer is the result that is known.
    Smart,
    /// The submission is not stored, because no jobs were created.
    Legacy,
}

/// How submitting works.
#[derive(Clone, Debug)]
pub struct SubmitOptions {
    /// When analyses end.
    pub finish: Finish,
    /// How they end, by URL.
    pub ending: fn(&str) -> Ending,
    /// What becomes of the metadata.
    pub metadata: MetadataEcho,
    /// What the filter by metadata does.
    pub metadata_filter: MetadataFilter,
    /// Whether `/rest/submission/search` exists.
    pub search: bool,
    /// What happens to URLs that were analysed before.
    pub caching: Caching,
    /// Submissions of this account until all further ones are refused; none are when left out.
    pub quota_limit: Option<u64>,
    /// Waited before a submit is handled, on top of the server's latency.
    pub latency: Duration,
}

impl Default for SubmitOptions {
    /// Analyses end when told, as [`ending_by_host`] says; metadata and search work; the cache answers; no quota.
    fn default() -> Self {
        Self {
            finish: Finish::WhenTold,
            ending: ending_by_host,
            metadata: MetadataEcho::AsSent,
            metadata_filter: MetadataFilter::Exact,
            search: true,
            caching: Caching::Smart,
            quota_limit: None,
            latency: Duration::ZERO,
        }
    }
}

/// Malicious when the host contains `evil`, suspicious when it contains `odd`, else clean.
#[must_use]
pub fn ending_by_host(url: &str) -> Ending {
    let host = host(&normalised(url));
    Ending::Verdict(if host.contains("evil") {
        Verdict::Malicious
    } else if host.contains("odd") {
        Verdict::Suspicious
    } else {
        Verdict::Clean
    })
}

/// The host of a URL with a scheme, in lower case; an IPv6 address without its brackets.
pub(super) fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(address) => address.split(']').next(),
        None => host.split(':').next(),
    };
    host.unwrap_or_default().to_lowercase()
}

/// The URL as VMRay keeps it: with a scheme, else as it was sent.
#[must_use]
pub fn normalised(url: &str) -> String {
    let is_scheme = |text: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        !text.is_empty() && text.bytes().all(fits)
    };
    // A URL may stand in the query of one that has no scheme.
    let has_scheme = url.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme));
    if has_scheme { url.to_owned() } else { format!("http://{url}") }
}

/// What VMRay does with a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitAction {
    /// Analyses it.
    Fresh,
    /// Answers from the cache: no jobs, already finished.
    Cached,
    /// HTTP 200, one error: no jobs were created.
    NoJobs,
    /// The same, and no other list in the answer than `errors`.
    NoJobsBare,
    /// HTTP 200, one error with this text.
    Error(String),
    /// HTTP 200, one error: the quota is spent.
    Quota,
    /// The quota is spent, said at the top of the answer, with this HTTP status.
    QuotaAtTop(u16),
    /// An error answer with this HTTP status and text.
    Refused(u16, String),
    /// Analyses it, and says an error with this text beside it.
    FreshWithError(String),
    /// HTTP 200, no errors and no submissions.
    Nothing,
}

#[derive(Clone, Debug)]
enum Which {
    All,
    Containing(String),
    Exactly(String),
}

/// What shall become of certain URLs. The rule that was added last goes first.
#[derive(Clone, Debug)]
pub struct SubmitRule {
    which: Which,
    pub(super) left: u64,
    pub(super) action: SubmitAction,
    pub(super) ending: Option<Ending>,
    pub(super) finish: Option<Finish>,
    pub(super) visible: Visible,
}

impl SubmitRule {
    /// For every URL.
    #[must_use]
    pub fn all(action: SubmitAction) -> Self {
        Self::new(Which::All, action)
    }

    /// For URLs with this text in them, as they were sent.
    #[must_use]
    pub fn containing(text: &str, action: SubmitAction) -> Self {
        Self::new(Which::Containing(text.to_owned()), action)
    }

    /// For this URL, sent with or without `http://`.
    #[must_use]
    pub fn exactly(url: &str, action: SubmitAction) -> Self {
        Self::new(Which::Exactly(normalised(url)), action)
    }

    fn new(which: Which, action: SubmitAction) -> Self {
        Self { which, left: u64::MAX, action, ending: None, finish: None, visible: Visible::AtOnce }
    }

    /// Ends after so many submits.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.left = times;
        self
    }

    /// How the analysis ends.
    #[must_use]
    pub fn ending(mut self, ending: Ending) -> Self {
        self.ending = Some(ending);
        self
    }

    /// When the analysis ends.
    #[must_use]
    pub fn finish(mut self, finish: Finish) -> Self {
        self.finish = Some(finish);
        self
    }

    /// Since when the submission is found.
    #[must_use]
    pub fn visible(mut self, visible: Visible) -> Self {
        self.visible = visible;
        self
    }

    pub(super) fn fits(&self, url: &str) -> bool {
        self.left > 0
            && match &self.which {
                Which::All => true,
                Which::Containing(text) => url.contains(text),
                Which::Exactly(wanted) => normalised(url) == *wanted,
            }
    }
}

/// One submit request as it arrived.
#[derive(Clone, Debug)]
pub struct Submit {
    /// `sample_url` as it was sent; empty when it was missing.
    pub url: String,
    /// Everything that was sent, wherever it stood.
    pub parameters: BTreeMap<String, String>,
    /// When it arrived.
    pub at: DateTime<Utc>,
    /// What became of it at the server, whatever the client heard.
    pub outcome: SubmitOutcome,
}

/// What became of a submit request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitOutcome {
    /// A fault came before: nothing was done.
    NotHandled,
    /// Nothing was stored; the HTTP status, which may be 200.
    NotStored(u16),
    /// A new submission.
    Stored {
        /// Its number.
        submission_id: u64,
        /// Whether it was finished at once.
        cached: bool,
    },
}

impl Submit {
    pub(super) fn arrived(parameters: BTreeMap<String, String>) -> Self {
        let url = parameters.get("sample_url").cloned().unwrap_or_default();
        Self { url, parameters, at: Utc::now(), outcome: SubmitOutcome::NotHandled }
    }

    pub(super) fn to_json(&self) -> Value {
        let outcome = match &self.outcome {
            SubmitOutcome::NotHandled => json!("not_handled"),
            SubmitOutcome::NotStored(status) => json!({"not_stored": status}),
            SubmitOutcome::Stored { submission_id, cached } => {
                json!({"stored": {"submission_id": submission_id, "cached": cached}})
            }
        };
        json!({"url": self.url, "parameters": self.parameters, "at": self.at.to_rfc3339(), "outcome": outcome})
    }
}

/// A rule as the control endpoint takes it:
/// `{"containing": "evil", "times": 2, "kind": "cached", "ending": "malicious"}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleRequest {
    exactly: Option<String>,
    containing: Option<String>,
    times: Option<u64>,
    /// `fresh`, `cached`, `no_jobs`, `no_jobs_bare`, `error`, `quota`, `quota_at_top`, `refused`, `fresh_with_error`,
    /// `nothing`.
    kind: String,
    status: Option<u16>,
    message: Option<String>,
    ending: Option<String>,
    hidden: Option<bool>,
}

impl RuleRequest {
    pub(super) fn into_rule(self) -> Option<SubmitRule> {
        let message = self.message.unwrap_or_else(|| "Simulated error".to_owned());
        let action = match self.kind.as_str() {
            "fresh" => SubmitAction::Fresh,
            "cached" => SubmitAction::Cached,
            "no_jobs" => SubmitAction::NoJobs,
            "no_jobs_bare" => SubmitAction::NoJobsBare,
            "error" => SubmitAction::Error(message),
            "quota" => SubmitAction::Quota,
            "quota_at_top" => SubmitAction::QuotaAtTop(self.status.unwrap_or(200)),
            "refused" => SubmitAction::Refused(self.status.unwrap_or(400), message),
            "fresh_with_error" => SubmitAction::FreshWithError(message),
            "nothing" => SubmitAction::Nothing,
            _ => return None,
        };
        let rule = match (&self.exactly, &self.containing) {
            (Some(url), _) => SubmitRule::exactly(url, action),
            (None, Some(text)) => SubmitRule::containing(text, action),
            (None, None) => SubmitRule::all(action),
        };
        let mut rule = rule.times(self.times.unwrap_or(u64::MAX));
        if let Some(name) = self.ending {
            rule = rule.ending(Ending::named(&name)?);
        }
        Some(if self.hidden == Some(true) { rule.visible(Visible::WhenTold) } else { rule })
    }
}

/// Times are given in whole seconds, so they are kept so: what is compared is what was said.
pub(super) fn whole_second(time: NaiveDateTime) -> NaiveDateTime {
    time.with_nanosecond(0).unwrap_or(time)
}
