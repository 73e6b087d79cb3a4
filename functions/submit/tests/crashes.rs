//! A worker that dies at any place of its way is followed by one that does the rest: VMRay gets every URL once.

#![allow(clippy::unwrap_used)]

mod support;

use chrono::TimeDelta;
use simulators::faults::Fault;
use support::scene::Scene;
use support::stage::{Actor, until_it_stops};

const POST: &str = "POST /rest/sample/submit";

/// More than any of these tests sends.
const LIMIT: usize = 100;

/// Longer than a claim lasts, and than a look-up is waited for.
const LATER: TimeDelta = TimeDelta::minutes(2);

/// New processes work on what is left, each of them later than the one before, until nothing is left.
async fn work_it_off(scene: &mut Scene) {
    for _ in 0..8 {
        scene.stage.time_passes(LATER).await;
        scene.restart().await;
        if scene.work().await == 0 {
            return;
        }
    }
    panic!("there is always something left");
}

/// All of a batch is at VMRay, once, and its caller is told so.
async fn is_all_there(scene: &Scene, batch: &str, urls: usize, context: &str) {
    assert_eq!(scene.stored(), urls, "{context}");
    let answer = scene.bridge.get(&format!("/v1/submissions/{batch}")).await;
    assert_eq!(answer.json["counts"]["submitted"], urls, "{context}: {}", answer.text);
}

/// A worker dies at its n-th request to the store; `false`: it makes fewer.
async fn dies(scene: &Scene, stops_at: usize) -> bool {
    until_it_stops(&Actor::stopping_at(stops_at), scene.work()).await.is_err()
}

#[tokio::test]
async fn a_worker_that_dies_at_any_request_to_the_store_loses_no_url_and_sends_none_twice() {
    for stops_at in 0.. {
        let mut scene = Scene::new(LIMIT, None).await;
        let batch = scene.call(&["a", "b", "c"]).await.batch().to_owned();
        let has_died = dies(&scene, stops_at).await;
        work_it_off(&mut scene).await;
        is_all_there(&scene, &batch, 3, &format!("died at {stops_at}")).await;
        if !has_died {
            assert!(stops_at > 16, "only {stops_at} places");
            return;
        }
    }
}

#[tokio::test]
async fn workers_may_die_again_and_again_at_the_same_request() {
    for stops_at in 0.. {
        let mut scene = Scene::new(LIMIT, None).await;
        let batch = scene.call(&["a"]).await.batch().to_owned();
        let mut deaths = 0;
        while deaths < 4 && dies(&scene, stops_at).await {
            deaths += 1;
            scene.stage.time_passes(LATER).await;
            scene.restart().await;
        }
        work_it_off(&mut scene).await;
        is_all_there(&scene, &batch, 1, &format!("died {deaths} times at {stops_at}")).await;
        if deaths == 0 {
            assert!(stops_at > 8, "only {stops_at} places");
            return;
        }
    }
}

#[tokio::test]
async fn a_worker_that_dies_while_it_posts_is_followed_by_one_that_finds_what_was_sent() {
    for post in 1..=3 {
        for is_stored in [false, true] {
            let mut scene = Scene::new(LIMIT, None).await;
            let fault = Fault::on(POST).from(post).once();
            let (fault, pause) = if is_stored { fault.pause_after_handling() } else { fault.pause() };
            scene.vmray.faults().add(fault);
            let batch = scene.call(&["a", "b", "c"]).await.batch().to_owned();
            tokio::select! {
                () = pause.reached() => {}
                _ = scene.work() => panic!("there are three"),
            }
            work_it_off(&mut scene).await;
            is_all_there(&scene, &batch, 3, &format!("post {post}, stored: {is_stored}")).await;
        }
    }
}
