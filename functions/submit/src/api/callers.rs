//! Who may call. Keys come in and are never kept: the secret holds their SHA-256.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use super::http::Request;
use crate::calls::Caller;

/// Keys that one caller may have at the same time: the old one and the new one.
const MOST_KEYS: usize = 2;

/// A caller's name stands in log lines and in the store.
const LONGEST_NAME: usize = 64;

/// All callers, and their keys.
#[derive(Debug, Default)]
pub struct Callers {
    keys: Vec<([u8; 32], usize)>,
    callers: Vec<Caller>,
}

/// What the secret holds of a caller.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallerEntry {
    keys: Vec<String>,
    #[serde(default)]
    max_urls_per_request: Option<usize>,
    #[serde(default)]
    max_urls_per_day: Option<u64>,
}

impl Callers {
    /// Reads the JSON object under `callers`: `{"name": {"keys": ["<sha256 hex>"], "max_urls_per_request": 100,
    /// "max_urls_per_day": 5000}}`, the limits optional. The error says which caller is wrong, and quotes no key.
    pub fn read(callers: Option<&Value>) -> Result<Self, String> {
        let mut read = Self::default();
        for (name, entry) in callers.and_then(Value::as_object).into_iter().flatten() {
            read.add(name, entry).map_err(|problem| format!("`callers`, `{name}`: {problem}"))?;
        }
        Ok(read)
    }

    fn add(&mut self, name: &str, entry: &Value) -> Result<(), String> {
        let fits = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(fits) {
            return Err(format!("a name is 1 to {LONGEST_NAME} letters, digits, `-`, `_` or `.`"));
        }
        let entry = CallerEntry::deserialize(entry).map_err(|_| {
            "expected {\"keys\": [\"<sha256 hex>\"]}, and perhaps max_urls_per_request and max_urls_per_day"
                .to_owned()
        })?;
        if entry.keys.len() > MOST_KEYS {
            return Err(format!("more than {MOST_KEYS} keys"));
        }
        for key in &entry.keys {
            let hash = from_hex(key).ok_or("a key is not the SHA-256 of one, 64 hexadecimal digits")?;
            self.keys.push((hash, self.callers.len()));
        }
        self.callers.push(Caller {
            name: name.to_owned(),
            max_urls_per_request: entry.max_urls_per_request,
            max_urls_per_day: entry.max_urls_per_day,
        });
        Ok(())
    }

    /// Who shows one of these keys. Takes the same time for a right and a wrong one.
    #[must_use]
    pub fn find(&self, keys: &[String]) -> Option<&Caller> {
        let mut found = None;
        for key in keys {
            let shown: [u8; 32] = Sha256::digest(key.as_bytes()).into();
            for (hash, caller) in &self.keys {
                if bool::from(shown.ct_eq(hash)) && found.is_none() {
                    found = Some(*caller);
                }
            }
        }
        found.and_then(|caller| self.callers.get(caller))
    }

    /// Whether no caller has a key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim(), &mut bytes).ok()?;
    Some(bytes)
}

/// The keys that a request shows: in a header of its own, as a bearer token, or as the password of Basic.
#[must_use]
pub fn shown_keys(request: &Request) -> Vec<String> {
    let plain = ["x-api-key", "ph-auth-token"].into_iter().filter_map(|name| request.header(name));
    let mut keys: Vec<_> = plain.map(|key| key.trim().to_owned()).collect();
    keys.extend(request.header("authorization").and_then(key_of_authorization));
    keys.retain(|key| !key.is_empty());
    keys
}

fn key_of_authorization(value: &str) -> Option<String> {
    let (scheme, rest) = value.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(rest).ok()?).ok()?;
    decoded.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hash::sha256;
    use crate::settings::SubmitLimits;

    fn request(header: &str, value: &str) -> Request {
        Request { headers: vec![(header.to_owned(), value.to_owned())], ..Request::default() }
    }

    #[test]
    fn both_keys_of_a_caller_are_good_during_a_rotation() {
        let secret = json!({"soar": {"keys": [sha256("old-key"), sha256("new-key").to_uppercase()]}, "other": {"keys": []}});
        let callers = Callers::read(Some(&secret)).unwrap();
        for key in ["old-key", "new-key"] {
            assert_eq!(callers.find(&[key.to_owned()]).unwrap().name, "soar");
        }
        assert_eq!(callers.find(&["no-key".to_owned(), String::new()]), None);
        assert_eq!(callers.find(&[sha256("old-key")]), None, "a hash is no key");
    }

    #[test]
    fn a_key_comes_as_every_product_can_send_it() {
        let basic = format!("Basic {}", BASE64_STANDARD.encode("soar:k:1"));
        for (header, value, key) in [
            ("x-api-key", "k1", "k1"),
            ("ph-auth-token", " k1 ", "k1"),
            ("authorization", "Bearer k1", "k1"),
            ("authorization", "bearer  k1", "k1"),
            ("authorization", basic.as_str(), "k:1"),
        ] {
            assert_eq!(shown_keys(&request(header, value)), [key], "{header}: {value}");
        }
        for (header, value) in
            [("authorization", "Basic ???"), ("authorization", "k1"), ("x-api-key", " "), ("cookie", "k1")]
        {
            assert!(shown_keys(&request(header, value)).is_empty(), "{header}: {value}");
        }
    }

    #[test]
    fn a_wrong_caller_is_named_and_no_key_is_quoted() {
        for wrong in [
            json!({"soar": {"keys": ["plain-text-key"]}}),
            json!({"soar": {"keys": [sha256("1"), sha256("2"), sha256("3")]}}),
            json!({"soar": {"keys": [], "limit": 5}}),
            json!({"so ar": {"keys": []}}),
        ] {
            let problem = Callers::read(Some(&wrong)).unwrap_err();
            assert!(problem.contains("ar`") && !problem.contains("plain-text-key"), "{problem}");
        }
    }

    #[test]
    fn a_caller_has_its_own_limits_inside_the_deployments() {
        let secret =
            json!({"soar": {"keys": [sha256("k")], "max_urls_per_request": 5000, "max_urls_per_day": 50000}});
        let callers = Callers::read(Some(&secret)).unwrap();
        let caller = callers.find(&["k".to_owned()]).unwrap();
        let limits = SubmitLimits { urls_per_request: 1000, urls_per_caller_day: 20_000 };
        assert_eq!((caller.urls_per_request(&limits), caller.urls_per_day(&limits)), (1000, 50_000));
    }
}
