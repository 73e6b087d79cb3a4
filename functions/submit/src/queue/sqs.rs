//! The queue of a deployment: Amazon SQS. Callers are its message groups, so that they take turns (fair queues).

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use futures::{StreamExt, TryStreamExt, stream};
use runtime::aws::explain;

use super::{Delayed, Queue, QueueError};

/// Messages in one call, and calls at the same time.
const BATCH: usize = 10;
const CALLS_AT_ONCE: usize = 4;

/// How often entries that SQS alone refused are sent again.
const ROUNDS: u32 = 3;

/// SQS holds nothing back for longer.
const LONGEST_DELAY_SECONDS: u128 = 900;

/// One SQS queue.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    client: Client,
    url: String,
}

impl SqsQueue {
    /// The queue at `url`. Nothing is called yet.
    #[must_use]
    pub fn new(aws: &aws_config::SdkConfig, url: impl Into<String>) -> Self {
        Self { client: Client::new(aws), url: url.into() }
    }

    fn failed(&self, messages: usize, reason: String) -> QueueError {
        QueueError { messages, place: format!("the SQS queue {}", self.url), reason }
    }

    async fn send_batch(&self, messages: &[Delayed]) -> Result<(), QueueError> {
        let mut entries = messages
            .iter()
            .enumerate()
            .map(|(number, message)| self.entry(number, message))
            .collect::<Result<Vec<_>, _>>()?;
        let mut reason = String::new();
        for _ in 0..ROUNDS {
            let request = self.client.send_message_batch().queue_url(&self.url);
            let answer = request.set_entries(Some(entries.clone())).send().await;
            let answer = answer.map_err(|error| self.failed(messages.len(), explain(&error)))?;
            // Entries are taken one by one: the rest of a batch may have been.
            let refused: Vec<_> = answer.failed().iter().map(|entry| entry.id().to_owned()).collect();
            if refused.is_empty() {
                return Ok(());
            }
            reason = answer
                .failed()
                .iter()
                .map(|e| e.message().unwrap_or(e.code()))
                .collect::<Vec<_>>()
                .join("; ");
            entries.retain(|entry| refused.iter().any(|id| id == entry.id()));
        }
        Err(self.failed(entries.len(), reason))
    }

    fn entry(&self, number: usize, message: &Delayed) -> Result<SendMessageBatchRequestEntry, QueueError> {
        let failed = |reason: String| self.failed(1, reason);
        let body = serde_json::to_string(&message.message).map_err(|error| failed(error.to_string()))?;
        let seconds = message.delay.as_millis().div_ceil(1000).min(LONGEST_DELAY_SECONDS);
        SendMessageBatchRequestEntry::builder()
            .id(number.to_string())
            .message_body(body)
            .message_group_id(&message.caller)
            .delay_seconds(i32::try_from(seconds).unwrap_or(i32::MAX))
            .build()
            .map_err(|error| failed(error.to_string()))
    }
}

#[async_trait]
impl Queue for SqsQueue {
    async fn send(&self, messages: Vec<Delayed>) -> Result<(), QueueError> {
        // Collected: a lazy closure over borrowed slices cannot be shown to be `Send`.
        let calls: Vec<_> = messages.chunks(BATCH).map(|batch| self.send_batch(batch)).collect();
        stream::iter(calls).buffer_unordered(CALLS_AT_ONCE).try_collect().await
    }
}
