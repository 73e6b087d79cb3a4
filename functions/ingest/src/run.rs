//! One invocation of ingest, step by step.

mod arrivals;
mod intake;
mod times;

use std::sync::Arc;

use crate::settings::{Compression, IngestSettings};
use chrono::{DateTime, TimeDelta, Utc};
use runtime::http::{self, Deadline, Limits, RetryPolicy};
use runtime::secrets::{Keys, RotatingKey, Secrets};
use serde_json::json;
use store::Store;
use tokio::time::Instant;
use tracing::{Instrument, info, warn};
use vmray::client::{VmrayClient, VmrayError, VmrayPolicy, Window};

use self::intake::Intake;
use self::times::Times;
use crate::answer::{Answer, Calls, Status};
use crate::cursor::{Acquired, Cursor, CursorError, Lease, StoredCursor};
use crate::error::{FailureKind, RunError};
use crate::event::{Event, Manual};
use crate::opencti::client::{OpenctiClient, OpenctiError, OpenctiPolicy};
use crate::opencti::connector::{self, ConnectorInfo, Identity, Registration};
use crate::opencti::feedback;
use crate::opencti::queue::Queue;
use crate::quarantine::Quarantine;

pub use self::times::TimeLimit;

/// Tries of a request that may be repeated.
const TRIES: usize = 4;

/// Largest answer of VMRay that is read, after decompression.
const MOST_VMRAY_BYTES: usize = 16 * 1024 * 1024;

/// Largest answer of `OpenCTI` that is read. Works with their errors are the longest.
const MOST_OPENCTI_BYTES: usize = 64 * 1024 * 1024;

/// `submission_finish_time` is asked up to this far in the future: clocks of on-prem servers differ.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::hours(24);

/// A dead run's lease ends so long after its deadline.
const LEASE_MARGIN: TimeDelta = TimeDelta::seconds(30);

/// How two runs at once are prevented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseKind {
    /// In the cursor document, until the deadline.
    Document,
    /// The caller holds a lock that dies with the process.
    HeldByCaller,
}

/// Everything an invocation needs that outlives it.
pub struct Ingest {
    settings: IngestSettings,
    store: Arc<dyn Store>,
    secrets: Arc<Secrets>,
    lease: LeaseKind,
    progress: Option<ProgressHook>,
}

/// Is told how far a run is after each bundle.
pub type ProgressHook = Box<dyn Fn(&Answer) + Send + Sync>;

/// The HTTP clients, per set of CA certificates.
struct Clients {
    vmray: reqwest::Client,
    opencti: reqwest::Client,
}

/// One run's connections and orders.
struct Session {
    vmray: VmrayClient,
    opencti: OpenctiClient,
    manual: Option<Manual>,
    times: Times,
    started_at: DateTime<Utc>,
}

/// Why a run ends before everything is handled.
enum Stop {
    OutOfTime,
    Buffering,
    Failed(RunError),
}

impl<E: Into<RunError>> From<E> for Stop {
    fn from(error: E) -> Self {
        match error.into() {
            RunError::Vmray(VmrayError::OutOfTime { .. })
            | RunError::Opencti(OpenctiError::OutOfTime { .. }) => Self::OutOfTime,
            error => Self::Failed(error),
        }
    }
}

impl Stop {
    /// Whether nothing more can be written down.
    fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Failed(RunError::Cursor(_) | RunError::Store(_)))
    }
}

impl Ingest {
    /// An ingest with these settings, store and keys.
    #[must_use]
    pub fn new(
        settings: IngestSettings,
        store: Arc<dyn Store>,
        secrets: Arc<Secrets>,
        lease: LeaseKind,
    ) -> Self {
        Self { settings, store, secrets, lease, progress: None }
    }

