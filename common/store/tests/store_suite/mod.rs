//! The promises, each a function of a store. A store's module runs all of them with `run_suite!`.

use std::collections::HashSet;

use serde_json::{Value, json};
use store::{Document, Expected, Key, MAX_BODY_BYTES, NewDocument, RESERVED, Store, StoreError, to_body};

/// Makes a test of each promise. `$fresh` is an async function that gives an empty store and what must live as long, or
/// `None` when this store was not asked for.
macro_rules! run_suite {
    ($fresh:path) => {
        run_suite!($fresh:
            what_is_put_is_read, every_json_value_comes_back, absent_is_none,
            a_new_document_is_created_once, a_write_replaces_only_what_was_read,
            a_write_expecting_what_is_not_there_conflicts, a_write_replaces_the_whole_document,
            of_many_rivals_one_wins, many_rivals_lose_no_increment, identical_rivals_do_not_both_win,
            a_delete_takes_only_what_was_read, a_deleted_document_can_be_made_anew,
            many_are_read_in_order_without_the_absent, many_large_documents_are_read,
            many_are_created_unless_they_are_there, a_prefix_is_walked_page_by_page,
            a_page_says_whether_more_follows, a_range_includes_both_ends, order_is_by_bytes,
            strange_bounds_match_nothing_or_all, large_pages_are_complete, groups_do_not_mix,
            an_expired_document_is_still_there, what_dynamodb_would_refuse_is_refused,
            a_document_may_have_nearly_400_kb, what_has_another_shape_is_malformed,
        );
    };
    ($fresh:path: $($promise:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                if let Some((store, _guard)) = $fresh().await {
                    crate::store_suite::$promise(&store).await;
                }
            }
        )+
    };
}
pub(crate) use run_suite;

fn key(sk: &str) -> Key {
    Key::new("group", sk)
}

fn new(sk: &str, n: usize) -> NewDocument {
    NewDocument { key: key(sk), body: json!({"n": n}), ttl: None }
}

async fn create(store: &dyn Store, sk: &str) {
    store.put(&key(sk), json!({"of": sk}), None, Expected::New).await.unwrap();
}

fn conflict(result: Result<impl std::fmt::Debug, StoreError>) -> Option<Document> {
    match result {
        Err(StoreError::Conflict { current, .. }) => current.map(|current| *current),
        other => panic!("expected a conflict: {other:?}"),
    }
}

fn names(documents: &[Document]) -> Vec<&str> {
    documents.iter().map(|document| document.key.sk.as_str()).collect()
}

pub(crate) async fn what_is_put_is_read(store: &dyn Store) {
    let body = json!({"state": "waiting", "attempts": 3});
    assert_eq!(store.put(&key("a"), body.clone(), Some(4_102_444_800), Expected::New).await.unwrap(), 1);
    let read = store.get(&key("a")).await.unwrap();
    assert_eq!(read, Some(Document { key: key("a"), version: 1, ttl: Some(4_102_444_800), body }));
}

pub(crate) async fn every_json_value_comes_back(store: &dyn Store) {
    let body = json!({
        "null": null, "yes": true, "no": false, "empty": "", "text": "ünïcödé \u{1F980} \"quoted\"\n\u{0}",
        "zero": 0, "negative": -7, "big": u64::MAX, "small": i64::MIN, "decimal": 0.1, "tiny": 1.5e-7, "large": 1.25e30,
        "list": [1, "two", [], {}, null], "map": {"deep": {"deeper": [{"a": "b"}]}}, "empty list": [], "empty map": {},
        "name.with-dots": 1, "size": "a reserved word of DynamoDB", "Body": {"pk": 1, "version": 2},
    });
    store.put(&key("a"), body.clone(), None, Expected::New).await.unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().body, body);
    // Numbers keep their value, not their spelling.
    store.put(&key("b"), json!({"n": 2.0}), None, Expected::New).await.unwrap();
    assert_eq!(store.get(&key("b")).await.unwrap().unwrap().body["n"].as_f64(), Some(2.0));
}

