//! One installation with a process of each function, whose messages are handed over when the test says so: nothing
//! happens by itself, and time passes only in what is stored.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use end_to_end::event_source::{Delivery, deliver};
use end_to_end::http_api::{HttpRequest, HttpResponse};
use end_to_end::lambda::Lambda;
use end_to_end::queue::{Delays, Message};
use end_to_end::submit::{API_LIMIT, WORKER_LIMIT, World, WorldOptions, ask, authorized, url};
use serde_json::{Value, json};
use simulators::vmray::VmrayOptions;
use simulators::vmray::submit::SubmitOptions;

/// The POST of a URL, as faults know it.
pub(crate) const POST: &str = "POST /rest/sample/submit";

/// No message becomes visible again by itself.
const NEVER: Duration = Duration::from_hours(1);

/// Variables and their texts.
pub(crate) type Settings<'a> = &'a [(&'a str, &'a str)];

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) api: Lambda,
    pub(crate) worker: Lambda,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(SubmitOptions::default(), &[]).await
    }

    pub(crate) async fn with(submit: SubmitOptions, settings: Settings<'_>) -> Self {
        Self::of(Self::world(submit).await, settings).await
    }

    /// What a scene plays in.
    pub(crate) async fn world(submit: SubmitOptions) -> World {
        let vmray = VmrayOptions { submit, ..VmrayOptions::default() };
        World::with(WorldOptions { vmray, visibility_timeout: NEVER, ..WorldOptions::default() }).await
    }

    pub(crate) async fn of(mut world: World, settings: Settings<'_>) -> Self {
        // Each look at a batch asks VMRay.
        world.set("VERDICT_REFRESH_MS", "1");
        for (name, text) in settings {
            world.set(name, text);
        }
        world.queue().set_delays(Delays::Parked);
        let (api, worker) = tokio::join!(world.api(), world.worker());
        Self { world, api, worker }
    }

    /// Sends a request with the caller's key.
    pub(crate) async fn ask(&self, request: HttpRequest) -> HttpResponse {
        ask(&self.api, &authorized(request)).await
    }

    /// Submits, and does not wait.
    pub(crate) async fn submit(&self, body: &Value) -> Value {
        let response = self.ask(submission(body)).await;
        assert!([200, 202].contains(&response.status), "{response:?}");
        response.json()
    }

    /// The batch as it is now.
    pub(crate) async fn look(&self, batch: &Value) -> Value {
        let response = self.ask(HttpRequest::get(&place(batch))).await;
        assert!([200, 202].contains(&response.status), "{response:?}");
        response.json()
    }

    /// Asks for what has ended without a verdict again, and does not wait.
    pub(crate) async fn retry(&self, batch: &Value) -> Value {
        let response = self.ask(HttpRequest::new("POST", &format!("{}/retry?wait=0", place(batch)))).await;
        assert!([200, 202].contains(&response.status), "{response:?}");
        response.json()
    }

    /// Takes a message out of the queue.
    pub(crate) async fn message(&self) -> Message {
        let mut messages = self.world.queue().receive(1, Duration::from_secs(1)).await;
        messages.pop().expect("there is a message")
    }

    /// Hands all messages to the worker that need not be waited for. All must go well.
    pub(crate) async fn work(&self) {
        work(&self.world, &self.worker).await;
    }

    /// The same when what was delayed has come.
    pub(crate) async fn work_later(&self) {
        self.world.queue().release_delayed().await;
        self.work().await;
    }

    /// Works on everything until nothing is left, a minute at a time.
    pub(crate) async fn work_it_off(&self) {
        self.work().await;
        while self.world.queue().counts().await.delayed > 0 {
            self.world.aws.time_passes(TimeDelta::minutes(1)).await;
            self.work_later().await;
        }
    }

    /// Asserts that VMRay got the URL of each of these hosts once, and no other.
    pub(crate) fn each_was_sent_once(&self, hosts: &[&str]) {
        let expected: BTreeMap<_, _> = hosts.iter().map(|host| (url(host), 1)).collect();
        assert_eq!(self.world.vmray.posts(), expected);
    }

    /// How many batches were accepted.
    pub(crate) async fn batches(&self) -> usize {
        let documents = self.world.aws.documents().await;
        documents.iter().filter(|document| document["sk"] == "header").count()
    }
}

pub(crate) async fn work(world: &World, worker: &Lambda) {
    while world.queue().counts().await.visible > 0 {
        for message in world.queue().receive(1, Duration::from_secs(1)).await {
            for delivery in give(world, worker, &message).await {
                assert_eq!(delivery.failure, None, "{}: {}", delivery.body, worker.stdout());
            }
        }
    }
}

/// Hands over one message, and deletes it when that went well.
pub(crate) async fn give(world: &World, worker: &Lambda, message: &Message) -> Vec<Delivery> {
    deliver(world.queue(), worker, &[message], WORKER_LIMIT).await
}

/// The request that submits and does not wait.
pub(crate) fn submission(body: &Value) -> HttpRequest {
    HttpRequest::post("/v1/submissions?wait=0", body)
}

/// A body with a URL of each host.
pub(crate) fn urls(hosts: &[&str]) -> Value {
    json!({"urls": hosts.iter().map(|host| url(host)).collect::<Vec<_>>()})
}

/// Where a batch is.
pub(crate) fn place(batch: &Value) -> String {
    format!("/v1/submissions/{}", batch["batch_id"].as_str().expect("a batch has a number"))
}

/// One member of each result.
pub(crate) fn each<'a>(answer: &'a Value, member: &str) -> Vec<&'a Value> {
    answer["results"].as_array().expect("results").iter().map(|result| &result[member]).collect()
}

/// The counts that are not zero.
pub(crate) fn counts(answer: &Value) -> Value {
    let counts = answer["counts"].as_object().expect("counts").iter();
    let counts = counts.filter(|(name, count)| **count != 0 && *name != "total");
    Value::Object(counts.map(|(name, count)| (name.clone(), count.clone())).collect())
}

/// The type of a problem document, without what all types begin with.
pub(crate) fn problem(response: &HttpResponse) -> (u16, String) {
    assert_eq!(response.headers["content-type"], "application/problem+json", "{response:?}");
    let document = response.json();
    assert_eq!(document["status"], response.status, "{document}");
    let kind = document["type"].as_str().unwrap().strip_prefix("urn:vmray-bridge:problem:");
    (response.status, kind.expect("a type of ours").to_owned())
}

/// The request as API Gateway hands it over, with the caller's key.
pub(crate) fn event(body: &Value) -> Value {
    authorized(submission(body)).event()
}

/// The API's time limit, for those who send events themselves.
pub(crate) const LIMIT: Duration = API_LIMIT;

/// The last line of metrics that a process has printed.
pub(crate) fn metrics(process: &Lambda) -> Value {
    let lines = process.lines();
    lines.into_iter().rfind(|line| line.get("_aws").is_some()).expect("a line of metrics")
}
