//! Documents in one SQLite file, for one machine.
//!
//! Several processes may use the file at the same time: it is in WAL mode, writers queue up for at most
//! `BUSY_TIMEOUT`, and every write begins with `BEGIN IMMEDIATE`, so that what it has compared cannot change before
//! it is replaced. What was answered has reached the disk.
//!
//! Calls run on tokio's blocking threads: a writer may have to wait for another process, and a write for the disk. Writes
//! that wait at the same time go to the disk together, in one transaction: the disk's pace would be theirs otherwise.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{Document, Expected, Key, NewDocument, Page, Span, Store, StoreError, check_key, check_write};

/// How long a writer waits for the others.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often expired documents are looked for, at a write.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// Marks the file as ours (`PRAGMA application_id`): "VMRB".
const APPLICATION_ID: i32 = 0x564D_5242;

/// The layout of the file (`PRAGMA user_version`).
const SCHEMA_VERSION: i32 = 1;

const SCHEMA: &str = "
    CREATE TABLE documents (
        pk TEXT NOT NULL,
        sk TEXT NOT NULL,
        version INTEGER NOT NULL,
        ttl INTEGER,
        body TEXT NOT NULL,
        PRIMARY KEY (pk, sk)
    ) STRICT;
    CREATE INDEX documents_by_ttl ON documents (ttl) WHERE ttl IS NOT NULL;
";

/// Documents in one SQLite file.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Mutex<Inner>>,
    waiting: Arc<Mutex<Vec<Write>>>,
    path: PathBuf,
}

/// A write that waits for the next transaction, or for the news that there is none. What it gives is to be told when
/// the transaction has reached the disk.
type Write = Box<dyn FnOnce(Result<&mut Transaction<'_>, &rusqlite::Error>) -> Reply + Send>;
type Reply = Box<dyn FnOnce(&Result<(), rusqlite::Error>) + Send>;

struct Inner {
    connection: Connection,
    swept_at: Instant,
}

/// An exclusive lock beside the file, from [`SqliteStore::try_lock`]. Free when it is dropped or its process dies.
#[derive(Debug)]
pub struct RunLock(#[expect(dead_code, reason = "closing the file frees the lock")] File);

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the file, or makes it (readable by its owner only) in a directory that exists.
    ///
    /// Fails with [`StoreError::Unavailable`] when it cannot be opened or is something else than our file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let connection = connect(&path).map_err(|reason| StoreError::Unavailable {
            doing: "open the state",
            place: path.display().to_string(),
            reason,
        })?;
        Ok(Self::with(connection, path))
    }

    /// A store in memory, gone with the value: for tests and demonstrations.
    pub fn in_memory() -> Result<Self, StoreError> {
        let path = PathBuf::from(":memory:");
        let connection = Connection::open_in_memory()
            .map_err(|error| error.to_string())
            .and_then(|mut connection| set_up(&mut connection).map(|()| connection))
            .map_err(|reason| StoreError::Unavailable {
                doing: "open the state",
                place: "memory".to_owned(),
                reason,
            })?;
        Ok(Self::with(connection, path))
    }

    fn with(connection: Connection, path: PathBuf) -> Self {
        let inner = Arc::new(Mutex::new(Inner { connection, swept_at: Instant::now() }));
        Self { inner, waiting: Arc::default(), path }
    }

    /// The exclusive right to run on this file; `None`: another holder has it.
    ///
    /// It is a file of its own (`<file>-lock`), because closing a second handle of the database would drop SQLite's
    /// own locks.
    pub fn try_lock(&self) -> Result<Option<RunLock>, StoreError> {
        let mut name = OsString::from(&self.path);
        name.push("-lock");
        let lock = private_file().create(true).truncate(false).open(PathBuf::from(name));
        match lock.map(|file| file.try_lock().map(|()| RunLock(file))) {
            Ok(Ok(lock)) => Ok(Some(lock)),
            Ok(Err(TryLockError::WouldBlock)) => Ok(None),
            Ok(Err(TryLockError::Error(error))) | Err(error) => {
                Err(self.unavailable("lock the state", error.to_string()))
            }
        }
    }

    fn unavailable(&self, doing: &'static str, reason: String) -> StoreError {
        StoreError::Unavailable { doing, place: self.path.display().to_string(), reason }
    }

    /// Reads on a blocking thread.
    async fn read<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, SqliteFailure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&lock(&inner).connection)).await;
        self.told(doing, done.map_err(|error| error.to_string()))
    }

    /// Writes on a blocking thread, in a transaction that no other writer can come between. All of `work` or nothing is
    /// done, and what is answered has reached the disk.
    async fn write<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, SqliteFailure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let write: Write = Box::new(move |transaction| {
            let result = match transaction {
                Ok(transaction) => in_savepoint(transaction, work),
                Err(error) => Err(SqliteFailure::Disk(explain(error))),
            };
            Box::new(move |committed| {
                let result = match committed {
                    Ok(()) => result,
                    Err(error) => Err(SqliteFailure::Disk(explain(error))),
                };
                // Whoever asked may have given up.
                let _ = sender.send(result);
            })
        });
        lock(&self.waiting).push(write);
        let (inner, waiting) = (Arc::clone(&self.inner), Arc::clone(&self.waiting));
        tokio::task::spawn_blocking(move || write_all(&mut lock(&inner), &waiting));
        // Without an answer another's thread has panicked over it.
        self.told(doing, receiver.await.map_err(|_| "the write was given up".to_owned()))
    }

    fn told<T>(
        &self,
        doing: &'static str,
        done: Result<Result<T, SqliteFailure>, String>,
    ) -> Result<T, StoreError> {
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(SqliteFailure::Store(error))) => Err(error),
            Ok(Err(SqliteFailure::Sqlite(error))) => Err(self.unavailable(doing, explain(&error))),
            Ok(Err(SqliteFailure::Disk(reason))) | Err(reason) => Err(self.unavailable(doing, reason)),
        }
    }
}