pub(crate) async fn absent_is_none(store: &dyn Store) {
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    assert_eq!(store.get_many(&[key("a"), key("b")]).await.unwrap(), []);
    assert_eq!(store.get_many(&[]).await.unwrap(), []);
    assert_eq!(store.put_new_many(Vec::new()).await.unwrap(), [false; 0]);
}

pub(crate) async fn a_new_document_is_created_once(store: &dyn Store) {
    store.put(&key("a"), json!({"by": 1}), None, Expected::New).await.unwrap();
    let current = conflict(store.put(&key("a"), json!({"by": 2}), None, Expected::New).await).unwrap();
    assert_eq!((current.version, &current.body), (1, &json!({"by": 1})));
    assert_eq!(store.get(&key("a")).await.unwrap(), Some(current));
}

pub(crate) async fn a_write_replaces_only_what_was_read(store: &dyn Store) {
    store.put(&key("a"), json!({"n": 1}), None, Expected::New).await.unwrap();
    assert_eq!(store.put(&key("a"), json!({"n": 2}), None, Expected::Version(1)).await.unwrap(), 2);
    let current = conflict(store.put(&key("a"), json!({"n": 9}), None, Expected::Version(1)).await).unwrap();
    assert_eq!((current.version, &current.body), (2, &json!({"n": 2})));
    conflict(store.put(&key("a"), json!({"n": 9}), None, Expected::Version(3)).await);
    assert_eq!(store.put(&key("a"), json!({"n": 3}), None, Expected::Version(2)).await.unwrap(), 3);
}

pub(crate) async fn a_write_expecting_what_is_not_there_conflicts(store: &dyn Store) {
    assert_eq!(conflict(store.put(&key("a"), json!({}), None, Expected::Version(1)).await), None);
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
}

pub(crate) async fn a_write_replaces_the_whole_document(store: &dyn Store) {
    store.put(&key("a"), json!({"old": 1}), Some(4_102_444_800), Expected::New).await.unwrap();
    store.put(&key("a"), json!({"new": 2}), None, Expected::Version(1)).await.unwrap();
    let read = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((read.body, read.ttl), (json!({"new": 2}), None));
}

