//! DynamoDB: the suite on two emulators, and what only a network can do.

use std::io::Write as _;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    types::{
        AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    },
};
use serde_json::json;
use store::{Expected, Key, Store, StoreError, dynamodb::DynamoStore};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::store_suite::run_suite;

mod moto {
    use super::*;

    async fn fresh() -> Option<(DynamoStore, ())> {
        Some((fresh_at(&asked_for("TEST_MOTO_ENDPOINT")?).await.0, ()))
    }

    run_suite!(fresh);
}

mod dynamodb_local {
    use super::*;

    async fn fresh() -> Option<(DynamoStore, ())> {
        Some((fresh_at(&asked_for("TEST_DYNAMODB_LOCAL_ENDPOINT")?).await.0, ()))
    }

    run_suite!(fresh);
}

/// The endpoint in `variable`; `None`, said aloud: this emulator was not asked for.
fn asked_for(variable: &str) -> Option<String> {
    let endpoint = std::env::var(variable).ok();
    if endpoint.is_none() {
        // Around the capture of a passing test's output.
        let _ =
            writeln!(std::io::stderr(), "left out: {variable} is not set (tests/aws/with-emulators sets it)");
    }
    endpoint
}

async fn config(endpoint: &str) -> SdkConfig {
    let credentials = aws_sdk_dynamodb::config::Credentials::new("testing", "testing", None, None, "tests");
    runtime::aws::sdk_config()
        .await
        .into_builder()
        .endpoint_url(endpoint)
        .region(aws_config::Region::new("us-east-1"))
        .credentials_provider(aws_sdk_dynamodb::config::SharedCredentialsProvider::new(credentials))
        .build()
}

/// A store in a new, empty table; its table, for looking behind it. Fails when the emulator does not answer.
async fn fresh_at(endpoint: &str) -> (DynamoStore, String) {
    let config = config(endpoint).await;
    let table = format!("bridge-{}", uuid::Uuid::new_v4());
    let attribute = |name| {
        AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(ScalarAttributeType::S)
            .build()
            .unwrap()
    };
    let part = |name, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
    Client::new(&config)
        .create_table()
        .table_name(&table)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute("pk"))
        .attribute_definitions(attribute("sk"))
        .key_schema(part("pk", KeyType::Hash))
        .key_schema(part("sk", KeyType::Range))
        .send()
        .await
        .unwrap_or_else(|error| panic!("cannot make a table at {endpoint}: {error:?}"));
    (DynamoStore::new(&config, &table), table)
}

/// Every emulator that was asked for.
fn endpoints() -> Vec<String> {
    ["TEST_MOTO_ENDPOINT", "TEST_DYNAMODB_LOCAL_ENDPOINT"].into_iter().filter_map(asked_for).collect()
}

/// A proxy in front of `endpoint` that passes every request on, and cuts the connection instead of the first answer to
/// the operation `lose`. Gives its address and the number of requests for that operation.
async fn losing(endpoint: &str, lose: &'static str) -> (String, Arc<AtomicUsize>) {
    let upstream = endpoint.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass_on(client, upstream.clone(), lose, Arc::clone(&counter)));
        }
    });
    (address, seen)
}

async fn pass_on(mut client: TcpStream, upstream: String, lose: &'static str, seen: Arc<AtomicUsize>) {
    while let Some(request) = read_message(&mut client).await {
        let mut server = TcpStream::connect(&upstream).await.unwrap();
        server.write_all(&request).await.unwrap();
        let answer = read_message(&mut server).await.unwrap();
        let ours = String::from_utf8_lossy(&request).contains(&format!("DynamoDB_20120810.{lose}"));
        if ours && seen.fetch_add(1, Ordering::SeqCst) == 0 {
            return;
        }
        client.write_all(&answer).await.unwrap();
    }
}

/// One HTTP message with a Content-Length; `None`: the peer has closed.
async fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        if let Some(end) = message.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&message[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            if message.len() >= end + 4 + length.map_or(0, |length| length.trim().parse().unwrap()) {
                return Some(message);
            }
        }
        if stream.read_buf(&mut message).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_succeeds_once() {
    for endpoint in endpoints() {
        let (store, table) = fresh_at(&endpoint).await;
        let key = Key::new("a", "b");

        let (address, seen) = losing(&endpoint, "PutItem").await;
        let shaky = DynamoStore::new(&config(&address).await, &table);
        assert_eq!(shaky.put(&key, json!({"n": 1}), None, Expected::New).await.unwrap(), 1);
        assert_eq!(seen.load(Ordering::SeqCst), 2, "written, lost, sent again");

        let (address, seen) = losing(&endpoint, "PutItem").await;
        let shaky = DynamoStore::new(&config(&address).await, &table);
        assert_eq!(shaky.put(&key, json!({"n": 2}), None, Expected::Version(1)).await.unwrap(), 2);
        assert_eq!(seen.load(Ordering::SeqCst), 2);
        let read = store.get(&key).await.unwrap().unwrap();
        assert_eq!((read.version, read.body), (2, json!({"n": 2})));

        let (address, seen) = losing(&endpoint, "DeleteItem").await;
        let shaky = DynamoStore::new(&config(&address).await, &table);
        shaky.delete(&key, 2).await.unwrap();
        assert_eq!(seen.load(Ordering::SeqCst), 2);
        assert_eq!(store.get(&key).await.unwrap(), None);
    }
}

