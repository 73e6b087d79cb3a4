//! What VMRay says of a URL that it does not analyse, and of one that it knows.

use end_to_end::submit::{OTHER_CALLER_KEY, ask, authorized, url};
use serde_json::{Value, json};
use simulators::vmray::submit::{Caching, SubmitAction, SubmitOptions, SubmitRule};

use crate::scene::{Scene, counts, each, submission, urls};

/// What becomes of one URL under a rule, beside one that is taken.
async fn under(action: SubmitAction) -> Value {
    let scene = Scene::new().await;
    scene.world.vmray.on_submit(SubmitRule::containing("special", action));
    let batch = scene.submit(&urls(&["special", "usual"])).await;
    scene.work().await;
    scene.work_later().await;
    scene.each_was_sent_once(&["special", "usual"]);
    let answer = scene.look(&batch).await;
    assert_eq!(answer["results"][1]["status"], "submitted", "the others go on");
    answer["results"][0].clone()
}

#[tokio::test]
async fn a_refusal_is_told_in_vmrays_words_and_not_repeated() {
    for (action, words) in [
        (SubmitAction::Refused(400, "Missing parameter".to_owned()), "Missing parameter"),
        (SubmitAction::Refused(403, "Not authorized".to_owned()), "Not authorized"),
        (SubmitAction::Error("URL is not supported".to_owned()), "URL is not supported"),
        (SubmitAction::Nothing, "gave no reason"),
    ] {
        let result = under(action).await;
        assert_eq!((&result["status"], &result["error_code"]), (&json!("failed"), &json!("rejected")));
        assert!(result["error_detail"].as_str().unwrap().contains(words), "{result}");
    }
}

#[tokio::test]
async fn errors_beside_a_submission_do_not_hide_it() {
    let result = under(SubmitAction::FreshWithError("One archive member failed".to_owned())).await;
    assert_eq!((&result["status"], &result["error_code"]), (&json!("submitted"), &Value::Null));
}

#[tokio::test]
async fn a_url_without_jobs_whose_sample_cannot_be_found_has_failed() {
    for action in [SubmitAction::NoJobs, SubmitAction::NoJobsBare] {
        let result = under(action).await;
        assert_eq!((&result["status"], &result["error_code"]), (&json!("failed"), &json!("no_jobs")));
        assert!(result["error_detail"].as_str().unwrap().contains("no jobs were created"), "{result}");
    }
}

/// One caller's URL is analysed; what another caller hears of it.
async fn known_to_vmray(caching: Caching) -> (Scene, Value) {
    let options = SubmitOptions { caching, ..SubmitOptions::default() };
    let scene = Scene::with(options, &[]).await;
    scene.submit(&urls(&["evil-known"])).await;
    scene.work().await;
    scene.world.vmray.finish_all();
    let request = submission(&urls(&["evil-known"])).header("x-api-key", OTHER_CALLER_KEY);
    let batch = ask(&scene.api, &request).await.json();
    scene.work().await;
    let target = crate::scene::place(&batch);
    let request = end_to_end::http_api::HttpRequest::get(&target).header("x-api-key", OTHER_CALLER_KEY);
    let answer = ask(&scene.api, &request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (scene, answer.json())
}

#[tokio::test]
async fn what_vmray_answers_from_its_cache_is_finished_at_once() {
    let (scene, answer) = known_to_vmray(Caching::Smart).await;
    assert_eq!(each(&answer, "verdict"), ["malicious"]);
    assert_eq!(each(&answer, "source"), ["reused"]);
    let stored = scene.world.vmray.stored_of(&url("evil-known"));
    assert_eq!(answer["results"][0]["submission_id"], stored[1], "{stored:?}");
    let gets = scene.world.vmray.calls();
    assert!(!gets.keys().any(|call| call.starts_with("GET /rest/submission")), "nobody had to ask: {gets:?}");
}

#[tokio::test]
async fn a_url_without_jobs_is_answered_by_its_sample() {
    let (scene, answer) = known_to_vmray(Caching::Legacy).await;
    assert_eq!(counts(&answer), json!({"finished": 1}));
    assert_eq!(
        (each(&answer, "verdict"), each(&answer, "source")),
        (vec![&json!("malicious")], vec![&json!("reused")])
    );
    let stored = scene.world.vmray.stored_of(&url("evil-known"));
    assert_eq!(json!(each(&answer, "submission_id")), json!(stored));
}

#[tokio::test]
async fn what_was_refused_is_sent_again_on_request() {
    let scene = Scene::new().await;
    let rule = SubmitRule::all(SubmitAction::Error("Busy".to_owned())).times(1);
    scene.world.vmray.on_submit(rule);
    let batch = scene.submit(&urls(&["a"])).await;
    scene.work().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"failed": 1}));
    assert_eq!(counts(&scene.retry(&batch).await), json!({"pending": 1}));
    scene.work().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 1}));
    assert_eq!(counts(&scene.retry(&batch).await), json!({"submitted": 1}), "nothing is left to be retried");
    scene.work_later().await;
    assert_eq!(scene.world.vmray.posts_of(&url("a")), 2);
    let again = ask(&scene.api, &authorized(submission(&urls(&["a"])))).await;
    assert_eq!(again.json()["batch_id"], batch["batch_id"]);
}
