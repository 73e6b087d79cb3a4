//! DynamoDB in trouble, and documents that are not as this version writes them.

use chrono::{TimeDelta, Utc};
use end_to_end::ingest::{CONNECTOR, MINUTES, World, add, estate, position, schedule};
use serde_json::{Value, json};
use simulators::faults::Fault;

const THROTTLED: &str = r#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"The level of configured provisioned throughput for the table was exceeded."}"#;

/// Writes of a first run before its first bundle: the lease, and where to start.
const WRITES_BEFORE_THE_FIRST_BUNDLE: u64 = 2;

/// Writes after a bundle: what was pushed, and the checkpoint.
const WRITES_A_BUNDLE: u64 = 2;

async fn one_bundle_at_a_time(samples: u64) -> World {
    let mut world = World::new(estate(samples)).await;
    world.one_sample_per_bundle();
    world
}

/// From the second checkpoint on, DynamoDB answers everything that is written like this.
async fn the_store_fails_in_mid_run(status: u16, body: &str) {
    let world = one_bundle_at_a_time(5).await;
    let second_checkpoint = WRITES_BEFORE_THE_FIRST_BUNDLE + 2 * WRITES_A_BUNDLE;
    let fault = Fault::on("PutItem").from(second_checkpoint).body(status, "application/json", body);
    world.aws.dynamodb_faults().add(fault);
    let lambda = world.lambda().await;
    let (kind, message) = lambda.invoke(schedule(), MINUTES).await.error();
    assert_eq!(kind, "StoreError", "{message}");
    assert!(message.contains("DynamoDB table"), "{message}");
    let failed: Value = serde_json::from_str(&message).unwrap();
    assert_eq!(world.opencti.platform().pushes(), 2, "nothing is pushed that cannot be saved");
    let left = world.aws.cursor().await.unwrap();
    assert_eq!(left["position"], position(1), "{left}");
    assert_eq!(failed["position"], left["position"], "the answer says where the cursor stands");

    world.aws.dynamodb_faults().clear();
    assert_eq!(
        lambda.invoke(schedule(), MINUTES).await.answer()["status"],
        "busy",
        "the lease is still held"
    );
    let past = (Utc::now() - TimeDelta::seconds(1)).to_rfc3339();
    world.aws.edit_cursor(|cursor| cursor["lease"]["until"] = past.into()).await;
    let answer = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(4)), "{answer}");
    assert_eq!(world.arrived(1..=5), [1, 2, 3, 4, 5]);
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test]
async fn a_table_that_is_down_in_mid_run_stops_it_and_nothing_passes_unsaved() {
    the_store_fails_in_mid_run(500, "{}").await;
}

#[tokio::test]
async fn a_table_that_stays_throttled_in_mid_run_stops_it_and_nothing_passes_unsaved() {
    the_store_fails_in_mid_run(400, THROTTLED).await;
}

#[tokio::test]
async fn a_table_that_is_throttled_for_a_moment_is_waited_for() {
    let world = one_bundle_at_a_time(4).await;
    let fault = Fault::on("PutItem").from(3).times(2).body(400, "application/json", THROTTLED);
    world.aws.dynamodb_faults().add(fault);
    let answer = world.run(schedule()).await;
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(4)), "{answer}");
    assert_eq!(world.aws.dynamodb_faults().hits(), [2]);
    assert_eq!(world.opencti.platform().pushes(), 4, "nothing is pushed twice for it");
}

#[tokio::test]
async fn a_table_that_is_not_there_is_named_before_any_call() {
    let mut world = World::new(estate(1)).await;
    world.set("TABLE_NAME", "bridge-elsewhere");
    let (kind, message) = world.lambda().await.invoke(schedule(), MINUTES).await.error();
    assert_eq!(kind, "StoreError", "{message}");
    assert!(
        message.contains("bridge-elsewhere") && message.contains("ResourceNotFoundException"),
        "{message}"
    );
    assert_eq!((world.vmray_calls(), world.opencti_calls()), (0, 0));
}

#[tokio::test]
async fn the_cursor_is_a_small_document_that_never_expires() {
    let world = World::new(estate(3)).await;
    let _ = world.run(schedule()).await;
    let items = world.aws.items().await;
    let others: Vec<&String> = items.keys().filter(|name| *name != "cursor").collect();
    assert!(matches!(&others[..], [name] if name.starts_with("platform#")), "what was pushed: {others:?}");
    assert!(items[others[0]]["ttl"].is_number(), "that ends by itself");
    let cursor = &items["cursor"];
    assert_eq!(cursor["pk"], format!("ingest#{CONNECTOR}"));
    assert_eq!((&cursor["position"], &cursor["lease"]), (&json!(position(3)), &Value::Null), "{cursor}");
    assert!(cursor.get("ttl").is_none(), "{cursor}");
    assert!(cursor["version"].as_u64().unwrap() > 1, "{cursor}");
    let timestamp = world.opencti.platform().connector(CONNECTOR).unwrap().state_timestamp.clone();
    assert_eq!(cursor["state_timestamp"], timestamp);
}

