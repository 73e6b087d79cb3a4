//! Documents in a DynamoDB table.
//!
//! The table has the string keys `pk` and `sk`, and `ttl` is its TTL attribute. A document's members stand beside them
//! at the top level of the item, so that the console shows them as columns and an operator can ask for
//! `state = "failed"` without digging into a map. `version` is the compare-and-set counter.
//!
//! `write_id` names the write that made the item. A write whose answer was lost is sent again by the SDK, and then
//! meets its own result: the condition fails although the write has succeeded. The id tells that case from a rival's
//! write, even a rival's with the same content.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{delete_item::DeleteItemError, put_item::PutItemError},
    types::{AttributeValue, KeysAndAttributes, ReturnValuesOnConditionCheckFailure},
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::de::Error as _;
use serde_json::Value;
use uuid::Uuid;

use crate::{Document, Expected, Key, NewDocument, Page, Span, Store, StoreError, check_key, check_write};
use runtime::aws::explain;

type TableItem = HashMap<String, AttributeValue>;

/// The most keys that `BatchGetItem` takes.
const BATCH: usize = 100;

/// `BatchGetItem` calls at the same time.
const BATCHES_AT_ONCE: usize = 4;

/// Single writes at the same time in [`Store::put_new_many`]: there is no conditional batch write, and a transaction
/// would cost twice and fail as a whole.
const WRITES_AT_ONCE: usize = 16;

/// Rounds of `BatchGetItem` that may bring nothing before we give up; the pauses between them sum up to some 3 s.
const FRUITLESS_ROUNDS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Documents in one DynamoDB table.
#[derive(Debug, Clone)]
pub struct DynamoStore {
    client: Client,
    table: String,
}

impl DynamoStore {
    /// The store in the table `table`. Nothing is called yet.
    pub fn new(aws: &SdkConfig, table: impl Into<String>) -> Self {
        Self { client: Client::new(aws), table: table.into() }
    }

    fn unavailable<E, R>(&self, doing: &'static str, error: &SdkError<E, R>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug + 'static,
    {
        StoreError::Unavailable {
            doing,
            place: format!("the DynamoDB table {}", self.table),
            reason: explain(error),
        }
    }

    /// What a failed `PutItem` means; `Ok` when it was this very write that had succeeded before.
    fn settle(
        &self,
        key: &Key,
        bytes: usize,
        id: &str,
        error: &SdkError<PutItemError>,
    ) -> Result<(), StoreError> {
        let service_error = error.as_service_error();
        if let Some(PutItemError::ConditionalCheckFailedException(failed)) = service_error {
            let current = failed.item().cloned();
            if current.as_ref().and_then(|item| item.get("write_id")?.as_s().ok()).is_some_and(|it| it == id)
            {
                return Ok(());
            }
            let current = current.map(document).transpose()?.map(Box::new);
            return Err(StoreError::Conflict { key: key.clone(), current });
        }
        Err(match service_error.map(|error| (error.code(), error.message().unwrap_or_default())) {
            Some((Some("ValidationException"), message)) if message.contains("Item size") => {
                StoreError::TooLarge { key: key.clone(), bytes }
            }
            Some((Some("ValidationException"), message)) => {
                StoreError::Invalid { key: key.clone(), problem: message.to_owned() }
            }
            _ => self.unavailable("write a document", error),
        })
    }

    /// Up to [`BATCH`] different keys.
    async fn get_batch(&self, keys: &[Key]) -> Result<Vec<Document>, StoreError> {
        let mut found = Vec::with_capacity(keys.len());
        let mut wanted: Vec<TableItem> = keys.iter().map(key_item).collect();
        let mut fruitless = 0;
        while !wanted.is_empty() {
            let asked = wanted.len();
            let request = KeysAndAttributes::builder().consistent_read(true).set_keys(Some(wanted)).build();
            let answer = self
                .client
                .batch_get_item()
                // Fails only without keys.
                .request_items(&self.table, request.map_err(|error| self.misbuilt(&error))?)
                .send()
                .await
                .map_err(|error| self.unavailable("read documents", &error))?;
            for item in answer.responses.into_iter().flatten().flat_map(|(_, items)| items) {
                found.push(document(item)?);
            }
            // Answers end at 16 MB, and a throttled table leaves keys over, too.
            wanted = answer.unprocessed_keys.into_iter().flatten().flat_map(|(_, left)| left.keys).collect();
            if wanted.len() < asked {
                fruitless = 0;
                continue;
            }
            fruitless += 1;
            if fruitless == FRUITLESS_ROUNDS {
                return Err(self.throttled());
            }
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(fruitless)).await;
        }
        Ok(found)
    }

