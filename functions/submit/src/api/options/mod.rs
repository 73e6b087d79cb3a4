//! Reads the options of a call, each checked before anything is sent.
//!
//! VMRay's own rules are [`parameters`]; the deployment's defaults pass the same checks.

use serde_json::{Map, Value};
use vmray::parameters;

use super::fault::Fault;
use crate::options::Options;

mod reader;

pub use reader::NAMES;
use reader::OptionsReader;

/// `given` over the deployment's `defaults`; all faults at once, with pointers `/options/<name>`.
///
/// Null and a blank text mean not given: playbooks send them for fields that were left empty.
pub fn read(
    given: &Map<String, Value>,
    defaults: &Options,
    shareable_allowed: bool,
) -> Result<Options, Vec<Fault>> {
    let mut reader = OptionsReader::new(given);
    let options = Options {
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
        analysis_caching: reader.text("analysis_caching", parameters::caching).or(defaults.analysis_caching),
        shareable: reader
            .text("shareable", |text| shareable(text, shareable_allowed))
            .unwrap_or(defaults.shareable && shareable_allowed),
        force: reader.text("force", boolean).unwrap_or(defaults.force),
    };
    reader.finish().map(|()| options)
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
