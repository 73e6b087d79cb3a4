//! AWS for one test: a table, a secret and, when asked for, a queue of its own on emulators, behind gateways that count
//! what the process asks for and make trouble when a test wants some.
//!
//! Tests look into the table around the gateway, over plain HTTP: what they see is what is stored, not what the
//! product's own store makes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Map, Value, json};
use simulators::age::make_older;
use simulators::faults::Faults;

use crate::gateway::Gateway;
use crate::queue::Queue;

const DYNAMODB: &str = "DynamoDB_20120810";

/// Where moto is.
///
/// Without it these tests prove nothing, so they fail.
#[must_use]
pub fn moto_endpoint() -> String {
    std::env::var("TEST_MOTO_ENDPOINT").unwrap_or_else(|_| {
        panic!(
            "TEST_MOTO_ENDPOINT is not set: this test needs AWS on moto. \
             Run tests/run, or tests/aws/with-emulators cargo test -p end_to_end --all-features"
        )
    })
}

/// Where DynamoDB Local is. `None`, said aloud: it was not asked for.
#[must_use]
pub fn dynamodb_local_endpoint() -> Option<String> {
    let endpoint = std::env::var("TEST_DYNAMODB_LOCAL_ENDPOINT").ok();
    if endpoint.is_none() {
        eprintln!("left out: TEST_DYNAMODB_LOCAL_ENDPOINT is not set (tests/aws/with-emulators sets it)");
    }
    endpoint
}

/// One test's table, secret and queue.
pub struct Aws {
    dynamodb: Gateway,
    secrets: Gateway,
    table: String,
    secret_arn: String,
    queue: Option<Arc<Queue>>,
}

impl Aws {
    /// A new table, on moto or at `dynamodb`, and a new secret on moto that holds `secret`.
    pub async fn start(dynamodb: Option<String>, secret: &Value) -> Self {
        let moto = moto_endpoint();
        let dynamodb = Gateway::start(dynamodb.unwrap_or_else(|| moto.clone())).await;
        let secrets = Gateway::start(moto).await;
        let table = format!("bridge-{}", uuid::Uuid::new_v4());
        create_table(&dynamodb, &table).await;
        let name = format!("bridge-{}", uuid::Uuid::new_v4());
        let request = json!({
            "Name": name,
            "SecretString": secret.to_string(),
            "ClientRequestToken": uuid::Uuid::new_v4().to_string(),
        });
        let created = secrets.ask("secretsmanager.CreateSecret", &request).await;
        let secret_arn = created["ARN"].as_str().expect("a new secret has an ARN").to_owned();
        Self { dynamodb, secrets, table, secret_arn, queue: None }
    }

    /// The same with a new queue, on moto or at `endpoint`.
    pub async fn with_queue(mut self, endpoint: Option<String>, visibility_timeout: Duration) -> Self {
        let endpoint = endpoint.unwrap_or_else(moto_endpoint);
        self.queue = Some(Arc::new(Queue::start(endpoint, visibility_timeout).await));
        self
    }

    /// The queue, which must have been asked for.
    #[must_use]
    pub fn queue(&self) -> &Arc<Queue> {
        self.queue.as_ref().expect("a queue was asked for")
    }