    fn throttled(&self) -> StoreError {
        StoreError::Unavailable {
            doing: "read documents",
            place: format!("the DynamoDB table {}", self.table),
            reason: "the table leaves all keys unprocessed, so it is throttled; check its capacity"
                .to_owned(),
        }
    }

    fn misbuilt(&self, error: &dyn std::error::Error) -> StoreError {
        StoreError::Unavailable {
            doing: "build a request",
            place: format!("the DynamoDB table {}", self.table),
            reason: error.to_string(),
        }
    }
}

#[async_trait]
impl Store for DynamoStore {
    async fn get(&self, key: &Key) -> Result<Option<Document>, StoreError> {
        check_key(key)?;
        self.client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key_item(key)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| self.unavailable("read a document", &error))?
            .item
            .map(document)
            .transpose()
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Document>, StoreError> {
        keys.iter().try_for_each(check_key)?;
        // DynamoDB refuses a batch that names a key twice.
        let mut different = keys.to_vec();
        different.sort_unstable();
        different.dedup();
        let batches: Vec<Vec<Document>> =
            stream::iter(different.chunks(BATCH).map(<[Key]>::to_vec).collect::<Vec<_>>())
                .map(|batch| async move { self.get_batch(&batch).await })
                .buffered(BATCHES_AT_ONCE)
                .try_collect()
                .await?;
        let mut found: HashMap<Key, Document> =
            batches.into_iter().flatten().map(|document| (document.key.clone(), document)).collect();
        Ok(keys.iter().filter_map(|key| found.remove(key)).collect())
    }

    async fn put(
        &self,
        key: &Key,
        body: Value,
        ttl: Option<i64>,
        expected: Expected,
    ) -> Result<u64, StoreError> {
        let bytes = check_write(key, &body)?.len();
        let version = expected.next();
        let write_id = Uuid::new_v4().to_string();
        let mut item: TableItem = serde_dynamo::to_item(body)
            .map_err(|error| StoreError::Invalid { key: key.clone(), problem: error.to_string() })?;
        item.extend(key_item(key));
        item.insert("version".to_owned(), number(&version));
        item.insert("write_id".to_owned(), AttributeValue::S(write_id.clone()));
        item.extend(ttl.map(|ttl| ("ttl".to_owned(), number(&ttl))));
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let request = match expected {
            Expected::New => request.condition_expression("attribute_not_exists(pk)"),
            Expected::Version(read) => request
                .condition_expression("#version = :read")
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":read", number(&read)),
        };
        match request.send().await {
            Ok(_) => Ok(version),
            Err(error) => self.settle(key, bytes, &write_id, &error).map(|()| version),
        }
    }

    async fn put_new_many(&self, documents: Vec<NewDocument>) -> Result<Vec<bool>, StoreError> {
        for new in &documents {
            check_write(&new.key, &new.body)?;
        }
        stream::iter(documents)
            .map(|new| async move {
                match self.put(&new.key, new.body, new.ttl, Expected::New).await {
                    Ok(_) => Ok(true),
                    Err(StoreError::Conflict { .. }) => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .buffered(WRITES_AT_ONCE)
            .try_collect()
            .await
    }

    async fn delete(&self, key: &Key, expected: u64) -> Result<(), StoreError> {
        check_key(key)?;
        let answer = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key_item(key)))
            .condition_expression("attribute_not_exists(pk) OR #version = :read")
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":read", number(&expected))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = answer else { return Ok(()) };
        match error.as_service_error() {
            Some(DeleteItemError::ConditionalCheckFailedException(failed)) => {
                let current = failed.item().cloned().map(document).transpose()?.map(Box::new);
                Err(StoreError::Conflict { key: key.clone(), current })
            }
            _ => Err(self.unavailable("delete a document", &error)),
        }
    }

    async fn query(
        &self,
        pk: &str,
        span: Span<'_>,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page, StoreError> {
        let limit = limit.max(1);
        let Some((condition, values)) = key_condition(span) else { return Ok(Page::default()) };
        // DynamoDB refuses a start outside the span, and one at the upper end of a range.
        let after = after.filter(|after| !after.is_empty() && *after >= span.first());
        if after.is_some_and(|after| is_over(span, after)) {
            return Ok(Page::default());
        }
        let mut start = after.map(|after| key_item(&Key::new(pk, after)));
        let mut documents = Vec::new();
        // One more than asked for, which says whether anything follows; an answer may be short of it, at 1 MB.
        while documents.len() <= limit {
            let wanted = limit + 1 - documents.len();
            let mut request = self
                .client
                .query()
                .table_name(&self.table)
                .consistent_read(true)
                .key_condition_expression(&condition)
                .expression_attribute_values(":pk", AttributeValue::S(pk.to_owned()))
                .limit(i32::try_from(wanted).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start);
            for (name, value) in &values {
                request = request.expression_attribute_values(*name, AttributeValue::S((*value).to_owned()));
            }
            let answer = request.send().await.map_err(|error| self.unavailable("query documents", &error))?;
            for item in answer.items.into_iter().flatten() {
                documents.push(document(item)?);
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                break;
            }
        }
        Ok(Page::cut(documents, limit))
    }
}

