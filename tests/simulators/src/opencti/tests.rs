use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::faults::Fault;

const REGISTER: &str = "mutation($input: RegisterConnectorInput) { registerConnector(input: $input) { id connector_state connector_state_timestamp } }";
const PING: &str = "mutation($id: ID!, $state: String) { pingConnector(id: $id, state: $state) { connector_state connector_state_timestamp connector_state_reset } }";
const PUSH: &str = "mutation($connectorId: String!, $bundle: String!) { stixBundlePush(connectorId: $connectorId, bundle: $bundle) }";

async fn start(options: OpenctiOptions) -> OpenctiSimulator {
    OpenctiSimulator::start(options).await.unwrap()
}

async fn post(opencti: &OpenctiSimulator, query: &str, variables: Value) -> Value {
    let response = send(opencti, json!({"query": query, "variables": variables}).to_string().into()).await;
    assert_eq!(response.status(), 200);
    response.json().await.unwrap()
}

async fn send(opencti: &OpenctiSimulator, body: Vec<u8>) -> reqwest::Response {
    let request =
        reqwest::Client::new().post(format!("{}/graphql", opencti.url())).bearer_auth("opencti-token");
    request.header("content-type", "application/json").body(body).send().await.unwrap()
}

async fn register(opencti: &OpenctiSimulator) -> Value {
    let input = json!({"id": "c1", "name": "VMRay", "type": "EXTERNAL_IMPORT", "scope": ["x"]});
    post(opencti, REGISTER, json!({"input": input})).await["data"]["registerConnector"].clone()
}

async fn ping(opencti: &OpenctiSimulator, state: Value) -> Value {
    post(opencti, PING, json!({"id": "c1", "state": state})).await["data"]["pingConnector"].clone()
}

