//! Calls that are wrong, settings that are wrong, and an AWS that is down: the right problem, and nothing sent.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end::http_api::{HttpRequest, HttpResponse};
use end_to_end::submit::{
    CALLER_KEY, OTHER_CALLER_KEY, PATH, QUERY, VMRAY_KEY, World, ask, authorized, secret, url,
};
use serde_json::{Value, json};
use simulators::faults::Fault;
use simulators::vmray::submit::SubmitOptions;

use crate::scene::{Scene, counts, each, event, problem, submission, urls};

fn raw(body: impl Into<Vec<u8>>) -> HttpRequest {
    HttpRequest::new("POST", "/v1/submissions?wait=0").header("content-type", "application/json").body(body)
}

#[tokio::test]
async fn a_call_that_is_wrong_is_refused_by_its_kind_and_nothing_is_sent() {
    let scene = Scene::with(SubmitOptions::default(), &[("MAX_URLS_PER_REQUEST", "10000")]).await;
    let many: Vec<_> = (0..10_001).map(|n| format!("http://h{n}.example/")).collect();
    let deep = format!("{{\"urls\": {}{}}}", "[".repeat(64), "]".repeat(64));
    let with = |options: Value| submission(&json!({"urls": [url("a")], "options": options}));
    let cases = [
        (HttpRequest::new("POST", "/v1/submissions"), 400, "empty-body"),
        (raw(" \n"), 400, "empty-body"),
        (raw(format!("{{\"urls\": [\"{}\"]}}", "x".repeat(7_000_000))), 413, "body-too-large"),
        (raw(format!("{{\"urls\": [\"{}\",]", url("a"))), 400, "not-json"),
        (raw(format!("{{'urls': ['{}']}}", url("a"))), 400, "not-json"),
        (raw([0x7b, 0xff, 0x7d]), 400, "not-json"),
        (raw(deep), 400, "invalid-body"),
        (raw("{\"urls\": {\"a\": 1}}"), 400, "invalid-body"),
        (raw("{\"url_list\": []}"), 400, "invalid-body"),
        (submission(&json!({"urls": many})), 413, "too-many-urls"),
        (with(json!({"forse": true})), 400, "invalid-options"),
        (with(json!({"tags": "two words"})), 400, "invalid-options"),
        (with(json!({"retention_days": 61})), 400, "invalid-options"),
        (with(json!({"shareable": true})), 400, "invalid-options"),
        (raw("{}").header("content-encoding", "gzip"), 415, "unsupported-media-type"),
        (
            HttpRequest::new("POST", "/v1/submissions").header("content-type", "image/png").body("x"),
            415,
            "unsupported-media-type",
        ),
        (HttpRequest::post("/v1/submissions?wait=26", &urls(&["a"])), 400, "invalid-parameter"),
        (submission(&urls(&["a"])).header("idempotency-key", &"x".repeat(300)), 400, "invalid-parameter"),
        (HttpRequest::get("/v1/submissions"), 400, "invalid-parameter"),
        (HttpRequest::get("/v1/submissions/not-a-batch"), 404, "no-such-batch"),
        (HttpRequest::get("/wp-admin"), 404, "not-found"),
        (HttpRequest::new("DELETE", "/v1/submissions"), 405, "method-not-allowed"),
    ];
    for (request, status, kind) in cases {
        let response = scene.ask(request).await;
        assert_eq!(problem(&response), (status, kind.to_owned()), "{response:?}");
    }
    assert_eq!((scene.world.queue().sent(), scene.batches().await), (Vec::new(), 0));
    let unknown = scene.ask(with(json!({"forse": true, "tags": "two words"}))).await.json();
    let pointers: Vec<_> = unknown["errors"].as_array().unwrap().iter().map(|it| &it["pointer"]).collect();
    assert_eq!(pointers.len(), 2, "everything that is wrong at once: {unknown}");
    assert!(pointers.contains(&&json!("/options/forse")), "{unknown}");
}

