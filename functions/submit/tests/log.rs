//! What the log holds of calls. Alone in its process, since a log belongs to a whole process.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::json;

use support::{Bridge, KEY, request};

mod support;

const POST: &str = "/v1/submissions?wait=0";

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_holds_a_key_a_body_or_the_path_of_a_url() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let bridge = Bridge::new().await;
    let options = json!({"comment": "secret-comment", "tags": ["secret-tag"]});
    let urls = [
        "http://a.example/secret-path?secret-query=1#secret-fragment",
        "http://secret-user:secret-password@a.example/",
        "http://10.0.0.1/secret-private",
        "secret-words, not a URL",
        "https://a.example/reset?token=secret-token",
    ];
    let body = json!({"urls": urls, "options": options}).to_string();
    let headers = [("x-api-key", KEY), ("idempotency-key", "secret-run")];
    let answer = bridge.send(request("POST", POST, &headers, body)).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    bridge.get(&format!("/v1/submissions/{}?fields=summary", answer.batch())).await;
    bridge.get("/v1/submissions/secret-batch").await;
    bridge.get("/secret-place?secret-query=2").await;
    bridge.post("/v1/check?secret-parameter=1", "secret-body").await;
    bridge
        .post(POST, r#"{"urls": ["http://a.example/"], "secret-member": 1, "options": {"secret-option": 1}}"#)
        .await;
    bridge.send(request("POST", POST, &[("x-api-key", "secret-key")], "secret")).await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("batch accepted") && log.contains("refused"), "{log}");
    let lines: Vec<_> = log
        .lines()
        .filter(|line| [KEY, "secret", "vmray-key"].iter().any(|word| line.contains(word)))
        .collect();
    assert_eq!(lines, [""; 0]);
}
