//! The ids that the platform computes itself: UUID version 5 over canonical JSON of what makes an object.
//!
//! Written from the platform's rules and without the product's code, so that the two check each other.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::version::Version;

const NAMESPACE: Uuid = Uuid::from_u128(0x00ab_edb4_aa42_466c_9c01_fed2_3315_a9b7);

/// In the order in which the platform prefers them.
const HASHES: [&str; 7] = ["MD5", "SHA-1", "SHA-256", "SHA-512", "SHA3-256", "SHA3-512", "SSDEEP"];

/// The markings of a new installation: their ids are the same everywhere.
pub(super) const MARKINGS: [(&str, &str); 9] = [
    ("TLP:CLEAR", "marking-definition--613f2e26-407d-48c7-9eca-b8e91df99dc9"),
    ("TLP:GREEN", "marking-definition--34098fce-860f-48ae-8e50-ebd3cc5e41da"),
    ("TLP:AMBER", "marking-definition--f88d31f6-486f-44da-b317-01333bde0b82"),
    ("TLP:AMBER+STRICT", "marking-definition--826578e1-40ad-459f-bc73-ede076f81f37"),
    ("TLP:RED", "marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed"),
    ("PAP:CLEAR", "marking-definition--4cdff7eb-acb8-543f-8573-829eb9fe8b34"),
    ("PAP:GREEN", "marking-definition--89484dde-e3d2-547f-a6c6-d14824429eb1"),
    ("PAP:AMBER", "marking-definition--a6f20d4d-0360-59b6-ba22-3b48707828b1"),
    ("PAP:RED", "marking-definition--4e4e3b84-de45-53df-9d9b-b21207699fd8"),
];

/// What makes an object: canonical JSON wants sorted members, which the map gives.
type Contributing = BTreeMap<&'static str, Value>;

fn id(kind: &str, contributing: &Contributing) -> String {
    // For strings and small integers this is RFC 8785: sorted, no spaces, only what must be escaped is.
    let canonical = serde_json::to_string(contributing).unwrap_or_default();
    format!("{kind}--{}", Uuid::new_v5(&NAMESPACE, canonical.as_bytes()))
}