    /// Tells `hook` how far a run is.
    #[must_use]
    pub fn with_progress(mut self, hook: ProgressHook) -> Self {
        self.progress = Some(hook);
        self
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &IngestSettings {
        &self.settings
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// One invocation. Never fails: a failure is an answer with status `failed`.
    pub async fn handle(&self, event: Event, limit: TimeLimit) -> Answer {
        let run_id = uuid::Uuid::new_v4().to_string();
        let span = tracing::info_span!("run", run_id);
        self.handle_in_span(event, limit, run_id).instrument(span).await
    }

    async fn handle_in_span(&self, event: Event, limit: TimeLimit, run_id: String) -> Answer {
        let started = Instant::now();
        let mut answer = Answer::new(run_id);
        let times = Times::new(limit.0);
        let outcome = {
            let work = async {
                match event {
                    Event::Heartbeat => self.heartbeat(times, &mut answer).await,
                    Event::Scheduled => self.run(None, times, &mut answer).await,
                    Event::Manual(manual) => self.run(Some(manual), times, &mut answer).await,
                }
            };
            // AWS's clients know nothing of the deadline.
            tokio::time::timeout_at(times.answer_at, work).await.unwrap_or(Err(RunError::OutOfTime))
        };
        if let Err(error) = outcome {
            answer.status = Status::Failed;
            answer.error_kind = Some(error.kind());
            answer.error = Some(error.to_string());
        }
        answer.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        log_end(&answer);
        answer
    }

    fn clients(&self, ca_bundle: Option<&String>) -> Result<Clients, RunError> {
        let client = |verify_tls| {
            http::client(&http::HttpSettings {
                ca_bundle: ca_bundle.cloned(),
                verify_tls,
                disable_proxy: self.settings.http.disable_proxy,
                connect_timeout: self.settings.http.connect_timeout,
            })
        };
        Ok(Clients {
            vmray: client(self.settings.vmray.verify_tls)?,
            opencti: client(self.settings.opencti.verify_tls)?,
        })
    }

    fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy { tries: TRIES, base: self.settings.http.retry_base }
    }

    fn vmray_client(&self, http: reqwest::Client, key: RotatingKey, deadline: Deadline) -> VmrayClient {
        let policy = VmrayPolicy {
            limits: Limits { timeout: self.settings.vmray.timeout, max_bytes: MOST_VMRAY_BYTES },
            retry: self.retry_policy(),
            // Two of a sample's calls may run at the same time.
            concurrency: self.settings.run.concurrency * 2,
        };
        VmrayClient::new(http, base(&self.settings.vmray.server), key, policy, deadline)
    }

    fn opencti_client(&self, http: reqwest::Client, key: RotatingKey, deadline: Deadline) -> OpenctiClient {
        let policy = OpenctiPolicy {
            limits: Limits { timeout: self.settings.opencti.timeout, max_bytes: MOST_OPENCTI_BYTES },
            retry: self.retry_policy(),
            gzip: self.settings.opencti.compression == Compression::Gzip,
        };
        OpenctiClient::new(http, &base(&self.settings.opencti.url), key, policy, deadline)
    }

    fn identity(&self) -> Identity<'_> {
        let connector = &self.settings.connector;
        Identity { id: &connector.id, name: &connector.name, scope: &connector.scope }
    }

    /// Clients for both servers, for commands that only look.
    pub async fn connect(&self) -> Result<(VmrayClient, OpenctiClient), RunError> {
        let keys = self.secrets.keys().await?;
        let clients = self.clients(keys.ca_bundle.as_ref())?;
        let deadline = Times::new(TimeLimit::NONE.0).end;
        Ok((
            self.vmray_client(clients.vmray, RotatingKey::vmray(&self.secrets).await?, deadline),
            self.opencti_client(clients.opencti, RotatingKey::opencti(&self.secrets).await?, deadline),
        ))
    }

    /// Pings with the state that the platform holds. A pending reset is left to the next run: it is recognised by the
    /// timestamp, which no ping changes.
    async fn heartbeat(&self, times: Times, answer: &mut Answer) -> Result<(), RunError> {
        answer.status = Status::Heartbeat;
        let keys = self.secrets.keys().await?;
        let clients = self.clients(keys.ca_bundle.as_ref())?;
        let opencti =
            self.opencti_client(clients.opencti, RotatingKey::opencti(&self.secrets).await?, times.end);
        let pinged = self.register(&opencti).await;
        answer.calls.opencti = opencti.calls();
        pinged?;
        Ok(())
    }

    async fn run(&self, manual: Option<Manual>, times: Times, answer: &mut Answer) -> Result<(), RunError> {
        answer.dry_run = manual.is_some_and(|manual| manual.dry_run);
        let load = StoredCursor::load(self.store.as_ref(), &self.settings.connector.id);
        let (keys, stored) = tokio::join!(self.secrets.keys(), load);
        if let Ok(stored) = &stored {
            answer.position = stored.cursor.position;
            answer.lag_seconds = Some(lag_seconds(&stored.cursor, self.settings.feed.initial_fetch, false));
        }
        let (keys, mut stored) = (keys?, stored?);
        if answer.dry_run {
            return self.run_leased(manual, times, &keys, &mut stored, answer).await;
        }
        if self.lease == LeaseKind::Document {
            let lease = Lease { owner: answer.run_id.clone(), until: times.ends_at + LEASE_MARGIN };
            if let Acquired::HeldBy(held) = stored.acquire(lease, Utc::now()).await? {
                info!(owner = held.owner, until = %held.until, "another run holds the lease");
                answer.status = Status::Busy;
                return Ok(());
            }
        }
        let ended = self.run_leased(manual, times, &keys, &mut stored, answer).await;
        if !lost_the_lease(ended.as_ref().err()) {
            stored.cursor.lease = None;
            if let Err(error) = stored.save().await {
                warn!(%error, "could not save the cursor and give the lease back; the lease ends by itself");
            }
            answer.position = stored.saved_position();
        }
        ended
    }

