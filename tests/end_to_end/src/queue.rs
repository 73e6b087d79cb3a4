//! An SQS queue for one test, with the dead-letter queue behind it, on an emulator behind a gateway.
//!
//! The process sends through the gateway. Tests and the event source look around it, so that they neither count nor
//! suffer from faults.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use simulators::faults::Faults;

use crate::gateway::{Edit, Gateway};

/// Receives after which a message goes to the dead-letter queue.
pub const MAX_RECEIVE_COUNT: u32 = 5;

/// Long enough for a message that is there; not so long that an empty queue holds a test up.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// Where `ElasticMQ` is. `None`, said aloud: it was not asked for.
#[must_use]
pub fn elasticmq_endpoint() -> Option<String> {
    let endpoint = std::env::var("TEST_ELASTICMQ_ENDPOINT").ok();
    if endpoint.is_none() {
        eprintln!("left out: TEST_ELASTICMQ_ENDPOINT is not set (tests/aws/with-emulators sets it)");
    }
    endpoint
}

/// What becomes of the delay that the process gives a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delays {
    /// It is waited.
    #[default]
    Real,
    /// The message comes at once.
    Dropped,
    /// The message is put aside until the test calls [`Queue::release_delayed`].
    Parked,
}

/// A message that the process has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The text.
    pub body: String,
    /// The delay that the process asked for, in seconds.
    pub delay: u64,
    /// The group whose messages take turns with those of others; empty without one.
    pub group: String,
}

/// A message as it was received.
#[derive(Clone, Debug)]
pub struct Message {
    /// `MessageId`
    pub id: String,
    /// What deletes it, and changes its visibility, this time.
    pub receipt_handle: String,
    /// The text.
    pub body: String,
    raw: Value,
}

impl Message {
    fn of(raw: &Value) -> Self {
        let text = |name: &str| raw[name].as_str().unwrap_or_else(|| panic!("no {name}: {raw}")).to_owned();
        Self {
            id: text("MessageId"),
            receipt_handle: text("ReceiptHandle"),
            body: text("Body"),
            raw: raw.clone(),
        }
    }

    /// How often it has been received, this time included.
    #[must_use]
    pub fn receive_count(&self) -> u32 {
        let count = self.raw["Attributes"]["ApproximateReceiveCount"].as_str();
        count.and_then(|count| count.parse().ok()).expect("a count of receives")
    }

    /// The record in which Lambda hands it over.
    #[must_use]
    pub fn record(&self, queue_arn: &str) -> Value {
        json!({
            "messageId": self.id,
            "receiptHandle": self.receipt_handle,
            "body": self.body,
            "attributes": self.raw["Attributes"],
            "messageAttributes": self.message_attributes(),
            "md5OfBody": self.raw["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": queue_arn,
            "awsRegion": "us-east-1",
        })
    }

    /// In an event the members begin with small letters, and two lists are always there.
    fn message_attributes(&self) -> Value {
        let attributes = self.raw["MessageAttributes"].as_object().into_iter().flatten();
        let attribute = |value: &Value| {
            let mut attribute =
                json!({"stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]});
            for (from, to) in [("StringValue", "stringValue"), ("BinaryValue", "binaryValue")] {
                if let Some(value) = value.get(from).filter(|value| !value.is_null()) {
                    attribute[to] = value.clone();
                }
            }
            attribute
        };
        Value::Object(attributes.map(|(name, value)| (name.clone(), attribute(value))).collect())
    }
}

/// How many messages there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ready to be received.
    pub visible: u64,
    /// Received, neither deleted nor visible again.
    pub in_flight: u64,
    /// Sent with a delay that is not over, those put aside by [`Delays::Parked`] included.
    pub delayed: u64,
}

#[derive(Default)]
struct Traffic {
    delays: Delays,
    sent: Vec<Sent>,
}

/// A queue, its dead-letter queue, and a place for messages that are put aside.
pub struct Queue {
    gateway: Gateway,
    traffic: Arc<Mutex<Traffic>>,
    url: String,
    arn: String,
    dead_letters: String,
    parked: String,
}

impl Queue {
    /// New queues at this endpoint, of moto or of `ElasticMQ`.
    pub async fn start(endpoint: String, visibility_timeout: Duration) -> Self {
        let name = format!("bridge-{}", uuid::Uuid::new_v4());
        let own = Gateway::start(endpoint.clone()).await;
        let dead_letters = create(&own, &format!("{name}-dead"), &json!({})).await;
        let parked = create(&own, &format!("{name}-parked"), &json!({})).await;
        let target = arn(&own, &dead_letters).await;
        let redrive = json!({"deadLetterTargetArn": target, "maxReceiveCount": MAX_RECEIVE_COUNT});
        let attributes = json!({
            "VisibilityTimeout": visibility_timeout.as_secs().to_string(),
            "RedrivePolicy": redrive.to_string(),
        });
        let url = create(&own, &name, &attributes).await;
        let arn = arn(&own, &url).await;
        Self::between(endpoint, url, arn, dead_letters, parked).await
    }

    /// A queue that is there already, at this endpoint, with its dead-letter queue.
    pub async fn adopt(endpoint: String, url: String, dead_letters: String) -> Self {
        let own = Gateway::start(endpoint.clone()).await;
        let parked = create(&own, &format!("parked-{}", uuid::Uuid::new_v4()), &json!({})).await;
        let arn = arn(&own, &url).await;
        Self::between(endpoint, url, arn, dead_letters, parked).await
    }

    async fn between(
        endpoint: String,
        url: String,
        arn: String,
        dead_letters: String,
        parked: String,
    ) -> Self {
        let traffic = Arc::<Mutex<Traffic>>::default();
        let gateway = Gateway::editing(endpoint, Some(edit(&traffic, url.clone(), parked.clone()))).await;
        Self { gateway, traffic, url, arn, dead_letters, parked }
    }

    /// Where a process reaches it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.gateway.address
    }

    /// The variables with which the process finds it.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [("AWS_ENDPOINT_URL_SQS", self.gateway.address.clone()), ("QUEUE_URL", self.url.clone())]
    }

