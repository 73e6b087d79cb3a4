//! What the platform refuses of an object. The others of the same bundle are imported.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

/// Why an object was refused, in the platform's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) name: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn functional(message: impl Into<String>) -> Self {
        Self { name: "FUNCTIONAL_ERROR", message: message.into() }
    }

    pub(super) fn missing_reference(message: impl Into<String>) -> Self {
        Self { name: "MISSING_REFERENCE_ERROR", message: message.into() }
    }

    /// As it stands on the work: a Python dictionary, printed.
    pub(super) fn text(&self) -> String {
        format!("{{'name': '{}', 'error_message': '{}'}}", self.name, self.message)
    }
}

type Checked = Result<(), Refusal>;

/// Checks an object by itself.
pub(super) fn check(object: &Value) -> Checked {
    range(object, "confidence")?;
    range(object, "x_opencti_score")?;
    match object["type"].as_str().unwrap_or_default() {
        "label" => label(object),
        "indicator" => indicator(object),
        "identity" | "malware" | "attack-pattern" | "location" => required(object, &["name"]),
        "report" => required(object, &["name", "published"]),
        "malware-analysis" => required(object, &["product", "result_name"]),
        "relationship" => required(object, &["relationship_type", "source_ref", "target_ref"]),
        "file" => file(object),
        "process" => observable(text(object, "command_line").is_some() || object["pid"].is_number()),
        "domain-name" => observable(text(object, "value").is_some_and(is_domain)),
        "email-addr" => observable(text(object, "value").is_some_and(is_email)),
        "ipv4-addr" => observable(text(object, "value").is_some_and(is_ipv4)),
        "ipv6-addr" => observable(text(object, "value").is_some_and(is_ipv6)),
        "url" => observable(text(object, "value").is_some()),
        "mutex" => observable(text(object, "name").is_some()),
        "windows-registry-key" => observable(text(object, "key").is_some()),
        "marking-definition" => Ok(()),
        other => Err(Refusal::functional(format!("Type {other} is not supported by this simulator"))),
    }
}

fn text<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object[name].as_str().filter(|text| !text.trim().is_empty())
}

fn observable(right: bool) -> Checked {
    if right { Ok(()) } else { Err(Refusal::functional("Observable is not correctly formatted")) }
}

fn required(object: &Value, names: &[&str]) -> Checked {
    match names.iter().find(|name| text(object, name).is_none()) {
        None => Ok(()),
        Some(name) => {
            Err(Refusal { name: "VALIDATION_ERROR", message: format!("Attribute {name} is mandatory") })
        }
    }
}

fn range(object: &Value, name: &str) -> Checked {
    match object.get(name) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if value.as_i64().is_some_and(|number| (0..=100).contains(&number)) => Ok(()),
        Some(value) => Err(Refusal::functional(format!("{name} must be between 0 and 100, not {value}"))),
    }
}

fn label(object: &Value) -> Checked {
    required(object, &["value"])?;
    // The worker reads `item["color"]`: a Python KeyError.
    if object.get("color").is_none() {
        return Err(Refusal { name: "KeyError", message: "color".to_owned() });
    }
    Ok(())
}

fn file(object: &Value) -> Checked {
    let lengths = [("MD5", 32), ("SHA-1", 40), ("SHA-256", 64), ("SHA-512", 128)];
    let hashes = object["hashes"].as_object();
    for (name, value) in hashes.into_iter().flatten() {
        let length = lengths.iter().find(|(known, _)| known == name).map(|(_, length)| *length);
        let value = value.as_str().unwrap_or_default();
        observable(!value.is_empty() && length.is_none_or(|length| is_hex(value, length)))?;
    }
    observable(hashes.is_some_and(|hashes| !hashes.is_empty()) || text(object, "name").is_some())?;
    // The platform's schema has a 32-bit integer here.
    match object.get("size") {
        None | Some(Value::Null) => Ok(()),
        Some(size) if size.as_i64().is_some_and(|size| i32::try_from(size).is_ok()) => Ok(()),
        Some(size) => Err(Refusal {
            name: "BAD_USER_INPUT",
            message: format!("Int cannot represent non 32-bit signed integer value: {size}"),
        }),
    }
}

