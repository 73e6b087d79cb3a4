//! The ids that OpenCTI itself gives to objects.
//!
//! The platform computes a standard id from the properties that identify an object: a version 5 UUID over their
//! canonical JSON (RFC 8785). Using the same ids makes an import repeatable and lets the objects of one bundle find
//! those that others brought.

use std::fmt::Write;

use uuid::Uuid;

use crate::id::{ObjectKind, StixId};
use crate::timestamp::Timestamp;

/// The namespace of STIX 2.1 for deterministic ids, which OpenCTI uses for all its objects.
const NAMESPACE: Uuid = Uuid::from_u128(0x00abedb4_aa42_466c_9c01_fed23315a9b7);

/// A value of canonical JSON.
#[derive(Debug, Clone, Copy)]
pub enum Json<'a> {
    Text(&'a str),
    Number(u64),
    /// An object; its members in the order of their names.
    Object(&'a [(&'a str, Json<'a>)]),
}

impl Json<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Json::Text(text) => write_text(text, out),
            Json::Number(number) => out.push_str(&number.to_string()),
            Json::Object(members) => {
                debug_assert!(members.is_sorted_by_key(|(name, _)| *name), "canonical JSON is sorted");
                out.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_text(name, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Escapes only what RFC 8785 escapes: quote, backslash, control characters.
fn write_text(text: &str, out: &mut String) {
    out.push('"');
    if !text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        out.push_str(text);
        out.push('"');
        return;
    }
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{9}' => out.push_str("\\t"),
            '\u{a}' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\u{d}' => out.push_str("\\r"),
            control if control < ' ' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// The canonical JSON of an object with these members, given in the order of their names.
#[must_use]
pub fn canonical_json(members: &[(&str, Json<'_>)]) -> String {
    let mut out = String::with_capacity(128);
    Json::Object(members).write(&mut out);
    out
}

/// The id of an object of a kind that is identified by these members, given in the order of their names.
#[must_use]
pub fn deterministic(kind: ObjectKind, members: &[(&str, Json<'_>)]) -> StixId {
    StixId::new(kind, uuid_of(&canonical_json(members)))
}

/// The version 5 UUID of a text in OpenCTI's namespace.
#[must_use]
pub fn uuid_of(text: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, text.as_bytes())
}

fn normal(text: &str) -> String {
    text.trim().to_lowercase()
}

/// An identity; its class is `organization`, `individual` ...
#[must_use]
pub fn identity(name: &str, class: &str) -> StixId {
    let members = [("identity_class", &*class.to_lowercase()), ("name", &*normal(name))];
    deterministic(ObjectKind::Identity, &members.map(|(name, value)| (name, Json::Text(value))))
}

/// An indicator. The pattern must be in the form that [`super::pattern`] writes.
#[must_use]
pub fn indicator(pattern: &str) -> StixId {
    deterministic(ObjectKind::Indicator, &[("pattern", Json::Text(pattern.trim()))])
}

#[must_use]
pub fn malware(name: &str) -> StixId {
    deterministic(ObjectKind::Malware, &[("name", Json::Text(&normal(name)))])
}

#[must_use]
pub fn country(name: &str) -> StixId {
    let name = normal(name);
    let members = [("name", Json::Text(&name)), ("x_opencti_location_type", Json::Text("Country"))];
    deterministic(ObjectKind::Location, &members)
}

/// An attack pattern with its ATT&CK number.
#[must_use]
pub fn attack_pattern(mitre_id: &str) -> StixId {
    deterministic(ObjectKind::AttackPattern, &[("x_mitre_id", Json::Text(&normal(mitre_id)))])
}

#[must_use]
pub fn report(name: &str, published: Timestamp) -> StixId {
    let (name, published) = (normal(name), published.to_string());
    let members = [("name", Json::Text(&name)), ("published", Json::Text(&published))];
    deterministic(ObjectKind::Report, &members)
}

/// A malware analysis. Its name keeps its case, other than a report's.
#[must_use]
pub fn malware_analysis(product: &str, result_name: &str, submitted: Option<Timestamp>) -> StixId {
    let submitted = submitted.map(|date| date.to_string());
    let mut members = vec![("product", Json::Text(product)), ("result_name", Json::Text(result_name))];
    if let Some(date) = &submitted {
        members.push(("submitted", Json::Text(date)));
    }
    deterministic(ObjectKind::MalwareAnalysis, &members)
}

/// A relationship without times.
#[must_use]
pub fn relationship(relationship_type: &str, source: StixId, target: StixId) -> StixId {
    source.with_str(|source| {
        target.with_str(|target| {
            let members = [
                ("relationship_type", Json::Text(relationship_type)),
                ("source_ref", Json::Text(source)),
                ("target_ref", Json::Text(target)),
            ];
            deterministic(ObjectKind::Relationship, &members)
        })
    })
}

/// A label, the same for every spelling.
#[must_use]
pub fn label(value: &str) -> StixId {
    deterministic(ObjectKind::Label, &[("value", Json::Text(&normal(value)))])
}

/// A domain name; case does not matter.
#[must_use]
pub fn domain_name(value: &str) -> StixId {
    deterministic(ObjectKind::DomainName, &[("value", Json::Text(&normal(value)))])
}

/// An e-mail address; case does not matter.
#[must_use]
pub fn email_addr(value: &str) -> StixId {
    deterministic(ObjectKind::EmailAddr, &[("value", Json::Text(&normal(value)))])
}

/// A URL, exactly as written.
#[must_use]
pub fn url(value: &str) -> StixId {
    deterministic(ObjectKind::Url, &[("value", Json::Text(value))])
}

/// An IPv4 address or network, exactly as written.
#[must_use]
pub fn ipv4_addr(value: &str) -> StixId {
    deterministic(ObjectKind::Ipv4Addr, &[("value", Json::Text(value))])
}

/// An IPv6 address or network, exactly as written.
#[must_use]
pub fn ipv6_addr(value: &str) -> StixId {
    deterministic(ObjectKind::Ipv6Addr, &[("value", Json::Text(value))])
}

#[must_use]
pub fn mutex(name: &str) -> StixId {
    deterministic(ObjectKind::Mutex, &[("name", Json::Text(name))])
}

/// A process by its command line.
#[must_use]
pub fn process(command_line: &str) -> StixId {
    deterministic(ObjectKind::Process, &[("command_line", Json::Text(command_line))])
}

/// A registry key. The platform hashes its own name of the property, not STIX's.
#[must_use]
pub fn windows_registry_key(key: &str) -> StixId {
    deterministic(ObjectKind::WindowsRegistryKey, &[("attribute_key", Json::Text(key))])
}

/// A file by one hash: the platform takes MD5 before SHA-1 before SHA-256, and then ignores the name.
#[must_use]
pub fn file_by_hash(algorithm: &str, hash: &str) -> StixId {
    let hashes = [(algorithm, Json::Text(hash))];
    deterministic(ObjectKind::File, &[("hashes", Json::Object(&hashes))])
}

/// A file without any hash.
#[must_use]
pub fn file_by_name(name: &str) -> StixId {
    deterministic(ObjectKind::File, &[("name", Json::Text(name))])
}
