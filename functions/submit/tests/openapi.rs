//! The document of the API against the code: its words, its limits, its examples, and real answers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeSet;

use ::url::form_urlencoded;
use boon::{Compiler, Draft, SchemaIndex, Schemas};
use chrono::{DateTime, TimeDelta, Utc};
use mapping::{SubmissionFacts, submission_attributes};
use serde::Serialize;
use serde_json::{Map, Value, json};
use store::{Expected, Key};
use submit::api::answer::DEFAULT_LIMIT;
use submit::api::check::Action;
use submit::api::http::Request;
use submit::api::options;
use submit::api::problem::{Problem, ProblemKind, TYPE_PREFIX};
use submit::api::{MOST_BODY_BYTES, MOST_BODY_DEPTH, OPENAPI, parameters};
use submit::ledger::entry::{Entry, FailureCode, State};
use submit::ledger::outcome::{Source, Status, error_codes};
use submit::ledger::{Put, Versioned, entry_key};
use submit::options::Options;
use submit::url::Wrapper;
use vmray::model::{SampleId, SubmissionId, Verdict};
use vmray::parameters::AnalysisCaching;

use support::{Answer, Bridge, KEY, NO_BATCH, request};

mod support;

const PLACE: &str = "https://bridge.test/openapi.json";

/// The document, and its schemas ready to be used.
struct Document {
    value: Value,
    compiler: Compiler,
    schemas: Schemas,
}

impl Document {
    fn new() -> Self {
        let value: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        compiler.enable_format_assertions();
        compiler.add_resource(PLACE, value.clone()).unwrap();
        Self { value, compiler, schemas: Schemas::new() }
    }

    fn at(&self, pointer: &str) -> &Value {
        self.value.pointer(pointer).unwrap_or_else(|| panic!("the document has no {pointer}"))
    }

    /// The place that `pointer` leads to when what stands there is a reference.
    fn resolved(&self, pointer: &str) -> String {
        match self.at(pointer)["$ref"].as_str() {
            Some(reference) => reference.strip_prefix('#').unwrap().to_owned(),
            None => pointer.to_owned(),
        }
    }

    fn schema(&mut self, pointer: &str) -> SchemaIndex {
        let fragment = pointer.replace('{', "%7B").replace('}', "%7D");
        self.compiler
            .compile(&format!("{PLACE}#{fragment}"), &mut self.schemas)
            .unwrap_or_else(|error| panic!("{pointer}: {error:#}"))
    }

    fn fits(&mut self, value: &Value, schema: &str) -> bool {
        let index = self.schema(schema);
        self.schemas.validate(value, index).is_ok()
    }

    fn assert_fits(&mut self, value: &Value, schema: &str, what: &str) {
        let index = self.schema(schema);
        if let Err(error) = self.schemas.validate(value, index) {
            panic!("{what} does not fit {schema}: {error:#}\n{value:#}");
        }
    }

    fn words(&self, schema: &str) -> BTreeSet<String> {
        let words = self.at(&format!("/components/schemas/{schema}/enum")).as_array().unwrap();
        words.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    }

    /// That the document promises this answer to this operation: status, headers, content type and body.
    fn assert_promised(&mut self, operation: (&str, &str), answer: &Answer) {
        let (method, path) = operation;
        let what = format!("{} to {method} {path}", answer.status);
        let path = path.replace('/', "~1");
        let response = self.resolved(&format!("/paths/{path}/{method}/responses/{}", answer.status));
        let headers = self.at(&response)["headers"].as_object().cloned().unwrap_or_default();
        for name in headers.keys() {
            let header = self.resolved(&format!("{response}/headers/{name}"));
            let text = answer.header(&name.to_lowercase());
            let text = text.unwrap_or_else(|| panic!("{what}: no {name}"));
            let value = text.parse().map_or_else(|_| json!(text), |number: u64| json!(number));
            self.assert_fits(&value, &format!("{header}/schema"), &what);
        }
        for sent in ["location", "retry-after", "www-authenticate", "allow"] {
            let documented = headers.keys().any(|name| name.eq_ignore_ascii_case(sent));
            assert!(documented || answer.header(sent).is_none(), "{what}: {sent} is not documented");
        }
        let content_type = answer.header("content-type").unwrap().replace('/', "~1");
        self.assert_fits(&answer.json, &format!("{response}/content/{content_type}/schema"), &what);
    }
}

