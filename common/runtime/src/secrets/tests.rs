use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::*;

const VMRAY: &str = "vmray-key-hunter2";
const OPENCTI: &str = "opencti-token-hunter2";

/// A source that holds JSON text, which a test may change, and counts how often it is read.
#[derive(Clone, Default)]
struct Vault {
    text: Arc<Mutex<String>>,
    reads: Arc<AtomicUsize>,
}

impl Vault {
    fn holding(text: &str) -> (Self, Secrets) {
        let vault = Self::default();
        vault.set(text);
        (vault.clone(), Secrets::new(Box::new(vault)))
    }

    fn set(&self, text: &str) {
        text.clone_into(&mut self.text.lock().unwrap());
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl SecretSource for Vault {
    async fn read(&self) -> Result<Keys, SecretsError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        // As a network would: give others the chance to ask meanwhile.
        tokio::task::yield_now().await;
        Keys::from_json("the vault", &self.text.lock().unwrap())
    }
}

fn vmray_of(keys: &Keys) -> String {
    keys.vmray().unwrap().expose_secret().to_owned()
}

fn json_with(member: &str, value: &str) -> String {
    format!(r#"{{"vmray_api_key": "{VMRAY}", "{member}": {value}}}"#)
}

#[test]
fn a_whole_secret_is_read() {
    let text = format!(
        r#"{{"vmray_api_key": "{VMRAY}", "opencti_token": "{OPENCTI}", "callers": {{"soar": {{"keys": []}}}},
            "ca_bundle": "-----BEGIN", "own_domains": ["a.example", " b.example "], "deny": ["10.0.0.0/8", ""], "x": 1}}"#
    );
    let keys = Keys::from_json("s", &text).unwrap();
    assert_eq!(vmray_of(&keys), VMRAY);
    assert_eq!(keys.opencti().unwrap().expose_secret(), OPENCTI);
    assert_eq!(keys.callers, Some(serde_json::json!({"soar": {"keys": []}})));
    assert_eq!(keys.ca_bundle.as_deref(), Some("-----BEGIN"));
    assert_eq!(keys.own_domains, ["a.example", "b.example"]);
    assert_eq!(keys.deny, ["10.0.0.0/8"]);
}

