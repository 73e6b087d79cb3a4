//! The daily limit holds whatever comes first, and wherever it dies: VMRay never gets more, and no URL counts twice.
//!
//! A call, a retry or a worker is held up, or killed, at each place of its way, while others come from their beginning to
//! their end. A random play mixes all of them.

#![allow(clippy::unwrap_used)]

mod support;

use std::future::Future;

use proptest::prelude::*;
use support::Answer;
use support::scene::Scene;
use support::stage::{Actor, Dice, played_by, until_it_stops};

const HOSTS: [&str; 3] = ["a", "b", "c"];

/// What becomes of an actor at the place where it stops.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    HeldUp,
    Killed,
}

/// Of two equal calls the first one stops at one of its requests while the second one, and a worker, come to their ends.
/// Then the first one goes on, unless it was killed. `false`: it makes no such request.
async fn comes_twice<F: Future<Output = Answer> + Send + 'static>(
    scene: &Scene,
    call: impl Fn() -> F,
    (stops_at, fate): (usize, Fate),
    status: u16,
) -> bool {
    let actor = Actor::stopping_at(stops_at);
    let Err(first) = until_it_stops(&actor, call()).await else { return false };
    let second = call().await;
    assert_eq!(second.status, status, "{fate:?} at {stops_at}: {}", second.text);
    scene.work().await;
    if fate == Fate::HeldUp {
        actor.goes_on();
        let first = first.await;
        assert_eq!(first.status, status, "{fate:?} at {stops_at}: {}", first.text);
        assert_eq!(first.json["batch_id"], second.json["batch_id"], "{fate:?} at {stops_at}");
    }
    scene.work().await;
    scene.work_later().await;
    scene.nothing_counts_but_what_vmray_has(&format!("{fate:?} at {stops_at}")).await;
    true
}

/// Plays two identical calls, the first of them stopped at each of its requests.
async fn two_identical_calls(limit: usize, quota: Option<u64>, fate: Fate, status: u16) {
    for stops_at in 0.. {
        let scene = Scene::new(limit, quota).await;
        if !comes_twice(&scene, || scene.call(&HOSTS), (stops_at, fate), status).await {
            assert!(stops_at > 8, "only {stops_at} places");
            return;
        }
        let fits = usize::from(status == 202)
            * HOSTS.len().min(quota.map_or(usize::MAX, |it| usize::try_from(it).unwrap()));
        assert_eq!(scene.stored(), fits, "{fate:?} at {stops_at}");
    }
}

#[tokio::test]
async fn of_two_identical_calls_both_count_once_wherever_one_is_held_up() {
    two_identical_calls(3, None, Fate::HeldUp, 202).await;
}

#[tokio::test]
async fn two_identical_calls_that_are_too_large_send_nothing_wherever_one_is_held_up() {
    two_identical_calls(2, None, Fate::HeldUp, 429).await;
}

#[tokio::test]
async fn a_repeat_counts_once_wherever_the_call_before_it_died() {
    two_identical_calls(3, None, Fate::Killed, 202).await;
}

#[tokio::test]
async fn a_repeat_that_is_too_large_sends_nothing_wherever_the_call_before_it_died() {
    two_identical_calls(2, None, Fate::Killed, 429).await;
}

#[tokio::test]
async fn what_the_quota_refused_is_given_back_once_wherever_a_call_is_held_up() {
    two_identical_calls(3, Some(1), Fate::HeldUp, 202).await;
}

#[tokio::test]
async fn what_the_quota_refused_is_given_back_once_wherever_a_worker_dies() {
    for stops_at in 0.. {
        let scene = Scene::new(3, Some(1)).await;
        let batch = scene.call(&HOSTS).await.batch().to_owned();
        let actor = Actor::stopping_at(stops_at);
        if until_it_stops(&actor, scene.work()).await.is_ok() {
            assert!(stops_at > 8, "only {stops_at} places");
            return;
        }
        scene.work_later().await;
        let answer = scene.bridge.get(&format!("/v1/submissions/{batch}")).await;
        let open = answer.json["counts"]["pending"].as_u64().unwrap()
            + answer.json["counts"]["unconfirmed"].as_u64().unwrap();
        if open == 0 {
            scene.nothing_counts_but_what_vmray_has(&format!("killed at {stops_at}")).await;
        } else {
            // A claim that nobody has looked after yet: it counts until it is known what became of it.
            assert!(scene.used().await >= scene.stored() && scene.used().await <= scene.limit);
        }
    }
}