fn words<T>(items: impl IntoIterator<Item = T>, word: impl Fn(T) -> String) -> BTreeSet<String> {
    items.into_iter().map(word).collect()
}

fn serialized(item: impl Serialize) -> String {
    serde_json::to_value(item).unwrap().as_str().unwrap().to_owned()
}

const POST: (&str, &str) = ("post", "/v1/submissions");
const SEVERAL: (&str, &str) = ("get", "/v1/submissions");
const GET: (&str, &str) = ("get", "/v1/submissions/{batch_id}");
const RETRY: (&str, &str) = ("post", "/v1/submissions/{batch_id}/retry");
const CHECK: (&str, &str) = ("post", "/v1/check");

fn facts() -> SubmissionFacts {
    SubmissionFacts {
        submission_id: Some(SubmissionId(9)),
        sample_id: Some(SampleId(7)),
        verdict: Some(Verdict::Malicious),
        severity: Some("malicious".into()),
        score: Some(100),
        report_url: Some("https://vmray.test/7".into()),
    }
}

#[test]
fn every_word_of_the_answers_is_in_the_document_and_no_other() {
    let document = Document::new();
    assert_eq!(document.words("Status"), words(Status::ALL, |status| status.as_str().to_owned()));
    assert_eq!(document.words("Status"), words(Status::ALL, serialized));
    assert_eq!(document.words("Source"), words(Source::ALL, serialized));
    assert_eq!(document.words("Wrapper"), words(Wrapper::ALL, serialized));
    assert_eq!(document.words("Action"), words(Action::ALL, serialized));
    assert_eq!(document.words("ErrorCode"), words(error_codes(), str::to_owned));
    let verdicts = [Verdict::NotAvailable, Verdict::Clean, Verdict::Suspicious, Verdict::Malicious];
    assert_eq!(document.words("Verdict"), words(verdicts, serialized));
    let attributes = submission_attributes(&facts());
    assert_eq!(document.words("AttributeName"), words(attributes, |attribute| attribute.name.to_owned()));
    let kinds = words(ProblemKind::ALL, |kind| format!("{TYPE_PREFIX}{}", kind.parts().0));
    assert_eq!(document.words("ProblemType"), kinds);
    let options = document.at("/components/schemas/Options/properties").as_object().unwrap();
    assert_eq!(words(options.keys(), String::clone), words(options::NAMES, str::to_owned));
    let caching = document.at("/components/schemas/Options/properties/analysis_caching/enum");
    let caching =
        caching.as_array().unwrap().iter().filter_map(Value::as_str).filter(|word| !word.is_empty());
    assert_eq!(words(caching, str::to_owned), words(AnalysisCaching::ALL, serialized));
}

#[test]
fn every_limit_of_the_document_is_the_codes() {
    let document = Document::new();
    assert_eq!(document.at("/info/version"), env!("CARGO_PKG_VERSION"));
    let schema = |name: &str| document.at(&format!("/components/parameters/{name}/schema"));
    for wait in [schema("Wait"), schema("CheckWait")] {
        assert_eq!((&wait["minimum"], &wait["maximum"]), (&json!(0), &json!(parameters::LONGEST_WAIT)));
        assert_eq!(wait["default"], parameters::DEFAULT_WAIT);
    }
    assert_eq!(schema("Limit")["maximum"], parameters::MOST_RESULTS);
    assert_eq!(schema("Limit")["default"], DEFAULT_LIMIT);
    assert_eq!(schema("Ids")["maxItems"], parameters::MOST_BATCHES);
    assert_eq!(schema("IdempotencyKey")["maxLength"], parameters::LONGEST_KEY);
    let body = document.at("/components/requestBodies/Urls/description").as_str().unwrap();
    assert!(body.contains(&format!("{} MiB", MOST_BODY_BYTES / 1024 / 1024)), "{body}");
    assert!(body.contains(&format!("{MOST_BODY_DEPTH} levels")), "{body}");
}