#[test]
fn white_space_around_a_key_is_cut_off() {
    let keys = Keys::from_json("s", r#"{"vmray_api_key": " abc\n"}"#).unwrap();
    assert_eq!(vmray_of(&keys), "abc");
}

#[test]
fn a_missing_or_blank_key_is_named_with_its_place() {
    for text in ["{}", r#"{"vmray_api_key": null}"#, r#"{"vmray_api_key": " \n"}"#] {
        let keys = Keys::from_json("arn:x", text).unwrap();
        let message = keys.vmray().unwrap_err().to_string();
        assert!(message.contains("vmray_api_key") && message.contains("arn:x"), "{message}");
    }
}

#[test]
fn a_wrong_shape_is_named_and_no_value_shown() {
    for (text, expected) in [
        (format!("{VMRAY} is no JSON"), "not JSON"),
        (format!(r#"["{VMRAY}"]"#), "not a JSON object"),
        (json_with("opencti_token", r#"["hunter2"]"#), "`opencti_token` is not a string"),
        (json_with("opencti_token", r#""hun\nter2""#), "`opencti_token` has a control character"),
        (json_with("opencti_token", r#""hunter2 hunter2""#), "`opencti_token` has a space"),
        (json_with("opencti_token", r#""hünter2""#), "`opencti_token` has a space or a character"),
        (json_with("callers", r#""hunter2""#), "`callers` is not a JSON object"),
        (json_with("ca_bundle", "2"), "`ca_bundle` is not a string"),
        (json_with("own_domains", r#""hunter2""#), "`own_domains` is not a list"),
        (json_with("deny", r#"["hunter2", 2]"#), "`deny` is not a list"),
    ] {
        let error = Keys::from_json("arn:x", &text).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(expected) && shown.contains("arn:x"), "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("nter2"), "{shown}");
    }
}

#[tokio::test]
async fn debug_shows_no_key() {
    let text = format!(
        r#"{{"vmray_api_key": "{VMRAY}", "opencti_token": "{OPENCTI}", "callers": {{"hunter2": 1}}, "ca_bundle": "hunter2",
            "own_domains": ["hunter2.example"]}}"#
    );
    let (_, secrets) = Vault::holding(&text);
    let shown = format!("{:?} {secrets:?}", secrets.keys().await.unwrap());
    assert!(shown.contains("REDACTED") && !shown.contains("hunter2"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn keys_are_kept_for_five_minutes() {
    let (vault, secrets) = Vault::holding(r#"{"vmray_api_key": "old"}"#);
    secrets.keys().await.unwrap();
    vault.set(r#"{"vmray_api_key": "new"}"#);
    tokio::time::advance(Duration::from_secs(299)).await;
    assert_eq!(vmray_of(&secrets.keys().await.unwrap()), "old");
    assert_eq!(vault.reads(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(vmray_of(&secrets.keys().await.unwrap()), "new");
    assert_eq!(vault.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_that_lack_a_needed_one_are_read_again_at_once() {
    let (vault, secrets) = Vault::holding(r#"{"vmray_api_key": "v", "opencti_token": " "}"#);
    let secrets = secrets.keeping(Keys::suffice_for_ingest);
    assert!(secrets.keys().await.unwrap().opencti().is_err());
    vault.set(r#"{"vmray_api_key": "v", "opencti_token": "o"}"#);
    assert!(secrets.keys().await.unwrap().opencti().is_ok());
    secrets.keys().await.unwrap();
    assert_eq!(vault.reads(), 2, "a complete set is kept");
}

#[test]
fn what_each_function_needs_is_known() {
    for (text, ingest, submit) in [
        (r#"{"vmray_api_key": "", "opencti_token": ""}"#, false, false),
        (r#"{"vmray_api_key": "v", "opencti_token": ""}"#, false, false),
        (r#"{"vmray_api_key": "v", "opencti_token": "o"}"#, true, false),
        (r#"{"vmray_api_key": "v", "callers": {}}"#, false, false),
        (r#"{"vmray_api_key": "", "callers": {"soar": {}}}"#, false, false),
        (r#"{"vmray_api_key": "v", "callers": {"soar": {}}}"#, false, true),
    ] {
        let keys = Keys::from_json("s", text).unwrap();
        assert_eq!((keys.suffice_for_ingest(), keys.suffice_for_submit()), (ingest, submit), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_is_read_again_once() {
    let (vault, secrets) = Vault::holding(r#"{"vmray_api_key": "old"}"#);
    let old = secrets.keys().await.unwrap();
    vault.set(r#"{"vmray_api_key": "new"}"#);
    assert!(secrets.reread(&old).await.unwrap());
    assert_eq!(vmray_of(&secrets.keys().await.unwrap()), "new");
    assert!(secrets.reread(&old).await.unwrap(), "another request that still had the old key");
    assert_eq!(vault.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn unchanged_keys_are_not_read_again_for_half_a_minute() {
    let (vault, secrets) = Vault::holding(r#"{"vmray_api_key": "old"}"#);
    let old = secrets.keys().await.unwrap();
    let all = futures::future::join_all((0..16).map(|_| secrets.reread(&old))).await;
    assert!(all.into_iter().all(|changed| !changed.unwrap()));
    assert_eq!(vault.reads(), 2, "sixteen requests refused at once ask once");
    vault.set(r#"{"vmray_api_key": "new"}"#);
    tokio::time::advance(Duration::from_secs(29)).await;
    assert!(!secrets.reread(&old).await.unwrap());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(secrets.reread(&old).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_change_is_noticed() {
    let base = r#""vmray_api_key": "v", "opencti_token": "o""#;
    for change in [
        r#"{"vmray_api_key": "v2", "opencti_token": "o"}"#.to_owned(),
        r#"{"vmray_api_key": "v", "opencti_token": "o2"}"#.to_owned(),
        r#"{"vmray_api_key": "v"}"#.to_owned(),
        format!(r#"{{{base}, "callers": {{"a": {{}}}}}}"#),
        format!(r#"{{{base}, "ca_bundle": "x"}}"#),
        format!(r#"{{{base}, "own_domains": ["x"]}}"#),
        format!(r#"{{{base}, "deny": ["x"]}}"#),
    ] {
        let (vault, secrets) = Vault::holding(&format!("{{{base}}}"));
        let old = secrets.keys().await.unwrap();
        vault.set(&change);
        assert!(secrets.reread(&old).await.unwrap(), "{change}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_read_again_are_not_used_on() {
    let (vault, secrets) = Vault::holding(r#"{"vmray_api_key": "old"}"#);
    secrets.keys().await.unwrap();
    vault.set("gone");
    tokio::time::advance(Duration::from_mins(5)).await;
    assert!(secrets.keys().await.is_err());
    vault.set(r#"{"vmray_api_key": "new"}"#);
    assert_eq!(vmray_of(&secrets.keys().await.unwrap()), "new");
}

#[tokio::test]
async fn the_environment_has_the_same_keys_under_other_names() {
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("ca.pem");
    std::fs::write(&pem, "-----BEGIN CERTIFICATE-----").unwrap();
    let pem = pem.to_str().unwrap().to_owned();
    let secrets = Secrets::from_environment(move |name| match name {
        "VMRAY_API_KEY" => Some(format!("{VMRAY}\n")),
        "OPENCTI_TOKEN" => Some("  ".to_owned()),
        "CA_BUNDLE" => Some(pem.clone()),
        "CALLERS" => Some(r#"{"soar": {"keys": []}}"#.to_owned()),
        _ => None,
    });
    let keys = secrets.keys().await.unwrap();
    assert_eq!(vmray_of(&keys), VMRAY);
    assert_eq!(keys.ca_bundle.as_deref(), Some("-----BEGIN CERTIFICATE-----"));
    assert!(keys.callers.is_some());
    let message = keys.opencti().unwrap_err().to_string();
    assert!(message.contains("OPENCTI_TOKEN") && message.contains("the environment"), "{message}");
    assert!(!secrets.reread(&keys).await.unwrap());
}

#[tokio::test]
async fn a_wrong_variable_is_named_and_not_shown() {
    for (name, text, expected) in [
        ("VMRAY_API_KEY", "hunter2\u{7}hunter2", "`VMRAY_API_KEY` has a control character"),
        ("CALLERS", "hunter2", "`CALLERS` is not JSON"),
        ("CALLERS", "[]", "`CALLERS` is not a JSON object"),
        ("CA_BUNDLE", "/nowhere/ca.pem", "`CA_BUNDLE`: cannot read the file /nowhere/ca.pem"),
    ] {
        let secrets = Secrets::from_environment(move |asked| (asked == name).then(|| text.to_owned()));
        let error = secrets.keys().await.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}