/// Does every write that waits, in one transaction. Whoever comes later finds nothing left to do.
fn write_all(inner: &mut Inner, waiting: &Mutex<Vec<Write>>) {
    let writes = std::mem::take(&mut *lock(waiting));
    if writes.is_empty() {
        return;
    }
    let mut replies = Vec::with_capacity(writes.len());
    let mut undone = writes.into_iter();
    let committed = inner.transact(|transaction| {
        replies.extend(undone.by_ref().map(|write| write(Ok(&mut *transaction))));
    });
    if let Err(error) = &committed {
        // All of them, if the transaction could not begin.
        replies.extend(undone.map(|write| write(Err(error))));
    }
    for reply in replies {
        reply(&committed);
    }
}

/// All of `work` or nothing, whatever becomes of the other writes of the transaction.
fn in_savepoint<T>(
    transaction: &mut Transaction<'_>,
    work: impl FnOnce(&Connection) -> Result<T, SqliteFailure>,
) -> Result<T, SqliteFailure> {
    let savepoint = transaction.savepoint()?;
    let value = work(&savepoint)?;
    savepoint.commit()?;
    Ok(value)
}

/// A panic in the middle of a transaction has rolled it back: the connection is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What goes wrong on the blocking thread.
enum SqliteFailure {
    Sqlite(rusqlite::Error),
    /// The transaction that the work was a part of did not reach the disk.
    Disk(String),
    Store(StoreError),
}