/// Whether the code takes an option.
fn is_taken(name: &str, value: &Value) -> bool {
    let given = Map::from_iter([(name.to_owned(), value.clone())]);
    options::read(&given, &Options::default(), true).is_ok()
}

#[test]
fn an_option_may_be_what_the_document_says_and_nothing_else() {
    let mut document = Document::new();
    let whole = || (-2..400).flat_map(|number: i64| [json!(number), json!(number.to_string())]);
    let flags =
        ["true", "FALSE", "Yes", "no", "on", "oFf", "1", "0", "", "2", "ja", "truee"].map(Value::from);
    let flags = || {
        flags.iter().cloned().chain([json!(true), json!(false), json!(0), json!(1), json!(2), Value::Null])
    };
    let signs = "_.!?;:+-–=/$@%^&)(#\\' \"<>|~*`,[]{}\u{0}\u{200b}é5Я語\t";
    let tags = signs.chars().map(|sign| json!([format!("a{sign}b")]));
    let many = |count: usize| json!((0..count).map(|number| format!("t{number}")).collect::<Vec<_>>());
    let tags = tags
        .chain([0, 1, 100, 101].map(many))
        .chain([json!(["x".repeat(255)]), json!(["x".repeat(256)]), json!([""]), json!([1]), Value::Null])
        .chain(["", ",", "a,b", " a, b ,,", "a b,c", "a;b", "a\tb"].map(Value::from))
        .collect::<Vec<_>>();
    let comments = (0..0xa8_u8).map(|byte| json!(format!("a{}b", char::from(byte))));
    let comments =
        comments.chain([json!("x".repeat(4096)), json!("x".repeat(4097)), json!(""), Value::Null]).collect();
    let caching = ["disabled", "enabled", "smart", "legacy", "", "always"].map(Value::from);
    let cases: [(&str, Vec<Value>); 10] = [
        ("comment", comments),
        ("tags", tags),
        ("retention_days", whole().collect()),
        ("max_recursive_samples", whole().collect()),
        ("max_dynamic_analyses_per_sample", whole().collect()),
        ("reputation_lookups", flags().collect()),
        ("whois_lookups", flags().collect()),
        ("analysis_caching", caching.into_iter().chain([Value::Null]).collect()),
        ("shareable", flags().collect()),
        ("force", flags().collect()),
    ];
    for (name, values) in cases {
        for value in values.into_iter().chain([json!([[]]), json!({}), json!(1.5)]) {
            // Any scalar's text may be a comment or a tag; the document does not invite to it.
            if value == json!(1.5) && matches!(name, "comment" | "tags") {
                continue;
            }
            let documented = document.fits(&json!({name: value}), "/components/schemas/Options");
            assert_eq!(documented, is_taken(name, &value), "{name}: {value}");
        }
    }
    assert!(!document.fits(&json!({"forse": true}), "/components/schemas/Options"));
}

/// Every example with the place of its schema.
fn examples(value: &Value, pointer: &str, found: &mut Vec<(String, Value)>) {
    if value.get("schema").is_some() {
        let schema = format!("{pointer}/schema");
        found.extend(value.get("example").map(|example| (schema.clone(), example.clone())));
        for example in value["examples"].as_object().into_iter().flat_map(Map::values) {
            found.push((schema.clone(), example["value"].clone()));
        }
        assert!(found.last().is_some_and(|(place, _)| *place == schema), "{pointer} has no example");
        return;
    }
    let members = value.as_object().into_iter().flatten();
    for (name, member) in members.map(|(name, member)| (name.replace('~', "~0").replace('/', "~1"), member)) {
        examples(member, &format!("{pointer}/{name}"), found);
    }
}

#[test]
fn every_example_fits_its_schema() {
    let mut document = Document::new();
    let mut found = Vec::new();
    examples(&document.value, "", &mut found);
    assert!(found.len() > 50, "{}", found.len());
    for (schema, example) in found {
        document.assert_fits(&example, &schema, "the example");
    }
}

