//! What the integration tests share: VMRay's answers in one document become facts.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test uses a part; a test may stop"
)]

use mapping::{MappedSample, MappingSettings, Relative, RelativeRole, SampleFacts, map_sample};
use serde::de::DeserializeOwned;
use serde_json::Value;
use stix::{Bundle, everything};
use vmray::model::{Aggregated, Entries, Iocs, MitreTechnique, Sample, ThreatIndicator};

/// Reads a member as the client reads an answer: from its text.
pub(crate) fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_str(&value.to_string()).unwrap()
}

/// Facts from a document with `sample`, `submissions`, `iocs`, `vtis`, `mitre` and `relatives`.
pub(crate) fn facts(document: &Value) -> SampleFacts {
    let relatives = document["relatives"].as_array().cloned().unwrap_or_default();
    SampleFacts {
        sample: read(&document["sample"]),
        submissions: read(&document["submissions"]),
        iocs: read::<Aggregated<Iocs>>(&document["iocs"]).data,
        threat_indicators: read::<Aggregated<Entries<ThreatIndicator>>>(&document["vtis"]).data,
        techniques: read::<Aggregated<Entries<MitreTechnique>>>(&document["mitre"]).data,
        relatives: relatives.iter().map(relative).collect(),
    }
}

fn relative(value: &Value) -> Relative {
    let role = if value["role"] == "parent" { RelativeRole::Parent } else { RelativeRole::Child };
    let relation_type = value["relation_type"].as_str().map(str::to_owned);
    Relative { role, relation_type, sample: read::<Sample>(&value["sample"]) }
}

/// The sample that has everything.
pub(crate) fn kinds() -> Value {
    serde_json::from_str(include_str!("../fixtures/vmray-kinds.json")).unwrap()
}

/// A small sample.
pub(crate) fn example() -> Value {
    serde_json::from_str(include_str!("../fixtures/vmray-example.json")).unwrap()
}

/// Maps with the default settings.
pub(crate) fn map(document: &Value) -> MappedSample {
    map_sample(&facts(document), &MappingSettings::default()).unwrap()
}

/// The bundle of one sample.
pub(crate) fn bundle(sample: &MappedSample) -> Bundle {
    Bundle::merge(std::slice::from_ref(sample), everything)
}

/// The objects of one sample as JSON.
pub(crate) fn objects(document: &Value) -> Vec<Value> {
    let bundle: Value = serde_json::from_str(&bundle(&map(document)).json).unwrap();
    bundle["objects"].as_array().unwrap().clone()
}

/// The objects of one type.
pub(crate) fn of_type<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["type"] == kind).collect()
}

/// The relationships as `type source-type target-type`, sorted.
pub(crate) fn links(objects: &[Value]) -> Vec<String> {
    let kind = |id: &Value| id.as_str().unwrap().split("--").next().unwrap().to_owned();
    let link = |object: &&Value| {
        let (source, target) = (kind(&object["source_ref"]), kind(&object["target_ref"]));
        format!("{source} {} {target}", object["relationship_type"].as_str().unwrap())
    };
    let mut links: Vec<_> = of_type(objects, "relationship").iter().map(link).collect();
    links.sort();
    links
}
