//! The deployment as the template wires it: every sample event goes to its function, what comes of it is checked, and
//! what the functions asked of AWS is held against their roles, both ways.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeSet;
use std::path::Path;

use end_to_end::deployment::Deployment;
use end_to_end::http_api::{HttpRequest, HttpResponse};
use end_to_end::ingest::estate;
use end_to_end::lambda::{Lambda, event};
use end_to_end::queue::Delays;
use end_to_end::submit::{CALLER_KEY, authorized};
use serde_json::{Value, json};
use simulators::faults::Fault;
use simulators::vmray::VmrayOptions;

/// What stands in the sample events for a caller's key, and for the number of a batch.
const KEY: &str = "the-key-of-a-caller";
const BATCH: &str = "00000000-0000-4000-8000-000000000000";

/// What AWS itself does with a function's role; no process of ours asks for it.
const BY_AWS: [(&str, &str); 10] = [
    // Lambda writes what a process prints.
    ("IngestFunction", "logs:CreateLogStream"),
    ("IngestFunction", "logs:PutLogEvents"),
    ("SubmitApiFunction", "logs:CreateLogStream"),
    ("SubmitApiFunction", "logs:PutLogEvents"),
    ("SubmitWorkerFunction", "logs:CreateLogStream"),
    ("SubmitWorkerFunction", "logs:PutLogEvents"),
    // Lambda puts a failed run aside.
    ("IngestFunction", "sqs:SendMessage"),
    // Lambda takes messages for the worker.
    ("SubmitWorkerFunction", "sqs:ReceiveMessage"),
    ("SubmitWorkerFunction", "sqs:DeleteMessage"),
    ("SubmitWorkerFunction", "sqs:GetQueueAttributes"),
];

/// A sample event with a caller's key and a batch in it.
fn sample(name: &str, batch: &str) -> Value {
    let text = event(name).to_string().replace(KEY, CALLER_KEY).replace(BATCH, batch);
    serde_json::from_str(&text).unwrap()
}

/// Sends a sample event to the API, by a route that the template has.
async fn ask(deployment: &Deployment, api: &Lambda, name: &str, batch: &str) -> HttpResponse {
    let event = sample(name, batch);
    let (method, path) = event["routeKey"].as_str().unwrap().split_once(' ').unwrap();
    let method =
        if method == "ANY" { "x-amazon-apigateway-any-method".to_owned() } else { method.to_lowercase() };
    let routes = &deployment.template.properties("SubmitHttpApi")["Body"]["paths"];
    assert!(routes[path][method].is_object(), "{name}: the template has no such route");
    let timeout = deployment.function("SubmitApiFunction").timeout;
    HttpResponse::read(&api.invoke(event, timeout).await.answer())
}

async fn ingests(deployment: &Deployment) {
    let ingest = deployment.function("IngestFunction");
    let process = ingest.start().await;
    let invoke = async |name: &str| process.invoke(event(name), ingest.timeout).await.answer();

    let heartbeat = invoke("ingest-heartbeat.json").await;
    assert_eq!(heartbeat["status"], "heartbeat", "{heartbeat}");
    let dry = invoke("ingest-dry-run.json").await;
    assert_eq!((&dry["samples"], &dry["dry_run"]), (&json!(6), &json!(true)), "{dry}");
    assert_eq!(deployment.opencti.platform().bundles().len(), 0);

    // One sample fails at first, so that quarantine is written, read and emptied.
    deployment.vmray.faults().add(Fault::on("GET /rest/sample/3/vtis").status(404));
    let first = invoke("ingest-schedule.json").await;
    assert_eq!((&first["samples"], &first["quarantined"]), (&json!(5), &json!(1)), "{first}");
    deployment.vmray.faults().clear();
    let second = invoke("ingest-schedule.json").await;
    assert_eq!((&second["status"], &second["quarantined"]), (&json!("done"), &json!(0)), "{second}");
    let window = invoke("ingest-window.json").await;
    assert_eq!((&window["status"], &window["samples"]), (&json!("done"), &json!(2)), "{window}");
    assert!(process.peak_memory() < ingest.memory, "{} MiB", process.peak_memory());
}

/// Lets the workers of the template take every message that there is.
async fn work_off(deployment: &Deployment) {
    let source = deployment.event_source();
    let deliveries = source.idle().await;
    assert!(deliveries.iter().all(|delivery| delivery.failure.is_none()), "{deliveries:?}");
    source.stop().await;
}

