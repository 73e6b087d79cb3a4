//! The same URLs again: from the same caller, another one, at the same time, later.

use chrono::TimeDelta;
use end_to_end::http_api::HttpRequest;
use end_to_end::submit::{OTHER_CALLER_KEY, ask, url};
use serde_json::{Value, json};
use simulators::faults::Fault;
use simulators::vmray::submit::{Caching, SubmitAction, SubmitOptions, SubmitRule};

use crate::scene::{LIMIT, Scene, counts, each, event, place, problem, submission, urls};

/// Submits under the other caller's key.
async fn submit_as_other(scene: &Scene, body: &Value) -> Value {
    let request = submission(body).header("x-api-key", OTHER_CALLER_KEY);
    ask(&scene.api, &request).await.json()
}

#[tokio::test]
async fn a_repeat_is_the_same_batch_while_it_runs_and_is_answered_by_the_ledger_afterwards() {
    let scene = Scene::new().await;
    let first = scene.submit(&urls(&["evil-a", "b"])).await;
    assert_eq!(scene.submit(&urls(&["evil-a", "b"])).await["batch_id"], first["batch_id"]);
    scene.work().await;
    assert_eq!(scene.submit(&urls(&["evil-a", "b"])).await["batch_id"], first["batch_id"]);
    scene.world.vmray.finish_all();
    assert_eq!(scene.look(&first).await["done"], true);

    let again = scene.ask(submission(&urls(&["evil-a", "b"]))).await;
    assert_eq!(again.status, 200, "{again:?}");
    let again = again.json();
    assert_ne!(again["batch_id"], first["batch_id"]);
    assert_eq!(each(&again, "source"), ["reused"; 2]);
    assert_eq!(each(&again, "verdict"), ["malicious", "clean"]);
    scene.work_later().await;
    scene.each_was_sent_once(&["evil-a", "b"]);
}

#[tokio::test]
async fn other_ids_or_options_are_another_call() {
    let scene = Scene::new().await;
    let bodies = [
        json!({"urls": [url("a")]}),
        json!({"urls": [{"id": 7, "value": url("a")}]}),
        json!({"urls": [url("a")], "options": {"comment": "other"}}),
    ];
    let mut batches = Vec::new();
    for body in &bodies {
        batches.push(scene.submit(body).await["batch_id"].clone());
    }
    assert!(batches[0] != batches[1] && batches[1] != batches[2] && batches[0] != batches[2]);
    scene.work().await;
    scene.each_was_sent_once(&["a"]);
    let analysed_otherwise = json!({"urls": [url("a")], "options": {"analysis_caching": "disabled"}});
    scene.submit(&analysed_otherwise).await;
    scene.work().await;
    assert_eq!(scene.world.vmray.posts_of(&url("a")), 2, "another analysis is another question");
}

#[tokio::test]
async fn an_idempotency_key_gives_its_batch_running_or_done_and_refuses_another_body() {
    let scene = Scene::new().await;
    let keyed = |body: &Value| submission(body).header("idempotency-key", "run 7");
    let first = scene.ask(keyed(&urls(&["a"]))).await.json();
    scene.work().await;
    scene.world.vmray.finish_all();
    assert_eq!(scene.look(&first).await["done"], true);
    let again = scene.ask(keyed(&urls(&["a"]))).await;
    assert_eq!((again.status, &again.json()["batch_id"]), (200, &first["batch_id"]));
    let other = scene.ask(keyed(&urls(&["b"]))).await;
    assert_eq!(problem(&other), (422, "idempotency-key-reused".to_owned()));
    scene.work_later().await;
    scene.each_was_sent_once(&["a"]);
    let request = submission(&urls(&["b"])).header("x-api-key", OTHER_CALLER_KEY);
    let elsewhere = ask(&scene.api, &request.header("idempotency-key", "run 7")).await;
    assert_eq!(elsewhere.status, 202, "another caller's keys are its own");
}

#[tokio::test]
async fn identical_calls_at_the_same_time_are_one_batch_and_one_post_for_each_url() {
    // One call is held after each of its requests to the table, while the other runs from its beginning to its end.
    let hosts = ["a", "b"];
    for request in 1.. {
        let scene = Scene::new().await;
        let other = scene.world.api().await;
        let (fault, pause) = Fault::any().from(request).once().pause_after_handling();
        scene.world.aws.dynamodb_faults().add(fault);
        let held = scene.api.send(event(&urls(&hosts)), LIMIT).outcome();
        tokio::pin!(held);
        tokio::select! {
            () = pause.reached() => {}
            _ = &mut held => {
                assert!(request > 8, "a call asks the table more than {request} times");
                return;
            }
        }
        let fast = ask(&other, &end_to_end::submit::authorized(submission(&urls(&hosts)))).await;
        pause.release();
        let slow = end_to_end::http_api::HttpResponse::read(&held.await.answer());
        assert_eq!((fast.status, slow.status), (202, 202), "request {request}: {slow:?}");
        assert_eq!(fast.json()["batch_id"], slow.json()["batch_id"], "request {request}");
        scene.work().await;
        scene.work_later().await;
        scene.each_was_sent_once(&hosts);
        assert_eq!(scene.batches().await, 1, "request {request}");
    }
}

