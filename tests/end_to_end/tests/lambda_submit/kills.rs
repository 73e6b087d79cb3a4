//! Processes that are killed at any point: what was accepted is sent once, what was not is sent by its repeat.

use chrono::TimeDelta;
use end_to_end::submit::{WORKER_LIMIT, url};
use serde_json::Value;
use simulators::faults::{Fault, Faults, Pause};

use crate::scene::{LIMIT, POST, Scene, counts, event, give, submission, urls, work};

const HOSTS: [&str; 3] = ["a", "b", "c"];

/// The services that the API writes to.
#[derive(Clone, Copy, Debug)]
enum Service {
    Table,
    Queue,
}

impl Service {
    fn faults(self, scene: &Scene) -> Faults {
        match self {
            Self::Table => scene.world.aws.dynamodb_faults(),
            Self::Queue => scene.world.queue().faults(),
        }
    }
}

/// Kills the API when the n-th request of its call was handled and not answered; `false`: there is none.
async fn the_api_dies(scene: &mut Scene, service: Service, request: u64) -> bool {
    let (fault, pause) = Fault::any().from(request).once().pause_after_handling();
    service.faults(scene).add(fault);
    let reached = tokio::select! {
        () = pause.reached() => true,
        _ = scene.api.send(event(&urls(&HOSTS)), LIMIT).outcome() => false,
    };
    if reached {
        scene.api.kill().await;
        scene.api = scene.world.api().await;
    }
    reached
}

/// A minute later the guard looks after the call; then the caller repeats it.
async fn the_guard_is_first(scene: &Scene, context: &str) {
    scene.work_later().await;
    let posts = scene.world.vmray.posts();
    assert!(posts.is_empty() || posts.len() == HOSTS.len(), "all or nothing, {context}: {posts:?}");
    let repeat = scene.ask(submission(&urls(&HOSTS))).await;
    assert_eq!(repeat.status, 202, "{context}: {repeat:?}");
}

/// The caller repeats the call at once; a minute later the guards come.
async fn the_repeat_is_first(scene: &Scene, context: &str) {
    let repeat = scene.ask(submission(&urls(&HOSTS))).await;
    assert_eq!(repeat.status, 202, "{context}: {repeat:?}");
}

/// Kills the API at each of its requests to a service, with either order of what comes afterwards.
async fn killed_at_each_request(service: Service, at_least: u64) {
    for guard_is_first in [true, false] {
        for request in 1.. {
            let mut scene = Scene::new().await;
            if !the_api_dies(&mut scene, service, request).await {
                assert!(request > at_least, "{service:?}: only {request} requests");
                break;
            }
            let context = format!("{service:?}, request {request}, guard first: {guard_is_first}");
            if guard_is_first {
                the_guard_is_first(&scene, &context).await;
            } else {
                the_repeat_is_first(&scene, &context).await;
            }
            scene.work().await;
            scene.work_later().await;
            scene.each_was_sent_once(&HOSTS);
            assert_eq!(scene.batches().await, 1, "{context}");
        }
    }
}

#[tokio::test]
async fn an_api_that_dies_at_any_request_to_the_table_has_accepted_all_or_nothing() {
    killed_at_each_request(Service::Table, 6).await;
}

#[tokio::test]
async fn an_api_that_dies_at_any_request_to_the_queue_has_accepted_all_or_nothing() {
    killed_at_each_request(Service::Queue, 2).await;
}

/// Kills the worker at its first message when the pause is reached, and hands the message to the next one a minute
/// later; `false`: it was not reached.
async fn the_worker_dies(scene: &mut Scene, pause: &Pause) -> bool {
    let message = scene.message().await;
    let event = scene.world.queue().event(&[&message]);
    let reached = tokio::select! {
        () = pause.reached() => true,
        _ = scene.worker.send(event, WORKER_LIMIT).outcome() => false,
    };
    if reached {
        scene.worker.kill().await;
        scene.worker = scene.world.worker().await;
        scene.world.aws.time_passes(TimeDelta::minutes(1)).await;
    }
    give(&scene.world, &scene.worker, &message).await;
    scene.work_it_off().await;
    reached
}

