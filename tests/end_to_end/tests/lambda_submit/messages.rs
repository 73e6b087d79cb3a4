//! What SQS may do to a message: it comes twice, late, in another order, and again when it failed.

use std::time::Duration;

use chrono::TimeDelta;
use end_to_end::event_source::hand_over;
use end_to_end::queue::MAX_RECEIVE_COUNT;
use end_to_end::submit::{CALLER, OTHER_CALLER, OTHER_CALLER_KEY, WORKER_LIMIT, ask, url};
use serde_json::json;
use simulators::faults::Fault;

use crate::scene::{Scene, counts, give, urls};

#[tokio::test]
async fn messages_that_come_twice_and_in_another_order_send_nothing_twice() {
    let scene = Scene::new().await;
    let hosts: Vec<_> = (0..210).map(|n| format!("h{n}")).collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    let batch = scene.submit(&urls(&hosts)).await;
    let mut bodies: Vec<_> = scene.world.queue().sent().into_iter().map(|sent| sent.body).collect();
    bodies.reverse();
    for body in &bodies {
        scene.world.queue().send(body).await;
    }
    let other = scene.world.worker().await;
    // Two workers at the same time, which meet at the same messages.
    tokio::join!(scene.work(), crate::scene::work(&scene.world, &other));
    scene.work_it_off().await;
    scene.each_was_sent_once(&hosts);
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 210}));
}

#[tokio::test]
async fn a_message_that_comes_after_its_batch_expired_sends_nothing() {
    let scene = Scene::new().await;
    let batch = scene.submit(&urls(&["a"])).await;
    let message = scene.message().await;
    scene.world.aws.time_passes(TimeDelta::days(36)).await;
    assert_eq!(give(&scene.world, &scene.worker, &message).await[0].failure, None);
    scene.work_later().await;
    assert!(scene.world.vmray.submits().is_empty());
    let gone = scene.ask(end_to_end::http_api::HttpRequest::get(&crate::scene::place(&batch))).await;
    assert_eq!(gone.status, 404);
}

#[tokio::test]
async fn after_everything_has_expired_the_same_call_begins_anew() {
    let scene = Scene::new().await;
    let first = scene.submit(&urls(&["a"])).await;
    scene.work().await;
    scene.world.aws.time_passes(TimeDelta::days(36)).await;
    let again = scene.submit(&urls(&["a"])).await;
    assert_ne!(again["batch_id"], first["batch_id"]);
    scene.work_later().await;
    assert_eq!(scene.world.vmray.posts_of(&url("a")), 2);
    assert_eq!(counts(&scene.look(&again).await), json!({"submitted": 1}));
}

#[tokio::test]
async fn a_poison_message_ends_with_the_dead_letters_and_the_others_go_on() {
    let scene = Scene::new().await;
    let queue = scene.world.queue();
    let poison = ["hello", "{\"kind\":\"chunk\"}", "{\"kind\":\"other\",\"batch\":\"b\"}"];
    for body in poison {
        queue.send(body).await;
    }
    scene.submit(&urls(&["a"])).await;
    for round in 1..=MAX_RECEIVE_COUNT {
        let messages = queue.receive(10, Duration::from_secs(1)).await;
        let messages: Vec<_> = messages.iter().collect();
        assert_eq!(messages.len(), if round == 1 { 4 } else { 3 });
        for delivery in hand_over(queue, &scene.worker, &messages, WORKER_LIMIT).await {
            let is_poison = poison.contains(&delivery.body.as_str());
            assert_eq!(delivery.failure.is_some(), is_poison, "only those come again: {delivery:?}");
        }
        for message in messages {
            if poison.contains(&message.body.as_str()) {
                queue.set_visibility(message, Duration::ZERO).await;
            } else {
                queue.delete(message).await;
            }
        }
    }
    assert!(queue.receive(10, Duration::from_secs(1)).await.is_empty());
    assert_eq!(queue.dead_letter_count().await, 3);
    scene.each_was_sent_once(&["a"]);
}