    async fn run_leased(
        &self,
        manual: Option<Manual>,
        times: Times,
        keys: &Keys,
        stored: &mut StoredCursor<'_>,
        answer: &mut Answer,
    ) -> Result<(), RunError> {
        let clients = self.clients(keys.ca_bundle.as_ref())?;
        let vmray_key = RotatingKey::vmray(&self.secrets).await?;
        let opencti_key = RotatingKey::opencti(&self.secrets).await?;
        let session = Session {
            vmray: self.vmray_client(clients.vmray, vmray_key, times.read_until),
            opencti: self.opencti_client(clients.opencti, opencti_key, times.end),
            manual,
            times,
            started_at: Utc::now(),
        };
        let ended = self.run_connected(&session, stored, answer).await;
        answer.calls = Calls { vmray: session.vmray.calls(), opencti: session.opencti.calls() };
        // A window is not everything, and a dry run handles nothing.
        let everything = ended.is_ok() && answer.status == Status::Done && session.manual.is_none();
        answer.lag_seconds = Some(lag_seconds(&stored.cursor, self.settings.feed.initial_fetch, everything));
        ended
    }

    async fn run_connected(
        &self,
        session: &Session,
        stored: &mut StoredCursor<'_>,
        answer: &mut Answer,
    ) -> Result<(), RunError> {
        let opencti = &session.opencti;
        let mut quarantine = Quarantine::load(self.store.as_ref(), &self.settings.connector.id).await?;
        let registration = if answer.dry_run { None } else { Some(self.register(opencti).await?) };
        if session.manual.is_none()
            && let Some(registration) = &registration
        {
            self.follow_operator(registration, stored, &mut quarantine).await?;
        }
        self.check_marking(opencti).await?;
        let queue = Queue::new(self.settings.connector.queue_threshold_mb, self.settings.run.queue_recheck);
        let mut intake = Intake::new(self, session, stored, quarantine, queue, answer);
        let ended = intake.everything(session).await;
        let queue_megabytes = intake.finish();

        answer.status = match &ended {
            Ok(()) => Status::Done,
            Err(Stop::OutOfTime) => Status::Partial,
            Err(Stop::Buffering) => Status::Buffering,
            Err(Stop::Failed(_)) => Status::Failed,
        };
        if session.manual.is_none() {
            answer.position = stored.saved_position();
            if answer.status == Status::Done {
                stored.cursor.checked_at = Some(session.started_at);
            }
        }
        let error = match ended {
            Err(Stop::Failed(error)) => Some(error),
            _ => None,
        };
        if let Some(registration) = registration
            && !lost_the_lease(error.as_ref())
        {
            self.take_leave(session, &registration, stored, queue_megabytes, error.as_ref(), answer).await;
        }
        error.map_or(Ok(()), Err)
    }

    async fn check_marking(&self, opencti: &OpenctiClient) -> Result<(), RunError> {
        let marking = self.settings.mapping.marking;
        if connector::marking_exists(opencti, &marking.id().to_string()).await? {
            return Ok(());
        }
        Err(RunError::MarkingMissing(marking.to_string()))
    }

    /// Registers, and pings with exactly the state that was read: that consumes a pending reset, without which the ping
    /// at the end would be dropped.
    async fn register(&self, opencti: &OpenctiClient) -> Result<Registration, RunError> {
        let registration = connector::register(opencti, &self.identity()).await?;
        connector::ping(opencti, &self.settings.connector.id, registration.state(), None).await?;
        Ok(registration)
    }

