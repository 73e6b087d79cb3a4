//! Many URLs, many workers; and once everything on AWS's own engine of DynamoDB and on a queue whose times are real.

use std::time::Duration;

use end_to_end::aws::dynamodb_local_endpoint;
use end_to_end::http_api::HttpRequest;
use end_to_end::queue::{Delays, elasticmq_endpoint};
use end_to_end::submit::{World, WorldOptions, ask, authorized};
use serde_json::{Value, json};
use simulators::faults::Fault;

use crate::scene::{POST, counts, place, submission, urls};

fn hosts(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("host-{n}")).collect()
}

fn body(hosts: &[String]) -> Value {
    urls(&hosts.iter().map(String::as_str).collect::<Vec<_>>())
}

fn each_once(world: &World, count: usize) {
    let posts = world.vmray.posts();
    assert_eq!(posts.len(), count);
    let twice: Vec<_> = posts.iter().filter(|(_, posts)| **posts != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[tokio::test]
async fn a_thousand_urls_are_each_sent_once_by_several_workers() {
    // Thousands of requests: moto takes a minute for them.
    let options = WorldOptions { dynamodb: dynamodb_local_endpoint(), ..WorldOptions::default() };
    let mut world = World::with(options).await;
    world.set("VERDICT_REFRESH_MS", "1");
    // The guard comes at once and sends every chunk again: each is worked on by two.
    world.queue().set_delays(Delays::Dropped);
    let api = world.api().await;
    let accepted = ask(&api, &authorized(submission(&body(&hosts(1000))))).await;
    assert_eq!((accepted.status, counts(&accepted.json())), (202, json!({"pending": 1000})));
    let source = world.event_source(3);
    let deliveries = source.idle().await;
    source.stop().await;
    assert!(deliveries.iter().all(|delivery| delivery.failure.is_none()));
    each_once(&world, 1000);
    world.vmray.finish_all();
    let target = authorized(HttpRequest::get(&format!("{}?fields=summary", place(&accepted.json()))));
    // One look asks for as many chunks as it has time for.
    for _ in 0..10 {
        if ask(&api, &target).await.status == 200 {
            break;
        }
    }
    assert_eq!(counts(&ask(&api, &target).await.json()), json!({"finished": 1000}));
    let again = ask(&api, &authorized(submission(&body(&hosts(1000))))).await;
    assert_eq!((again.status, counts(&again.json())), (200, json!({"finished": 1000})));
    each_once(&world, 1000);
}

#[tokio::test]
async fn on_real_engines_a_killed_workers_urls_are_found_and_the_rest_is_sent_once() {
    let (Some(dynamodb), Some(sqs)) = (dynamodb_local_endpoint(), elasticmq_endpoint()) else { return };
    let visibility_timeout = Duration::from_secs(10);
    let (dynamodb, sqs) = (Some(dynamodb), Some(sqs));
    let mut world =
        World::with(WorldOptions { dynamodb, sqs, visibility_timeout, ..WorldOptions::default() }).await;
    // A claim lasts for this and five seconds.
    world.set("SUBMIT_TIMEOUT_MS", "1000");
    world.set("LOOKUP_PAUSE_MS", "1000");
    world.set("LOOKUP_SETTLE_MS", "1000");
    world.set("VERDICT_REFRESH_MS", "1");
    let api = world.api().await;
    let hosts = hosts(130);
    let (fault, pause) = Fault::on(POST).containing("host-7.").once().pause_after_handling();
    world.vmray.faults().add(fault);
    let accepted = ask(&api, &authorized(submission(&body(&hosts)))).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let source = world.event_source(2);
    pause.reached().await;
    assert!(source.kill_busy() >= 1);
    pause.release();
    // The message comes again, and its follow-up when the dead worker's claims are over.
    let target = authorized(HttpRequest::post("/v1/submissions?wait=25", &body(&hosts)));
    let repeat = ask(&api, &target).await;
    assert_eq!(repeat.json()["batch_id"], accepted.json()["batch_id"]);
    assert_eq!(counts(&repeat.json()), json!({"submitted": 130}), "{:?}", source.deliveries());
    source.stop().await;
    assert_eq!(world.vmray.stats()["server"]["stored"], 130);
    assert_eq!(world.vmray.posts_of(&end_to_end::submit::url("host-7")), 1);
    world.vmray.finish_all();
    let done = ask(&api, &authorized(HttpRequest::get(&place(&accepted.json())))).await;
    assert_eq!((done.status, counts(&done.json())), (200, json!({"finished": 130})));
}
