//! How VMRay shall analyse: the options of a call, each checked before anything is sent.
//!
//! VMRay's own rules are [`parameters`]; the deployment's defaults pass the same checks.

use crate::settings::SubmitDefaults;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use vmray::parameters::{self, AnalysisCaching};

use super::fault::Fault;

mod reader;

use reader::Reader;

/// Every option by its name.
pub const NAMES: [&str; 10] = [
    "comment",
    "tags",
    "retention_days",
    "max_recursive_samples",
    "max_dynamic_analyses_per_sample",
    "reputation_lookups",
    "whois_lookups",
    "analysis_caching",
    "shareable",
    "force",
];

/// Checked options. What is `None` is left to VMRay: the settings of its key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Free text, shown with the submission.
    pub comment: Option<String>,
    /// Tags of the submission.
    pub tags: Vec<String>,
    /// Days after which VMRay deletes the submission; 0: never.
    pub retention_days: Option<u16>,
    /// How many samples found inside the first one are analysed too.
    pub max_recursive_samples: Option<u8>,
    /// How many dynamic analyses each sample gets.
    pub max_dynamic_analyses_per_sample: Option<u8>,
    /// Whether VMRay asks for the reputation of URLs and hashes, also at third parties.
    pub reputation_lookups: Option<bool>,
    /// Whether VMRay asks WHOIS.
    pub whois_lookups: Option<bool>,
    /// Whether VMRay may answer from earlier analyses.
    pub analysis_caching: Option<AnalysisCaching>,
    /// Whether VMRay may share the sample's hash with others.
    pub shareable: bool,
    /// Send again although the URL is known.
    pub force: bool,
}

impl Options {
    /// The deployment's defaults.
    #[must_use]
    pub fn from_defaults(defaults: &SubmitDefaults) -> Self {
        Self {
            comment: defaults.comment.clone(),
            tags: defaults.tags.clone(),
            retention_days: defaults.retention_days,
            max_recursive_samples: defaults.max_recursive_samples,
            max_dynamic_analyses_per_sample: defaults.max_dynamic_analyses_per_sample,
            reputation_lookups: defaults.reputation_lookups,
            whois_lookups: defaults.whois_lookups,
            analysis_caching: defaults.analysis_caching,
            shareable: false,
            force: false,
        }
    }

    /// `given` over the deployment's `defaults`; all faults at once, with pointers `/options/<name>`.
    ///
    /// Null and a blank text mean not given: playbooks send them for the fields that nobody filled in.
    pub fn read(
        given: &Map<String, Value>,
        defaults: &Self,
        shareable_allowed: bool,
    ) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(given);
        let options = Self {
            comment: reader.text("comment", parameters::comment).or_else(|| defaults.comment.clone()),
            tags: reader.tags("tags").unwrap_or_else(|| defaults.tags.clone()),
            retention_days: reader.text("retention_days", parameters::retention).or(defaults.retention_days),
            max_recursive_samples: reader
                .text("max_recursive_samples", parameters::recursive_samples)
                .or(defaults.max_recursive_samples),
            max_dynamic_analyses_per_sample: reader
                .text("max_dynamic_analyses_per_sample", parameters::dynamic_analyses)
                .or(defaults.max_dynamic_analyses_per_sample),
            reputation_lookups: reader.text("reputation_lookups", boolean).or(defaults.reputation_lookups),
            whois_lookups: reader.text("whois_lookups", boolean).or(defaults.whois_lookups),
            analysis_caching: reader
                .text("analysis_caching", parameters::caching)
                .or(defaults.analysis_caching),
            shareable: reader
                .text("shareable", |text| shareable(text, shareable_allowed))
                .unwrap_or(defaults.shareable && shareable_allowed),
            force: reader.text("force", boolean).unwrap_or(defaults.force),
        };
        reader.finish().map(|()| options)
    }

    /// The pairs of VMRay's `sample/submit` form besides the URL and the metadata, always in the same order.
    ///
    /// `shareable` is always sent: VMRay's own default may be another.
    #[must_use]
    pub fn form(&self) -> Vec<(&'static str, String)> {
        let tags = (!self.tags.is_empty()).then(|| self.tags.join(","));
        let described = [
            ("comment", self.comment.clone()),
            ("tags", tags),
            ("retention_period", self.retention_days.map(|days| days.to_string())),
        ];
        let analysed = self.analysis_pairs();
        let shareable = [("shareable", Some(self.shareable.to_string()))];
        described
            .into_iter()
            .chain(analysed)
            .chain(shareable)
            .filter_map(|(name, value)| value.map(|value| (name, value)))
            .collect()
    }

    /// What changes the analysis, as a part of the ledger's key: a URL that was analysed in another way is another
    /// question. How a submission is labelled, kept or shared is not.
    #[must_use]
    pub fn analysis_key(&self) -> String {
        let pairs = self.analysis_pairs().into_iter();
        let set = pairs.filter_map(|(name, value)| value.map(|value| format!("{name}={value}")));
        set.collect::<Vec<_>>().join(";")
    }

    fn analysis_pairs(&self) -> [(&'static str, Option<String>); 5] {
        [
            ("max_recursive_samples", self.max_recursive_samples.map(|count| count.to_string())),
            (
                "max_dynamic_analyses_per_sample",
                self.max_dynamic_analyses_per_sample.map(|count| count.to_string()),
            ),
            ("enable_reputation", self.reputation_lookups.map(|on| on.to_string())),
            ("enable_whois", self.whois_lookups.map(|on| on.to_string())),
            ("analysis_caching", self.analysis_caching.map(|caching| caching.as_str().to_owned())),
        ]
    }
}

/// A boolean in any of the spellings that playbooks have.
fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

fn shareable(text: &str, allowed: bool) -> Result<bool, String> {
    match boolean(text)? {
        true if !allowed => Err("this deployment does not allow sharing with third parties".to_owned()),
        shareable => Ok(shareable),
    }
}

#[cfg(test)]
mod tests;