#[test]
fn the_examples_of_problems_are_what_their_kinds_say() {
    let document = Document::new();
    for response in document.at("/components/responses").as_object().unwrap().values() {
        let examples = response["content"]["application/problem+json"]["examples"].as_object();
        for example in examples.into_iter().flat_map(Map::values).map(|example| &example["value"]) {
            let kind = ProblemKind::ALL.into_iter().find(|kind| {
                example["type"].as_str().unwrap().strip_prefix(TYPE_PREFIX) == Some(kind.parts().0)
            });
            let (_, status, title) = kind.unwrap().parts();
            assert_eq!((&example["status"], &example["title"]), (&json!(status), &json!(title)));
        }
    }
}

#[tokio::test]
async fn every_example_of_a_body_is_understood() {
    let mut document = Document::new();
    let bridge = Bridge::new().await;
    let contents = document.at("/components/requestBodies/Urls/content").clone();
    for (content_type, media) in contents.as_object().unwrap() {
        for (name, example) in media["examples"].as_object().unwrap() {
            let value = &example["value"];
            let body = match content_type.as_str() {
                "application/json" => value.to_string(),
                "application/x-www-form-urlencoded" => form_urlencoded::Serializer::new(String::new())
                    .extend_pairs(
                        value.as_object().unwrap().iter().map(|(name, text)| (name, text.as_str().unwrap())),
                    )
                    .finish(),
                _ => value.as_str().unwrap().to_owned(),
            };
            let headers = [("x-api-key", KEY), ("content-type", content_type)];
            let answer = bridge.send(request("POST", "/v1/check", &headers, body)).await;
            document.assert_promised(CHECK, &answer);
            assert_eq!(answer.status, 200, "{content_type}, {name}: {}", answer.text);
            let urls =
                answer.json["results"].as_array().unwrap().iter().filter(|row| row["action"] == "submit");
            assert!(urls.count() > 0, "{content_type}, {name}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_json_body_is_understood_where_the_document_says_so_and_only_there() {
    let mut document = Document::new();
    let bridge = Bridge::new().await;
    let url = "http://a.example/";
    for (body, understood) in [
        (json!([url]), true),
        (json!({"urls": [{"value": url}, {"url": url, "id": 7}, url]}), true),
        (json!({"urls": format!("{url}, {url}"), "options": null}), true),
        (json!({"url": url, "id": null, "options": {}}), true),
        (json!({"data": [{"value": url, "type": {"name": "URL"}}], "total": 1}), true),
        (json!({"objects": [{"type": "url", "value": url}]}), true),
        (json!({"entity_type": "Url", "observable_value": url, "options": {"force": "yes"}}), true),
        (json!({"instance": {"entity_type": "Url", "value": url}, "type": "create"}), true),
        (json!({}), false),
        (json!([]), false),
        (json!(7), false),
        (json!(null), false),
        (json!([7]), false),
        (json!([[url]]), false),
        (json!([{}]), false),
        (json!([{"id": "x"}]), false),
        (json!({"urls": 7}), false),
        (json!({"urls": []}), false),
        (json!({"urls": [url], "force": true}), false),
        (json!({"urls": [url], "options": []}), false),
        (json!({"urls": [url], "options": {"forse": true}}), false),
        (json!({"url": url, "urlz": url}), false),
        (json!({"url": url, "id": 1.5}), false),
        (json!({"url": url, "id": "x".repeat(257)}), false),
        (json!({"value": [url]}), false),
        (json!({"options": {}}), false),
        (json!({"data": 7}), false),
        (json!({"type": "url", "value": url, "options": {"retention_days": 61}}), false),
    ] {
        let documented = document.fits(&body, "/components/schemas/SubmissionBody");
        let answer = bridge.post("/v1/check", body.to_string()).await;
        assert_eq!((documented, answer.status == 200), (understood, understood), "{body}: {}", answer.text);
    }
}

#[tokio::test]
async fn every_path_answers_its_methods_and_refuses_the_others() {
    let document = Document::new();
    let bridge = Bridge::new().await;
    for (path, item) in document.at("/paths").as_object().unwrap() {
        let target = path.replace("{batch_id}", NO_BATCH);
        let documented: BTreeSet<String> =
            item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", ""] {
            let answer = bridge.send(request(method, &target, &[("x-api-key", KEY)], "")).await;
            if documented.contains(method) {
                assert!(!matches!(answer.problem(), "not-found" | "method-not-allowed"), "{method} {path}");
            } else {
                assert_eq!((answer.status, answer.problem()), (405, "method-not-allowed"), "{method} {path}");
                let allowed = answer.header("allow").unwrap().split(", ").map(str::to_owned).collect();
                assert_eq!(documented, allowed, "{path}");
            }
        }
    }
    for path in
        ["/", "", "/v1", "/v1/", "/v2/submissions", "/v1/submissions/a/b", "/v1/check/x", "/metrics", "//"]
    {
        let answer = bridge.get(path).await;
        assert_eq!((answer.status, answer.problem()), (404, "not-found"), "{path}");
    }
}

#[test]
fn every_problem_fits_the_document() {
    let mut document = Document::new();
    for kind in ProblemKind::ALL {
        let problem = Problem::new(kind, "a detail");
        let answer = Answer::from(problem.response());
        document.assert_fits(&answer.json, "/components/schemas/Problem", answer.problem());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    let answer = Answer::from(Problem::unavailable().response());
    document.assert_promised(POST, &answer);
    document.assert_promised(CHECK, &Answer::from(submit::api::misconfigured_problem().response()));
}

/// Makes the run that a batch follows stand here.
/// Makes a batch older than it is: nothing is late before it was asked for.
async fn accepted_at(bridge: &Bridge, batch: &str, time: DateTime<Utc>) {
    let place = Key::new(format!("batch#{batch}"), "header");
    let mut header = bridge.ledger.store().get(&place).await.unwrap().unwrap();
    header.body["created_at"] = serde_json::to_value(time).unwrap();
    let expected = Expected::Version(header.version);
    bridge.ledger.store().put(&place, header.body, header.ttl, expected).await.unwrap();
}

async fn put(bridge: &Bridge, batch: &str, url: &str, state: State, since: DateTime<Utc>) {
    let now = Utc::now();
    let mut entry = Entry::new(url.to_owned());
    let run = entry.begin(batch, 0, "token".to_owned(), now);
    entry.runs[run].since = since;
    entry.runs[run].state = state;
    let key = entry_key("caller soar", url, "");
    let put = bridge
        .ledger
        .put_entry(&key, Versioned { value: entry, expected: Expected::New }, now)
        .await
        .unwrap();
    assert!(matches!(put, Put::Written(_)));
}

/// A batch with an input in every status, and one of every failure.
async fn colourful_batch(bridge: &Bridge) -> String {
    let url = |name: &str| format!("http://{name}.example/");
    let names =
        ["finished", "submitted", "claimed", "lost", "unconfirmed", "quota", "late", "queued", "unsent"];
    let failed = FailureCode::ALL.map(FailureCode::as_str);
    let urls: Vec<_> = names.into_iter().chain(failed).map(|name| url(&name.replace('_', "-"))).collect();
    let mut inputs: Vec<_> = urls.iter().map(|url| json!({"id": 5, "value": url})).collect();
    inputs.extend([
        json!("http://10.0.0.1/"),
        json!(urls[0]),
        json!({"id": "x", "type": "FQDN", "value": "a.example"}),
    ]);
    let answer = bridge.post("/v1/submissions?wait=0", json!(inputs).to_string()).await;
    let batch = answer.batch().to_owned();
    let (now, past) = (Utc::now(), Utc::now() - TimeDelta::days(3));
    accepted_at(bridge, &batch, past).await;
    let (reason, detail) = ("the connection broke".to_owned(), "no more".to_owned());
    let minute = TimeDelta::minutes(1);
    for (name, state, since) in [
        ("finished", State::Finished { facts: facts(), at: now }, now),
        ("submitted", State::Submitted { facts: facts(), at: now }, now),
        ("claimed", State::Claimed { until: now + minute }, now),
        ("lost", State::Claimed { until: now - minute }, now),
        ("unconfirmed", State::Unconfirmed { sent_at: now, missing_at: None, reason: reason.clone() }, now),
        ("quota", State::QuotaExceeded { detail: detail.clone(), at: now }, now),
        ("late", State::Queued { reason: None }, past),
        ("queued", State::Queued { reason: Some(reason) }, now),
    ] {
        put(bridge, &batch, &url(name), state, since).await;
    }
    for (code, facts) in FailureCode::ALL.into_iter().zip([None, None, Some(facts()), Some(facts())]) {
        let state = State::Failed { facts, code, detail: detail.clone(), at: now };
        put(bridge, &batch, &url(&code.as_str().replace('_', "-")), state, now).await;
    }
    batch
}

#[tokio::test]
async fn answers_about_batches_are_as_promised() {
    let mut document = Document::new();
    let bridge = Bridge::new().await;

    let open = bridge.post("/v1/submissions?wait=0", r#"["http://a.example/", "http://b.example/"]"#).await;
    assert_eq!(open.status, 202);
    document.assert_promised(POST, &open);
    let done = bridge.post("/v1/submissions", "http://10.0.0.1/\nfile:///etc/passwd").await;
    assert_eq!(done.status, 200);
    document.assert_promised(POST, &done);

    let batch = colourful_batch(&bridge).await;
    let answer = bridge.get(&format!("/v1/submissions/{batch}")).await;
    assert_eq!(answer.status, 202);
    document.assert_promised(GET, &answer);
    let seen: BTreeSet<_> =
        answer.json["results"].as_array().unwrap().iter().map(|row| row["status"].to_string()).collect();
    assert_eq!(seen.len(), Status::ALL.len(), "{seen:?}");
    for query in ["?fields=summary", "?limit=2", "?limit=2&cursor=2", "?cursor=999"] {
        document.assert_promised(GET, &bridge.get(&format!("/v1/submissions/{batch}{query}")).await);
    }
    assert_eq!(answer.json["results"][0]["attributes"].as_array().unwrap().len(), 7);

    let done = bridge.get(&format!("/v1/submissions/{}", done.batch())).await;
    assert_eq!(done.status, 200);
    document.assert_promised(GET, &done);

    let (open, done) = (open.batch(), done.batch());
    for (query, status) in [
        (format!("ids={done}"), 200),
        (format!("ids={done},nobody,{open},{batch}&limit=3"), 202),
        (format!("ids={done},{open}&fields=summary"), 202),
        ("ids=nobody".to_owned(), 200),
    ] {
        let several = bridge.get(&format!("/v1/submissions?{query}")).await;
        assert_eq!(several.status, status, "{query}");
        document.assert_promised(SEVERAL, &several);
    }

    let nothing = bridge.post(&format!("/v1/submissions/{done}/retry"), "").await;
    assert_eq!(nothing.status, 200);
    document.assert_promised(RETRY, &nothing);
    let retried = bridge.post(&format!("/v1/submissions/{batch}/retry?wait=0"), "").await;
    assert_eq!(retried.status, 202);
    document.assert_promised(RETRY, &retried);
    let counts = &retried.json["counts"];
    assert_eq!(
        (&counts["failed"], &counts["quota_exceeded"], &counts["timed_out"]),
        (&json!(0), &json!(0), &json!(0))
    );
}

#[tokio::test]
async fn a_check_is_as_promised_and_changes_nothing() {
    let mut document = Document::new();
    let bridge = Bridge::new().await;
    let batch = colourful_batch(&bridge).await;
    let body = json!({"urls": [
        {"id": 1, "value": "http://finished.example/"}, "http://submitted.example", "http://queued.example/",
        "http://fresh.example/", "hxxp://fresh[.]example", "http://10.0.0.1/", "https://a.example/?token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    ]});
    let before = bridge.get(&format!("/v1/submissions/{batch}")).await;
    // All that were accepted, and not the refused and repeated ones.
    let used = json!(before.json["results"].as_array().unwrap().len() - 3);
    for _ in 0..2 {
        let check = bridge.post("/v1/check?wait=0", body.to_string()).await;
        assert_eq!(check.status, 200);
        document.assert_promised(CHECK, &check);
        let rows = check.json["results"].as_array().unwrap();
        let actions: Vec<_> = rows.iter().map(|row| row["action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["reuse", "reuse", "reuse", "submit", "duplicate", "refuse", "refuse"]);
        assert_eq!((&check.json["fits"], &check.json["today"]["used"]), (&json!(true), &used));
    }
    let after = bridge.get(&format!("/v1/submissions/{batch}")).await;
    assert_eq!(before.json, after.json);
}

#[tokio::test]
async fn problems_are_as_promised() {
    let mut document = Document::new();
    let bridge = Bridge::with(&[("MAX_URLS_PER_REQUEST", "5"), ("MAX_URLS_PER_CALLER_DAY", "3")]).await;
    let with = |header: &'static str, value: &'static str, body: &'static str| {
        request("POST", "/v1/submissions?wait=0", &[("x-api-key", KEY), (header, value)], body)
    };
    let post = |target: &str, body: &str| request("POST", target, &[("x-api-key", KEY)], body);
    let get = |target: &str| request("GET", target, &[("x-api-key", KEY)], "");
    let first = bridge.send(with("idempotency-key", "k", "http://a.example/")).await;
    document.assert_promised(POST, &first);
    let nobody = |method: &str, target: &str| request(method, target, &[], "");
    let batch = format!("/v1/submissions/{NO_BATCH}");
    let retry = format!("{batch}/retry");
    let cases: Vec<((&str, &str), Request, &str)> = vec![
        (POST, nobody("POST", "/v1/submissions"), "unauthorized"),
        (SEVERAL, nobody("GET", "/v1/submissions"), "unauthorized"),
        (GET, nobody("GET", &batch), "unauthorized"),
        (RETRY, nobody("POST", &retry), "unauthorized"),
        (CHECK, nobody("POST", "/v1/check"), "unauthorized"),
        (POST, post("/v1/submissions?wait=26", "x"), "invalid-parameter"),
        (POST, post("/v1/submissions", " "), "empty-body"),
        (POST, post("/v1/submissions", "{'urls'"), "not-json"),
        (POST, post("/v1/submissions", "[1]"), "invalid-body"),
        (
            CHECK,
            post("/v1/check", r#"{"urls":["http://a.example"],"options":{"forse":1}}"#),
            "invalid-options",
        ),
        (CHECK, post("/v1/check", "[1,2,3,4,5,6]"), "invalid-body"),
        (CHECK, post("/v1/check", r#"["a","b","c","d","e","f"]"#), "too-many-urls"),
        (POST, with("content-encoding", "gzip", "x"), "unsupported-media-type"),
        (POST, with("content-type", "application/xml", "<a/>"), "unsupported-media-type"),
        (POST, with("idempotency-key", "k", "http://b.example/"), "idempotency-key-reused"),
        (
            POST,
            post("/v1/submissions", "http://c.example/,http://d.example/,http://e.example/"),
            "daily-limit",
        ),
        (SEVERAL, get("/v1/submissions"), "invalid-parameter"),
        (GET, get(&format!("{batch}?limit=0")), "invalid-parameter"),
        (GET, get(&batch), "no-such-batch"),
        (RETRY, post(&retry, ""), "no-such-batch"),
        (RETRY, post(&format!("{retry}?wait=x"), ""), "invalid-parameter"),
    ];
    for (operation, request, problem) in cases {
        let answer = bridge.send(request).await;
        assert_eq!(answer.problem(), problem, "{operation:?}: {}", answer.text);
        document.assert_promised(operation, &answer);
    }
    let wrong = Bridge::with(&[("DENY", "not a host/")]).await;
    let misconfigured = wrong.post("/v1/check", "http://a.example/").await;
    assert_eq!(misconfigured.problem(), "misconfigured");
    document.assert_promised(CHECK, &misconfigured);
}

#[tokio::test]
async fn the_service_tells_about_itself_without_a_key() {
    let mut document = Document::new();
    let bridge = Bridge::new().await;
    for path in ["/health", "/openapi.json"] {
        let answer = bridge.send(request("GET", path, &[], "")).await;
        assert_eq!(answer.status, 200);
        document.assert_promised(("get", path), &answer);
    }
    let served = bridge.send(request("GET", "/openapi.json", &[], "")).await;
    assert_eq!(served.json, document.value);
}
