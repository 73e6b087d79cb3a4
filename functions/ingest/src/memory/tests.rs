use std::borrow::Cow;

use stix::{Body, Object, Timestamp};
use store::sqlite::SqliteStore;
use vmray::model::SampleId;

use super::*;

const WEEK: TimeDelta = TimeDelta::days(7);

fn memory<'a>(store: &'a SqliteStore, scope: &str) -> PlatformMemory<'a> {
    PlatformMemory::new(store, "c", WEEK, &scope).unwrap()
}

/// One object's content and whether it is to be pushed.
fn author(known: &Known) -> (Vec<PushedObject>, bool) {
    let (object, mut pushed) = (Object::from(Body::Identity), Vec::new());
    let is_needed = known.select(&mut Cow::Borrowed(&object), Timestamp::CONSTANT, &mut pushed);
    (pushed, is_needed)
}

fn samples() -> Vec<SubmittedSample> {
    vec![SubmittedSample { id: SampleId(7), submissions: vec![] }]
}

fn work(second: u8, objects: u64) -> ConnectorWork {
    ConnectorWork::for_tests(
        &format!("2026-01-01T00:00:0{second}.000Z"),
        Some(objects),
        Some(objects),
        vec![],
    )
}

/// The author is pushed at `now` with `imports` as they are.
async fn push(memory: &PlatformMemory<'_>, imports: &mut Imports, now: DateTime<Utc>) {
    let (pushed, is_needed) = author(&memory.load(imports.epoch(), now).await.unwrap());
    assert!(is_needed);
    let documents = memory.record(imports.epoch(), &pushed, &samples(), now).await.unwrap();
    imports.add(documents, 1);
}

async fn is_needed(memory: &PlatformMemory<'_>, imports: &Imports, now: DateTime<Utc>) -> bool {
    author(&memory.load(imports.epoch(), now).await.unwrap()).1
}

#[tokio::test]
async fn what_is_imported_is_left_out_until_its_time_is_over_or_the_settings_or_the_epoch_change() {
    let store = SqliteStore::in_memory().unwrap();
    let (memory, now) = (memory(&store, "one"), Utc::now());
    let mut imports = Imports::default();
    push(&memory, &mut imports, now).await;
    assert!(is_needed(&memory, &imports, now).await, "pushed is not imported");
    assert!(memory.settle(&mut imports, &[work(1, 1)]).await.unwrap().is_empty());
    assert!(!is_needed(&memory, &imports, now).await);
    assert!(!is_needed(&memory, &imports, now + WEEK - TimeDelta::minutes(1)).await);

    let mut forgotten = imports.clone();
    forgotten.forget();
    let shorter = PlatformMemory::new(&store, "c", TimeDelta::days(1), &"one").unwrap();
    for (memory, imports, now) in [
        (&memory, &forgotten, now),
        (&self::memory(&store, "other"), &imports, now),
        (&memory, &imports, now + WEEK + TimeDelta::seconds(1)),
        (&shorter, &imports, now + TimeDelta::days(1)),
    ] {
        let copy = SqliteStore::in_memory().unwrap();
        for document in store.query_prefix("ingest#c", "", 100, None).await.unwrap().documents {
            copy.put(&document.key, document.body, document.ttl, Expected::New).await.unwrap();
        }
        let memory = PlatformMemory {
            store: &copy,
            partition: partition("c"),
            scope: memory.scope.clone(),
            ..*memory
        };
        assert!(is_needed(&memory, imports, now).await);
        let left = copy.query_prefix("ingest#c", PREFIX, 100, None).await.unwrap().documents;
        assert!(left.is_empty(), "what is of no use is deleted");
    }
}

#[tokio::test]
async fn a_push_that_was_written_down_and_not_listed_is_never_trusted() {
    let store = SqliteStore::in_memory().unwrap();
    let (memory, now) = (memory(&store, "one"), Utc::now());
    let mut imports = Imports::default();
    push(&memory, &mut imports.clone(), now).await;
    memory.settle(&mut imports, &[work(1, 1)]).await.unwrap();
    assert!(is_needed(&memory, &imports, now).await);
}

#[tokio::test]
async fn a_missing_end_that_was_left_out_brings_the_samples_again_and_forgets_everything() {
    let store = SqliteStore::in_memory().unwrap();
    let (memory, now) = (memory(&store, "one"), Utc::now());
    let mut imports = Imports::default();
    push(&memory, &mut imports, now).await;
    let author = Object::from(Body::Identity).id();
    let elsewhere = "url--00000000-0000-5000-8000-000000000001";
    let error = |end: &str| {
        let message = Some("{'name': 'MISSING_REFERENCE_ERROR'}".to_owned());
        let source = format!(
            r#"{{"id": "relationship--00000000-0000-5000-8000-000000000003", "source_ref": "{author}", "target_ref": "{end}"}}"#
        );
        crate::opencti::connector::WorkError { message, source: Some(source) }
    };
    let work = |end: &str| ConnectorWork { errors: Some(vec![error(end)]), ..work(1, 1) };
    let mut own = imports.clone();
    let again = memory.settle(&mut own, &[work(&author.to_string())]).await.unwrap();
    assert!(again.is_empty(), "the end was pushed, and refused itself");
    assert_eq!(own.epoch(), imports.epoch());
    let again = memory.settle(&mut imports.clone(), &[work(elsewhere)]).await.unwrap();
    assert!(again.is_empty(), "its documents were settled before");

    let mut imports = Imports::default();
    push(&memory, &mut imports, now + WEEK * 2).await;
    let again = memory.settle(&mut imports, &[work(elsewhere)]).await.unwrap();
    assert_eq!(again.iter().map(|sample| sample.id).collect::<Vec<_>>(), [SampleId(7)]);
    assert_eq!(imports.epoch(), 1);
}

#[tokio::test]
async fn of_too_many_objects_those_that_were_pushed_first_are_forgotten() {
    let store = SqliteStore::in_memory().unwrap();
    let (memory, start) = (memory(&store, "one"), Utc::now());
    let object = |id| PushedObject { id, analysed: 0, rating: None, parts: vec![id] };
    let mut imports = Imports::default();
    push(&memory, &mut imports, start).await;
    for push in 1..=20 {
        let objects: Vec<PushedObject> = (0..5_000).map(|n| object(push * 5_000 + n)).collect();
        let now = start + TimeDelta::minutes(push.cast_signed());
        imports.add(memory.record(0, &objects, &[], now).await.unwrap(), 5_000);
    }
    memory.load(0, start).await.unwrap();
    let mut documents = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.query_prefix("ingest#c", PREFIX, 50, after.as_deref()).await.unwrap();
        documents.extend(page.documents);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(documents.len(), MOST_OBJECTS / MOST_OBJECTS_A_DOCUMENT, "the author's went first");
    let largest = documents.iter().map(|document| document.body.to_string().len()).max().unwrap();
    assert!(largest < 100_000, "{largest} bytes in one document");
}
