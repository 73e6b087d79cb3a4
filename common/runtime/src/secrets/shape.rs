//! From what a source holds to [`Keys`]: the JSON shape, trimming, and what a key may consist of.

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::{Keys, SecretsError};

/// Reads a secret's JSON text. Members that are not ours are passed over: one secret may serve both functions.
pub(super) fn keys_from_json(origin: &str, text: &str) -> Result<Keys, SecretsError> {
    let malformed = |problem: String| SecretsError::Malformed { origin: origin.to_owned(), problem };
    // serde's own message is left out on purpose: it may quote the text.
    let value: Value = serde_json::from_str(text)
        .map_err(|error| malformed(format!("not JSON (line {}, column {})", error.line(), error.column())))?;
    let Value::Object(mut members) = value else {
        return Err(malformed("not a JSON object".to_owned()));
    };
    let read = |members: &mut Map<String, Value>| -> Result<Keys, String> {
        Ok(Keys {
            vmray_api_key: text_member(members, "vmray_api_key")?
                .map(|k| key("vmray_api_key", &k))
                .transpose()?,
            opencti_token: text_member(members, "opencti_token")?
                .map(|k| key("opencti_token", &k))
                .transpose()?,
            callers: callers("callers", members.remove("callers"))?,
            ca_bundle: text_member(members, "ca_bundle")?,
            own_domains: list_member(members, "own_domains")?,
            deny: list_member(members, "deny")?,
            origin: origin.to_owned(),
        })
    };
    read(&mut members).map_err(malformed)
}

/// A key as it may be sent in an HTTP header: trimmed, visible ASCII. `name` is said when it is not.
pub(super) fn key(name: &str, text: &str) -> Result<SecretString, String> {
    let text = text.trim();
    if text.chars().any(char::is_control) {
        return Err(format!("`{name}` has a control character (a line break?) inside"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("`{name}` has a space or a character that is not ASCII inside"));
    }
    Ok(SecretString::from(text.to_owned()))
}

/// The callers as they were written; `submit` knows what is inside.
pub(super) fn callers(name: &str, value: Option<Value>) -> Result<Option<Value>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value @ Value::Object(_)) => Ok(Some(value)),
        Some(_) => Err(format!("`{name}` is not a JSON object")),
    }
}

/// A text, `None` when absent or blank.
fn text_member(members: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match members.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        Some(_) => Err(format!("`{name}` is not a string")),
    }
}

fn list_member(members: &mut Map<String, Value>, name: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("`{name}` is not a list of strings");
    let items = match members.remove(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(wrong()),
    };
    items
        .into_iter()
        .map(|item| match item {
            Value::String(text) => Ok(text.trim().to_owned()),
            _ => Err(wrong()),
        })
        .filter(|item| item.as_ref().map_or(true, |text| !text.is_empty()))
        .collect()
}
