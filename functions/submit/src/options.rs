//! How VMRay shall analyse: the options of a call, and the deployment's defaults of them.

use serde::{Deserialize, Serialize};
use vmray::parameters::AnalysisCaching;

/// Checked options. What is `None` is left to VMRay: the settings of its key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Free text, shown with the submission.
    pub comment: Option<String>,
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