#[tokio::test]
async fn an_operator_sees_members_as_columns() {
    for endpoint in endpoints() {
        let (store, table) = fresh_at(&endpoint).await;
        let key = Key::new("quarantine", "42");
        store.put(&key, json!({"state": "failed", "attempts": 3}), Some(7), Expected::New).await.unwrap();
        let client = Client::new(&config(&endpoint).await);
        let items = client.scan().table_name(&table).send().await.unwrap().items.unwrap();
        let mut item = items[0].clone();
        assert!(item.remove("write_id").is_some());
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let number = |number: &str| AttributeValue::N(number.to_owned());
        let expected = [
            ("pk", text("quarantine")),
            ("sk", text("42")),
            ("version", number("1")),
            ("ttl", number("7")),
            ("state", text("failed")),
            ("attempts", number("3")),
        ];
        assert_eq!(item, expected.map(|(name, value)| (name.to_owned(), value)).into_iter().collect());
        store.put(&key, json!({"state": "waiting"}), None, Expected::Version(1)).await.unwrap();
        let items = client.scan().table_name(&table).send().await.unwrap().items.unwrap();
        assert!(!items[0].contains_key("ttl") && !items[0].contains_key("attempts"));
    }
}

#[tokio::test]
async fn an_item_edited_by_hand_is_read_or_explained() {
    for endpoint in endpoints() {
        let (store, table) = fresh_at(&endpoint).await;
        let client = Client::new(&config(&endpoint).await);
        let put = async |sk: &str, version: AttributeValue| {
            let item = client.put_item().table_name(&table).item("pk", AttributeValue::S("a".to_owned()));
            let item = item.item("sk", AttributeValue::S(sk.to_owned())).item("version", version);
            item.item("note", AttributeValue::S("by hand".to_owned())).send().await.unwrap();
        };
        put("good", AttributeValue::N("4".to_owned())).await;
        put("bad", AttributeValue::S("four".to_owned())).await;
        let good = store.get(&Key::new("a", "good")).await.unwrap().unwrap();
        assert_eq!((good.version, good.body), (4, json!({"note": "by hand"})));
        let error = store.get(&Key::new("a", "bad")).await.unwrap_err();
        assert!(matches!(&error, StoreError::Malformed { key, .. } if key.sk == "bad"), "{error}");
        assert!(error.to_string().contains("version"), "{error}");
    }
}

#[tokio::test]
async fn what_dynamodb_says_no_to_is_explained() {
    for endpoint in endpoints() {
        let nowhere = DynamoStore::new(&config(&endpoint).await, "no-such-table");
        let message = nowhere.get(&Key::new("a", "b")).await.unwrap_err().to_string();
        assert!(
            message.contains("no-such-table") && message.contains("ResourceNotFoundException"),
            "{message}"
        );
        assert!(message.contains("AWS_REGION"), "{message}");
    }
}

#[tokio::test]
async fn a_number_that_dynamodb_cannot_hold_is_the_callers_fault() {
    // moto takes any number, so this is asked of the real engine only.
    let Some(endpoint) = asked_for("TEST_DYNAMODB_LOCAL_ENDPOINT") else { return };
    let (store, _) = fresh_at(&endpoint).await;
    let error = store.put(&Key::new("a", "b"), json!({"n": 1e300}), None, Expected::New).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_an_error_that_names_the_table() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let store = DynamoStore::new(&config(&address).await, "bridge");
    let error = store.get(&Key::new("a", "b")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }));
    assert!(error.to_string().contains("the DynamoDB table bridge"), "{error}");
}

#[tokio::test]
async fn a_table_that_leaves_all_keys_unprocessed_is_given_up() {
    const NOTHING: &str = r#"{"Responses": {}, "UnprocessedKeys": {"bridge": {"ConsistentRead": true,
        "Keys": [{"pk": {"S": "a"}, "sk": {"S": "b"}}]}}}"#;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            while read_message(&mut client).await.is_some() {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", NOTHING.len());
                client.write_all((head + NOTHING).as_bytes()).await.unwrap();
            }
        }
    });
    let store = DynamoStore::new(&config(&address).await, "bridge");
    let error = store.get_many(&[Key::new("a", "b")]).await.unwrap_err().to_string();
    assert!(error.contains("throttled") && error.contains("bridge"), "{error}");
}