pub(crate) async fn of_many_rivals_one_wins(store: &dyn Store) {
    let key = key("a");
    let rivals = (0..20).map(|n| store.put(&key, json!({"by": n}), None, Expected::New));
    let results = futures::future::join_all(rivals).await;
    let winners: Vec<_> = results.iter().enumerate().filter(|(_, result)| result.is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    let read = store.get(&key).await.unwrap().unwrap();
    assert_eq!(read.body, json!({"by": winners[0].0}));
    for result in results.into_iter().filter(Result::is_err) {
        assert_eq!(conflict(result).as_ref(), Some(&read));
    }
}

pub(crate) async fn many_rivals_lose_no_increment(store: &dyn Store) {
    store.put(&key("n"), json!({"n": 0}), None, Expected::New).await.unwrap();
    futures::future::join_all((0..8).map(|_| async { increment(store, 5).await })).await;
    let read = store.get(&key("n")).await.unwrap().unwrap();
    assert_eq!((read.version, read.body), (41, json!({"n": 40})));
}

/// Adds one to `n` by compare-and-set, `times` times.
pub(crate) async fn increment(store: &dyn Store, times: usize) {
    for _ in 0..times {
        loop {
            let read = store.get(&key("n")).await.unwrap().unwrap();
            let body = json!({"n": read.body["n"].as_u64().unwrap() + 1});
            match store.put(&read.key, body, None, Expected::Version(read.version)).await {
                Ok(_) => break,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

pub(crate) async fn identical_rivals_do_not_both_win(store: &dyn Store) {
    let body = json!({"state": "claimed"});
    store.put(&key("a"), body.clone(), None, Expected::New).await.unwrap();
    conflict(store.put(&key("a"), body.clone(), None, Expected::New).await);
    store.put(&key("a"), body.clone(), None, Expected::Version(1)).await.unwrap();
    conflict(store.put(&key("a"), body, None, Expected::Version(1)).await);
}

pub(crate) async fn a_delete_takes_only_what_was_read(store: &dyn Store) {
    store.put(&key("a"), json!({"n": 1}), None, Expected::New).await.unwrap();
    store.put(&key("a"), json!({"n": 2}), None, Expected::Version(1)).await.unwrap();
    assert_eq!(conflict(store.delete(&key("a"), 1).await).unwrap().body, json!({"n": 2}));
    store.delete(&key("a"), 2).await.unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    store.delete(&key("a"), 2).await.expect("what is gone is deleted");
    store.delete(&key("never"), 1).await.expect("what never was is deleted");
}

pub(crate) async fn a_deleted_document_can_be_made_anew(store: &dyn Store) {
    create(store, "a").await;
    store.delete(&key("a"), 1).await.unwrap();
    assert_eq!(store.put(&key("a"), json!({"again": true}), None, Expected::New).await.unwrap(), 1);
}

pub(crate) async fn many_are_read_in_order_without_the_absent(store: &dyn Store) {
    let all: Vec<_> = (0..230).map(|n| new(&format!("{n:03}"), n)).collect();
    let there: Vec<_> = all.iter().filter(|new| new.body["n"] != 7).cloned().collect();
    assert!(store.put_new_many(there).await.unwrap().into_iter().all(|created| created));
    let mut keys: Vec<_> = all.iter().rev().map(|new| new.key.clone()).collect();
    keys.push(keys[3].clone());
    let read = store.get_many(&keys).await.unwrap();
    let expected: Vec<_> = (0..230).rev().filter(|n| *n != 7).map(|n| json!({"n": n})).collect();
    assert_eq!(read.into_iter().map(|document| document.body).collect::<Vec<_>>(), expected);
}

/// 23 MB: more than DynamoDB answers at once.
pub(crate) async fn many_large_documents_are_read(store: &dyn Store) {
    let text = "x".repeat(390_000);
    let new = |n| NewDocument { key: key(&format!("{n:02}")), body: json!({"text": text}), ttl: None };
    let documents: Vec<_> = (0..60).map(new).collect();
    let keys: Vec<_> = documents.iter().map(|new| new.key.clone()).collect();
    assert_eq!(store.put_new_many(documents).await.unwrap(), [true; 60]);
    let read = store.get_many(&keys).await.unwrap();
    assert_eq!(
        read.iter().map(|document| &document.key).collect::<Vec<_>>(),
        keys.iter().collect::<Vec<_>>()
    );
    assert!(read.iter().all(|document| document.body["text"].as_str().map(str::len) == Some(390_000)));
}

pub(crate) async fn many_are_created_unless_they_are_there(store: &dyn Store) {
    store.put(&key("b"), json!({"n": "old"}), None, Expected::New).await.unwrap();
    let created = store.put_new_many(vec![new("a", 1), new("b", 2), new("c", 3)]).await.unwrap();
    assert_eq!(created, [true, false, true]);
    assert_eq!(store.get(&key("b")).await.unwrap().unwrap().body, json!({"n": "old"}));
    let repeated = store.put_new_many(vec![new("a", 1), new("d", 4)]).await.unwrap();
    assert_eq!(repeated, [false, true]);
    let twice = store.put_new_many(vec![new("e", 1), new("e", 2)]).await.unwrap();
    assert_eq!(twice.iter().filter(|created| **created).count(), 1);
    let with_ttl = NewDocument { ttl: Some(4_102_444_800), ..new("f", 1) };
    store.put_new_many(vec![with_ttl]).await.unwrap();
    assert_eq!(store.get(&key("f")).await.unwrap().unwrap().ttl, Some(4_102_444_800));
}

pub(crate) async fn a_prefix_is_walked_page_by_page(store: &dyn Store) {
    let mut documents: Vec<_> = (0..25).map(|n| new(&format!("sample#{n:02}"), n)).collect();
    documents.extend([new("sampl", 90), new("sample", 91), new("sample$", 92), new("zzz", 93)]);
    store.put_new_many(documents).await.unwrap();
    let (mut walked, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = store.query_prefix("group", "sample#", 10, after.as_deref()).await.unwrap();
        assert!(page.documents.len() <= 10);
        walked.extend(page.documents);
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(names(&walked), (0..25).map(|n| format!("sample#{n:02}")).collect::<Vec<_>>());
}

pub(crate) async fn a_page_says_whether_more_follows(store: &dyn Store) {
    store.put_new_many(vec![new("a1", 1), new("a2", 2), new("b", 3)]).await.unwrap();
    let page = store.query_prefix("group", "a", 2, None).await.unwrap();
    assert_eq!((names(&page.documents), page.next), (vec!["a1", "a2"], None), "exactly full, nothing behind");
    let page = store.query_prefix("group", "a", 1, None).await.unwrap();
    assert_eq!((names(&page.documents), page.next.as_deref()), (vec!["a1"], Some("a1")));
    let page = store.query_prefix("group", "a", 0, None).await.unwrap();
    assert_eq!(page.documents.len(), 1, "a page has at least one");
}

pub(crate) async fn a_range_includes_both_ends(store: &dyn Store) {
    store.put_new_many("abcde".chars().map(|sk| new(&sk.to_string(), 0)).collect()).await.unwrap();
    let range = async |from, to, limit, after| {
        let page = store.query_range("group", from, to, limit, after).await.unwrap();
        (names(&page.documents).concat(), page.next)
    };
    assert_eq!(range("b", "d", 10, None).await, ("bcd".to_owned(), None));
    assert_eq!(range("b", "d", 2, None).await, ("bc".to_owned(), Some("c".to_owned())));
    assert_eq!(range("b", "d", 2, Some("c")).await, ("d".to_owned(), None));
    assert_eq!(range("bb", "d!", 10, None).await, ("cd".to_owned(), None));
    assert_eq!(range("c", "c", 10, None).await, ("c".to_owned(), None));
}

pub(crate) async fn order_is_by_bytes(store: &dyn Store) {
    let ordered = ["A", "B", "a", "a#1", "a#10", "a#2", "b", "é", "\u{FFFD}", "\u{1F980}"];
    let mut documents: Vec<_> = ordered.iter().map(|sk| new(sk, 0)).collect();
    documents.reverse();
    store.put_new_many(documents).await.unwrap();
    let page = store.query_prefix("group", "", 100, None).await.unwrap();
    assert_eq!(names(&page.documents), ordered);
}

pub(crate) async fn strange_bounds_match_nothing_or_all(store: &dyn Store) {
    store.put_new_many("abc".chars().map(|sk| new(&sk.to_string(), 0)).collect()).await.unwrap();
    let range = async |from, to, after| {
        names(&store.query_range("group", from, to, 9, after).await.unwrap().documents).concat()
    };
    assert_eq!(range("c", "a", None).await, "");
    assert_eq!(range("", "b", None).await, "ab");
    assert_eq!(range("", "", None).await, "");
    assert_eq!(range("b", "c", Some("a")).await, "bc", "a start in front of the range");
    assert_eq!(range("a", "b", Some("c")).await, "", "a start behind the range");
    assert_eq!(range("a", "b", Some("b")).await, "");
    assert_eq!(range("a", "b", Some("")).await, "ab");
    assert_eq!(range("a", "c", Some("aa")).await, "bc", "a start that is no document");
    let prefix = async |prefix, after| {
        names(&store.query_prefix("group", prefix, 9, after).await.unwrap().documents).concat()
    };
    assert_eq!(prefix("b", Some("a")).await, "b");
    assert_eq!(prefix("b", Some("c")).await, "");
    assert_eq!(prefix("", Some("a")).await, "bc");
    assert_eq!(prefix("nothing", None).await, "");
    assert_eq!(store.query_prefix("no group", "", 9, None).await.unwrap().documents, []);
}

/// 4 MB: more than one answer of DynamoDB's query, which ends at 1 MB.
pub(crate) async fn large_pages_are_complete(store: &dyn Store) {
    let text = "x".repeat(200_000);
    let new = |n| NewDocument { key: key(&format!("{n:02}")), body: json!({"text": text}), ttl: None };
    store.put_new_many((0..20).map(new).collect()).await.unwrap();
    let page = store.query_prefix("group", "", 19, None).await.unwrap();
    assert_eq!((page.documents.len(), page.next.as_deref()), (19, Some("18")));
    let page = store.query_prefix("group", "", 20, None).await.unwrap();
    assert_eq!((page.documents.len(), page.next), (20, None));
}

pub(crate) async fn groups_do_not_mix(store: &dyn Store) {
    for pk in ["one", "one#", "two"] {
        store.put(&Key::new(pk, "a"), json!({"of": pk}), None, Expected::New).await.unwrap();
    }
    let page = store.query_prefix("one", "", 9, None).await.unwrap();
    assert_eq!(
        page.documents.iter().map(|document| &document.body).collect::<Vec<_>>(),
        [&json!({"of": "one"})]
    );
}

pub(crate) async fn an_expired_document_is_still_there(store: &dyn Store) {
    store.put(&key("a"), json!({}), Some(1_000), Expected::New).await.unwrap();
    let read = store.get(&key("a")).await.unwrap().unwrap();
    assert!(read.has_expired(1_000) && !read.has_expired(999));
    conflict(store.put(&key("a"), json!({}), None, Expected::New).await);
    store.put(&key("a"), json!({}), None, Expected::Version(read.version)).await.unwrap();
    assert!(!store.get(&key("a")).await.unwrap().unwrap().has_expired(i64::MAX));
}

pub(crate) async fn what_dynamodb_would_refuse_is_refused(store: &dyn Store) {
    let long = |length: usize| "k".repeat(length);
    for wrong in [Key::new("", "a"), Key::new("a", ""), Key::new(long(2049), "a"), Key::new("a", long(1025))]
    {
        let invalid =
            |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Invalid { .. })));
        invalid(store.get(&wrong).await.map(drop));
        invalid(store.get_many(&[key("a"), wrong.clone()]).await.map(drop));
        invalid(store.put(&wrong, json!({}), None, Expected::New).await.map(drop));
        invalid(store.delete(&wrong, 1).await);
        let new = NewDocument { key: wrong, body: json!({}), ttl: None };
        invalid(store.put_new_many(vec![self::new("never", 1), new]).await.map(drop));
    }
    assert_eq!(store.get(&key("never")).await.unwrap(), None, "nothing is written when one is wrong");
    let longest = Key::new(long(2048), long(1024));
    store.put(&longest, json!({}), None, Expected::New).await.unwrap();
    let not_objects = [json!([]), json!("text"), json!(null)];
    let reserved = RESERVED.map(|name| Value::Object([(name.to_owned(), json!(1))].into_iter().collect()));
    let nameless = [json!({"": 1}), json!({"a": [{"b": {"": 1}}]})];
    for body in not_objects.into_iter().chain(reserved).chain(nameless) {
        let error = store.put(&key("a"), body, None, Expected::New).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
    }
}

pub(crate) async fn a_document_may_have_nearly_400_kb(store: &dyn Store) {
    let of_length = |bytes: usize| json!({"t": "x".repeat(bytes - r#"{"t":""}"#.len())});
    let longest = Key::new("k".repeat(2048), "k".repeat(1024));
    store.put(&longest, of_length(MAX_BODY_BYTES), Some(4_102_444_800), Expected::New).await.unwrap();
    let error = store.put(&key("a"), of_length(MAX_BODY_BYTES + 1), None, Expected::New).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { bytes, .. } if bytes == MAX_BODY_BYTES + 1), "{error}");
    // A cursor's memory: 20,000 ids.
    let ids: Vec<u64> = (0..20_000).map(|n| 123_000_000 + n).collect();
    store.put(&key("cursor"), json!({"done": ids}), None, Expected::New).await.unwrap();
}

pub(crate) async fn what_has_another_shape_is_malformed(store: &dyn Store) {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Cursor {
        position: u64,
        owners: HashSet<String>,
    }
    let cursor = Cursor { position: 7, owners: HashSet::from(["me".to_owned()]) };
    store.put(&key("a"), to_body(&key("a"), &cursor).unwrap(), None, Expected::New).await.unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().read::<Cursor>().unwrap(), cursor);
    store.put(&key("b"), json!({"position": "seven"}), None, Expected::New).await.unwrap();
    let error = store.get(&key("b")).await.unwrap().unwrap().read::<Cursor>().unwrap_err();
    assert!(matches!(&error, StoreError::Malformed { key, .. } if key.sk == "b"), "{error}");
    assert!(error.to_string().contains("group/b"), "{error}");
}