#[tokio::test]
async fn urls_that_another_batch_has_sent_are_given_back() {
    let scene = Scene::new(5, None).await;
    scene.call(&["a", "b"]).await;
    scene.call(&["b", "c"]).await;
    assert_eq!(scene.used().await, 4, "nothing is sent yet");
    scene.work().await;
    scene.nothing_counts_but_what_vmray_has("a, b and c").await;
    assert_eq!(scene.stored(), 3);
}

#[tokio::test]
async fn a_smaller_call_fits_after_one_that_was_too_large() {
    let scene = Scene::new(2, None).await;
    assert_eq!(scene.call(&HOSTS).await.problem(), "daily-limit");
    assert_eq!(scene.call(&HOSTS[..2]).await.status, 202);
    let again = scene.call(&HOSTS).await;
    assert_eq!(again.problem(), "daily-limit", "{}", again.text);
    scene.work().await;
    scene.nothing_counts_but_what_vmray_has("two of three").await;
}

/// Plays two retries of one batch, the first of them stopped at each of its requests.
async fn two_retries(limit: usize, fate: Fate, status: u16) {
    for stops_at in 0.. {
        let scene = Scene::new(limit, Some(0)).await;
        let batch = scene.call(&HOSTS).await.batch().to_owned();
        scene.work().await;
        assert_eq!((scene.used().await, scene.stored()), (0, 0), "all is given back");
        // Something else has used a part of the day.
        scene.vmray.set_quota_limit(None);
        scene.call(&["x"]).await;
        scene.work().await;
        if !comes_twice(&scene, || scene.retry(&batch), (stops_at, fate), status).await {
            assert!(stops_at > 4, "only {stops_at} places");
            return;
        }
        let retried = if status == 202 { HOSTS.len() } else { 0 };
        assert_eq!(scene.stored(), retried + 1, "{fate:?} at {stops_at}");
    }
}

#[tokio::test]
async fn of_two_retries_both_count_once_wherever_one_is_held_up() {
    two_retries(4, Fate::HeldUp, 202).await;
}

#[tokio::test]
async fn a_retry_counts_once_wherever_the_one_before_it_died() {
    two_retries(4, Fate::Killed, 202).await;
}

#[tokio::test]
async fn a_retry_that_does_not_fit_sends_nothing() {
    two_retries(3, Fate::HeldUp, 429).await;
}

/// Calls, workers and deaths in a random order.
async fn random_play(seed: u64) {
    let dice = Dice::new(seed);
    let limit = 1 + usize::try_from(dice.below(5)).unwrap();
    let quota = Some(dice.below(6)).filter(|quota| *quota < 4);
    let scene = Scene::new(limit, quota).await;
    let bodies: [&[&str]; 3] = [&["a", "b"], &["b", "c", "d"], &["e"]];
    let actors = (0..6).map(|number| {
        let own = Dice::new(seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Two of three calls die somewhere; the workers live.
        let stops_at = if number < 4 { usize::try_from(own.below(36)).unwrap() } else { usize::MAX };
        let body = bodies[usize::try_from(own.below(3)).unwrap()];
        let (scene, actor) = (scene.clone(), Actor::of(stops_at, Some(own)));
        async move {
            if number >= 4 {
                for _ in 0..20 {
                    played_by(&actor, scene.work()).await;
                    tokio::task::yield_now().await;
                }
                return;
            }
            let answer = match until_it_stops(&actor, scene.call(body)).await {
                Ok(answer) => answer,
                // The caller repeats what was not answered.
                Err(killed) => {
                    drop(killed);
                    scene.call(body).await
                }
            };
            assert!([200, 202, 429].contains(&answer.status), "{}", answer.text);
        }
    });
    futures::future::join_all(actors).await;
    scene.work().await;
    scene.work_later().await;
    scene.work_later().await;
    scene.nothing_counts_but_what_vmray_has(&format!("seed {seed}")).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_limit_holds_in_any_order(seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(random_play(seed));
    }
}