    /// Trouble; labels are the operations' names, such as `SendMessage`.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.gateway.faults()
    }

    /// How often the process has asked for this.
    #[must_use]
    pub fn calls(&self, operation: &str) -> u64 {
        self.gateway.calls(operation)
    }

    /// What the process has sent so far.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.traffic().sent.clone()
    }

    /// What becomes of delays from now on.
    pub fn set_delays(&self, delays: Delays) {
        self.traffic().delays = delays;
    }

    /// Puts the messages that were put aside into the queue; how many there were.
    pub async fn release_delayed(&self) -> usize {
        let messages = self.drain(&self.parked).await;
        for message in &messages {
            let mut request = json!({"MessageBody": message.body});
            if let Some(attributes) = message.raw.get("MessageAttributes") {
                request["MessageAttributes"] = attributes.clone();
            }
            self.ask("SendMessage", &self.url, request).await;
        }
        messages.len()
    }

    /// Sends any text, as a hand in the console does; the message's id.
    pub async fn send(&self, body: &str) -> String {
        let sent = self.ask("SendMessage", &self.url, json!({"MessageBody": body})).await;
        sent["MessageId"].as_str().expect("a message has an id").to_owned()
    }

    /// Receives up to ten messages, waiting for the first of them.
    pub async fn receive(&self, most: usize, wait: Duration) -> Vec<Message> {
        self.receive_from(&self.url, most, wait).await
    }

    /// Deletes a message, unless its visibility timeout has passed: then somebody else may have it.
    pub async fn delete(&self, message: &Message) {
        let request = json!({"QueueUrl": self.url, "ReceiptHandle": message.receipt_handle});
        if let Err(refusal) = self.gateway.try_ask("AmazonSQS.DeleteMessage", &request).await {
            assert!(refusal.contains("ReceiptHandleIsInvalid"), "{refusal}");
        }
    }

    /// Changes when a received message is visible again; at once with zero.
    pub async fn set_visibility(&self, message: &Message, timeout: Duration) {
        let request =
            json!({"ReceiptHandle": message.receipt_handle, "VisibilityTimeout": timeout.as_secs()});
        self.ask("ChangeMessageVisibility", &self.url, request).await;
    }

    /// How many messages there are. Emulators count exactly.
    pub async fn counts(&self) -> Counts {
        let mut counts = self.counts_of(&self.url).await;
        counts.delayed += self.counts_of(&self.parked).await.visible;
        counts
    }

    /// How many messages were received too often.
    pub async fn dead_letter_count(&self) -> u64 {
        self.counts_of(&self.dead_letters).await.visible
    }

    /// Takes the messages that were received too often out of their queue.
    pub async fn take_dead_letters(&self) -> Vec<Message> {
        self.drain(&self.dead_letters).await
    }

    /// The event in which Lambda hands over messages.
    #[must_use]
    pub fn event(&self, messages: &[&Message]) -> Value {
        let records = messages.iter().map(|message| message.record(&self.arn));
        json!({"Records": records.collect::<Vec<_>>()})
    }

    fn traffic(&self) -> std::sync::MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn drain(&self, url: &str) -> Vec<Message> {
        let mut all = Vec::new();
        while self.counts_of(url).await.visible > 0 {
            for message in self.receive_from(url, 10, SHORT_WAIT).await {
                self.ask("DeleteMessage", url, json!({"ReceiptHandle": message.receipt_handle})).await;
                all.push(message);
            }
        }
        all
    }

    async fn receive_from(&self, url: &str, most: usize, wait: Duration) -> Vec<Message> {
        let request = json!({
            "MaxNumberOfMessages": most,
            "WaitTimeSeconds": wait.as_secs(),
            "AttributeNames": ["All"],
            "MessageAttributeNames": ["All"],
        });
        let received = self.ask("ReceiveMessage", url, request).await;
        received["Messages"].as_array().into_iter().flatten().map(Message::of).collect()
    }

    async fn counts_of(&self, url: &str) -> Counts {
        let found = self.ask("GetQueueAttributes", url, json!({"AttributeNames": ["All"]})).await;
        let count = |name: &str| {
            let text = found["Attributes"][name].as_str();
            text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {name}: {found}"))
        };
        Counts {
            visible: count("ApproximateNumberOfMessages"),
            in_flight: count("ApproximateNumberOfMessagesNotVisible"),
            delayed: count("ApproximateNumberOfMessagesDelayed"),
        }
    }

    async fn ask(&self, operation: &str, url: &str, mut request: Value) -> Value {
        request["QueueUrl"] = url.into();
        self.gateway.ask(&format!("AmazonSQS.{operation}"), &request).await
    }
}