#[tokio::test]
async fn identical_calls_over_the_daily_limit_send_nothing_wherever_one_is_held_up() {
    for request in 1.. {
        let scene = Scene::with(SubmitOptions::default(), &[("MAX_URLS_PER_CALLER_DAY", "1")]).await;
        let other = scene.world.api().await;
        let (fault, pause) = Fault::any().from(request).once().pause_after_handling();
        scene.world.aws.dynamodb_faults().add(fault);
        let held = scene.api.send(event(&urls(&["a", "b"])), LIMIT).outcome();
        tokio::pin!(held);
        tokio::select! {
            () = pause.reached() => {}
            _ = &mut held => {
                assert!(request > 5, "a call asks the table more than {request} times");
                return;
            }
        }
        let fast = ask(&other, &end_to_end::submit::authorized(submission(&urls(&["a", "b"])))).await;
        assert_eq!(problem(&fast), (429, "daily-limit".to_owned()), "request {request}");
        pause.release();
        let slow = end_to_end::http_api::HttpResponse::read(&held.await.answer());
        assert_eq!(problem(&slow), (429, "daily-limit".to_owned()), "request {request}");
        scene.work_later().await;
        assert!(scene.world.vmray.submits().is_empty(), "request {request}");
        assert_eq!(used(&scene).await, 0, "request {request}");
    }
}

/// What the caller has used of its daily limit.
async fn used(scene: &Scene) -> Value {
    let check = scene.ask(HttpRequest::post("/v1/check", &urls(&["unknown"]))).await;
    check.json()["today"]["used"].clone()
}

#[tokio::test]
async fn a_retry_sends_what_failed_in_a_run_of_its_own_and_others_keep_their_result() {
    let options = SubmitOptions { caching: Caching::Disabled, ..SubmitOptions::default() };
    let scene = Scene::with(options, &[]).await;
    scene.world.vmray.on_submit(SubmitRule::all(SubmitAction::Refused(400, "no".to_owned())).times(1));
    let first = scene.submit(&urls(&["a"])).await;
    let second = scene.submit(&json!({"urls": [url("a")], "options": {"comment": "another batch"}})).await;
    scene.work().await;
    assert_eq!(counts(&scene.look(&first).await), json!({"failed": 1}));
    assert_eq!(counts(&scene.look(&second).await), json!({"failed": 1}), "both follow one run");
    scene.retry(&second).await;
    scene.work().await;
    assert_eq!(counts(&scene.look(&second).await), json!({"submitted": 1}));
    assert_eq!(counts(&scene.look(&first).await), json!({"failed": 1}), "nobody has retried it");
    scene.retry(&first).await;
    scene.work().await;
    assert_eq!(counts(&scene.look(&first).await), json!({"submitted": 1}));
    assert_eq!(scene.world.vmray.posts_of(&url("a")), 2, "the first follows the later run");
}

#[tokio::test]
async fn the_oldest_of_many_forced_batches_keeps_its_result() {
    let options = SubmitOptions { caching: Caching::Disabled, ..SubmitOptions::default() };
    let scene = Scene::with(options, &[]).await;
    let mut batches = Vec::new();
    for number in 0..12 {
        let options = json!({"force": true, "comment": format!("number {number}")});
        batches.push(scene.submit(&json!({"urls": [url("a")], "options": options})).await);
        scene.work().await;
    }
    scene.world.vmray.finish_all();
    let stored = scene.world.vmray.stored_of(&url("a"));
    for (batch, number) in batches.iter().zip(stored) {
        assert_eq!(each(&scene.look(batch).await, "submission_id"), [number]);
    }
}

#[tokio::test]
async fn two_batches_with_one_url_are_one_post() {
    let scene = Scene::new().await;
    let one = scene.submit(&urls(&["a", "shared"])).await;
    let other = scene.submit(&urls(&["shared", "b"])).await;
    scene.work_later().await;
    scene.each_was_sent_once(&["a", "b", "shared"]);
    scene.world.vmray.finish_all();
    let (one, other) = (scene.look(&one).await, scene.look(&other).await);
    assert_eq!(one["results"][1]["submission_id"], other["results"][0]["submission_id"]);
    assert_eq!(each(&other, "source"), ["reused", "new"]);
    assert!(one["done"] == true && other["done"] == true);
}

