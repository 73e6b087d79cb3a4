//! Verdicts are asked for when somebody asks for a batch.

use chrono::TimeDelta;
use end_to_end::submit::url;
use serde_json::{Value, json};
use simulators::faults::Fault;
use simulators::vmray::submit::{Caching, Ending, SubmitAction, SubmitOptions, SubmitRule, Visible};

use crate::scene::{Scene, counts, each, urls};

fn list_calls(scene: &Scene) -> u64 {
    let calls = scene.world.vmray.calls();
    calls.iter().filter(|(name, _)| name.starts_with("GET /rest/submission")).map(|(_, count)| count).sum()
}

#[tokio::test]
async fn a_look_at_a_batch_is_one_call_to_vmray_for_each_of_its_chunks() {
    let scene = Scene::new().await;
    let hosts: Vec<_> = (0..120).map(|n| format!("h{n}")).collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    let batch = scene.submit(&urls(&hosts)).await;
    scene.work().await;
    scene.world.vmray.clear_log();
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 120}));
    assert_eq!(list_calls(&scene), 2, "{:?}", scene.world.vmray.calls());
    scene.world.vmray.finish_all();
    assert_eq!(counts(&scene.look(&batch).await), json!({"finished": 120}));
    let asked = list_calls(&scene);
    scene.look(&batch).await;
    assert_eq!(list_calls(&scene), asked, "nobody asks for what has ended");
}

#[tokio::test]
async fn vmray_is_not_asked_more_often_than_allowed() {
    let scene = Scene::with(SubmitOptions::default(), &[("VERDICT_REFRESH_MS", "10000")]).await;
    let batch = scene.submit(&urls(&["a", "b"])).await;
    scene.work().await;
    scene.world.vmray.clear_log();
    scene.look(&batch).await;
    assert_eq!(list_calls(&scene), 1);
    scene.world.vmray.finish_all();
    for _ in 0..3 {
        assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 2}), "as it was last told");
    }
    assert_eq!(list_calls(&scene), 1);
    scene.world.aws.time_passes(TimeDelta::seconds(11)).await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"finished": 2}));
    assert_eq!(list_calls(&scene), 2);
}

#[tokio::test]
async fn every_ending_of_an_analysis_has_its_answer() {
    let scene = Scene::new().await;
    let hosts = ["a", "b", "c", "d"];
    let batch = scene.submit(&urls(&hosts)).await;
    scene.work().await;
    let verdict = simulators::estate::Verdict::Malicious;
    let endings = [Ending::Error, Ending::NoVerdict, Ending::Warning(verdict), Ending::Verdict(verdict)];
    for (host, ending) in hosts.iter().zip(endings) {
        assert_eq!(scene.world.vmray.finish_with(&url(host), ending), 1);
    }
    let done = scene.look(&batch).await;
    assert_eq!(each(&done, "status"), ["failed", "finished", "finished", "finished"]);
    assert_eq!(json!(each(&done, "verdict")), json!([null, "not_available", "malicious", "malicious"]));
    assert_eq!(done["results"][0]["error_code"], "analysis_failed");
    assert!(done["results"][0]["submission_id"].is_u64(), "what is known stays known");
    assert_eq!((&done["done"], &done["errors"]), (&json!(true), &json!(true)));
}

#[tokio::test]
async fn a_submission_that_vmray_has_deleted_has_failed_and_can_be_sent_again() {
    let scene = Scene::new().await;
    // In no list; the first of them is found by its number, the second is not there.
    scene
        .world
        .vmray
        .on_submit(SubmitRule::containing("hidden", SubmitAction::Fresh).visible(Visible::WhenTold));
    let batch = scene.submit(&urls(&["hidden-a", "hidden-b", "c"])).await;
    scene.work().await;
    let number = scene.world.vmray.stored_of(&url("hidden-b"))[0];
    scene.world.vmray.estate().delete_submission(number);
    let gone = scene.look(&batch).await;
    assert_eq!(
        each(&gone, "status"),
        ["submitted", "failed", "submitted"],
        "a list without it proves nothing"
    );
    assert_eq!(gone["results"][1]["error_code"], "deleted");
    assert_eq!(counts(&scene.retry(&batch).await), json!({"submitted": 2, "pending": 1}));
    scene.work().await;
    assert_eq!(scene.world.vmray.posts_of(&url("hidden-b")), 2);
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 3}));
}

#[tokio::test]
async fn what_has_no_verdict_in_time_is_timed_out_and_sent_again_on_request() {
    let options = SubmitOptions { caching: Caching::Disabled, ..SubmitOptions::default() };
    let scene = Scene::with(options, &[]).await;
    let batch = scene.submit(&urls(&["a", "b"])).await;
    scene.work().await;
    scene.world.aws.time_passes(TimeDelta::hours(23)).await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 2}));
    scene.world.vmray.finish(&url("a"));
    scene.world.aws.time_passes(TimeDelta::hours(2)).await;
    let late = scene.look(&batch).await;
    assert_eq!(each(&late, "status"), ["finished", "timed_out"], "a verdict that is there is no late one");
    assert_eq!((&late["done"], &late["results"][1]["error_code"]), (&json!(true), &json!("timed_out")));

    assert_eq!(counts(&scene.retry(&batch).await), json!({"finished": 1, "pending": 1}));
    scene.work().await;
    assert_eq!(scene.world.vmray.posts_of(&url("b")), 2);
    scene.world.vmray.finish_all();
    let done = scene.look(&batch).await;
    assert_eq!(each(&done, "status"), ["finished"; 2]);
    assert_eq!(done["results"][1]["submission_id"], scene.world.vmray.stored_of(&url("b"))[1]);
}

#[tokio::test]
async fn what_nobody_could_send_in_time_is_timed_out_and_not_sent_any_more() {
    let scene = Scene::new().await;
    let batch = scene.submit(&urls(&["a"])).await;
    scene.world.aws.time_passes(TimeDelta::hours(25)).await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"timed_out": 1}));
    scene.work_later().await;
    assert!(scene.world.vmray.submits().is_empty(), "the caller was told that it ended");
    scene.retry(&batch).await;
    scene.work().await;
    scene.each_was_sent_once(&["a"]);
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 1}));
}

#[tokio::test]
async fn while_vmray_does_not_answer_nothing_is_timed_out() {
    let scene = Scene::new().await;
    let batch = scene.submit(&urls(&["a", "b"])).await;
    scene.work().await;
    scene.world.vmray.finish_all();
    scene.world.vmray.faults().add(Fault::on("GET /rest/submission*").status(500));
    scene.world.aws.time_passes(TimeDelta::hours(30)).await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 2}), "the verdicts may be there");
    scene.world.vmray.faults().clear();
    let done = scene.look(&batch).await;
    assert_eq!((counts(&done), &done["errors"]), (json!({"finished": 2}), &Value::Bool(false)));
}
