//! SQLite: the suite, and what only a file can do.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command},
};

use serde_json::json;
use store::{Expected, Key, Store, StoreError, sqlite::SqliteStore};
use tempfile::{TempDir, tempdir};

use crate::store_suite::{increment, run_suite};

mod file {
    use super::*;

    #[expect(clippy::unused_async, reason = "others have to wait")]
    async fn fresh() -> Option<(SqliteStore, TempDir)> {
        let directory = tempdir().unwrap();
        Some((SqliteStore::open(directory.path().join("state.sqlite")).unwrap(), directory))
    }

    run_suite!(fresh);
}

mod memory {
    use super::*;

    #[expect(clippy::unused_async, reason = "others have to wait")]
    async fn fresh() -> Option<(SqliteStore, ())> {
        Some((SqliteStore::in_memory().unwrap(), ()))
    }

    run_suite!(fresh);
}

fn open_error(path: &Path) -> String {
    let error = SqliteStore::open(path).expect_err("must not open");
    assert!(matches!(error, StoreError::Unavailable { .. }));
    let message = error.to_string();
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    message
}

#[tokio::test]
async fn what_was_written_is_there_when_the_file_is_opened_again() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("state.sqlite");
    let key = Key::new("a", "b");
    let store = SqliteStore::open(&path).unwrap();
    store.put(&key, json!({"n": 1}), None, Expected::New).await.unwrap();
    store.put(&key, json!({"n": 2}), None, Expected::Version(1)).await.unwrap();
    drop(store);
    let read = SqliteStore::open(&path).unwrap().get(&key).await.unwrap().unwrap();
    assert_eq!((read.version, read.body), (2, json!({"n": 2})));
}

#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    let directory = tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("state.sqlite")).unwrap();
    store.put(&Key::new("a", "b"), json!({}), None, Expected::New).await.unwrap();
    let _lock = store.try_lock().unwrap().unwrap();
    let mut files: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name(), entry.metadata().unwrap().permissions().mode() & 0o777))
        .collect();
    files.sort();
    let expected = ["state.sqlite", "state.sqlite-lock", "state.sqlite-shm", "state.sqlite-wal"]
        .map(|name| (name.into(), 0o600));
    assert_eq!(files, expected);
}

#[test]
fn a_path_that_cannot_be_is_explained() {
    let directory = tempdir().unwrap();
    let missing = directory.path().join("nowhere");
    let message = open_error(&missing.join("state.sqlite"));
    assert!(message.contains(&format!("the directory {} does not exist", missing.display())), "{message}");
    let message = open_error(directory.path());
    assert!(message.contains("it is a directory"), "{message}");
}

#[test]
fn a_file_that_is_not_ours_is_left_alone() {
    let directory = tempdir().unwrap();
    let text = directory.path().join("notes.txt");
    fs::write(&text, "shopping list ".repeat(100)).unwrap();
    assert!(open_error(&text).contains("not a SQLite database"));
    assert_eq!(fs::read_to_string(&text).unwrap(), "shopping list ".repeat(100));

    let theirs = directory.path().join("theirs.sqlite");
    rusqlite::Connection::open(&theirs).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(open_error(&theirs).contains("another program"));

    let newer = directory.path().join("newer.sqlite");
    drop(SqliteStore::open(&newer).unwrap());
    rusqlite::Connection::open(&newer).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    assert!(open_error(&newer).contains("another version of VMRay Bridge"));
}

#[tokio::test]
async fn an_expired_document_goes_when_the_file_is_opened() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("state.sqlite");
    let store = SqliteStore::open(&path).unwrap();
    for (sk, ttl) in [("past", Some(1_000)), ("future", Some(4_102_444_800)), ("never", None)] {
        store.put(&Key::new("a", sk), json!({}), ttl, Expected::New).await.unwrap();
    }
    drop(store);
    let page = SqliteStore::open(&path).unwrap().query_prefix("a", "", 9, None).await.unwrap();
    let left: Vec<_> = page.documents.iter().map(|document| document.key.sk.as_str()).collect();
    assert_eq!(left, ["future", "never"]);
}

#[tokio::test]
async fn a_body_that_somebody_broke_is_malformed() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("state.sqlite");
    let store = SqliteStore::open(&path).unwrap();
    store.put(&Key::new("a", "b"), json!({}), None, Expected::New).await.unwrap();
    rusqlite::Connection::open(&path).unwrap().execute("UPDATE documents SET body = '{'", ()).unwrap();
    let error = store.get(&Key::new("a", "b")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Malformed { key, .. } if key.sk == "b"), "{error}");
}

/// Starts this test program again for one of the helpers below, with the file in `STORE_TEST_FILE`.
fn child(helper: &str, path: &Path) -> Child {
    let helper = format!("sqlite::{helper}");
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &helper, "--ignored", "--nocapture", "--test-threads=1"])
        .env("STORE_TEST_FILE", path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

fn store_of_parent() -> SqliteStore {
    SqliteStore::open(std::env::var_os("STORE_TEST_FILE").expect("run by another test")).unwrap()
}

#[tokio::test]
async fn several_processes_make_and_use_one_file() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("state.sqlite");
    let children: Vec<_> = (0..6).map(|_| child("helper_increments", &path)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let read = SqliteStore::open(&path).unwrap().get(&Key::new("group", "n")).await.unwrap().unwrap();
    assert_eq!((read.version, read.body), (151, json!({"n": 150})));
}

#[tokio::test]
#[ignore = "a helper: run by several_processes_make_and_use_one_file"]
async fn helper_increments() {
    let store = store_of_parent();
    let first = store.put(&Key::new("group", "n"), json!({"n": 0}), None, Expected::New).await;
    assert!(matches!(first, Ok(1) | Err(StoreError::Conflict { .. })), "{first:?}");
    increment(&store, 25).await;
}

#[test]
fn a_dead_process_leaves_no_lock() {
    use std::io::{BufRead, BufReader};
    let directory = tempdir().unwrap();
    let path = directory.path().join("state.sqlite");
    let store = SqliteStore::open(&path).unwrap();
    let mut child = child("helper_locks", &path);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("locked")), "the helper has the lock");
    assert!(store.try_lock().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    let lock = store.try_lock().unwrap();
    assert!(lock.is_some());
    assert!(store.try_lock().unwrap().is_none(), "nor twice in one process");
    drop(lock);
    assert!(store.try_lock().unwrap().is_some());
}

#[test]
#[ignore = "a helper: run by a_dead_process_leaves_no_lock"]
fn helper_locks() {
    let _lock = store_of_parent().try_lock().unwrap().unwrap();
    println!("locked");
    std::thread::sleep(std::time::Duration::from_mins(1));
}
