//! A collection goes to VMRay, and its verdicts come back.

use std::collections::BTreeSet;

use end_to_end::http_api::HttpRequest;
use end_to_end::submit::{World, ask, authorized, url};
use serde_json::{Value, json};
use simulators::vmray::submit::{Ending, SubmitOptions};

use crate::scene::{Scene, counts, each, place, submission, urls};

fn attribute<'a>(result: &'a Value, name: &str) -> &'a Value {
    let attributes = result["attributes"].as_array().unwrap();
    attributes.iter().find(|it| it["name"] == name).map_or(&Value::Null, |it| &it["value"])
}

#[tokio::test]
async fn a_collection_is_sent_each_url_once_and_answered_with_verdicts() {
    let scene = Scene::new().await;
    let hosts = ["evil-a", "odd-b", "plain-c"];
    let accepted = scene.ask(submission(&urls(&hosts))).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let batch = accepted.json();
    assert_eq!(accepted.headers["location"], place(&batch));
    assert_eq!(accepted.headers["retry-after"], "5");
    assert_eq!((counts(&batch), &batch["done"]), (json!({"pending": 3}), &json!(false)));
    assert_eq!(batch["pending_ids"], json!([batch["batch_id"]]));
    assert!(scene.world.vmray.submits().is_empty(), "only the worker sends");

    scene.work().await;
    scene.each_was_sent_once(&hosts);
    let sent = scene.ask(HttpRequest::get(&place(&batch))).await;
    assert_eq!((sent.status, sent.headers["retry-after"].as_str()), (202, "15"));
    assert_eq!(counts(&sent.json()), json!({"submitted": 3}));
    assert_eq!(each(&sent.json(), "verdict"), [&Value::Null; 3], "nothing is said before VMRay is done");

    scene.world.vmray.finish_all();
    let done = scene.ask(HttpRequest::get(&place(&batch))).await;
    assert_eq!(done.status, 200);
    let done = done.json();
    assert_eq!((&done["done"], &done["errors"]), (&json!(true), &json!(false)));
    assert_eq!((&done["pending_ids"], &done["next_cursor"]), (&json!([]), &Value::Null));
    assert_eq!(each(&done, "verdict"), ["malicious", "suspicious", "clean"]);
    assert_eq!(each(&done, "source"), ["new"; 3]);
    for (host, result) in hosts.iter().zip(done["results"].as_array().unwrap()) {
        let stored = scene.world.vmray.stored_of(&url(host));
        assert_eq!(json!(stored), json!([result["submission_id"]]));
        let sample = result["sample_id"].to_string();
        assert_eq!(attribute(result, "VMRay Submission ID"), &json!(sample), "as ThreatQ knows it");
        assert_eq!(attribute(result, "VMRay Submission Number"), &json!(stored[0].to_string()));
        assert_eq!(attribute(result, "VMRay Verdict"), &result["verdict"]);
        assert!(result["report_url"].as_str().is_some_and(|link| link.starts_with("http")), "{result}");
    }
    scene.world.queue().release_delayed().await;
    scene.work().await;
    scene.each_was_sent_once(&hosts);
}

#[tokio::test]
async fn an_answer_waits_until_everything_is_sent() {
    let mut world = World::new(SubmitOptions::default()).await;
    world.set("VERDICT_REFRESH_MS", "1");
    let (api, source) = (world.api().await, world.event_source(1));
    let request = authorized(HttpRequest::post("/v1/submissions?wait=25", &urls(&["evil-a", "b"])));
    let answer = ask(&api, &request).await;
    assert_eq!(counts(&answer.json()), json!({"submitted": 2}), "{answer:?}");
    assert!(each(&answer.json(), "submission_id").iter().all(|id| id.is_u64()));
    source.stop().await;
}

