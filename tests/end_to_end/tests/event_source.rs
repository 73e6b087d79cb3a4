//! The event source that stands in for Lambda's, against a worker that does what its messages say: on moto, and on
//! `ElasticMQ` when it is there.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use end_to_end::aws::{dynamodb_local_endpoint, moto_endpoint};
use end_to_end::event_source::{EventSource, deliver, hand_over};
use end_to_end::lambda::{Function, MINUTES, Program};
use end_to_end::queue::{Counts, Delays, MAX_RECEIVE_COUNT, Queue, elasticmq_endpoint};
use end_to_end::submit::{World, WorldOptions};
use serde_json::{Value, json};
use simulators::faults::Fault;

fn stub() -> Function {
    let program = Program::At(Path::new(env!("CARGO_BIN_EXE_stub_worker")));
    Function::new(program, "stub", &BTreeMap::new(), &[])
}

/// A queue on each emulator; what fails comes again after a second.
async fn queues() -> Vec<Arc<Queue>> {
    let mut queues = Vec::new();
    for endpoint in [Some(moto_endpoint()), elasticmq_endpoint()].into_iter().flatten() {
        queues.push(Arc::new(Queue::start(endpoint, Duration::from_secs(1)).await));
    }
    queues
}

#[tokio::test]
async fn what_goes_well_is_deleted_by_several_workers() {
    for queue in queues().await {
        let mut ids = Vec::new();
        for _ in 0..12 {
            ids.push(queue.send("ok").await);
        }
        let source = EventSource::start(&queue, &stub(), 3, MINUTES);
        let deliveries = source.idle().await;
        let mut delivered: Vec<_> = source.delivered(12).await.into_iter().map(|it| it.message_id).collect();
        delivered.sort();
        ids.sort();
        assert_eq!(delivered, ids);
        assert!(deliveries.iter().all(|delivery| delivery.failure.is_none()));
        source.stop().await;
    }
}

#[tokio::test]
async fn what_fails_comes_again_and_ends_with_the_dead_letters() {
    for queue in queues().await {
        for body in ["fail", "error", "nonsense", "crash", "ok"] {
            queue.send(body).await;
        }
        let source = EventSource::start(&queue, &stub(), 2, MINUTES);
        let deliveries = source.idle().await;
        let count = |body| deliveries.iter().filter(|delivery| delivery.body == body).count();
        let often = usize::try_from(MAX_RECEIVE_COUNT).unwrap();
        let counts = ["fail", "error", "nonsense", "crash", "ok"].map(count);
        assert_eq!(counts, [often, often, often, often, 1], "{deliveries:?}");
        let mut dead: Vec<_> = queue.take_dead_letters().await.into_iter().map(|it| it.body).collect();
        dead.sort();
        assert_eq!(dead, ["crash", "error", "fail", "nonsense"]);
    }
}

#[tokio::test]
async fn a_test_can_hold_messages_and_hand_them_over_itself() {
    for queue in queues().await {
        let source = EventSource::start(&queue, &stub(), 1, MINUTES);
        source.hold();
        let first = queue.send("ok").await;
        queue.send("fail").await;
        let mut messages = queue.receive(10, Duration::from_secs(1)).await;
        if messages.len() < 2 {
            messages.extend(queue.receive(10, Duration::from_secs(1)).await);
        }
        messages.sort_by_key(|message| message.id != first);
        let [ok, fail] = &messages[..] else { panic!("two messages: {messages:?}") };
        let worker = stub().start().await;
        assert_eq!(
            deliver(&queue, &worker, &[fail], MINUTES).await[0].failure.as_deref(),
            Some("named in batchItemFailures")
        );
        assert_eq!(hand_over(&queue, &worker, &[ok], MINUTES).await[0].failure, None);
        assert_eq!(deliver(&queue, &worker, &[ok], MINUTES).await[0].failure, None, "the same once more");
        queue.delete(fail).await;
        assert_eq!(queue.counts().await, Counts::default());
        queue.send("ok").await;
        source.resume();
        source.idle().await;
        assert_eq!(source.deliveries().len(), 1);
    }
}