impl From<rusqlite::Error> for SqliteFailure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for SqliteFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Inner {
    /// Does `work` in a transaction that no other writer can come between.
    fn transact(&mut self, work: impl FnOnce(&mut Transaction<'_>)) -> Result<(), rusqlite::Error> {
        let mut transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if self.swept_at.elapsed() >= SWEEP_EVERY {
            sweep(&transaction)?;
            self.swept_at = Instant::now();
        }
        work(&mut transaction);
        transaction.commit()
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Document>, StoreError> {
        check_key(key)?;
        let key = key.clone();
        self.read("read a document", move |connection| find(connection, &key)).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Document>, StoreError> {
        keys.iter().try_for_each(check_key)?;
        let mut seen = std::collections::HashSet::new();
        let keys: Vec<Key> = keys.iter().filter(|key| seen.insert(*key)).cloned().collect();
        self.read("read documents", move |connection| {
            keys.iter().filter_map(|key| find(connection, key).transpose()).collect()
        })
        .await
    }

    async fn put(
        &self,
        key: &Key,
        body: Value,
        ttl: Option<i64>,
        expected: Expected,
    ) -> Result<u64, StoreError> {
        let text = check_write(key, &body)?;
        let key = key.clone();
        self.write("write a document", move |connection| {
            let current = find(connection, &key)?;
            let as_expected = match (expected, &current) {
                (Expected::New, None) => true,
                (Expected::Version(read), Some(current)) => current.version == read,
                _ => false,
            };
            if !as_expected {
                return Err(StoreError::Conflict { key, current: current.map(Box::new) }.into());
            }
            save(connection, &key, &text, ttl, expected.next())?;
            Ok(expected.next())
        })
        .await
    }

    async fn put_new_many(&self, documents: Vec<NewDocument>) -> Result<Vec<bool>, StoreError> {
        let texts =
            documents.iter().map(|new| check_write(&new.key, &new.body)).collect::<Result<Vec<_>, _>>()?;
        self.write("write documents", move |connection| {
            let create = |(new, text): (&NewDocument, &String)| {
                if find(connection, &new.key)?.is_some() {
                    return Ok(false);
                }
                save(connection, &new.key, text, new.ttl, Expected::New.next())?;
                Ok(true)
            };
            documents.iter().zip(&texts).map(create).collect()
        })
        .await
    }

    async fn delete(&self, key: &Key, expected: u64) -> Result<(), StoreError> {
        check_key(key)?;
        let key = key.clone();
        self.write("delete a document", move |connection| match find(connection, &key)? {
            None => Ok(()),
            Some(current) if current.version == expected => {
                connection.execute("DELETE FROM documents WHERE pk = ?1 AND sk = ?2", (&key.pk, &key.sk))?;
                Ok(())
            }
            Some(current) => Err(StoreError::Conflict { key, current: Some(Box::new(current)) }.into()),
        })
        .await
    }

    async fn query(
        &self,
        pk: &str,
        span: Span<'_>,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page, StoreError> {
        let limit = limit.max(1);
        let (pk, after) = (pk.to_owned(), after.unwrap_or_default().to_owned());
        let owned = OwnedSpan::from(span);
        self.read("query documents", move |connection| {
            let span = owned.as_span();
            let mut statement = connection.prepare_cached(
                "SELECT pk, sk, version, ttl, body FROM documents
                 WHERE pk = ?1 AND sk >= ?2 AND sk > ?3 ORDER BY sk",
            )?;
            let mut rows = statement.query((&pk, span.first(), &after))?;
            let mut documents = Vec::new();
            // One more than asked for says whether anything follows; the rows come lazily.
            while documents.len() <= limit
                && let Some(row) = rows.next()?
            {
                let document = document(row)?;
                if !contains(span, &document.key.sk) {
                    break;
                }
                documents.push(document);
            }
            Ok(Page::cut(documents, limit))
        })
        .await
    }
}

/// A [`Span`] that can move to another thread.
enum OwnedSpan {
    Prefix(String),
    Range { from: String, to: String },
}

impl From<Span<'_>> for OwnedSpan {
    fn from(span: Span<'_>) -> Self {
        match span {
            Span::Prefix(prefix) => Self::Prefix(prefix.to_owned()),
            Span::Range { from, to } => Self::Range { from: from.to_owned(), to: to.to_owned() },
        }
    }
}

impl OwnedSpan {
    fn as_span(&self) -> Span<'_> {
        match self {
            Self::Prefix(prefix) => Span::Prefix(prefix),
            Self::Range { from, to } => Span::Range { from, to },
        }
    }
}

fn contains(span: Span<'_>, sk: &str) -> bool {
    match span {
        Span::Prefix(prefix) => sk.starts_with(prefix),
        Span::Range { from, to } => from <= sk && sk <= to,
    }
}

fn find(connection: &Connection, key: &Key) -> Result<Option<Document>, SqliteFailure> {
    connection
        .prepare_cached("SELECT pk, sk, version, ttl, body FROM documents WHERE pk = ?1 AND sk = ?2")?
        .query_row((&key.pk, &key.sk), |row| Ok(document(row)))
        .optional()?
        .transpose()
}

fn document(row: &Row<'_>) -> Result<Document, SqliteFailure> {
    let key = Key { pk: row.get(0)?, sk: row.get(1)? };
    let body: String = row.get(4)?;
    match serde_json::from_str(&body) {
        Ok(body) => Ok(Document { key, version: row.get(2)?, ttl: row.get(3)?, body }),
        Err(source) => Err(StoreError::Malformed { key, source }.into()),
    }
}

fn save(
    connection: &Connection,
    key: &Key,
    body: &str,
    ttl: Option<i64>,
    version: u64,
) -> Result<(), SqliteFailure> {
    connection
        .prepare_cached("REPLACE INTO documents (pk, sk, version, ttl, body) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![key.pk, key.sk, version, ttl, body])?;
    Ok(())
}

/// Removes what has expired, as DynamoDB would.
fn sweep(connection: &Connection) -> rusqlite::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    connection.execute("DELETE FROM documents WHERE ttl < ?1", [now])?;
    Ok(())
}

/// Opens or makes the file. The error says what can be done about it.
fn connect(path: &Path) -> Result<Connection, String> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
        return Err(format!("the directory {} does not exist; make it first", directory.display()));
    }
    if path.is_dir() {
        return Err("it is a directory; name a file in it".to_owned());
    }
    // SQLite would make the file readable for all; its -wal and -shm files copy its mode.
    match private_file().create_new(true).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.to_string()),
        _ => {}
    }
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|error| explain(&error))?;
    set_up(&mut connection)?;
    Ok(connection)
}