/// The condition on `pk` and `sk` with its values; `None`: nothing can match. DynamoDB takes no empty key values.
fn key_condition(span: Span<'_>) -> Option<(String, Vec<(&'static str, &str)>)> {
    let (on_sk, values) = match span {
        Span::Prefix("") => ("", Vec::new()),
        Span::Prefix(prefix) => (" AND begins_with(sk, :prefix)", vec![(":prefix", prefix)]),
        Span::Range { from, to } if from > to || to.is_empty() => return None,
        Span::Range { from: "", to } => (" AND sk <= :to", vec![(":to", to)]),
        Span::Range { from, to } => (" AND sk BETWEEN :from AND :to", vec![(":from", from), (":to", to)]),
    };
    Some((format!("pk = :pk{on_sk}"), values))
}

/// Whether nothing of `span` can come behind `after`, which is not in front of it.
fn is_over(span: Span<'_>, after: &str) -> bool {
    match span {
        Span::Prefix(prefix) => !after.starts_with(prefix),
        Span::Range { to, .. } => after >= to,
    }
}

fn key_item(key: &Key) -> TableItem {
    HashMap::from([
        ("pk".to_owned(), AttributeValue::S(key.pk.clone())),
        ("sk".to_owned(), AttributeValue::S(key.sk.clone())),
    ])
}

fn number(number: &impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Takes an item apart. It may have been edited by hand in the console, so nothing is taken for granted.
fn document(mut item: TableItem) -> Result<Document, StoreError> {
    let mut text = |name| match item.remove(name) {
        Some(AttributeValue::S(text)) => text,
        _ => String::new(),
    };
    let key = Key { pk: text("pk"), sk: text("sk") };
    let malformed = |problem: &str| StoreError::Malformed {
        key: key.clone(),
        source: serde_json::Error::custom(problem),
    };
    let version = item
        .remove("version")
        .and_then(|value| value.as_n().ok()?.parse().ok())
        .ok_or_else(|| malformed("`version` is missing or not a whole number"))?;
    let ttl = match item.remove("ttl") {
        None => None,
        Some(value) => Some(
            value
                .as_n()
                .ok()
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| malformed("`ttl` is not a whole number"))?,
        ),
    };
    item.remove("write_id");
    let body = serde_dynamo::from_item(item).map_err(|error| malformed(&error.to_string()))?;
    Ok(Document { key, version, ttl, body })
}