fn of(kind: &str, members: &[(&'static str, Option<String>)]) -> Option<String> {
    let mut contributing = Contributing::new();
    for (name, value) in members {
        contributing.insert(name, Value::String(value.clone()?));
    }
    Some(id(kind, &contributing))
}

/// The platform's id of an object. `resolve` turns the id of a stored object into its standard id. `None`: the object lacks
/// what its id is made of, or is of a kind that is not known here.
pub(super) fn standard_id(
    object: &Value,
    version: Version,
    resolve: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let text = |name: &str| object[name].as_str().map(str::to_owned);
    let lower = |name: &str| text(name).map(|value| value.trim().to_lowercase());
    let kind = object["type"].as_str()?;
    match kind {
        "identity" => of(kind, &[("identity_class", lower("identity_class")), ("name", lower("name"))]),
        "marking-definition" => text("id"),
        "label" => of(kind, &[("value", lower("value"))]),
        "malware" => of(kind, &[("name", lower("name"))]),
        "location" => {
            of(kind, &[("name", lower("name")), ("x_opencti_location_type", Some(location_type(object)))])
        }
        "attack-pattern" => attack_pattern(object, version),
        "indicator" => {
            of(kind, &[("pattern", text("pattern").map(|pattern| clean_pattern(&pattern, version)))])
        }
        "report" => of(kind, &[("name", lower("name")), ("published", date(object, "published"))]),
        "malware-analysis" => malware_analysis(object),
        "relationship" | "sighting" => relationship(object, kind, resolve),
        "domain-name" | "email-addr" => {
            of(kind, &[("value", text("value").map(|value| value.trim().to_lowercase()))])
        }
        "url" | "ipv4-addr" | "ipv6-addr" => of(kind, &[("value", text("value"))]),
        "mutex" => of(kind, &[("name", text("name"))]),
        "windows-registry-key" => of(kind, &[("attribute_key", text("key"))]),
        "process" => process(object),
        "file" => file_ids(object).into_iter().next(),
        _ => None,
    }
}

fn location_type(object: &Value) -> String {
    if let Some(named) = object["x_opencti_location_type"].as_str() {
        return named.to_owned();
    }
    let kinds = [("city", "City"), ("country", "Country"), ("region", "Region")];
    kinds.iter().find(|(key, _)| object.get(*key).is_some()).map_or("Position", |(_, kind)| *kind).to_owned()
}

fn attack_pattern(object: &Value, version: Version) -> Option<String> {
    let list = object["external_references"].as_array().into_iter().flatten();
    let referenced = list
        .filter(|reference| reference["source_name"].as_str().is_some_and(|name| name.starts_with("mitre-")))
        .find_map(|reference| reference["external_id"].as_str());
    match object["x_mitre_id"].as_str().or(referenced) {
        Some(mitre) if version >= Version::LOWER_CASE_MITRE => {
            of("attack-pattern", &[("x_mitre_id", Some(mitre.trim().to_lowercase()))])
        }
        Some(mitre) => of("attack-pattern", &[("x_mitre_id", Some(mitre.to_owned()))]),
        None => {
            let name = object["name"].as_str().map(|name| name.trim().to_lowercase());
            of("attack-pattern", &[("name", name)])
        }
    }
}

fn malware_analysis(object: &Value) -> Option<String> {
    let mut members = vec![
        ("product", object["product"].as_str().map(str::to_owned)),
        ("result_name", object["result_name"].as_str().map(str::to_owned)),
    ];
    if object["submitted"].is_string() {
        members.push(("submitted", date(object, "submitted")));
    }
    of("malware-analysis", &members)
}

fn relationship(object: &Value, kind: &str, resolve: impl Fn(&str) -> Option<String>) -> Option<String> {
    let end = |name: &str| object[name].as_str().and_then(&resolve);
    let mut members = vec![
        ("relationship_type", object["relationship_type"].as_str().map(str::to_owned)),
        ("source_ref", end("source_ref")),
        ("target_ref", end("target_ref")),
    ];
    for name in ["start_time", "stop_time"] {
        if object[name].is_string() {
            members.push((name, date(object, name)));
        }
    }
    of(kind, &members)
}

fn process(object: &Value) -> Option<String> {
    let mut contributing = Contributing::new();
    match (object["command_line"].as_str(), object.get("pid")) {
        (Some(line), pid) => {
            contributing.insert("command_line", line.into());
            pid.map(|pid| contributing.insert("pid", pid.clone()));
        }
        (None, Some(pid)) => {
            contributing.insert("pid", pid.clone());
        }
        (None, None) => return None,
    }
    Some(id("process", &contributing))
}

/// All ids that a file is found by: one for each hash, the preferred one first; by name when it has none.
pub(super) fn file_ids(object: &Value) -> Vec<String> {
    let hash = |name: &str| object["hashes"][name].as_str().filter(|value| !value.is_empty());
    let by_hash: Vec<String> = HASHES
        .iter()
        .filter_map(|name| hash(name).map(|value| (name, value)))
        .map(|(name, value)| {
            let hashes: BTreeMap<&str, &str> = BTreeMap::from([(*name, value)]);
            id("file", &Contributing::from([("hashes", serde_json::json!(hashes))]))
        })
        .collect();
    if !by_hash.is_empty() {
        return by_hash;
    }
    of("file", &[("name", object["name"].as_str().map(str::to_owned))]).into_iter().collect()
}

/// A date as JavaScript writes it, which is how the platform stores it.
fn date(object: &Value, name: &str) -> Option<String> {
    let date = DateTime::parse_from_rfc3339(object[name].as_str()?).ok()?;
    Some(date.with_timezone(&Utc).to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// One space around operators, none beside brackets; needless quotes of properties gone. Literals are left alone.
pub(super) fn clean_pattern(pattern: &str, version: Version) -> String {
    let mut out = String::new();
    let mut rest = pattern.trim();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' => literal_end(rest),
            _ => first.len_utf8(),
        };
        let token = &rest[..length];
        match first {
            '\'' if version >= Version::UNQUOTED_PATTERNS && out.ends_with('.') && is_simple(token) => {
                out.push_str(token.trim_matches('\''));
            }
            '=' | '<' | '>' | '!' => push_operator(&mut out, first),
            _ if first.is_whitespace() => push_space(&mut out),
            ']' => {
                out.truncate(out.trim_end().len());
                out.push(']');
            }
            _ => out.push_str(token),
        }
        rest = &rest[length..];
        if matches!(first, '=' | '<' | '>' | '!' | '[') {
            rest = rest.trim_start();
            if first != '[' && !rest.starts_with('=') {
                out.push(' ');
            }
        }
    }
    out.trim().to_owned()
}

fn push_operator(out: &mut String, operator: char) {
    if !out.ends_with(['<', '>', '!']) {
        push_space(out);
    }
    out.push(operator);
}

fn push_space(out: &mut String) {
    if !out.ends_with([' ', '[']) {
        out.push(' ');
    }
}

/// Where a literal that begins here ends.
fn literal_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            '\\' if !escaped => escaped = true,
            '\'' if !escaped => return at + 1,
            _ => escaped = false,
        }
    }
    text.len()
}