#[tokio::test]
async fn a_process_that_is_killed_at_work_is_replaced_and_its_message_comes_again() {
    for queue in queues().await {
        queue.send("hang").await;
        let source = EventSource::start(&queue, &stub(), 1, MINUTES);
        while source.kill_busy() == 0 {
            tokio::task::yield_now().await;
        }
        let deliveries = source.idle().await;
        let [killed, again] = &deliveries[..] else { panic!("twice: {deliveries:?}") };
        assert!(killed.failure.as_ref().is_some_and(|failure| failure.starts_with("Runtime.ExitError")));
        assert_eq!((again.receive_count, &again.failure), (2, &None));
    }
}

#[tokio::test]
async fn a_frozen_process_does_nothing_until_it_is_thawed() {
    let worker = stub().start().await;
    let event = || json!({"Records": []});
    let _ = worker.invoke(event(), MINUTES).await.answer();
    worker.freeze();
    let asked = worker.send(event(), MINUTES);
    assert!(tokio::time::timeout(Duration::from_millis(100), asked.outcome()).await.is_err());
    worker.thaw();
    let _ = worker.invoke(event(), MINUTES).await.answer();
}

#[tokio::test]
async fn the_world_of_submit_stands_on_every_emulator() {
    for (dynamodb, sqs) in [(None, None), (dynamodb_local_endpoint(), elasticmq_endpoint())] {
        let world = World::with(WorldOptions { dynamodb, sqs, ..WorldOptions::default() }).await;
        assert!(world.aws.items().await.is_empty());
        world.queue().send("ok").await;
        assert_eq!(world.queue().counts().await.visible, 1);
        let names: Vec<_> = world.aws.variables().into_iter().map(|(name, _)| name).collect();
        assert!(
            ["TABLE_NAME", "SECRET_ARN", "QUEUE_URL"].iter().all(|name| names.contains(name)),
            "{names:?}"
        );
    }
}

/// Sends as a process does, through the gateway.
async fn send(queue: &Queue, operation: &str, mut request: Value) -> u16 {
    let [(_, endpoint), (_, url)] = queue.variables();
    request["QueueUrl"] = url.into();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let sent = http
        .post(endpoint)
        .header("x-amz-target", format!("AmazonSQS.{operation}"))
        .header("content-type", "application/x-amz-json-1.0")
        .header("authorization", "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0")
        .body(request.to_string());
    sent.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn delays_are_waited_dropped_or_put_aside() {
    let delayed = || json!({"MessageBody": "later", "DelaySeconds": 900});
    let batch = || {
        let entry = |id| json!({"Id": id, "MessageBody": id, "DelaySeconds": 5});
        json!({"Entries": [entry("a"), entry("b")]})
    };
    for queue in queues().await {
        assert_eq!(send(&queue, "SendMessage", delayed()).await, 200);
        assert_eq!(queue.counts().await, Counts { delayed: 1, ..Counts::default() });
        queue.set_delays(Delays::Dropped);
        send(&queue, "SendMessage", delayed()).await;
        assert_eq!(queue.counts().await, Counts { visible: 1, delayed: 1, ..Counts::default() });
        queue.set_delays(Delays::Parked);
        send(&queue, "SendMessageBatch", batch()).await;
        send(&queue, "SendMessage", json!({"MessageBody": "now"})).await;
        assert_eq!(queue.counts().await, Counts { visible: 2, delayed: 3, ..Counts::default() });
        assert_eq!(queue.release_delayed().await, 2);
        assert_eq!(queue.counts().await, Counts { visible: 4, delayed: 1, ..Counts::default() });
        let sent: Vec<_> = queue.sent().into_iter().map(|sent| (sent.body, sent.delay)).collect();
        let expected = [("later", 900), ("later", 900), ("a", 5), ("b", 5), ("now", 0)];
        assert_eq!(sent, expected.map(|(body, delay)| (body.to_owned(), delay)));
    }
}

#[tokio::test]
async fn a_queue_can_fail_before_and_after_it_took_a_message() {
    for queue in queues().await {
        queue.faults().add(Fault::on("SendMessage").once().status(500));
        queue.faults().add(Fault::on("SendMessage").containing("kept").status_after_handling(503));
        assert_eq!(send(&queue, "SendMessage", json!({"MessageBody": "lost"})).await, 500);
        assert_eq!(send(&queue, "SendMessage", json!({"MessageBody": "kept"})).await, 503);
        assert_eq!(queue.receive(10, Duration::from_secs(1)).await[0].body, "kept");
        assert_eq!((queue.calls("SendMessage"), queue.sent().len()), (2, 1));
    }
}