    /// Starts where the operator wants: again from the initial date after a reset, or where the Python connector stood.
    async fn follow_operator(
        &self,
        registration: &Registration,
        stored: &mut StoredCursor<'_>,
        quarantine: &mut Quarantine<'_>,
    ) -> Result<(), RunError> {
        let cursor = &mut stored.cursor;
        let initial = self.settings.feed.initial_fetch;
        let seen = registration.connector_state_timestamp.clone();
        if cursor.position.is_none() {
            cursor.start_at(match registration.python_last_run() {
                Some(last_run) => {
                    let from = last_run.min(Utc::now()) - self.overlap();
                    info!(%from, "taking over from the Python connector's last run instead of the initial date");
                    from
                }
                None => initial,
            });
            cursor.state_timestamp = seen;
            stored.save().await?;
        } else if cursor.state_timestamp.is_none() && seen.is_some() {
            // An operator has set the position before the first run: there was no reset since.
            cursor.state_timestamp = seen;
            stored.save().await?;
        } else if seen.is_some() && cursor.state_timestamp != seen {
            info!(from = %initial, "the connector was reset in OpenCTI: everything comes again");
            quarantine.retry_all(Utc::now()).await?;
            cursor.start_at(initial);
            cursor.checked_at = None;
            cursor.state_timestamp = seen;
            stored.save().await?;
        }
        Ok(())
    }

    fn overlap(&self) -> TimeDelta {
        TimeDelta::from_std(self.settings.feed.overlap).unwrap_or_default()
    }

    fn window(&self, manual: Option<Manual>, cursor: &Cursor, now: DateTime<Utc>) -> Window {
        let initial = self.settings.feed.initial_fetch;
        let position = cursor.position.unwrap_or(initial);
        let manual = manual.unwrap_or_default();
        let overlap = position - self.overlap();
        // Behind the position rows may appear late, but what was not asked for from the start is not now.
        let from = cursor.look_from.map_or(overlap, |look_from| overlap.min(look_from));
        Window {
            from: manual.from.unwrap_or_else(|| from.max(cursor.start.unwrap_or(initial))),
            to: manual.to.unwrap_or(now + CLOCK_TOLERANCE),
        }
    }

    /// What the platform has to say about earlier bundles, and what its people are told of this run. That this fails
    /// does not make a run fail that has delivered.
    async fn take_leave(
        &self,
        session: &Session,
        registration: &Registration,
        stored: &mut StoredCursor<'_>,
        queue_megabytes: f64,
        error: Option<&RunError>,
        answer: &mut Answer,
    ) {
        let opencti = &session.opencti;
        let id = &self.settings.connector.id;
        if matches!(error, Some(RunError::Opencti(_))) {
            return;
        }
        let state = if session.manual.is_some() {
            registration.state().to_owned()
        } else {
            match connector::works(opencti, id).await {
                Ok(works) => {
                    answer.rejected = feedback::new_errors(&works, &mut stored.cursor.reported_errors);
                }
                Err(error) => warn!(%error, "could not read what became of earlier bundles"),
            }
            mirror(answer, error)
        };
        let info = ConnectorInfo {
            run_and_terminate: true,
            buffering: answer.status == Status::Buffering,
            queue_threshold: self.settings.connector.queue_threshold_mb,
            queue_messages_size: queue_megabytes,
            last_run_datetime: Some(session.started_at),
        };
        if let Err(error) = connector::ping(opencti, id, &state, Some(&info)).await {
            warn!(%error, "could not show the state on the connector's page");
        }
    }
}

/// What people read on the connector's page. Without `last_run`, which would be another connector's.
fn mirror(answer: &Answer, error: Option<&RunError>) -> String {
    json!({
        "bridge": 1,
        "position": answer.position,
        "status": answer.status,
        "quarantined": answer.quarantined,
        "waiting": answer.waiting,
        "last_error": error.map(ToString::to_string),
    })
    .to_string()
}

fn lost_the_lease(error: Option<&RunError>) -> bool {
    matches!(error, Some(RunError::Cursor(CursorError::Lost)))
}

/// A server's address without a slash at its end.
fn base(url: &url::Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// Seconds since everything was last known to be handled. Not since the last row: a quiet weekend is no lag.
fn lag_seconds(cursor: &Cursor, initial: DateTime<Utc>, everything_handled: bool) -> i64 {
    if everything_handled {
        return 0;
    }
    let since = cursor.checked_at.or(cursor.position).unwrap_or(initial);
    (Utc::now() - since).num_seconds().max(0)
}

fn log_end(answer: &Answer) {
    let status = answer.status.as_str();
    let (samples, objects, bundles) = (answer.samples, answer.objects, answer.bundles);
    if let Some(error) = &answer.error {
        tracing::error!(status, kind = answer.error_kind.map(FailureKind::as_str), %error, samples, "run failed");
        return;
    }
    info!(
        status,
        submissions = answer.submissions,
        samples,
        objects,
        bundles,
        quarantined = answer.quarantined,
        waiting = answer.waiting,
        vmray_calls = answer.calls.vmray,
        opencti_calls = answer.calls.opencti,
        duration_ms = answer.duration_ms,
        "run ended"
    );
}
