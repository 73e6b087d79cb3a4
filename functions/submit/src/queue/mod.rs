//! Messages from the API to the worker, some of them delayed. A message only says where to look: the truth is in the
//! ledger, so that one that comes twice, late or never is harmless.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub mod local;
pub mod sqs;

/// What the worker is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// Send what is not sent yet of a chunk.
    Chunk {
        batch: String,
        /// Which of its chunks.
        chunk: usize,
        /// How often in a row VMRay took nothing of it.
        #[serde(default)]
        attempt: u32,
    },
    /// Look whether the call that made the batch got to its end, and do the rest if not.
    Guard { batch: String },
}

/// A message, for whom it is sent, and how long it is held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delayed {
    /// The message.
    pub message: Message,
    /// Whose batch it is: callers take turns.
    pub caller: String,
    /// At most 15 minutes, a fraction of a second is made a whole one where the queue knows none.
    pub delay: Duration,
}

impl Delayed {
    /// A message for now.
    #[must_use]
    pub fn now(message: Message, caller: &str) -> Self {
        Self { message, caller: caller.to_owned(), delay: Duration::ZERO }
    }
}

/// The queue did not take a message.
#[derive(Debug, Clone, thiserror::Error)]
#[error("could not send {messages} message(s) to {place}: {reason}")]
pub struct QueueError {
    /// How many.
    pub messages: usize,
    /// The queue.
    pub place: String,
    /// What it said.
    pub reason: String,
}

/// Where messages are put.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Takes all messages, or fails; then some of them may have been taken.
    async fn send(&self, messages: Vec<Delayed>) -> Result<(), QueueError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_short_plain_json() {
        let message = Message::Chunk { batch: "b".to_owned(), chunk: 3, attempt: 0 };
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(text, r#"{"kind":"chunk","batch":"b","chunk":3,"attempt":0}"#);
        assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message);
        assert!(serde_json::from_str::<Message>(r#"{"kind":"other"}"#).is_err());
    }
}