fn is_hex(value: &str, length: usize) -> bool {
    value.len() == length && value.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_domain(value: &str) -> bool {
    let labels: Vec<&str> = value.split('.').collect();
    let is_label = |label: &&str| {
        !label.is_empty()
            && label.chars().count() <= 63
            && label.chars().all(|letter| letter.is_alphanumeric() || letter == '-' || letter == '_')
    };
    let top = labels.last().map_or(0, |label| label.chars().count());
    labels.len() > 1 && (2..=63).contains(&top) && labels.iter().all(is_label)
}

fn is_email(value: &str) -> bool {
    let Some((local, domain)) = value.rsplit_once('@') else { return false };
    let is_local = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~.-".contains(&byte);
    let parts_are_filled = local.split('.').all(|part| !part.is_empty());
    parts_are_filled && local.bytes().all(is_local) && domain.is_ascii() && is_domain(domain)
}

fn is_ipv4(value: &str) -> bool {
    let (address, prefix) = cidr(value);
    address.parse::<Ipv4Addr>().is_ok()
        && prefix.is_none_or(|bits| bits.parse().is_ok_and(|bits: u8| bits <= 32))
}

fn is_ipv6(value: &str) -> bool {
    let (address, prefix) = cidr(value);
    address.parse::<Ipv6Addr>().is_ok()
        && prefix.is_none_or(|bits| bits.parse().is_ok_and(|bits: u8| bits <= 128))
}

fn cidr(value: &str) -> (&str, Option<&str>) {
    value.split_once('/').map_or((value, None), |(address, prefix)| (address, Some(prefix)))
}

const MAIN_TYPES: [&str; 13] = [
    "StixFile",
    "File",
    "IPv4-Addr",
    "IPv6-Addr",
    "Domain-Name",
    "Url",
    "Email-Addr",
    "Mutex",
    "Process",
    "Windows-Registry-Key",
    "Hostname",
    "Unknown",
    "Artifact",
];

fn indicator(object: &Value) -> Checked {
    required(object, &["name", "pattern"])?;
    if let Some(main) = object["x_opencti_main_observable_type"].as_str()
        && !MAIN_TYPES.contains(&main)
    {
        return Err(Refusal::functional(format!("Observable type {main} is not supported.")));
    }
    let pattern = object["pattern"].as_str().unwrap_or_default();
    if object["pattern_type"].as_str().unwrap_or("stix") == "stix" && !is_pattern(pattern) {
        return Err(Refusal::functional("Indicator of type stix is not correctly formatted."));
    }
    let date =
        |name: &str| object[name].as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
    match (date("valid_from"), date("valid_until")) {
        (Some(from), Some(until)) if until < from => {
            Err(Refusal::functional("The valid until date must be greater than the valid from date"))
        }
        _ => Ok(()),
    }
}

/// Whether a STIX pattern is right as far as it can be told without a grammar: comparisons of `type:path = 'literal'` in
/// brackets, joined by operators; only `\\` and `\'` in literals; hashes of the right length.
pub(super) fn is_pattern(pattern: &str) -> bool {
    let Some((shape, literals)) = split_literals(pattern) else { return false };
    let mut depth = 0_i32;
    for letter in shape.chars() {
        depth += match letter {
            '[' => 1,
            ']' => -1,
            _ => 0,
        };
        if !(0..=1).contains(&depth) {
            return false;
        }
    }
    let expressions = shape.matches('[').count();
    depth == 0
        && expressions > 0
        && shape.trim_start().starts_with(['[', '('])
        && shape.matches(':').count() >= expressions
        && !literals.is_empty()
        && hashes_are_right(pattern)
}

/// The pattern with empty literals, and the literals. `None`: a literal does not end, or has a wrong escape.
fn split_literals(pattern: &str) -> Option<(String, Vec<String>)> {
    let (mut shape, mut literals) = (String::new(), Vec::new());
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '\'' {
            shape.push(letter);
            continue;
        }
        let mut literal = String::new();
        loop {
            match letters.next()? {
                '\'' => break,
                '\\' => match letters.next()? {
                    escaped @ ('\\' | '\'') => literal.push(escaped),
                    _ => return None,
                },
                other => literal.push(other),
            }
        }
        literals.push(literal);
    }
    Some((shape, literals))
}

