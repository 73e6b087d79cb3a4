//! A POST whose outcome nobody knows is looked up before it is sent again.

use chrono::TimeDelta;
use end_to_end::submit::url;
use serde_json::json;
use simulators::faults::Fault;
use simulators::vmray::submit::{
    MetadataEcho, MetadataFilter, SubmitAction, SubmitOptions, SubmitRule, Visible,
};

use crate::scene::{POST, Scene, counts, each, urls};

/// VMRay stores the URL, and the answer is lost: it is found, not sent again.
async fn is_found(options: SubmitOptions, fault: Fault) {
    let context = format!("{options:?}, {fault:?}");
    let scene = Scene::with(options, &[("SUBMIT_TIMEOUT_MS", "500")]).await;
    // Submissions of others, which must not be taken for it.
    scene.submit(&urls(&["other-1", "other-2"])).await;
    scene.work().await;
    scene.world.vmray.faults().add(fault);
    let batch = scene.submit(&urls(&["evil-a"])).await;
    scene.work().await;
    let found = scene.look(&batch).await;
    assert_eq!(counts(&found), json!({"submitted": 1}), "{context}");
    let stored = scene.world.vmray.stored_of(&url("evil-a"));
    assert_eq!(json!(each(&found, "submission_id")), json!(stored), "{context}");
    scene.work_it_off().await;
    scene.each_was_sent_once(&["evil-a", "other-1", "other-2"]);
    scene.world.vmray.finish_all();
    assert_eq!(each(&scene.look(&batch).await, "verdict"), ["malicious"], "{context}");
}

fn lost() -> Fault {
    Fault::on(POST).once().status_after_handling(502)
}

#[tokio::test]
async fn a_stored_submission_is_found_whatever_has_become_of_its_answer() {
    for fault in [
        lost(),
        Fault::on(POST).once().status_after_handling(504),
        Fault::on(POST).once().close_after_handling(),
        Fault::on(POST).once().hang_after_handling(),
        Fault::on(POST).once().truncate(40),
    ] {
        is_found(SubmitOptions::default(), fault).await;
    }
}

#[tokio::test]
async fn a_stored_submission_is_found_on_servers_of_all_kinds() {
    let usual = SubmitOptions::default;
    for options in [
        SubmitOptions { metadata_filter: MetadataFilter::Unsupported, ..usual() },
        SubmitOptions { metadata_filter: MetadataFilter::Ignored, ..usual() },
        SubmitOptions { metadata: MetadataEcho::Respaced, ..usual() },
        SubmitOptions { metadata: MetadataEcho::Dropped, ..usual() },
        SubmitOptions { search: false, ..usual() },
        SubmitOptions { search: false, metadata_filter: MetadataFilter::Ignored, ..usual() },
    ] {
        is_found(options, lost()).await;
    }
}

#[tokio::test]
async fn what_vmray_shows_later_is_waited_for_and_found() {
    let scene = Scene::new().await;
    scene.world.vmray.on_submit(SubmitRule::all(SubmitAction::Fresh).visible(Visible::WhenTold));
    scene.world.vmray.faults().add(lost());
    let batch = scene.submit(&urls(&["a"])).await;
    scene.work().await;
    let unknown = scene.look(&batch).await;
    assert_eq!(counts(&unknown), json!({"unconfirmed": 1}));
    assert_eq!(
        (&unknown["done"], each(&unknown, "error_code")),
        (&json!(false), vec![&json!("unconfirmed")])
    );
    let delay = scene.world.queue().sent().last().unwrap().delay;
    assert!((15..=20).contains(&delay), "20 s after it was sent: {delay}");
    scene.world.vmray.reveal_all();
    scene.world.aws.time_passes(TimeDelta::seconds(30)).await;
    scene.work_later().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 1}));
    scene.each_was_sent_once(&["a"]);
}

#[tokio::test]
async fn what_vmray_does_not_have_is_sent_again_after_the_second_look_and_not_before() {
    let scene = Scene::new().await;
    scene.world.vmray.faults().add(Fault::on(POST).once().status(502));
    let batch = scene.submit(&urls(&["a"])).await;
    let message = scene.message().await;
    crate::scene::give(&scene.world, &scene.worker, &message).await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"unconfirmed": 1}));
    let again = |count: usize| {
        assert_eq!(scene.world.vmray.posts_of(&url("a")), count);
    };
    for seconds in [0, 5, 9] {
        // Messages that come too early: the guard's, and SQS's own repeats.
        scene.world.aws.time_passes(TimeDelta::seconds(seconds)).await;
        scene.world.queue().send(&message.body).await;
        scene.work().await;
        again(1);
    }
    scene.world.aws.time_passes(TimeDelta::seconds(7)).await;
    scene.work_later().await;
    again(2);
    assert_eq!(scene.world.vmray.stored_of(&url("a")).len(), 1);
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 1}));
}

#[tokio::test]
async fn while_nobody_can_look_nothing_is_sent_again() {
    let scene = Scene::new().await;
    scene.world.vmray.faults().add(Fault::on(POST).once().status_after_handling(502));
    scene.world.vmray.faults().add(Fault::on("GET /rest/submission*").status(503));
    let batch = scene.submit(&urls(&["a"])).await;
    for _ in 0..4 {
        scene.work_later().await;
        scene.world.aws.time_passes(TimeDelta::minutes(5)).await;
        scene.each_was_sent_once(&["a"]);
    }
    assert_eq!(counts(&scene.look(&batch).await), json!({"unconfirmed": 1}));
    scene.world.vmray.faults().clear();
    scene.work_later().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 1}));
    scene.each_was_sent_once(&["a"]);
}

#[tokio::test]
async fn a_server_that_never_answers_is_sent_a_url_less_and_less_often() {
    let scene = Scene::new().await;
    scene.world.vmray.faults().add(Fault::on(POST).status(502));
    let batch = scene.submit(&urls(&["a"])).await;
    let message = scene.message().await;
    crate::scene::give(&scene.world, &scene.worker, &message).await;
    let mut delays = Vec::new();
    for posts in 2..9 {
        delays.push(scene.world.queue().sent().last().unwrap().delay);
        scene.world.aws.time_passes(TimeDelta::minutes(16)).await;
        scene.work_later().await;
        assert_eq!(scene.world.vmray.posts_of(&url("a")), posts);
    }
    for (delay, expected) in delays.iter().zip([20, 40, 80, 160, 320, 640, 900]) {
        assert!((expected - 5..=expected).contains(delay), "{delays:?}");
    }
    scene.world.vmray.faults().clear();
    scene.world.aws.time_passes(TimeDelta::minutes(16)).await;
    scene.work_later().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 1}));
    assert_eq!(scene.world.vmray.stored_of(&url("a")).len(), 1);
}
