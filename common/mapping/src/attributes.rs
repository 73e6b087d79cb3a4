//! What a submission says about the indicator that it was made for, as names and values.

use serde::{Deserialize, Serialize};

use vmray::model::{SampleId, Submission, SubmissionId, Verdict};

/// A fact about an indicator, as security tools hold them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attribute {
    pub name: &'static str,
    /// Its value, as text.
    pub value: String,
}

/// What is told of a submission: small, and kept in the ledger of `submit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmissionFacts {
    /// Absent where only the sample is known.
    pub submission_id: Option<SubmissionId>,
    /// The sample it is of.
    pub sample_id: Option<SampleId>,
    /// VMRay's judgement.
    pub verdict: Option<Verdict>,
    /// The word of older servers for the verdict.
    pub severity: Option<Box<str>>,
    /// 0 to 100.
    pub score: Option<u8>,
    /// The page in VMRay's web interface.
    pub report_url: Option<Box<str>>,
}

impl From<&Submission> for SubmissionFacts {
    fn from(submission: &Submission) -> Self {
        Self {
            submission_id: Some(submission.id),
            sample_id: submission.sample_id,
            verdict: submission.verdict,
            severity: submission.severity.clone(),
            score: submission.score,
            report_url: submission.webif_url.clone(),
        }
    }
}

/// The attributes that a submission gives; unknown ones are left out.
///
/// "VMRay Submission ID" holds the *sample's* number: the VMRay action of `ThreatQ` filled it so, and playbooks
/// rely on it. The submission's own number goes by another name.
#[must_use]
pub fn submission_attributes(facts: &SubmissionFacts) -> Vec<Attribute> {
    let text = |value: &Option<Box<str>>| value.as_deref().map(str::to_owned);
    let sample = facts.sample_id.map(|id| id.to_string());
    let all = [
        ("VMRay Submission ID", sample.clone()),
        ("VMRay Sample ID", sample),
        ("VMRay Submission Number", facts.submission_id.map(|id| id.to_string())),
        ("VMRay Verdict", facts.verdict.map(|verdict| verdict.to_string())),
        ("VMRay Severity", text(&facts.severity)),
        ("VMRay Score", facts.score.map(|score| score.to_string())),
        ("VMRay Report Link", text(&facts.report_url)),
    ];
    all.into_iter().filter_map(|(name, value)| Some(Attribute { name, value: value? })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_fact_is_an_attribute_and_unknown_ones_are_absent() {
        let full: Submission = serde_json::from_value(serde_json::json!({
            "submission_id": 9, "submission_sample_id": "7", "submission_verdict": "Malicious",
            "submission_severity": "malicious", "submission_score": 100, "submission_webif_url": "https://v.test/7"
        }))
        .unwrap();
        let attributes: Vec<_> = submission_attributes(&SubmissionFacts::from(&full))
            .into_iter()
            .map(|attribute| (attribute.name, attribute.value))
            .collect();
        let expected = [
            ("VMRay Submission ID", "7"),
            ("VMRay Sample ID", "7"),
            ("VMRay Submission Number", "9"),
            ("VMRay Verdict", "malicious"),
            ("VMRay Severity", "malicious"),
            ("VMRay Score", "100"),
            ("VMRay Report Link", "https://v.test/7"),
        ];
        assert_eq!(attributes, expected.map(|(name, value)| (name, value.to_owned())));

        let bare: Submission = serde_json::from_str(r#"{"submission_id": 9}"#).unwrap();
        assert_eq!(submission_attributes(&SubmissionFacts::from(&bare)).len(), 1);
    }
}