fn hashes_are_right(pattern: &str) -> bool {
    let lengths =
        [("MD5", 32), ("SHA-1", 40), ("SHA1", 40), ("SHA-256", 64), ("SHA256", 64), ("SHA-512", 128)];
    pattern.split("file:hashes.").skip(1).all(|rest| {
        let Some((name, value)) = rest.split_once('=') else { return true };
        let name = name.trim().trim_matches('\'');
        let value = value.trim_start().trim_start_matches('\'').split('\'').next().unwrap_or_default();
        let length = lengths.iter().find(|(known, _)| *known == name).map(|(_, length)| *length);
        length.is_none_or(|length| is_hex(value, length))
    })
}

const NETWORK: [&str; 4] = ["domain-name", "ipv4-addr", "ipv6-addr", "url"];

/// Whether a relationship of this type may go from one kind to another.
pub(super) fn is_allowed(relation: &str, source: &str, target: &str) -> bool {
    let observable = ["file", "process", "email-addr", "mutex", "windows-registry-key"].contains(&target)
        || NETWORK.contains(&target);
    let address = ["ipv4-addr", "ipv6-addr"];
    match (relation, source) {
        ("related-to", _) => true,
        ("based-on", "indicator") => observable,
        ("indicates", "indicator") => [
            "malware",
            "attack-pattern",
            "infrastructure",
            "tool",
            "campaign",
            "intrusion-set",
            "threat-actor",
            "incident",
            "vulnerability",
        ]
        .contains(&target),
        ("derived-from", "indicator" | "file" | "url" | "malware") => target == source,
        ("resolves-to", "domain-name") => address.contains(&target) || target == "domain-name",
        ("located-at", "ipv4-addr" | "ipv6-addr" | "identity")
        | ("originates-from" | "targets", "malware") => target == "location",
        ("uses", "malware") => ["attack-pattern", "tool", "malware", "infrastructure"].contains(&target),
        ("uses", "file") | ("subtechnique-of", "attack-pattern") => target == "attack-pattern",
        ("communicates-with" | "drops" | "downloads", "malware") => {
            target == "file" || NETWORK.contains(&target)
        }
        ("drops" | "downloads" | "interpreted-by", "file") => target == "file",
        (
            "characterizes" | "analysis-of" | "static-analysis-of" | "dynamic-analysis-of",
            "malware-analysis",
        ) => target == "malware",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_platform_refused_is_refused() {
        let refused = [
            json!({"type": "domain-name", "value": "localhost"}),
            json!({"type": "domain-name", "value": "evil.test."}),
            json!({"type": "ipv4-addr", "value": "1.2.3.4:80"}),
            json!({"type": "email-addr", "value": "ö@example.com"}),
            json!({"type": "email-addr", "value": "\"a b\"@example.com"}),
            json!({"type": "file", "hashes": {"MD5": "abc"}}),
            json!({"type": "file", "name": "x", "size": 2_147_483_648_u64}),
            json!({"type": "file", "hashes": {}}),
            json!({"type": "url", "value": ""}),
            json!({"type": "label", "value": "x"}),
            json!({"type": "indicator", "name": "x", "pattern": "[windows-registry-key:key = 'HKLM\\Software']"}),
            json!({"type": "indicator", "name": "x", "pattern": "[url:value = 'it's']"}),
            json!({"type": "indicator", "name": "x", "pattern": "[file:hashes.MD5 = 'abc']"}),
            json!({"type": "malware", "name": "x", "confidence": 101}),
        ];
        for object in refused {
            assert!(check(&object).is_err(), "{object}");
        }
    }

    #[test]
    fn what_the_platform_took_is_taken() {
        let taken = [
            json!({"type": "domain-name", "value": "münchen.example"}),
            json!({"type": "domain-name", "value": "orig_under.example.org"}),
            json!({"type": "ipv4-addr", "value": "198.51.100.0/24"}),
            json!({"type": "email-addr", "value": "o'neil@example.com"}),
            json!({"type": "file", "name": "x", "size": 2_147_483_647}),
            json!({"type": "indicator", "name": "x", "pattern": "[mutex:name = 'Global\\\\{A1B2-\\'C\\'} [x]']"}),
        ];
        for object in taken {
            assert_eq!(check(&object), Ok(()), "{object}");
        }
    }

    #[test]
    fn relationships_follow_the_table() {
        assert!(is_allowed("drops", "file", "file"));
        assert!(!is_allowed("drops", "file", "url"));
        assert!(!is_allowed("located-at", "indicator", "location"));
        assert!(is_allowed("characterizes", "malware-analysis", "malware"));
    }
}