fn bundle(value: &str) -> String {
    json!({"type": "bundle", "id": "bundle--1", "objects": [
        {"type": "url", "id": "url--1", "value": "http://a.test"},
        {"type": "domain-name", "id": "domain-name--1", "value": value},
    ]})
    .to_string()
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn answers_hold_exactly_what_was_asked_for() {
    let opencti = start(OpenctiOptions::default()).await;
    let answer =
        post(&opencti, "query { v: about { version } me { capabilities { name } } }", json!({})).await;
    assert_eq!(answer["data"]["v"], json!({"version": "7.260817.0"}));
    assert_eq!(answer["data"]["me"]["capabilities"][0], json!({"name": "CONNECTORAPI"}));
    assert_eq!(answer["data"]["me"].as_object().unwrap().len(), 1);
    assert_eq!(opencti.calls()["about+me"], 1);
}

#[tokio::test]
async fn wrong_documents_fail_as_a_whole() {
    let opencti = start(OpenctiOptions::default()).await;
    let wrong = [
        "query { about { version color } }",
        "query { about(x: 1) { version } }",
        "query { about }",
        "query($id: ID!) { connector(id: $id) { id } }",
        "query($id: String!) { about { version } }",
        "query { a: about { version } b: about { version } c: about { version } }",
        "mutation { a: labelAdd(input: {value: \"a\"}) { id } b: labelAdd(input: {value: \"b\"}) { id } }",
    ];
    for query in wrong {
        let answer = post(&opencti, query, json!({"id": "c1"})).await;
        assert_eq!(code(&answer), "GRAPHQL_VALIDATION_FAILED", "{query}: {answer}");
    }
    assert!(opencti.platform().knowledge().labels().is_empty());
    assert_eq!(
        code(&post(&opencti, "query { __schema { types { name } } }", json!({})).await),
        "RESOURCE_NOT_FOUND"
    );
    assert_eq!(code(&post(&opencti, "query { about {", json!({})).await), "GRAPHQL_PARSE_FAILED");
    assert_eq!(code(&post(&opencti, PUSH, json!({"connectorId": "c1"})).await), "BAD_USER_INPUT");
}

#[tokio::test]
async fn the_release_decides_which_arguments_exist() {
    let multipart = "mutation { workAdd(connectorId: \"c\", isMultiPartWork: true) { id } }";
    let old = start(OpenctiOptions { version: "6.9.0".to_owned(), ..OpenctiOptions::default() }).await;
    assert_eq!(code(&post(&old, multipart, json!({})).await), "GRAPHQL_VALIDATION_FAILED");
    let new = start(OpenctiOptions::default()).await;
    assert!(post(&new, multipart, json!({})).await["data"]["workAdd"]["id"].is_string());
}

#[tokio::test]
async fn a_wrong_token_and_a_missing_capability_are_errors_in_a_200() {
    let opencti = start(OpenctiOptions::default()).await;
    opencti.platform().set_capabilities(&["CONNECTORAPI"]);
    let answer = post(&opencti, "query { connector(id: \"c1\") { id } }", json!({})).await;
    assert_eq!(
        (code(&answer), answer["errors"][0]["extensions"]["data"]["http_status"].as_u64()),
        ("FORBIDDEN_ACCESS", Some(403))
    );
    opencti.platform().set_tokens(&["another"]);
    let answer = post(&opencti, "query { about { version } }", json!({})).await;
    assert_eq!((code(&answer), &answer["data"]["about"]), ("AUTH_REQUIRED", &Value::Null));
    assert_eq!(opencti.requests()[1].authorization, Authorization::Invalid);
}

#[tokio::test]
async fn a_reset_is_answered_once_and_what_was_sent_with_it_is_ignored() {
    let opencti = start(OpenctiOptions::default()).await;
    let first = register(&opencti).await;
    assert_eq!(ping(&opencti, json!("{\"a\":1}")).await["connector_state"], "{\"a\":1}");
    opencti.platform().operator_reset("c1");
    let reset = ping(&opencti, json!("{\"a\":2}")).await;
    assert_eq!((&reset["connector_state"], &reset["connector_state_reset"]), (&json!(""), &json!(false)));
    assert_ne!(reset["connector_state_timestamp"], first["connector_state_timestamp"]);
    assert_eq!(ping(&opencti, json!("{\"a\":3}")).await["connector_state"], "{\"a\":3}");
    assert_eq!(register(&opencti).await["connector_state"], "{\"a\":3}");
    assert_eq!(ping(&opencti, Value::Null).await["connector_state"], Value::Null);
    let unknown = post(&opencti, PING, json!({"id": "c2", "state": "{}"})).await;
    assert_eq!(code(&unknown), "FUNCTIONAL_ERROR");
}

#[tokio::test]
async fn a_stale_echo_shows_the_state_before() {
    let opencti = start(OpenctiOptions::default()).await;
    register(&opencti).await;
    ping(&opencti, json!("1")).await;
    opencti.platform().stale_echo("c1", 1);
    assert_eq!(ping(&opencti, json!("2")).await["connector_state"], "1");
    assert_eq!(opencti.platform().connector("c1").unwrap().state.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_push_makes_a_work_and_its_errors_stand_on_it() {
    let opencti = start(OpenctiOptions::default()).await;
    register(&opencti).await;
    let answer = post(&opencti, PUSH, json!({"connectorId": "c1", "bundle": bundle("localhost")})).await;
    assert_eq!(answer, json!({"data": {"stixBundlePush": true}}));
    let query = "query($id: String!) { connector(id: $id) { works { status errors { message source } tracking { import_expected_number import_processed_number } } } }";
    let works = post(&opencti, query, json!({"id": "c1"})).await["data"]["connector"]["works"].clone();
    assert_eq!((works.as_array().unwrap().len(), &works[0]["status"]), (1, &json!("complete")));
    assert_eq!(works[0]["tracking"], json!({"import_expected_number": 2, "import_processed_number": 2}));
    assert_eq!(
        works[0]["errors"][0]["message"],
        "{'name': 'FUNCTIONAL_ERROR', 'error_message': 'Observable is not correctly formatted'}"
    );
    assert_eq!(opencti.platform().knowledge().entities().len(), 1);
    assert_eq!(opencti.platform().bundles()[0].objects().len(), 2);
}

#[tokio::test]
async fn every_wrong_bundle_gets_the_same_error() {
    let opencti = start(OpenctiOptions::default()).await;
    register(&opencti).await;
    let empty = json!({"type": "bundle", "objects": []}).to_string();
    for (connector, bundle) in [("c1", "not json".to_owned()), ("c1", empty), ("c2", bundle("a.test"))] {
        let answer = post(&opencti, PUSH, json!({"connectorId": connector, "bundle": bundle})).await;
        assert_eq!(
            (code(&answer), &answer["errors"][0]["message"]),
            ("UNSUPPORTED_ERROR", &json!("Invalid bundle"))
        );
    }
    assert_eq!(opencti.platform().pushes(), 0);
}

#[tokio::test]
async fn a_reset_purges_what_waits_in_the_queue() {
    let opencti = start(OpenctiOptions {
        workers: Workers::Held,
        statistics: Statistics::Collected,
        ..OpenctiOptions::default()
    })
    .await;
    register(&opencti).await;
    let size = "query { connector(id: \"c1\") { connector_queue_details { messages_number } } }";
    post(&opencti, PUSH, json!({"connectorId": "c1", "bundle": bundle("a.test")})).await;
    for shown in [0, 2] {
        let waiting = post(&opencti, size, json!({})).await;
        assert_eq!(waiting["data"]["connector"]["connector_queue_details"]["messages_number"], shown);
        opencti.platform().collect_statistics();
    }
    opencti.platform().reset_at_push(2);
    post(&opencti, PUSH, json!({"connectorId": "c1", "bundle": bundle("b.test")})).await;
    opencti.platform().import_all();
    let platform = opencti.platform();
    let works: Vec<_> = platform.works().iter().map(|work| (&*work.status, work.processed)).collect();
    assert_eq!(works, [("complete", None), ("complete", Some(2))], "the one that was cut off is closed");
    assert!(platform.knowledge().get("domain-name--1").unwrap().object["value"] == "b.test");
    assert_eq!((platform.knowledge().pushed(), platform.connector("c1").unwrap().reset), (2, Some(true)));
}

const WORKS: &str = "query($id: String!) { connector(id: $id) { connector_queue_details { messages_number } works { status completed_time errors { message } tracking { import_expected_number import_processed_number } } } }";

/// What a connector's page shows: messages in the queue; of the newest work its status, processed and expected.
async fn shown(opencti: &OpenctiSimulator) -> (u64, String, Value, Value) {
    let connector = post(opencti, WORKS, json!({"id": "c1"})).await["data"]["connector"].take();
    let work = &connector["works"][0];
    assert_eq!(work["completed_time"].is_null(), work["status"] != "complete");
    (
        connector["connector_queue_details"]["messages_number"].as_u64().unwrap(),
        work["status"].as_str().unwrap().to_owned(),
        work["tracking"]["import_processed_number"].clone(),
        work["tracking"]["import_expected_number"].clone(),
    )
}

async fn push_objects(opencti: &OpenctiSimulator, objects: &[Value]) {
    let bundle = json!({"type": "bundle", "id": "bundle--1", "objects": objects}).to_string();
    let answer = post(opencti, PUSH, json!({"connectorId": "c1", "bundle": bundle})).await;
    assert_eq!(answer, json!({"data": {"stixBundlePush": true}}));
}

#[tokio::test]
async fn workers_import_object_by_object_and_the_work_tells_how_far_they_are() {
    let step =
        |messages, status: &str, processed, expected| (messages, status.to_owned(), processed, expected);
    let (done, open) = ("complete", "progress");
    for (version, before) in [("7.260817.0", (2, json!(2))), ("6.9.0", (1, Value::Null))] {
        let version = version.to_owned();
        let opencti =
            start(OpenctiOptions { workers: Workers::Held, version, ..OpenctiOptions::default() }).await;
        register(&opencti).await;
        post(&opencti, PUSH, json!({"connectorId": "c1", "bundle": bundle("a.test")})).await;
        assert_eq!(shown(&opencti).await, step(before.0, open, Value::Null, before.1));
        assert_eq!(opencti.platform().import(1), 1);
        assert_eq!(shown(&opencti).await, step(1, open, json!(1), json!(2)));
        assert_eq!(opencti.platform().import(5), 1);
        assert_eq!(shown(&opencti).await, step(0, done, json!(2), json!(2)));
    }
}

#[tokio::test]
async fn a_reset_in_mid_import_closes_the_work_with_less_processed_than_expected() {
    let opencti = start(OpenctiOptions { workers: Workers::Held, ..OpenctiOptions::default() }).await;
    register(&opencti).await;
    post(&opencti, PUSH, json!({"connectorId": "c1", "bundle": bundle("a.test")})).await;
    opencti.platform().import(1);
    opencti.platform().operator_reset("c1");
    assert_eq!(shown(&opencti).await, (0, "complete".to_owned(), json!(1), json!(2)));
    assert_eq!(opencti.platform().import(1), 0, "what waited is gone");
}

#[tokio::test]
async fn a_report_and_a_relationship_to_what_still_waits_are_not_the_same() {
    let opencti = start(OpenctiOptions { workers: Workers::Held, ..OpenctiOptions::default() }).await;
    register(&opencti).await;
    let url = json!({"type": "url", "id": "url--1", "value": "http://a.test"});
    let report = json!({"type": "report", "id": "report--1", "name": "r", "published": "2026-01-01T00:00:00Z",
        "object_refs": ["url--1"]});
    let link = json!({"type": "relationship", "id": "relationship--1", "relationship_type": "related-to",
        "source_ref": "report--1", "target_ref": "url--1"});
    push_objects(&opencti, &[report, link]).await;
    push_objects(&opencti, &[url]).await;
    opencti.platform().import_all();
    let platform = opencti.platform();
    let errors = &platform.works()[0].errors;
    assert_eq!(errors[0].0, "{'name': 'MISSING_REFERENCE_ERROR', 'error_message': 'Element(s) not found'}");
    let lost = platform.knowledge().lost_references();
    assert_eq!((errors.len(), lost.len(), &*lost[0].reference), (1, 1, "url--1"));
}

#[tokio::test]
async fn only_the_newest_twenty_works_are_shown() {
    let opencti = start(OpenctiOptions::default()).await;
    register(&opencti).await;
    for n in 0..21 {
        push_objects(
            &opencti,
            &[json!({"type": "url", "id": "url--1", "value": format!("http://{n}.test")})],
        )
        .await;
    }
    let connector = post(&opencti, WORKS, json!({"id": "c1"})).await["data"]["connector"].take();
    assert_eq!((connector["works"].as_array().unwrap().len(), opencti.platform().works().len()), (20, 21));
}

#[tokio::test]
async fn a_bundle_knows_how_much_waited_before_it() {
    let opencti = start(OpenctiOptions { workers: Workers::Held, ..OpenctiOptions::default() }).await;
    register(&opencti).await;
    for _ in 0..3 {
        post(&opencti, PUSH, json!({"connectorId": "c1", "bundle": bundle("a.test")})).await;
        opencti.platform().import(1);
    }
    let waiting: Vec<usize> = opencti.platform().bundles().iter().map(|bundle| bundle.waiting).collect();
    assert_eq!(waiting, [0, 1, 2]);
}

fn zipped(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

async fn send_zipped(opencti: &OpenctiSimulator, body: &[u8]) -> reqwest::Response {
    let request =
        reqwest::Client::new().post(format!("{}/graphql", opencti.url())).bearer_auth("opencti-token");
    let request = request.header("content-type", "application/json").header("content-encoding", "gzip");
    request.body(zipped(body)).send().await.unwrap()
}

#[tokio::test]
async fn the_limit_of_a_body_counts_inflated_and_is_a_500() {
    let opencti = start(OpenctiOptions { max_body_bytes: 1000, ..OpenctiOptions::default() }).await;
    let small = json!({"query": "query { about { version } }"}).to_string();
    assert_eq!(send_zipped(&opencti, small.as_bytes()).await.status(), 200);
    let large = json!({"query": "query { about { version } }", "filler": "x".repeat(1000)}).to_string();
    for response in
        [send_zipped(&opencti, large.as_bytes()).await, send(&opencti, large.clone().into()).await]
    {
        assert_eq!(response.status(), 500);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body, json!({"status": "error", "error": "request entity too large"}));
    }
    let proxy = start(OpenctiOptions { proxy_limit_bytes: Some(200), ..OpenctiOptions::default() }).await;
    assert_eq!(send(&proxy, large.clone().into()).await.status(), 413);
    assert_eq!(send_zipped(&proxy, large.as_bytes()).await.status(), 200);
}

#[tokio::test]
async fn what_is_no_graphql_is_answered_as_the_platform_does() {
    let opencti = start(OpenctiOptions::default()).await;
    let response = send(&opencti, b"nonsense".to_vec()).await;
    assert_eq!(response.status(), 500);
    assert!(response.text().await.unwrap().contains("Unexpected token"));
    let get = |path: &str| reqwest::get(format!("{}{path}", opencti.url()));
    let page = get("/dashboard").await.unwrap();
    assert_eq!(
        (page.status().as_u16(), &page.headers()["content-type"]),
        (200, &"text/html; charset=utf-8".parse().unwrap())
    );
    assert_eq!(get("/graphql").await.unwrap().status(), 405);
}

#[tokio::test]
async fn a_push_can_be_handled_and_not_answered() {
    let opencti = start(OpenctiOptions::default()).await;
    register(&opencti).await;
    opencti.faults().add(Fault::on("stixBundlePush").containing("a.test").once().close_after_handling());
    let body =
        json!({"query": PUSH, "variables": {"connectorId": "c1", "bundle": bundle("a.test")}}).to_string();
    let request =
        reqwest::Client::new().post(format!("{}/graphql", opencti.url())).bearer_auth("opencti-token");
    assert!(request.header("content-type", "application/json").body(body).send().await.is_err());
    assert_eq!(opencti.platform().pushes(), 1);
    opencti.faults().add(Fault::on("stixBundlePush").graphql_error("Locked", "LOCK_ERROR", 500));
    let answer = post(&opencti, PUSH, json!({"connectorId": "c1", "bundle": bundle("a.test")})).await;
    assert_eq!(code(&answer), "LOCK_ERROR");
}