#[tokio::test]
async fn every_option_reaches_vmray_as_its_parameter() {
    let scene = Scene::new().await;
    let options = json!({
        "comment": "case 42", "tags": "alpha, beta", "retention_days": 60, "max_recursive_samples": "5",
        "max_dynamic_analyses_per_sample": 2, "reputation_lookups": "true", "whois_lookups": false,
        "analysis_caching": "disabled",
    });
    scene.submit(&json!({"urls": [url("a"), url("b")], "options": options})).await;
    scene.work().await;
    let submits = scene.world.vmray.submits();
    let mut tokens = BTreeSet::new();
    for submit in &submits {
        let mut parameters = submit.parameters.clone();
        let metadata: Value =
            serde_json::from_str(&parameters.remove("submission_metadata").unwrap()).unwrap();
        tokens.insert(metadata["vmray_bridge"].as_str().unwrap().to_owned());
        parameters.remove("sample_url");
        let expected = [
            ("comment", "case 42"),
            ("tags", "alpha,beta"),
            ("retention_period", "60"),
            ("max_recursive_samples", "5"),
            ("max_dynamic_analyses_per_sample", "2"),
            ("enable_reputation", "true"),
            ("enable_whois", "false"),
            ("analysis_caching", "disabled"),
            ("shareable", "false"),
        ];
        assert_eq!(parameters, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }
    assert_eq!((submits.len(), tokens.len()), (2, 2), "each submission can be told from all others");
}

#[tokio::test]
async fn what_the_caller_does_not_say_is_the_deployments_default_or_the_keys() {
    let settings =
        [("SUBMIT_COMMENT", "by default"), ("SUBMIT_TAGS", "soar"), ("SUBMIT_ALLOW_SHAREABLE", "true")];
    let scene = Scene::with(SubmitOptions::default(), &settings).await;
    scene.submit(&urls(&["a"])).await;
    let own = json!({"tags": ["mine"], "shareable": true});
    scene.submit(&json!({"urls": [url("b")], "options": own})).await;
    scene.work().await;
    let told = |submit: &simulators::vmray::submit::Submit| {
        let mut parameters = submit.parameters.clone();
        parameters.remove("submission_metadata");
        parameters.remove("sample_url");
        json!(parameters)
    };
    let told: Vec<_> = scene.world.vmray.submits().iter().map(told).collect();
    assert_eq!(told[0], json!({"comment": "by default", "tags": "soar", "shareable": "false"}));
    assert_eq!(told[1], json!({"comment": "by default", "tags": "mine", "shareable": "true"}));
}

#[tokio::test]
async fn results_are_in_the_order_of_the_inputs_with_their_ids_refused_ones_and_duplicates_among_them() {
    let scene = Scene::new().await;
    let body = json!({"urls": [
        {"id": "first", "value": url("evil-a")},
        {"id": 2, "value": "http://10.0.0.1/admin"},
        {"id": "third", "value": "hxxp://plain-b[.]example/"},
        {"id": 4, "value": url("evil-a")},
        {"id": 5, "type": "FQDN", "value": "plain.example"},
        {"value": "https://user:pass@plain.example/"},
    ]});
    let batch = scene.submit(&body).await;
    scene.work().await;
    scene.world.vmray.finish_all();
    let done = scene.look(&batch).await;
    assert_eq!(each(&done, "index"), [0, 1, 2, 3, 4, 5]);
    assert_eq!(json!(each(&done, "id")), json!(["first", 2, "third", 4, 5, null]));
    let statuses = ["finished", "refused", "finished", "finished", "refused", "refused"];
    assert_eq!(each(&done, "status"), statuses);
    let sources = json!(["new", null, "new", "duplicate", null, null]);
    assert_eq!(json!(each(&done, "source")), sources);
    let codes = json!([null, "private_host", null, null, "not_a_url", "credentials_in_url"]);
    assert_eq!(json!(each(&done, "error_code")), codes);
    assert_eq!(done["results"][2]["input"], "hxxp://plain-b[.]example/", "as it was sent");
    assert_eq!(done["results"][2]["url"], "http://plain-b.example/");
    assert_eq!(done["results"][0]["submission_id"], done["results"][3]["submission_id"]);
    assert_eq!((&done["done"], &done["errors"]), (&json!(true), &json!(true)));
    let posts = scene.world.vmray.posts();
    assert_eq!(posts.values().collect::<Vec<_>>(), [&1, &1], "{posts:?}");
}

#[tokio::test]
async fn a_call_with_nothing_to_send_is_done_at_once() {
    let scene = Scene::new().await;
    let answer = scene.ask(submission(&json!({"urls": ["http://127.0.0.1/", "nonsense"]}))).await;
    assert_eq!((answer.status, counts(&answer.json())), (200, json!({"refused": 2})));
    assert_eq!(scene.world.queue().sent(), [], "nobody has to look after it");
}

#[tokio::test]
async fn several_batches_are_asked_for_in_one_call() {
    let scene = Scene::new().await;
    let one = scene.submit(&urls(&["a", "b"])).await;
    let other = scene.submit(&urls(&["c"])).await;
    scene.work().await;
    scene.world.vmray.finish(&url("a"));
    scene.world.vmray.finish(&url("b"));
    let stranger = "00000000-0000-4000-8000-000000000000";
    let id = |batch: &Value| batch["batch_id"].as_str().unwrap().to_owned();
    let target = format!("/v1/submissions?ids={},{stranger},{}&limit=10", id(&one), id(&other));
    let response = scene.ask(HttpRequest::get(&target)).await;
    assert_eq!(response.status, 202);
    let answer = response.json();
    assert_eq!((&answer["done"], &answer["pending_ids"]), (&json!(false), &json!([id(&other)])));
    assert_eq!(answer["unknown_ids"], json!([stranger]));
    let found: Vec<_> = answer["batches"].as_array().unwrap().iter().map(counts).collect();
    assert_eq!(found, [json!({"finished": 2}), json!({"submitted": 1})]);
}

#[tokio::test]
async fn a_batch_is_read_in_pages_or_without_its_results() {
    let scene = Scene::new().await;
    let hosts: Vec<_> = (0..230).map(|n| format!("host-{n}")).collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    let batch = scene.submit(&urls(&hosts)).await;
    let mut seen = Vec::new();
    let mut cursor = json!("0");
    while let Some(start) = cursor.as_str() {
        let target = format!("{}?limit=90&cursor={start}", place(&batch));
        let page = scene.ask(HttpRequest::get(&target)).await.json();
        seen.extend(each(&page, "url").into_iter().map(|url| url.as_str().unwrap().to_owned()));
        cursor = page["next_cursor"].clone();
    }
    assert_eq!(seen, hosts.iter().map(|host| url(host)).collect::<Vec<_>>());
    let target = format!("{}?fields=summary", place(&batch));
    let summary = scene.ask(HttpRequest::get(&target)).await.json();
    assert_eq!((&summary["counts"]["total"], summary.get("results")), (&json!(230), None));
}

#[tokio::test]
async fn a_check_says_what_would_happen_and_sends_nothing() {
    let scene = Scene::new().await;
    scene.submit(&urls(&["known"])).await;
    scene.work().await;
    scene.world.vmray.finish_all_with(Ending::Verdict(simulators::estate::Verdict::Clean));
    let before = (scene.world.aws.documents().await.len(), scene.world.queue().sent().len());
    let body = json!({"urls": [url("known"), url("fresh"), url("fresh"), "http://10.0.0.1/"]});
    let check = scene.ask(HttpRequest::post("/v1/check", &body)).await;
    assert_eq!(check.status, 200, "{check:?}");
    let check = check.json();
    assert_eq!(each(&check, "action"), ["reuse", "submit", "duplicate", "refuse"]);
    assert_eq!((&check["today"]["used"], &check["fits"]), (&json!(1), &json!(true)));
    scene.work_later().await;
    scene.each_was_sent_once(&["known"]);
    let after = (scene.world.aws.documents().await.len(), scene.world.queue().sent().len());
    assert_eq!(after, before);
}