/// Options for a file that only its owner may read.
fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn set_up(connection: &mut Connection) -> Result<(), String> {
    let explain = |error: rusqlite::Error| explain(&error);
    connection.busy_timeout(BUSY_TIMEOUT).map_err(explain)?;
    check_ours(connection)?;
    enter_wal(connection).map_err(explain)?;
    // FULL: a claim that is forgotten after a power cut would be claimed, and paid for, twice.
    connection.pragma_update(None, "synchronous", "FULL").map_err(explain)?;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explain)?;
    // Looked at again inside the transaction: another process may be making the same file.
    if pragma(&transaction, "user_version").map_err(explain)? == 0 {
        transaction.execute_batch(SCHEMA).map_err(explain)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(explain)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(explain)?;
    }
    sweep(&transaction).map_err(explain)?;
    transaction.commit().map_err(explain)
}

/// Refuses other programs' files and those of a newer version; an empty file is fine.
fn check_ours(connection: &Connection) -> Result<(), String> {
    let read = || {
        // One statement, so that both numbers are of the same moment.
        connection.query_row(
            "SELECT (SELECT count(*) FROM sqlite_schema), application_id, user_version
             FROM pragma_application_id, pragma_user_version",
            (),
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i32>(1)?, row.get::<_, i32>(2)?)),
        )
    };
    match read().map_err(|error| explain(&error))? {
        (0, 0, 0) | (_, APPLICATION_ID, SCHEMA_VERSION) => Ok(()),
        (_, APPLICATION_ID, _) => {
            Err("it was written by another version of VMRay Bridge; use that version or another file"
                .to_owned())
        }
        _ => Err("it is the SQLite database of another program; name another file".to_owned()),
    }
}

/// Switches to write-ahead logging, which stays with the file.
///
/// SQLite does not wait for others at this one step, so we do.
fn enter_wal(connection: &Connection) -> rusqlite::Result<()> {
    let started = Instant::now();
    loop {
        match connection.query_row("PRAGMA journal_mode = WAL", (), |_| Ok(())) {
            Err(error) if is_busy(&error) && started.elapsed() < BUSY_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn explain(error: &rusqlite::Error) -> String {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "it is not a SQLite database; name another file",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process has been writing for longer than 10 s; look for one that hangs"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "check the rights on the file and its directory"
        }
        Some(ErrorCode::DiskFull) => "the disk is full",
        _ => return error.to_string(),
    };
    format!("{error}: {advice}")
}