#[tokio::test]
async fn each_caller_has_a_ledger_of_its_own() {
    // VMRay itself would answer from its cache.
    let options = SubmitOptions { caching: Caching::Disabled, ..SubmitOptions::default() };
    let scene = Scene::with(options, &[]).await;
    let mine = scene.submit(&urls(&["a"])).await;
    let theirs = submit_as_other(&scene, &urls(&["a"])).await;
    assert_ne!(mine["batch_id"], theirs["batch_id"]);
    scene.work().await;
    assert_eq!(scene.world.vmray.posts_of(&url("a")), 2);
}

#[tokio::test]
async fn callers_share_a_ledger_where_the_deployment_says_so() {
    let scene = Scene::with(SubmitOptions::default(), &[("LEDGER_SCOPE", "deployment")]).await;
    let mine = scene.submit(&urls(&["a"])).await;
    scene.work().await;
    scene.world.vmray.finish_all();
    scene.look(&mine).await;
    let theirs = submit_as_other(&scene, &urls(&["a"])).await;
    assert_eq!((&theirs["done"], each(&theirs, "source")), (&json!(true), vec![&json!("reused")]));
    scene.work_later().await;
    scene.each_was_sent_once(&["a"]);
}

#[tokio::test]
async fn another_callers_batch_is_not_there() {
    let scene = Scene::new().await;
    let mine = scene.submit(&urls(&["a"])).await;
    let get = HttpRequest::get(&place(&mine)).header("x-api-key", OTHER_CALLER_KEY);
    let retry =
        HttpRequest::new("POST", &format!("{}/retry", place(&mine))).header("x-api-key", OTHER_CALLER_KEY);
    let nowhere = HttpRequest::get("/v1/submissions/00000000-0000-4000-8000-000000000000");
    let nowhere = ask(&scene.api, &nowhere.header("x-api-key", OTHER_CALLER_KEY)).await;
    for request in [get, retry] {
        let response = ask(&scene.api, &request).await;
        assert_eq!(problem(&response), (404, "no-such-batch".to_owned()));
        assert_eq!(response.body, nowhere.body, "as if it never was");
    }
    let id = mine["batch_id"].as_str().unwrap();
    let several = HttpRequest::get(&format!("/v1/submissions?ids={id}"));
    let several = ask(&scene.api, &several.header("x-api-key", OTHER_CALLER_KEY)).await.json();
    assert_eq!((&several["unknown_ids"], &several["batches"]), (&json!([id]), &json!([])));
}

#[tokio::test]
async fn what_is_known_is_sent_again_when_it_is_forced_and_when_it_is_old() {
    let options = SubmitOptions { caching: Caching::Disabled, ..SubmitOptions::default() };
    let scene = Scene::with(options, &[]).await;
    let known = scene.submit(&urls(&["a"])).await;
    scene.work().await;
    scene.world.vmray.finish_all();
    scene.look(&known).await;

    let forced = scene.submit(&json!({"urls": [url("a")], "options": {"force": true}})).await;
    assert_eq!(counts(&forced), json!({"pending": 1}));
    scene.work().await;
    assert_eq!(scene.world.vmray.posts_of(&url("a")), 2);
    scene.world.vmray.finish_all();
    let (forced, known) = (scene.look(&forced).await, scene.look(&known).await);
    assert_eq!(each(&forced, "source"), ["new"]);
    assert_ne!(each(&forced, "submission_id"), each(&known, "submission_id"), "earlier batches keep theirs");

    scene.world.aws.time_passes(TimeDelta::days(6)).await;
    assert_eq!(counts(&scene.submit(&urls(&["a"])).await), json!({"finished": 1}));
    scene.world.aws.time_passes(TimeDelta::days(2)).await;
    assert_eq!(counts(&scene.submit(&urls(&["a"])).await), json!({"pending": 1}));
    scene.work().await;
    assert_eq!(scene.world.vmray.posts_of(&url("a")), 3);
}

#[tokio::test]
async fn a_caller_sends_no_more_in_a_day_than_it_may_and_known_urls_do_not_count() {
    let scene = Scene::with(SubmitOptions::default(), &[("MAX_URLS_PER_CALLER_DAY", "3")]).await;
    scene.submit(&urls(&["a", "b"])).await;
    let too_many = scene.ask(submission(&urls(&["a", "c", "d"]))).await;
    assert_eq!(problem(&too_many), (429, "daily-limit".to_owned()));
    let seconds: u64 = too_many.headers["retry-after"].parse().unwrap();
    assert!((1..=86_400).contains(&seconds), "until midnight: {seconds}");
    scene.work().await;
    assert_eq!(scene.ask(submission(&urls(&["a", "b", "c"]))).await.status, 202);
    scene.work_later().await;
    scene.each_was_sent_once(&["a", "b", "c"]);
}