async fn create(gateway: &Gateway, name: &str, attributes: &Value) -> String {
    let request = json!({"QueueName": name, "Attributes": attributes});
    let created = gateway.ask("AmazonSQS.CreateQueue", &request).await;
    created["QueueUrl"].as_str().expect("a new queue has an address").to_owned()
}

async fn arn(gateway: &Gateway, url: &str) -> String {
    let request = json!({"QueueUrl": url, "AttributeNames": ["QueueArn"]});
    let found = gateway.ask("AmazonSQS.GetQueueAttributes", &request).await;
    found["Attributes"]["QueueArn"].as_str().expect("a queue has an ARN").to_owned()
}

/// Notes what is sent to the queue, and does with its delay what the test wants.
fn edit(traffic: &Arc<Mutex<Traffic>>, url: String, parked: String) -> Edit {
    let traffic = Arc::clone(traffic);
    Arc::new(move |operation, mut request| {
        let mut traffic = traffic.lock().unwrap_or_else(PoisonError::into_inner);
        if request["QueueUrl"] == url.as_str() && operation.starts_with("SendMessage") {
            let put_aside = note(&mut traffic, &mut request);
            if put_aside {
                request["QueueUrl"] = parked.as_str().into();
            }
        }
        request
    })
}

/// Notes the messages of a request; whether they are to be put aside.
fn note(traffic: &mut Traffic, request: &mut Value) -> bool {
    let mut delayed = Vec::new();
    let delays = traffic.delays;
    let mut note = |message: &mut Value| {
        let delay = message["DelaySeconds"].as_u64().unwrap_or(0);
        let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        traffic.sent.push(Sent { body: text("MessageBody"), delay, group: text("MessageGroupId") });
        delayed.push(delay > 0);
        if delays != Delays::Real {
            message["DelaySeconds"] = 0.into();
        }
    };
    match request.get_mut("Entries").and_then(Value::as_array_mut) {
        Some(entries) => entries.iter_mut().for_each(&mut note),
        None => note(request),
    }
    let put_aside = delays == Delays::Parked && delayed.contains(&true);
    assert!(!put_aside || !delayed.contains(&false), "one request goes to one queue, delayed or not");
    put_aside
}