#[tokio::test]
async fn a_cursor_that_was_broken_by_hand_is_named_and_left_as_it_is() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 6] = [
        ("position", |cursor| cursor["position"] = "last tuesday".into()),
        ("done", |cursor| cursor["done"] = "1:2 three".into()),
        ("handled", |cursor| cursor["handled"]["segments"] = "all".into()),
        ("lease", |cursor| cursor["lease"] = "mine".into()),
        ("version", |cursor| cursor["version"] = "seven".into()),
        ("ttl", |cursor| cursor["ttl"] = "never".into()),
    ];
    let world = World::new(estate(2)).await;
    let lambda = world.lambda().await;
    let _ = lambda.invoke(schedule(), MINUTES).await.answer();
    let good = world.aws.cursor().await.unwrap();
    let calls = (world.vmray_calls(), world.opencti_calls());
    for (what, edit) in edits {
        world.aws.edit_cursor(edit).await;
        let broken = world.aws.cursor().await;
        let (kind, message) = lambda.invoke(schedule(), MINUTES).await.error();
        assert_eq!(kind, "StoreError", "{what}: {message}");
        for part in [&format!("ingest#{CONNECTOR}/cursor"), "edited by hand"] {
            assert!(message.contains(part), "{what}: {message}");
        }
        assert_eq!(world.aws.cursor().await, broken, "{what}");
        world.aws.put_item(&good).await;
    }
    assert_eq!((world.vmray_calls(), world.opencti_calls()), calls, "nobody is called");
    assert_eq!(
        lambda.invoke(schedule(), MINUTES).await.answer()["status"],
        "done",
        "and put right, it works"
    );
}

#[tokio::test]
async fn a_cursor_of_an_older_version_with_fewer_members_is_gone_on_from() {
    let world = World::new(estate(60)).await;
    let older = json!({
        "pk": format!("ingest#{CONNECTOR}"), "sk": "cursor", "version": 7, "position": position(58),
    });
    world.aws.put_item(&older).await;
    let answer = world.run(schedule()).await;
    assert_eq!((&answer["status"], &answer["position"]), (&json!("done"), &json!(position(60))), "{answer}");
    let window = &answer["window"]["from"];
    assert_eq!(*window, position(43), "from its position less the overlap");
    assert_eq!(answer["samples"], 18, "it remembers nothing of the overlap: {answer}");
}

#[tokio::test]
async fn a_broken_quarantine_entry_is_named_and_left_as_it_is() {
    let world = World::new(estate(2)).await;
    let entry = json!({
        "pk": format!("ingest#{CONNECTOR}"), "sk": "quarantine#000000000009", "version": 1, "sample_id": "nine",
    });
    world.aws.put_item(&entry).await;
    let (kind, message) = world.lambda().await.invoke(schedule(), MINUTES).await.error();
    assert_eq!(kind, "StoreError", "{message}");
    assert!(message.contains("quarantine#000000000009"), "{message}");
    let items = world.aws.items().await;
    assert_eq!(items["quarantine#000000000009"], entry);
    assert_eq!(items["cursor"]["lease"], Value::Null, "the next run need not wait");
}

#[tokio::test]
async fn a_run_with_nothing_new_writes_only_its_lease_and_a_new_sample_costs_three_writes() {
    let world = World::new(estate(15)).await;
    let lambda = world.lambda().await;
    let _ = lambda.invoke(schedule(), MINUTES).await.answer();
    let calls = || ["GetItem", "BatchGetItem", "Query", "PutItem"].map(|name| world.aws.dynamodb_calls(name));
    let before = calls();
    let _ = lambda.invoke(schedule(), MINUTES).await.answer();
    let cost: Vec<u64> = calls().iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(
        cost,
        [1, 0, 1, 2],
        "the cursor and the quarantine are read, the lease is taken and given back"
    );
    add(&mut world.vmray.estate(), 16);
    let before = calls();
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["samples"], 1);
    let cost: Vec<u64> = calls().iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(
        cost,
        [2, 1, 2, 5],
        "what OpenCTI has is read; what was pushed, that it was imported, and the checkpoint are written"
    );
}
