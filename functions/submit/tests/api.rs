//! What callers get from a wrong world: wrong keys, wrong bodies, too much of everything, and repeats.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::future::join_all;
use serde_json::{Value, json};

use support::stage::{Stage, requests_of};
use support::{Answer, Bridge, KEY, NO_BATCH, OTHER_KEY, SMALL_CALL, SMALL_DAY, SMALL_KEY, request};

mod support;

const SUBMIT: &str = "/v1/submissions?wait=0";

async fn post_as(bridge: &Bridge, key: &str, body: &str) -> Answer {
    bridge.send(request("POST", SUBMIT, &[("x-api-key", key)], body)).await
}

async fn post_with_key(bridge: &Bridge, idempotency_key: &str, body: &str) -> Answer {
    let headers = [("x-api-key", KEY), ("idempotency-key", idempotency_key)];
    bridge.send(request("POST", SUBMIT, &headers, body)).await
}

fn assert_problem(answer: &Answer, status: u16, problem: &str) {
    assert_eq!((answer.status, answer.problem()), (status, problem), "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
}

/// The answer about one URL: its `error_code`, or else its status.
async fn told_of(bridge: &Bridge, url: &str) -> String {
    let answer = bridge.post(SUBMIT, json!({"urls": [url]}).to_string()).await;
    answer.codes()[0].to_owned()
}

#[tokio::test]
async fn a_key_comes_in_four_ways_and_nothing_else_is_one() {
    let bridge = Bridge::new().await;
    let bearer = format!("Bearer {KEY}");
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("anybody:{KEY}")));
    let ways = [
        ("x-api-key", KEY),
        ("ph-auth-token", KEY),
        ("authorization", bearer.as_str()),
        ("authorization", basic.as_str()),
    ];
    for (header, value) in ways {
        let answer = bridge.send(request("POST", "/v1/check", &[(header, value)], "http://a.example/")).await;
        assert_eq!(answer.status, 200, "{header}: {}", answer.text);
    }
    let as_user = format!("Basic {}", BASE64_STANDARD.encode(format!("{KEY}:")));
    let cut = &KEY[..KEY.len() - 1];
    let wrong = [
        ("x-api-key", "wrong"),
        ("x-api-key", ""),
        ("x-api-key", cut),
        ("x-auth-token", KEY),
        ("authorization", KEY),
        ("authorization", as_user.as_str()),
        ("authorization", "Basic \u{fffd}"),
        ("authorization", "Bearer"),
    ];
    for (header, value) in wrong {
        for target in ["/v1/check", "/v1/submissions"] {
            let answer = bridge.send(request("POST", target, &[(header, value)], "http://a.example/")).await;
            assert_problem(&answer, 401, "unauthorized");
            assert!(answer.header("www-authenticate").is_some());
            assert!(value.len() < 6 || !answer.text.contains(value), "{}", answer.text);
        }
    }
    let in_query = format!("/v1/submissions?ids={NO_BATCH}&x-api-key={KEY}");
    assert_problem(&bridge.send(request("GET", &in_query, &[], "")).await, 401, "unauthorized");
}