async fn submits(deployment: &Deployment) {
    let function = deployment.function("SubmitApiFunction");
    let api = function.start().await;
    deployment.queue.set_delays(Delays::Dropped);
    let health = ask(deployment, &api, "submit-health.json", BATCH).await;
    assert_eq!(health.status, 200, "{health:?}");
    assert_eq!(ask(deployment, &api, "submit-openapi.json", BATCH).await.status, 200);
    let check = ask(deployment, &api, "submit-check.json", BATCH).await;
    assert_eq!(check.status, 200, "{check:?}");
    assert_eq!(deployment.vmray.submits().len(), 0, "a check sends nothing");

    // VMRay is too busy at first, so that the worker sends a message for later.
    deployment.vmray.faults().add(Fault::on("POST /rest/sample/submit").times(1).throttle(12));
    let accepted = ask(deployment, &api, "submit-post.json", BATCH).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let batch = accepted.json()["batch_id"].as_str().unwrap().to_owned();
    work_off(deployment).await;
    assert_eq!(deployment.vmray.posts().len(), 2, "two URLs may be sent, one is of a private host");
    deployment.vmray.finish_all();

    let got = ask(deployment, &api, "submit-get.json", &batch).await;
    assert_eq!((got.status, &got.json()["counts"]["finished"]), (200, &json!(2)), "{got:?}");
    assert_eq!(got.json()["results"][0]["id"], "42");
    let several = ask(deployment, &api, "submit-several.json", &batch).await;
    assert_eq!(several.status, 200, "{several:?}");
    let retry = ask(deployment, &api, "submit-retry.json", &batch).await;
    assert!(retry.status < 300, "{retry:?}");

    // The quota is used up, which the worker writes down for the batch.
    deployment.vmray.set_quota_limit(Some(0));
    let urls = json!({"urls": ["https://over.example.org/"]});
    let request = authorized(HttpRequest::post("/v1/submissions?wait=0", &urls));
    let accepted = HttpResponse::read(&api.invoke(request.event(), function.timeout).await.answer());
    work_off(deployment).await;
    let got = ask(deployment, &api, "submit-get.json", accepted.json()["batch_id"].as_str().unwrap()).await;
    assert_eq!(got.json()["counts"]["quota_exceeded"], 1, "{got:?}");
    assert!(api.peak_memory() < function.memory, "{} MiB", api.peak_memory());

    // The sample messages are about a batch that is there, and about none.
    let function = deployment.function("SubmitWorkerFunction");
    let worker = function.start().await;
    let sent = deployment.vmray.submits().len();
    for name in ["submit-chunk.json", "submit-guard.json"] {
        for batch in [batch.as_str(), BATCH] {
            let answer = worker.invoke(sample(name, batch), function.timeout).await.answer();
            assert_eq!(answer, json!({"batchItemFailures": []}), "{name}");
        }
    }
    assert_eq!(deployment.vmray.submits().len(), sent, "nothing is sent twice");
    assert!(worker.peak_memory() < function.memory, "{} MiB", worker.peak_memory());
}

fn rights_are_needed_and_enough(deployment: &Deployment) {
    for (name, function) in deployment.functions() {
        let rights = deployment.rights(name);
        let calls = function.calls();
        for call in &calls {
            let allowed = rights.iter().any(|right| call.is_allowed_by(right));
            assert!(allowed, "{name} asks for {call:?}, and its role does not allow it: {rights:#?}");
        }
        let used: BTreeSet<_> =
            calls.iter().map(|call| (call.action.as_str(), call.resource.as_str())).collect();
        for right in &rights {
            for action in &right.actions {
                let needed = used.contains(&(action.as_str(), right.resource.as_str()));
                let by_aws = BY_AWS.contains(&(name, action));
                assert!(needed || by_aws, "{name}: {} allows {action}, and nothing asks for it", right.sid);
            }
        }
    }
}

#[tokio::test]
async fn the_deployment_works_as_the_template_wires_it_with_the_rights_that_it_gives() {
    let deployment = Deployment::start(VmrayOptions { estate: estate(6), ..VmrayOptions::default() }).await;
    let ingest = deployment.function("IngestFunction");
    let (kind, message) =
        ingest.start().await.invoke(event("ingest-schedule.json"), ingest.timeout).await.error();
    assert_eq!(kind, "SecretsError", "nobody has put the keys in yet: {message}");
    deployment.put_keys().await;
    ingests(&deployment).await;
    submits(&deployment).await;
    rights_are_needed_and_enough(&deployment);
}

#[test]
fn every_sample_event_is_sent_to_its_function() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events");
    let names =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let this = include_str!("deployment.rs");
    for name in names {
        assert!(this.contains(&format!("\"{name}\"")), "{name}");
    }
}