#[tokio::test]
async fn a_message_whose_store_is_down_comes_again_and_nothing_is_sent_blindly() {
    let scene = Scene::new().await;
    let batch = scene.submit(&urls(&["a"])).await;
    let message = scene.message().await;
    scene.world.aws.dynamodb_faults().add(Fault::any().status(500));
    assert!(give(&scene.world, &scene.worker, &message).await[0].failure.is_some());
    assert!(scene.world.vmray.submits().is_empty(), "without a claim nothing is sent");
    scene.world.aws.dynamodb_faults().clear();
    scene.world.queue().set_visibility(&message, Duration::ZERO).await;
    scene.work().await;
    scene.each_was_sent_once(&["a"]);
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 1}));
}

#[tokio::test]
async fn an_answer_that_could_not_be_recorded_is_found_again() {
    let scene = Scene::new().await;
    let batch = scene.submit(&urls(&["a"])).await;
    let message = scene.message().await;
    // The claim is written, the record is not.
    scene.world.aws.dynamodb_faults().add(Fault::on("PutItem").from(2).status(500));
    assert!(give(&scene.world, &scene.worker, &message).await[0].failure.is_some());
    scene.world.aws.dynamodb_faults().clear();
    scene.world.aws.time_passes(TimeDelta::minutes(1)).await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"unconfirmed": 1}));
    scene.world.queue().set_visibility(&message, Duration::ZERO).await;
    scene.work_it_off().await;
    scene.each_was_sent_once(&["a"]);
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 1}));
}

#[tokio::test]
async fn a_follow_up_that_the_queue_does_not_take_leaves_the_message_where_it_is() {
    let scene = Scene::new().await;
    scene.world.vmray.faults().add(Fault::on(crate::scene::POST).once().throttle(300));
    let batch = scene.submit(&urls(&["a"])).await;
    let message = scene.message().await;
    scene.world.queue().faults().add(Fault::any().status(500));
    assert!(give(&scene.world, &scene.worker, &message).await[0].failure.is_some());
    scene.world.queue().faults().clear();
    scene.world.queue().set_visibility(&message, Duration::ZERO).await;
    scene.work_it_off().await;
    assert_eq!(counts(&scene.look(&batch).await), json!({"submitted": 1}));
    assert_eq!(scene.world.vmray.stored_of(&url("a")).len(), 1);
}

#[tokio::test]
async fn a_call_whose_messages_the_queue_does_not_take_is_sent_by_its_guard() {
    let scene = Scene::new().await;
    // The guard is taken, the rest is not: the caller hears 503, and yet it is accepted.
    scene.world.queue().faults().add(Fault::any().from(2).status(500));
    let refused = scene.ask(crate::scene::submission(&urls(&["a", "b"]))).await;
    assert_eq!(crate::scene::problem(&refused), (503, "unavailable".to_owned()));
    scene.world.queue().faults().clear();
    let batch = scene.submit(&urls(&["a", "b"])).await;
    scene.work().await;
    assert!(scene.world.vmray.submits().is_empty(), "nobody has been told");
    scene.work_later().await;
    scene.each_was_sent_once(&["a", "b"]);
    assert_eq!((counts(&scene.look(&batch).await), scene.batches().await), (json!({"submitted": 2}), 1));
}

#[tokio::test]
async fn messages_are_grouped_by_their_caller_so_that_callers_take_turns() {
    let scene = Scene::new().await;
    // One that comes again belongs to its caller, too.
    scene.world.vmray.faults().add(Fault::on(crate::scene::POST).once().throttle(300));
    scene.submit(&urls(&["a"])).await;
    let request = crate::scene::submission(&urls(&["b"])).header("x-api-key", OTHER_CALLER_KEY);
    assert_eq!(ask(&scene.api, &request).await.status, 202);
    scene.work().await;
    let groups: Vec<_> = scene.world.queue().sent().into_iter().map(|sent| sent.group).collect();
    assert_eq!(
        groups,
        [CALLER, CALLER, OTHER_CALLER, OTHER_CALLER, CALLER],
        "guard and chunk of each, and the repeat"
    );
}