#[tokio::test]
async fn a_body_that_cannot_be_understood_is_refused_as_a_whole() {
    let bridge = Bridge::new().await;
    let deep = "[".repeat(100_000);
    let nested = format!("{}{}", "[".repeat(33), "]".repeat(33));
    let bodies: [(&str, u16, &str); 16] = [
        ("", 400, "empty-body"),
        (" \r\n\t", 400, "empty-body"),
        ("\u{feff}", 400, "empty-body"),
        (r#"{"urls": ["http://a.example/""#, 400, "not-json"),
        ("{'urls': ['http://a.example/']}", 400, "not-json"),
        ("just some words", 400, "not-json"),
        ("\u{0}\u{0}", 400, "not-json"),
        ("[]", 400, "invalid-body"),
        ("{}", 400, "invalid-body"),
        ("7", 400, "invalid-body"),
        (r#"{"urls": 7}"#, 400, "invalid-body"),
        (r#"{"urls": [null, true, 1, ["http://a.example/"]]}"#, 400, "invalid-body"),
        (r#"{"urls": ["http://a.example/"], "force": true}"#, 400, "invalid-body"),
        (r#"{"urls": ["http://a.example/"], "urls": []}"#, 400, "invalid-body"),
        (&deep, 400, "invalid-body"),
        (&nested, 400, "invalid-body"),
    ];
    for (body, status, problem) in bodies {
        for target in [SUBMIT, "/v1/check"] {
            let answer = bridge.post(target, body).await;
            assert_eq!((answer.status, answer.problem()), (status, problem), "{:.60}: {}", body, answer.text);
        }
    }
    let not_utf8 = bridge.post(SUBMIT, b"http://a.example/\xff".to_vec()).await;
    assert_problem(&not_utf8, 400, "not-json");
    let misplaced = bridge.post(SUBMIT, r#"{"urls": ["http://a.example/"], "force": true}"#).await;
    assert_eq!(misplaced.json["errors"][0]["pointer"], "/force");
}

#[tokio::test]
async fn too_much_is_refused_before_anything_is_done_with_it() {
    let bridge = Bridge::new().await;
    let large = json!({"urls": ["x".repeat(7 * 1024 * 1024)]}).to_string();
    assert_problem(&bridge.post(SUBMIT, large).await, 413, "body-too-large");
    let many = |count: usize| {
        let urls: Vec<_> = (0..count).map(|number| format!("http://10.0.0.1/{number}")).collect();
        json!({ "urls": urls }).to_string()
    };
    assert_problem(&bridge.post(SUBMIT, many(1001)).await, 413, "too-many-urls");
    let generous = Bridge::with(&[("MAX_URLS_PER_REQUEST", "10000")]).await;
    assert_problem(&generous.post(SUBMIT, many(10_001)).await, 413, "too-many-urls");
    let page = generous.post(SUBMIT, many(10_000)).await;
    assert_eq!((page.status, page.json["next_cursor"].as_str()), (200, Some("1000")));
    let rest = generous.get(&format!("/v1/submissions/{}?cursor=9990&limit=10000", page.batch())).await;
    let indexes: Vec<_> =
        rest.json["results"].as_array().unwrap().iter().map(|row| row["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, (9990..10_000).collect::<Vec<_>>());
    assert_eq!(rest.json["next_cursor"], Value::Null);
}

/// Lambda answers at most 6 MB, written as one JSON text.
fn assert_fits_into_lambda(answer: &Answer) {
    let bytes = serde_json::to_string(&answer.text).unwrap().len();
    assert!(answer.status < 300 && bytes < 6_000_000, "{} with {bytes} bytes", answer.status);
}

#[tokio::test]
async fn no_answer_is_larger_than_lambda_can_send() {
    let bridge = Bridge::new().await;
    let long = |name: &str, count: usize| {
        let path = "x".repeat(8000);
        json!((0..count).map(|number| format!("http://{name}{number}.example/{path}")).collect::<Vec<_>>())
    };
    let check = bridge.post("/v1/check", long("a", 500).to_string()).await;
    assert_fits_into_lambda(&check);
    let told = check.json["results"].as_array().unwrap().len();
    assert_eq!(told as u64 + check.json["omitted"].as_u64().unwrap(), 500);
    assert_eq!(check.json["counts"]["submit"], 500);
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let answer = bridge.post(SUBMIT, long(name, 300).to_string()).await;
        assert_fits_into_lambda(&answer);
        ids.push(answer.batch().to_owned());
    }
    let several = bridge.get(&format!("/v1/submissions?ids={}", ids.join(","))).await;
    assert_fits_into_lambda(&several);
    assert_eq!(several.json["batches"][2]["counts"]["total"], 300);
    let cursor = several.json["batches"][0]["next_cursor"].as_str().unwrap();
    let next = bridge.get(&format!("/v1/submissions/{}?cursor={cursor}", ids[0])).await;
    assert_fits_into_lambda(&next);
    assert_eq!(next.json["results"][0]["index"].to_string(), cursor);
}

#[tokio::test]
async fn a_url_of_a_megabyte_is_too_long_and_not_repeated() {
    let bridge = Bridge::new().await;
    let url = format!("http://a.example/{}", "x".repeat(1024 * 1024));
    let answer = bridge.post(SUBMIT, json!([url]).to_string()).await;
    assert_eq!((answer.status, answer.codes()), (200, vec!["too_long"]));
    assert_eq!(answer.json["results"][0]["input"], url[..256]);
}

#[tokio::test]
async fn a_compressed_body_is_not_read() {
    let bridge = Bridge::new().await;
    for encoding in ["gzip", "br", "zstd", "gzip, identity"] {
        let headers = [("x-api-key", KEY), ("content-encoding", encoding)];
        let answer = bridge.send(request("POST", SUBMIT, &headers, b"\x1f\x8b\x08\x00".to_vec())).await;
        assert_problem(&answer, 415, "unsupported-media-type");
    }
    let headers = [("x-api-key", KEY), ("content-encoding", "identity")];
    assert_eq!(bridge.send(request("POST", SUBMIT, &headers, "http://a.example/")).await.status, 202);
}

#[tokio::test]
async fn a_wrong_option_is_refused_by_name_and_nothing_is_taken() {
    let bridge = Bridge::new().await;
    let options = json!({
        "forse": true, "tags": ["two words"], "retention_days": 61, "max_recursive_samples": 51,
        "max_dynamic_analyses_per_sample": "11", "analysis_caching": "always", "whois_lookups": "maybe",
        "shareable": true, "comment": "a\u{0}b",
    });
    let body = json!({"urls": ["http://a.example/"], "options": options}).to_string();
    let answer = bridge.post(SUBMIT, body).await;
    assert_problem(&answer, 400, "invalid-options");
    let pointers: BTreeSet<_> = answer.json["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["pointer"].as_str().unwrap())
        .collect();
    let expected = options.as_object().unwrap().keys().map(|name| match name.as_str() {
        "tags" => "/options/tags/0".to_owned(),
        name => format!("/options/{name}"),
    });
    assert_eq!(pointers, expected.collect::<BTreeSet<_>>().iter().map(String::as_str).collect());
    let check = bridge.post("/v1/check", "http://a.example/").await;
    assert_eq!(check.json["today"]["used"], 0);
}

#[tokio::test]
async fn strange_signs_in_a_url_neither_pass_nor_break_anything() {
    let bridge = Bridge::new().await;
    for (url, told) in [
        ("http://a.example/\u{0}b", "not_a_url"),
        ("http://a\u{0}.example/", "not_a_url"),
        ("http://a.example/\u{2028}http://b.example/", "not_a_url"),
        ("http://exa\u{202e}mple.example/", "not_a_url"),
        ("http://[::ffff:10.0.0.1]/", "private_host"),
        ("http://2130706433/", "private_host"),
        ("http://user:secret@a.example/", "credentials_in_url"),
        ("javascript:alert(1)", "unsupported_scheme"),
        ("file:///etc/passwd", "unsupported_scheme"),
        ("", "not_a_url"),
        ("💥", "not_a_url"),
        ("localhost:8080", "private_host"),
        ("!", "not_a_url"),
    ] {
        assert_eq!(told_of(&bridge, url).await, told, "{url:?}");
    }
    // Scripts may be mixed: that is what a phishing page looks like, and it is sent as browsers would ask for it.
    let answer = bridge.post(SUBMIT, json!(["http://\u{430}pple.example/\u{202e}a"]).to_string()).await;
    assert_eq!(answer.json["results"][0]["url"], "http://xn--pple-43d.example/%E2%80%AEa");
}

#[tokio::test]
async fn a_token_comes_back_to_the_call_that_brought_it_and_is_not_kept() {
    let bridge = Bridge::new().await;
    let url = "https://a.example/reset?token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
    let first = bridge.post(SUBMIT, json!([{"id": url, "value": url}]).to_string()).await;
    assert_eq!((first.codes(), &first.json["results"][0]["input"]), (vec!["sensitive_token"], &json!(url)));
    let later = bridge.get(&format!("/v1/submissions/{}", first.batch())).await;
    assert_eq!((later.codes(), &later.json["results"][0]["input"]), (vec!["sensitive_token"], &Value::Null));
    assert!(!later.text.contains("eyJ"), "{}", later.text);
}

#[tokio::test]
async fn a_secret_is_neither_shown_nor_kept_whatever_its_text_is_refused_for() {
    let bridge = Bridge::new().await;
    let long = format!("http://a.example/?password=hunter2&x={}", "x".repeat(9_000));
    let cases = [
        ("http://user:hunter2@a.example/", "credentials_in_url"),
        ("http://user:hunter2@a.example:99999/", "not_a_url"),
        ("http://10.0.0.1/reset?token=hunter2abc", "private_host"),
        ("ftp://user:hunter2@a.example/", "unsupported_scheme"),
        (&long, "too_long"),
        ("the password is hunter2", "not_a_url"),
        ("curl -H \"Authorization: Bearer hunter2\" https://a.example/", "not_a_url"),
        ("12345678:hunter2hunter2hunter2hunter2hunter2", "not_a_url"),
    ];
    let values: Vec<_> =
        cases.iter().map(|(text, _)| json!({"id": &text[..text.len().min(256)], "value": text})).collect();
    let mut inputs = values.clone();
    inputs.push(json!({"id": 1, "type": "password: hunter2", "value": "x"}));
    let first = bridge.post(SUBMIT, json!(inputs).to_string()).await;
    let mut codes: Vec<_> = cases.iter().map(|(_, code)| *code).collect();
    codes.push("not_a_url");
    assert_eq!(first.codes(), codes);
    let later = bridge.get(&format!("/v1/submissions/{}", first.batch())).await;
    let check = bridge.post("/v1/check", json!(values).to_string()).await;
    for answer in [first, later, check] {
        assert!(!answer.text.contains("hunter2"), "{}", answer.text);
    }
}

#[tokio::test]
async fn the_result_of_a_wrapped_link_says_who_had_wrapped_it() {
    let wrapped = "https://eur01.safelinks.protection.outlook.com/?url=https%3A%2F%2Fb.example%2F&data=victim%40a.example";
    let bridge = Bridge::new().await;
    let answer = bridge.post(SUBMIT, json!([wrapped, "https://b.example/"]).to_string()).await;
    let results = &answer.json["results"];
    assert_eq!(
        (&results[0]["url"], &results[0]["unwrapped_from"]),
        (&json!("https://b.example/"), &json!("safe_links"))
    );
    assert_eq!((&results[1]["source"], &results[1]["unwrapped_from"]), (&json!("duplicate"), &Value::Null));
    let leaving = Bridge::with(&[("UNWRAP_LINKS", "false")]).await;
    let answer = leaving.post(SUBMIT, json!([wrapped]).to_string()).await;
    assert_eq!(answer.json["results"][0]["url"], wrapped);
}

#[tokio::test]
async fn anothers_batch_does_not_exist() {
    let bridge = Bridge::new().await;
    let batch = bridge.post(SUBMIT, "http://a.example/").await.batch().to_owned();
    let as_other =
        |method: &'static str, target: String| request(method, &target, &[("x-api-key", OTHER_KEY)], "");
    for request in [
        as_other("GET", format!("/v1/submissions/{batch}")),
        as_other("POST", format!("/v1/submissions/{batch}/retry")),
    ] {
        let theirs = bridge.send(request).await;
        assert_problem(&theirs, 404, "no-such-batch");
        let nobodys = bridge.get(&format!("/v1/submissions/{NO_BATCH}")).await;
        assert_eq!(theirs.json, nobodys.json, "nothing says that it exists");
    }
    let several = bridge.send(as_other("GET", format!("/v1/submissions?ids={batch}"))).await;
    assert_eq!(
        (several.json["batches"].as_array().unwrap().len(), &several.json["unknown_ids"][0]),
        (0, &json!(batch))
    );
    let own = post_as(&bridge, OTHER_KEY, "http://a.example/").await;
    assert_ne!(own.batch(), batch);
    assert_eq!(own.json["results"][0]["source"], "new", "each caller has a ledger of its own");
    for odd in ["x", "%2e%2e", "' OR 1=1", "00000000-0000-4000-8000-00000000000\u{0}", &"a".repeat(10_000)] {
        assert_problem(&bridge.get(&format!("/v1/submissions/{odd}")).await, 404, "no-such-batch");
    }
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_call() {
    let bridge = Bridge::new().await;
    let body = r#"{"urls": ["http://10.0.0.1/"]}"#;
    let first = post_with_key(&bridge, "run-1", body).await;
    assert_eq!(first.status, 200, "done, and nevertheless the same batch");
    assert_eq!(post_with_key(&bridge, "run-1", body).await.batch(), first.batch());
    assert_eq!(post_with_key(&bridge, " run-1 ", " [\"http://10.0.0.1/\"]").await.batch(), first.batch());
    for other in [r#"["http://10.0.0.2/"]"#, r#"{"urls": ["http://10.0.0.1/"], "options": {"force": true}}"#]
    {
        assert_problem(&post_with_key(&bridge, "run-1", other).await, 422, "idempotency-key-reused");
    }
    assert_ne!(post_with_key(&bridge, "run-2", body).await.batch(), first.batch());
    let headers = [("x-api-key", OTHER_KEY), ("idempotency-key", "run-1")];
    let theirs = bridge.send(request("POST", SUBMIT, &headers, r#"["http://10.0.0.2/"]"#)).await;
    assert_eq!(theirs.status, 200, "another caller's keys are its own");
    for wrong in ["", "ä", "a\u{7}b", &"x".repeat(256)] {
        assert_problem(&post_with_key(&bridge, wrong, body).await, 400, "invalid-parameter");
    }
}

#[tokio::test]
async fn without_a_key_the_same_call_gives_the_batch_that_runs() {
    let bridge = Bridge::new().await;
    let first = bridge.post(SUBMIT, r#"["http://a.example/"]"#).await;
    assert_eq!(bridge.post(SUBMIT, r#"{"urls": ["http://a.example/"]}"#).await.batch(), first.batch());
    assert_ne!(
        bridge.post(SUBMIT, r#"["http://a.example/", "http://b.example/"]"#).await.batch(),
        first.batch()
    );
    let done = bridge.post(SUBMIT, r#"["http://10.0.0.1/"]"#).await;
    assert_ne!(bridge.post(SUBMIT, r#"["http://10.0.0.1/"]"#).await.batch(), done.batch(), "it is done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_call_eight_times_at_once_is_one_batch() {
    let bridge = Arc::new(Bridge::new().await);
    for key in [None, Some("run-1")] {
        let calls = (0..8).map(|_| {
            let bridge = Arc::clone(&bridge);
            tokio::spawn(async move {
                let body =
                    format!(r#"["http://a.example/{}", "http://b.example/"]"#, key.unwrap_or_default());
                match key {
                    Some(key) => post_with_key(&bridge, key, &body).await,
                    None => bridge.post(SUBMIT, body).await,
                }
            })
        });
        let answers: Vec<Answer> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        assert!(answers.iter().all(|answer| answer.status == 202), "{answers:#?}");
        let batches: BTreeSet<_> = answers.iter().map(Answer::batch).collect();
        assert_eq!(batches.len(), 1);
    }
}

#[tokio::test]
async fn a_misspelt_parameter_is_refused() {
    let bridge = Bridge::new().await;
    for query in ["wait=26", "wait=-1", "wait=8s", "wait", "wiat=8", "limit=5", "x-api-key=secret"] {
        for target in ["/v1/submissions", "/v1/check"] {
            let answer = bridge.post(&format!("{target}?{query}"), "http://a.example/").await;
            assert_problem(&answer, 400, "invalid-parameter");
            assert!(!answer.text.contains("secret"), "{}", answer.text);
        }
    }
    let fifty_one = (0..51).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    for query in ["", "ids=", "ids=,", "id=a", "ids=a&cursor=1", &format!("ids={fifty_one}")] {
        assert_problem(&bridge.get(&format!("/v1/submissions?{query}")).await, 400, "invalid-parameter");
    }
}

#[tokio::test]
async fn with_nothing_to_send_there_is_nothing_to_wait_for() {
    let bridge = Bridge::on(Arc::new(Stage::default()), &[]).await;
    let post = async |target, url| assert_eq!(bridge.post(target, url).await.status, 200);
    let at_once = requests_of(post("/v1/submissions?wait=0", "http://10.0.0.1/")).await;
    // A wait looks at the ledger again and again.
    let waiting = requests_of(post("/v1/submissions?wait=25", "http://10.0.0.2/")).await;
    assert_eq!(waiting, at_once);
}

#[tokio::test]
async fn another_method_is_told_which_ones_there_are() {
    let bridge = Bridge::new().await;
    for (method, path, allowed) in [
        ("HEAD", "/v1/submissions", "GET, POST"),
        ("PUT", "/v1/submissions", "GET, POST"),
        ("PUT", "/v1/submissions/x", "GET"),
        ("DELETE", "/v1/submissions/x", "GET"),
        ("GET", "/v1/submissions/x/retry", "POST"),
        ("GET", "/v1/check/", "POST"),
        ("POST", "/health", "GET, HEAD"),
    ] {
        let answer = bridge.send(request(method, path, &[], "")).await;
        assert_problem(&answer, 405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
    }
}

#[tokio::test]
async fn a_slash_at_the_end_makes_no_difference() {
    let bridge = Bridge::new().await;
    let batch = bridge.post("/v1/submissions/?wait=0", "http://a.example/").await.batch().to_owned();
    assert_eq!(bridge.get(&format!("/v1/submissions/{batch}/")).await.batch(), batch);
    assert_eq!(bridge.get("/health/").await.status, 200);
}

#[tokio::test]
async fn a_caller_has_limits_of_its_own() {
    let bridge = Bridge::new().await;
    let urls = |range: std::ops::Range<usize>| {
        let urls: Vec<_> = range.map(|number| format!("http://a{number}.example/")).collect();
        json!(urls).to_string()
    };
    assert_problem(&post_as(&bridge, SMALL_KEY, &urls(0..SMALL_CALL + 1)).await, 413, "too-many-urls");
    assert_eq!(post_as(&bridge, SMALL_KEY, &urls(0..SMALL_CALL)).await.status, 202);
    let over = post_as(&bridge, SMALL_KEY, &urls(10..10 + SMALL_DAY + 1 - SMALL_CALL)).await;
    assert_problem(&over, 429, "daily-limit");
    let seconds: u64 = over.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&seconds), "{seconds}");
    let refused = post_as(&bridge, SMALL_KEY, r#"["http://10.0.0.1/"]"#).await;
    assert_eq!(refused.status, 200, "what is not sent costs nothing");
    assert_eq!(post_as(&bridge, KEY, &urls(0..SMALL_DAY + 1)).await.status, 202, "the others go on");
}
