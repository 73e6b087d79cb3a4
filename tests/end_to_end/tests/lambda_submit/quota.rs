//! The quota is spent: the rest waits for somebody's decision.

use end_to_end::http_api::HttpRequest;
use end_to_end::submit::url;
use serde_json::json;
use simulators::vmray::submit::{SubmitAction, SubmitOptions, SubmitRule};

use crate::scene::{Scene, counts, each, urls};

const HOSTS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[tokio::test]
async fn a_spent_quota_stops_the_rest_and_a_retry_sends_it() {
    let options = SubmitOptions { quota_limit: Some(2), ..SubmitOptions::default() };
    let scene = Scene::with(options, &[("SUBMIT_CONCURRENCY", "1")]).await;
    let batch = scene.submit(&urls(&HOSTS)).await;
    scene.work().await;
    let stopped = scene.look(&batch).await;
    assert_eq!(counts(&stopped), json!({"submitted": 2, "quota_exceeded": 4}));
    assert_eq!(scene.world.vmray.submits().len(), 3, "after the first refusal nothing is sent");
    let refused: Vec<_> =
        stopped["results"].as_array().unwrap().iter().filter(|it| it["status"] == "quota_exceeded").collect();
    for result in refused {
        assert_eq!(result["error_code"], "quota_exceeded");
        assert!(result["error_detail"].as_str().unwrap().contains("Prepaid Report Quota"), "{result}");
    }
    scene.work_later().await;
    assert_eq!(scene.world.vmray.submits().len(), 3, "and nothing later");
    let check = scene.ask(HttpRequest::post("/v1/check", &urls(&["g"]))).await.json();
    assert_eq!(check["today"]["used"], 2, "what the quota refused is given back to the caller");
    scene.world.vmray.finish_all();
    assert_eq!(scene.look(&batch).await["done"], true, "it has ended as far as it can");

    scene.world.vmray.set_quota_limit(None);
    assert_eq!(counts(&scene.retry(&batch).await), json!({"finished": 2, "pending": 4}));
    scene.work().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"finished": 2, "submitted": 4}));
    assert!(HOSTS.iter().all(|host| scene.world.vmray.stored_of(&url(host)).len() == 1));
    scene.world.vmray.finish_all();
    assert_eq!(each(&scene.look(&batch).await, "status"), ["finished"; 6]);
}

#[tokio::test]
async fn a_retry_under_a_spent_quota_stops_again() {
    let options = SubmitOptions { quota_limit: Some(0), ..SubmitOptions::default() };
    let scene = Scene::with(options, &[("SUBMIT_CONCURRENCY", "1")]).await;
    let batch = scene.submit(&urls(&HOSTS)).await;
    scene.work().await;
    scene.retry(&batch).await;
    scene.work().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"quota_exceeded": 6}));
    assert_eq!(scene.world.vmray.submits().len(), 2, "one for each try");
}

#[tokio::test]
async fn a_quota_that_is_told_at_the_top_of_the_answer_is_one_too() {
    for status in [200, 400, 403] {
        let scene = Scene::with(SubmitOptions::default(), &[("SUBMIT_CONCURRENCY", "1")]).await;
        scene.world.vmray.on_submit(SubmitRule::all(SubmitAction::QuotaAtTop(status)));
        let batch = scene.submit(&urls(&["a", "b"])).await;
        scene.work().await;
        assert_eq!(counts(&scene.look(&batch).await), json!({"quota_exceeded": 2}), "{status}");
        assert_eq!(scene.world.vmray.submits().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_later_call_for_what_the_quota_stopped_sends_it() {
    let options = SubmitOptions { quota_limit: Some(1), ..SubmitOptions::default() };
    let scene = Scene::with(options, &[("SUBMIT_CONCURRENCY", "1")]).await;
    let batch = scene.submit(&urls(&["a", "b", "c"])).await;
    scene.work().await;
    scene.world.vmray.finish_all();
    assert_eq!(scene.look(&batch).await["done"], true);
    scene.world.vmray.set_quota_limit(None);
    let later = scene.submit(&urls(&["a", "b", "c"])).await;
    assert_ne!(later["batch_id"], batch["batch_id"]);
    scene.work().await;
    scene.world.vmray.finish_all();
    assert_eq!(counts(&scene.look(&later).await), json!({"finished": 3}));
    assert!(["a", "b", "c"].iter().all(|host| scene.world.vmray.stored_of(&url(host)).len() == 1));
}