fn is_simple(quoted: &str) -> bool {
    let name = quoted.trim_matches('\'');
    !name.is_empty()
        && !name.starts_with(|letter: char| letter.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_latest(object: &Value) -> String {
        of_version(object, "7.260817.0")
    }

    fn of_version(object: &Value, version: &str) -> String {
        let version = Version::parse(version).unwrap();
        standard_id(object, version, |id| Some(id.to_owned())).unwrap()
    }

    #[test]
    fn ids_are_those_of_the_platform() {
        let hashes = json!({"MD5": "d41d8cd98f00b204e9800998ecf8427e", "SHA-1": "da39a3ee5e6b4b0d3255bfef95601890afd80709"});
        let vectors = [
            (
                json!({"type": "identity", "name": "  VMRay GmbH ", "identity_class": "Organization"}),
                "identity--011fbaa9-40a1-5ee0-9bd6-902db2e8570d",
            ),
            (
                json!({"type": "malware", "name": "W32/Ünïcode"}),
                "malware--f7894999-d09b-56f8-a680-314522fbd65d",
            ),
            (
                json!({"type": "location", "name": "Germany", "x_opencti_location_type": "Country"}),
                "location--7215cb31-5700-55b2-81b3-633c09c0351d",
            ),
            (
                json!({"type": "location", "name": "Germany", "country": "DE"}),
                "location--7215cb31-5700-55b2-81b3-633c09c0351d",
            ),
            (
                json!({"type": "attack-pattern", "name": "x", "x_mitre_id": "T1059"}),
                "attack-pattern--2564d78f-c102-5432-99eb-c6bb50177e94",
            ),
            (
                json!({"type": "attack-pattern", "name": "Only a name"}),
                "attack-pattern--1c398156-9b44-5e91-908a-af7cdb9e6108",
            ),
            (
                json!({"type": "report", "name": "VMRay analysis report: sample.exe", "published": "2026-01-02T03:04:05+00:00"}),
                "report--23c1154e-46c1-5758-b5c4-8128e902c3ca",
            ),
            (
                json!({"type": "label", "value": " mitre:T1059"}),
                "label--d7b65d99-b8d1-5b8f-bed6-52861188bca9",
            ),
            (
                json!({"type": "process", "command_line": "\"C:\\Windows\\System32\\cmd.exe\" /c \"echo ü\""}),
                "process--76f347f1-330e-563b-898c-29996b63151c",
            ),
            (
                json!({"type": "process", "command_line": "cmd.exe /c whoami", "pid": 4242}),
                "process--1132a867-0c95-57fb-af43-fb516227a36d",
            ),
            (
                json!({"type": "windows-registry-key", "key": "HKCU\\Software\\Evil"}),
                "windows-registry-key--86b11c3c-f1e6-5442-b283-f951690199e1",
            ),
            (
                json!({"type": "file", "hashes": hashes, "name": "sample.exe"}),
                "file--02fff920-f614-527c-81d1-6353633a6d21",
            ),
            (json!({"type": "file", "name": "only-name.txt"}), "file--25c373ff-fdb6-59c0-adfd-56419e166b1a"),
            (
                json!({"type": "email-addr", "value": "Bad@Example.com"}),
                "email-addr--8453ab81-f2cb-56fb-8edc-36024381c6fd",
            ),
            (
                json!({"type": "url", "value": "http://bücher.example/ü"}),
                "url--d417ca81-a7c9-5e34-be9c-7b66304a5457",
            ),
            (json!({"type": "mutex", "name": "Local\\{A-B}"}), "mutex--f2272549-7613-5d69-a4d6-42181825c0de"),
            (
                json!({"type": "indicator", "pattern": " [url:value = 'http://evil.example.com/a?b=\\'c\\'&d=1'] "}),
                "indicator--0b4686ec-7416-5f51-9055-c0673fd00450",
            ),
            (
                json!({"type": "indicator", "pattern": "[file:hashes.'SHA-256'='e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855']"}),
                "indicator--8d30e978-c6dd-5439-9ed0-bd61238915c3",
            ),
            (
                json!({"type": "relationship", "relationship_type": "based-on", "source_ref": "indicator--251b41b7-1baf-527e-a251-5821a471dd65",
                "target_ref": "domain-name--6262c8a9-ac28-50fe-a7df-f5923bb2ee14"}),
                "relationship--24f3ef24-ba70-5d45-add7-a386b12a4920",
            ),
            (
                json!({"type": "relationship", "relationship_type": "related-to", "source_ref": "indicator--251b41b7-1baf-527e-a251-5821a471dd65",
                "target_ref": "location--7215cb31-5700-55b2-81b3-633c09c0351d", "start_time": "2026-01-02T03:04:05.000Z"}),
                "relationship--5d0b39a9-b8aa-576a-b527-0983927107e8",
            ),
        ];
        for (object, id) in vectors {
            assert_eq!(of_latest(&object), id, "{object}");
        }
    }

    #[test]
    fn older_platforms_keep_the_case_of_techniques() {
        let technique = json!({"type": "attack-pattern", "name": "x", "x_mitre_id": "T1059"});
        assert_eq!(of_version(&technique, "6.9.0"), "attack-pattern--bab942ff-7c9c-5062-9e92-3392bfb2fd74");
    }

    #[test]
    fn patterns_are_cleaned_up_outside_their_literals() {
        let clean = |pattern, version| clean_pattern(pattern, Version::parse(version).unwrap());
        let quoted = "[file:hashes.'MD5'='a = \\'b']OR  [ file:hashes.'SHA-1' =  'c' ]";
        assert_eq!(
            clean(quoted, "7.260817.0"),
            "[file:hashes.MD5 = 'a = \\'b']OR [file:hashes.'SHA-1' = 'c']"
        );
        assert!(clean(quoted, "6.9.0").starts_with("[file:hashes.'MD5' = "));
    }
}