    /// The variables with which the process finds everything.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb.address.clone()),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", self.secrets.address.clone()),
            ("TABLE_NAME", self.table.clone()),
            ("SECRET_ARN", self.secret_arn.clone()),
        ];
        variables.extend(self.queue.iter().flat_map(|queue| queue.variables()));
        variables
    }

    /// The secret's name.
    #[must_use]
    pub fn secret_arn(&self) -> &str {
        &self.secret_arn
    }

    /// Trouble with DynamoDB; labels are the operations' names, such as `PutItem`.
    #[must_use]
    pub fn dynamodb_faults(&self) -> Faults {
        self.dynamodb.faults()
    }

    /// Trouble with Secrets Manager.
    #[must_use]
    pub fn secrets_faults(&self) -> Faults {
        self.secrets.faults()
    }

    /// How often the process has asked DynamoDB for this.
    #[must_use]
    pub fn dynamodb_calls(&self, operation: &str) -> u64 {
        self.dynamodb.calls(operation)
    }

    /// How often the process has read the secret.
    #[must_use]
    pub fn secret_readings(&self) -> u64 {
        self.secrets.calls("GetSecretValue")
    }

    /// Makes `secret` the current version of the secret.
    pub async fn rotate_secret(&self, secret: &Value) {
        let request = json!({
            "SecretId": self.secret_arn,
            "SecretString": secret.to_string(),
            "ClientRequestToken": uuid::Uuid::new_v4().to_string(),
        });
        self.secrets.ask("secretsmanager.PutSecretValue", &request).await;
    }

    /// Everything in the table, as plain JSON with the store's own attributes, by `sk`.
    pub async fn items(&self) -> BTreeMap<String, Value> {
        let found = self.on_table("Scan", json!({"ConsistentRead": true})).await;
        let items = found["Items"].as_array().cloned().unwrap_or_default();
        let items = items.iter().map(|item| plain(&json!({"M": item})));
        items.map(|item| (item["sk"].as_str().unwrap_or_default().to_owned(), item)).collect()
    }

    /// Every document in the table, as plain JSON with the store's own attributes.
    pub async fn documents(&self) -> Vec<Value> {
        let mut documents = Vec::new();
        let mut request = json!({"ConsistentRead": true});
        loop {
            let found = self.on_table("Scan", request.clone()).await;
            let items = found["Items"].as_array().into_iter().flatten();
            documents.extend(items.map(|item| plain(&json!({"M": item}))));
            match found.get("LastEvaluatedKey").filter(|key| !key.is_null()) {
                Some(last) => request["ExclusiveStartKey"] = last.clone(),
                None => return documents,
            }
        }
    }

    /// Lets time pass for what is stored: every document becomes older by this, its times and its expiry.
    pub async fn time_passes(&self, time: TimeDelta) {
        for mut document in self.documents().await {
            if let Some(ttl) = document["ttl"].as_i64() {
                document["ttl"] = (ttl - time.num_seconds()).into();
            }
            make_older(&mut document, time);
            self.put_item(&document).await;
        }
    }

    /// The cursor document.
    pub async fn cursor(&self) -> Option<Value> {
        self.items().await.remove("cursor")
    }

    /// The quarantine documents, by sample.
    pub async fn quarantine(&self) -> BTreeMap<u64, Value> {
        let items = self.items().await.into_values();
        let entries =
            items.filter(|item| item["sk"].as_str().is_some_and(|sk| sk.starts_with("quarantine#")));
        entries
            .map(|item| (item["sample_id"].as_u64().expect("a quarantined sample has a number"), item))
            .collect()
    }

    /// Replaces an item by what a hand in the console writes: exactly this.
    pub async fn put_item(&self, item: &Value) {
        self.on_table("PutItem", json!({"Item": typed(item)["M"]})).await;
    }

    /// Changes the cursor by hand, its version left alone.
    pub async fn edit_cursor(&self, edit: impl FnOnce(&mut Value)) {
        let mut cursor = self.cursor().await.expect("there is a cursor");
        edit(&mut cursor);
        self.put_item(&cursor).await;
    }

    async fn on_table(&self, operation: &str, mut request: Value) -> Value {
        request["TableName"] = self.table.clone().into();
        self.dynamodb.ask(&format!("{DYNAMODB}.{operation}"), &request).await
    }
}

async fn create_table(dynamodb: &Gateway, table: &str) {
    let request = json!({
        "TableName": table,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    });
    dynamodb.ask(&format!("{DYNAMODB}.CreateTable"), &request).await;
}

/// Plain JSON from DynamoDB's typed one.
fn plain(typed: &Value) -> Value {
    let Some((kind, value)) = typed.as_object().and_then(|object| object.iter().next()) else {
        panic!("no DynamoDB value: {typed}");
    };
    match kind.as_str() {
        "S" | "BOOL" => value.clone(),
        "N" => serde_json::from_str(value.as_str().unwrap_or_default()).expect("a number"),
        "NULL" => Value::Null,
        "L" => value.as_array().into_iter().flatten().map(plain).collect(),
        "M" => {
            let members = value.as_object().into_iter().flatten();
            Value::Object(members.map(|(name, value)| (name.clone(), plain(value))).collect::<Map<_, _>>())
        }
        _ => panic!("an attribute that no document has: {typed}"),
    }
}

/// DynamoDB's typed JSON from plain one.
fn typed(plain: &Value) -> Value {
    match plain {
        Value::Null => json!({"NULL": true}),
        Value::Bool(value) => json!({"BOOL": value}),
        Value::Number(value) => json!({"N": value.to_string()}),
        Value::String(value) => json!({"S": value}),
        Value::Array(values) => json!({"L": values.iter().map(typed).collect::<Vec<_>>()}),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| (name.clone(), typed(value)));
            json!({"M": members.collect::<Map<_, _>>()})
        }
    }
}