async fn one_url_accepted() -> (Scene, Value) {
    let scene = Scene::new().await;
    let batch = scene.submit(&urls(&["a"])).await;
    (scene, batch)
}

#[tokio::test]
async fn a_worker_that_dies_at_any_request_to_the_table_posts_once() {
    for request in 1.. {
        let (mut scene, batch) = one_url_accepted().await;
        let (fault, pause) = Fault::any().from(request).once().pause_after_handling();
        scene.world.aws.dynamodb_faults().add(fault);
        let died = the_worker_dies(&mut scene, &pause).await;
        scene.each_was_sent_once(&["a"]);
        assert_eq!(counts(&scene.look(&batch).await), serde_json::json!({"submitted": 1}), "{request}");
        if !died {
            assert!(request > 4, "header and chunk, entries, claim, record");
            return;
        }
    }
}

#[tokio::test]
async fn a_worker_that_dies_after_vmray_has_stored_the_url_is_followed_by_one_that_finds_it() {
    let (mut scene, batch) = one_url_accepted().await;
    let (fault, pause) = Fault::on(POST).once().pause_after_handling();
    scene.world.vmray.faults().add(fault);
    assert!(the_worker_dies(&mut scene, &pause).await);
    scene.each_was_sent_once(&["a"]);
    let found = scene.look(&batch).await;
    assert_eq!(found["results"][0]["submission_id"], scene.world.vmray.stored_of(&url("a"))[0]);
}

#[tokio::test]
async fn a_worker_that_dies_before_it_can_record_the_answer_is_followed_by_one_that_finds_it() {
    let (mut scene, _) = one_url_accepted().await;
    // The claim, then the record.
    let (fault, pause) = Fault::on("PutItem").from(2).once().pause();
    scene.world.aws.dynamodb_faults().add(fault);
    assert!(the_worker_dies(&mut scene, &pause).await);
    scene.each_was_sent_once(&["a"]);
    assert_eq!(scene.world.vmray.stored_of(&url("a")).len(), 1);
}

#[tokio::test]
async fn a_post_that_died_with_its_worker_before_vmray_stored_it_is_sent_again_after_two_look_ups() {
    let (mut scene, batch) = one_url_accepted().await;
    let (fault, pause) = Fault::on(POST).once().pause();
    scene.world.vmray.faults().add(fault);
    assert!(the_worker_dies(&mut scene, &pause).await);
    assert_eq!(scene.world.vmray.posts_of(&url("a")), 2);
    assert_eq!(scene.world.vmray.stored_of(&url("a")).len(), 1);
    assert_eq!(counts(&scene.look(&batch).await), serde_json::json!({"submitted": 1}));
    let metadata = scene.world.vmray.submits();
    assert_eq!(
        metadata[0].parameters["submission_metadata"], metadata[1].parameters["submission_metadata"],
        "by the same token"
    );
    let look_ups = scene.world.vmray.calls()["GET /rest/submission"];
    assert!(look_ups >= 2, "{look_ups}");
}

#[tokio::test]
async fn while_a_claim_lasts_nobody_else_sends() {
    let (scene, _) = one_url_accepted().await;
    let (fault, pause) = Fault::on(POST).once().pause();
    scene.world.vmray.faults().add(fault);
    let message = scene.message().await;
    let event = scene.world.queue().event(&[&message]);
    let sending = scene.worker.send(event, WORKER_LIMIT).outcome();
    tokio::pin!(sending);
    tokio::select! {
        () = pause.reached() => {}
        outcome = &mut sending => panic!("{outcome:?}"),
    }
    let other = scene.world.worker().await;
    let again = give(&scene.world, &other, &message).await;
    assert_eq!(again[0].failure, None, "it comes again by itself");
    let sent = scene.world.queue().sent();
    assert!((1..=36).contains(&sent.last().unwrap().delay), "when the claim is over: {sent:?}");
    pause.release();
    let _ = sending.await.answer();
    scene.world.queue().release_delayed().await;
    work(&scene.world, &other).await;
    scene.each_was_sent_once(&["a"]);
}