#[tokio::test]
async fn strange_urls_are_refused_one_by_one_and_shown_in_no_log() {
    let scene = Scene::new().await;
    let long = format!("http://long.example/{PATH}/{}", "a".repeat(1_000_000));
    let token =
        format!("https://app.example/{PATH}/reset-password?token=3f2504e04f8911d39a0c0305e82c3301&{QUERY}");
    let inputs = [
        long,
        format!("http://nul.example/{PATH}/\u{0}?{QUERY}"),
        format!("http://192.168.1.1/{PATH}?{QUERY}"),
        format!("http://[::ffff:10.0.0.1]/{PATH}?{QUERY}"),
        format!("ftp://files.example/{PATH}?{QUERY}"),
        format!("http://\u{202e}elpmaxe.live/{PATH}?{QUERY}"),
        token.clone(),
        format!("mailto:{PATH}@customer.example?{QUERY}"),
    ];
    let answer = scene.submit(&json!({"urls": inputs})).await;
    let codes = each(&answer, "error_code");
    assert_eq!(
        (codes[0], codes[2], codes[3]),
        (&json!("too_long"), &json!("private_host"), &json!("private_host"))
    );
    assert_eq!((codes[4], codes[6]), (&json!("unsupported_scheme"), &json!("sensitive_token")), "{codes:?}");
    let shown = answer["results"][0]["input"].as_str().unwrap();
    assert!(shown.chars().count() <= 256, "{} characters of a refused text", shown.len());
    let stored = json!(scene.world.aws.documents().await).to_string();
    assert!(!stored.contains("3f2504e0"), "a token is not kept");
    assert_eq!(answer["results"][6]["input"], token, "its sender may see what was refused");
    assert_eq!(scene.look(&answer).await["results"][6]["input"], Value::Null, "nobody later");
    scene.work_later().await;
}

#[tokio::test]
async fn an_email_address_in_a_url_is_sent_and_not_logged() {
    let mut scene = Scene::with(SubmitOptions::default(), &[("CONNECTOR_LOG_LEVEL", "debug")]).await;
    let phishing = format!("http://evil.example/{PATH}?{QUERY}&email=jane.doe@customer.example");
    let batch = scene.submit(&json!({"urls": [phishing]})).await;
    scene.world.vmray.faults().add(Fault::on(crate::scene::POST).once().status_after_handling(502));
    scene.work().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 1}));
    assert_eq!(scene.world.vmray.posts_of(&phishing), 1);
    for process in [&mut scene.api, &mut scene.worker] {
        assert!(!process.stdout().contains("jane.doe"), "{}", process.stdout());
    }
}

#[tokio::test]
async fn only_a_callers_key_opens_the_api() {
    let scene = Scene::new().await;
    let body = urls(&["a"]);
    let with = |name: &str, value: &str| submission(&body).header(name, value);
    let basic = |password: &str| format!("Basic {}", STANDARD.encode(format!("soar:{password}")));
    for request in [
        submission(&body),
        with("x-api-key", "wrong"),
        with("authorization", "Bearer wrong"),
        with("authorization", &basic("wrong")),
        with("x-api-key", VMRAY_KEY),
        HttpRequest::get("/v1/submissions/00000000-0000-4000-8000-000000000000"),
        HttpRequest::post("/v1/check", &body),
    ] {
        let response = ask(&scene.api, &request).await;
        assert_eq!(problem(&response), (401, "unauthorized".to_owned()));
        assert!(response.headers.contains_key("www-authenticate"), "{response:?}");
    }
    assert_eq!(scene.batches().await, 0);
    for request in [
        with("X-Api-Key", CALLER_KEY),
        with("ph-auth-token", CALLER_KEY),
        with("authorization", &format!("Bearer {CALLER_KEY}")),
        with("authorization", &basic(CALLER_KEY)),
    ] {
        assert_eq!(ask(&scene.api, &request).await.status, 202);
    }
    let health = ask(&scene.api, &HttpRequest::get("/health")).await;
    assert_eq!((health.status, health.json()), (200, json!({"status": "ok"})), "nothing is revealed");
    let contract = ask(&scene.api, &HttpRequest::get("/openapi.json")).await;
    assert_eq!((contract.status, &contract.json()["openapi"].as_str().unwrap()[..3]), (200, "3.1"));
}

#[tokio::test]
async fn a_new_key_is_good_at_once_and_a_revoked_one_no_more_after_a_cold_start() {
    let mut scene = Scene::new().await;
    let hash = |key: &str| simulators::estate::Hashes::of(key).sha256;
    let mut members = secret(VMRAY_KEY);
    members["callers"] = json!({"soar": {"keys": [hash("a-new-key")]}});
    scene.world.aws.rotate_secret(&members).await;
    let new = submission(&urls(&["a"])).header("x-api-key", "a-new-key");
    assert_eq!(ask(&scene.api, &new).await.status, 202, "an unknown key may be a new one");
    for process in ["warm", "cold"] {
        for key in [CALLER_KEY, OTHER_CALLER_KEY] {
            let old = submission(&urls(&["a"])).header("x-api-key", key);
            assert_eq!(ask(&scene.api, &old).await.status, 401, "{process}");
        }
        scene.api = scene.world.api().await;
    }
}

#[tokio::test]
async fn a_body_in_base64_is_read_as_what_it_is() {
    let scene = Scene::new().await;
    let request = raw(urls(&["a"]).to_string()).base64();
    assert_eq!(scene.ask(request).await.status, 202);
    let csv = HttpRequest::new("POST", "/v1/submissions?wait=0").header("content-type", "text/csv").base64();
    let answer = scene.ask(csv.body(format!("{}\n{}\n", url("b"), url("c")))).await;
    assert_eq!(counts(&answer.json()), json!({"pending": 2}));
    scene.work_later().await;
    scene.each_was_sent_once(&["a", "b", "c"]);
}

#[tokio::test]
async fn wrong_settings_are_all_named_in_the_log_and_every_event_is_answered() {
    let mut world = World::new(SubmitOptions::default()).await;
    let wrong = [
        ("VMRAY_SERVER", "not a url"),
        ("LEDGER_SCOPE", "me"),
        ("REUSE_WINDOW", "a week"),
        ("SUBMIT_TAGS", "two words"),
    ];
    for (name, text) in wrong {
        world.set(name, text);
    }
    let (api, worker) = (world.api().await, world.worker().await);
    for request in [submission(&urls(&["a"])), HttpRequest::get("/health"), HttpRequest::get("/")] {
        let response = ask(&api, &authorized(request)).await;
        assert_eq!(problem(&response), (500, "misconfigured".to_owned()));
    }
    for (name, _) in wrong {
        assert!(api.stdout().contains(name), "{name}: {}", api.stdout());
    }
    world.queue().send("{\"kind\":\"guard\",\"batch\":\"b\"}").await;
    let messages = world.queue().receive(1, Duration::from_secs(1)).await;
    let (kind, _) = worker.invoke(world.queue().event(&[&messages[0]]), Duration::from_mins(1)).await.error();
    assert_eq!(kind, "SettingsError", "the message stays where it is");
}

#[tokio::test]
async fn a_wrong_list_of_hosts_lets_nothing_through() {
    let scene = Scene::with(SubmitOptions::default(), &[("DENY", "10.0.0.0/99")]).await;
    let response = scene.ask(submission(&urls(&["a"]))).await;
    assert_eq!(problem(&response), (500, "misconfigured".to_owned()));
    assert!(scene.api.stdout().contains("DENY"), "{}", scene.api.stdout());
}

/// Nothing was accepted: send it again.
fn is_unavailable(response: &HttpResponse) {
    assert_eq!(problem(response), (503, "unavailable".to_owned()));
    assert_eq!(response.headers["retry-after"], "5");
}

#[tokio::test]
async fn without_the_table_or_the_queue_a_call_is_told_to_come_again_and_does() {
    let scene = Scene::new().await;
    scene.world.aws.dynamodb_faults().add(Fault::any().status(500));
    is_unavailable(&scene.ask(submission(&urls(&["a"]))).await);
    scene.world.aws.dynamodb_faults().clear();
    scene.world.queue().faults().add(Fault::any().status(500));
    is_unavailable(&scene.ask(submission(&urls(&["a"]))).await);
    assert_eq!(scene.batches().await, 0, "what nobody looks after is not accepted");
    scene.world.queue().faults().clear();
    assert_eq!(scene.ask(submission(&urls(&["a"]))).await.status, 202);
    scene.work_later().await;
    scene.each_was_sent_once(&["a"]);
    let printed = crate::scene::metrics(&scene.api);
    assert_eq!(printed["RequestsFailed"], 0);
}

#[tokio::test]
async fn a_table_that_hangs_is_not_waited_for_beyond_the_deadline() {
    let scene = Scene::new().await;
    scene.world.aws.dynamodb_faults().add(Fault::any().hang());
    let limit = Duration::from_secs(4);
    // An answer after the limit fails the test.
    let answer = scene.api.invoke(event(&urls(&["a"])), limit).await.answer();
    is_unavailable(&HttpResponse::read(&answer));
}

#[tokio::test]
async fn a_worker_whose_time_ends_leaves_the_rest_to_the_next_one() {
    let scene = Scene::with(SubmitOptions::default(), &[("SUBMIT_CONCURRENCY", "1")]).await;
    scene.world.vmray.faults().add(Fault::on(crate::scene::POST).delay(Duration::from_millis(700)));
    let hosts = ["a", "b", "c", "d", "e", "f"];
    let batch = scene.submit(&urls(&hosts)).await;
    let message = scene.message().await;
    let short = Duration::from_secs(4);
    let deliveries =
        end_to_end::event_source::deliver(scene.world.queue(), &scene.worker, &[&message], short).await;
    assert_eq!(deliveries[0].failure, None, "it has sent a message for the rest");
    let sent = scene.world.vmray.submits().len();
    assert!((1..6).contains(&sent), "{sent}");
    scene.world.vmray.faults().clear();
    scene.work_it_off().await;
    scene.each_was_sent_once(&hosts);
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 6}));
}
