//! One invocation of ingest, step by step.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use common::config::{Compression, IngestSettings};
use common::http::{self, Deadline, Limits, RetryPolicy};
use common::mapping::MappedSample;
use common::secrets::{Keys, RotatingKey, Secrets};
use common::stix::{BundleLimits, LeftOut, Packer};
use common::store::Store;
use common::vmray::client::{VmrayClient, VmrayError, VmrayPolicy, Window};
use common::vmray::model::{SampleId, Submission, Verdict};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{Instrument, info, warn};

use crate::analysis::Reader;
use crate::answer::{Answer, AskedWindow, Calls, Status};
use crate::cursor::{Cursor, CursorError, Lease, StoredCursor};
use crate::error::RunError;
use crate::event::{Event, Manual};
use crate::feed::Feed;
use crate::health::{Health, Systemic};
use crate::opencti::client::{OpenctiClient, OpenctiError, OpenctiPolicy};
use crate::opencti::connector::{self, ConnectorInfo, Identity, Registration};
use crate::opencti::delivery::{Delivered, Delivery};
use crate::opencti::feedback;
use crate::pipeline::{Handed, Outcome, Pipeline, Work};
use crate::progress::{Done, Progress};
use crate::quarantine::{Failure, Quarantine, Reason, State};

/// Tries of a request that may be repeated.
const TRIES: usize = 4;

/// Largest answer of VMRay that is read, after decompression.
const MOST_VMRAY_BYTES: usize = 16 * 1024 * 1024;

/// Largest answer of `OpenCTI` that is read. Works with their errors are the longest.
const MOST_OPENCTI_BYTES: usize = 64 * 1024 * 1024;

/// Submissions that are listed before their samples are read: enough to see all submissions of one sample together, few
/// enough for the memory.
const LOOK_AHEAD: usize = 20_000;

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

/// How long an invocation may take, from now.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimit(pub Duration);

impl TimeLimit {
    /// No limit in practice, for one machine.
    pub const NONE: Self = Self(Duration::from_hours(30 * 24));
}

/// What is left of the time, by what it may be spent on. Each stage leaves room for the ones behind it.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// No new sample.
    start_until: Instant,
    /// No request to VMRay.
    read_until: Deadline,
    /// No push.
    push_until: Deadline,
    /// No call at all.
    end: Deadline,
    /// Whatever is still under way is left, or there would be no answer.
    answer_at: Instant,
    ends_at: DateTime<Utc>,
}

impl Times {
    fn new(limit: Duration) -> Self {
        let now = Instant::now();
        let reserve = (limit / 4).min(Duration::from_secs(30));
        let before_end = |part: Duration| now + limit.saturating_sub(part);
        Self {
            start_until: before_end(reserve),
            read_until: Deadline::at(before_end(reserve * 2 / 3)),
            push_until: Deadline::at(before_end(reserve / 4)),
            // The cursor is saved and the lease given back after the last call.
            end: Deadline::at(before_end(reserve / 8)),
            answer_at: before_end(reserve / 32),
            ends_at: Utc::now() + TimeDelta::from_std(limit).unwrap_or(TimeDelta::days(30)),
        }
    }

    /// Listing ahead takes at most a quarter of the time, or a short invocation would never get to a sample.
    fn look_ahead_until(&self) -> Instant {
        let now = Instant::now();
        now + self.start_until.saturating_duration_since(now) / 4
    }
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
        let pinged = async {
            let registered = connector::register(&opencti, &self.identity()).await?;
            connector::ping(&opencti, &self.settings.connector.id, registered.state(), None).await
        }
        .await;
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
            if let Err(held) = stored.acquire(lease, Utc::now()).await? {
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
        let mut run = Run::new(self, session, stored, quarantine, queue, answer);
        let ended = run.everything(session).await;
        let queue_megabytes = run.finish();

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
        Window {
            // Behind the position rows may appear late, but what was not asked for from the start is not now.
            from: manual
                .from
                .unwrap_or_else(|| (position - self.overlap()).max(cursor.start.unwrap_or(initial))),
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
        tracing::error!(status, kind = answer.error_kind, %error, samples, "run failed");
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

/// Back-pressure: how full the connector's queue on the platform is.
#[derive(Debug)]
struct Queue {
    threshold: f64,
    recheck: Duration,
    asked: Option<Instant>,
    megabytes: f64,
}

impl Queue {
    fn new(threshold: f64, recheck: Duration) -> Self {
        Self { threshold, recheck, asked: None, megabytes: 0.0 }
    }

    /// Asks at most every `recheck`. A platform that cannot say is taken as not full, as its own connectors do.
    async fn is_full(&mut self, opencti: &OpenctiClient, id: &str) -> bool {
        if self.asked.is_none_or(|asked| asked.elapsed() >= self.recheck) {
            self.asked = Some(Instant::now());
            self.megabytes = connector::queue_megabytes(opencti, id).await.unwrap_or_else(|error| {
                warn!(%error, "could not ask how full the connector's queue is");
                0.0
            });
        }
        self.megabytes >= self.threshold
    }
}

/// One run's state while it reads and delivers.
struct Run<'a, 'c, 's> {
    ingest: &'a Ingest,
    opencti: &'a OpenctiClient,
    delivery: Delivery<'a>,
    progress: Progress,
    quarantine: Quarantine<'a>,
    queue: Queue,
    stored: &'c mut StoredCursor<'s>,
    /// Not in manual windows and dry runs.
    moves_cursor: bool,
    health: Health,
    /// Samples that this run has read.
    tried: BTreeSet<SampleId>,
    answer: &'c mut Answer,
}

/// A sample that failed and is not yet quarantined.
#[derive(Clone)]
struct Failed {
    work: Work,
    reason: Reason,
    detail: String,
    /// Tries in this run.
    attempts: u32,
}

/// Whether a pass counts for the health of the servers: only first tries do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    First,
    Again,
}

impl<'a, 'c, 's> Run<'a, 'c, 's> {
    fn new(
        ingest: &'a Ingest,
        session: &'a Session,
        stored: &'c mut StoredCursor<'s>,
        quarantine: Quarantine<'a>,
        queue: Queue,
        answer: &'c mut Answer,
    ) -> Self {
        let opencti = &session.opencti;
        let window = ingest.window(session.manual, &stored.cursor, session.started_at);
        answer.window = Some(AskedWindow { from: window.from, to: window.to });
        let progress = if session.manual.is_some_and(|manual| manual.from.is_some()) {
            Progress::new(window.from, TimeDelta::zero(), Done::default())
        } else {
            let position = stored.cursor.position.unwrap_or(ingest.settings.feed.initial_fetch);
            Progress::new(position, ingest.overlap(), stored.cursor.done.clone())
        };
        let connector_id = &ingest.settings.connector.id;
        Self {
            ingest,
            opencti,
            delivery: Delivery::new(opencti, connector_id, answer.dry_run, session.times.push_until),
            progress,
            quarantine,
            queue,
            stored,
            moves_cursor: session.manual.is_none(),
            health: Health::default(),
            tried: BTreeSet::new(),
            answer,
        }
    }

    async fn everything(&mut self, session: &Session) -> Result<(), Stop> {
        self.check_queue().await?;
        let settings = &self.ingest.settings.run;
        let reader = Reader::new(&session.vmray, &self.ingest.settings.mapping.sample_verdicts);
        let pipeline = Pipeline {
            reader: &reader,
            mapping: &self.ingest.settings.mapping,
            concurrency: settings.concurrency,
            sample_timeout: settings.sample_timeout,
            start_until: session.times.start_until,
        };
        let window = self.ingest.window(session.manual, &self.stored.cursor, session.started_at);
        let mut feed = Feed::new(&session.vmray, window);
        while let Some(rows) = feed.next(LOOK_AHEAD, session.times.look_ahead_until()).await? {
            self.answer.left_out.add_many("malformed_row", feed.take_malformed());
            let works = self.begin(rows);
            self.portion(&pipeline, works).await?;
            if Instant::now() >= pipeline.start_until {
                return Err(Stop::OutOfTime);
            }
        }
        if session.manual.is_none() {
            self.due(&pipeline).await?;
        }
        Ok(())
    }

    /// Back-pressure: nothing is fetched for a platform that cannot keep up.
    async fn check_queue(&mut self) -> Result<(), Stop> {
        let id = &self.ingest.settings.connector.id;
        if !self.answer.dry_run && self.queue.is_full(self.opencti, id).await {
            return Err(Stop::Buffering);
        }
        Ok(())
    }

    /// Settles what needs no work, and groups the rest by sample, in the order of first appearance.
    fn begin(&mut self, rows: Vec<Submission>) -> Vec<Work> {
        let new = self.progress.begin(rows);
        self.answer.submissions += new.len() as u64;
        let mut works: Vec<Work> = Vec::new();
        let mut places: HashMap<SampleId, usize> = HashMap::new();
        for row in new {
            let Some(sample_id) = row.sample_id else {
                warn!(submission_id = row.id.0, "a submission without a sample: nothing to ingest");
                self.answer.left_out.add("submission_without_sample");
                self.progress.settle(row.id);
                continue;
            };
            if row.verdict == Some(Verdict::Clean) {
                self.answer.skipped += 1;
                self.progress.settle(row.id);
                continue;
            }
            let place = *places.entry(sample_id).or_insert(works.len());
            if place == works.len() {
                let known = self.quarantine.get(sample_id).map(|entry| entry.submissions.clone());
                works.push(Work { sample_id, submissions: known.unwrap_or_default() });
            }
            let submissions = &mut works[place].submissions;
            submissions.retain(|known| known.id != row.id);
            submissions.push(row);
        }
        works
    }

    /// All samples of one portion of the feed; what fails is tried once more and then quarantined.
    async fn portion(&mut self, pipeline: &Pipeline<'_>, works: Vec<Work>) -> Result<(), Stop> {
        let (mut failures, mut stopped) = self.pass(pipeline, works, Pass::First).await;
        if stopped.is_ok() && Instant::now() < pipeline.start_until {
            (failures, stopped) = self.once_more(pipeline, failures).await;
        }
        self.save().await?;
        // A run that fails quarantines nothing: what failed may not be the samples' fault.
        if matches!(stopped, Err(Stop::Failed(_))) {
            return stopped;
        }
        if let Err(systemic) = self.health.judge() {
            self.refute(systemic, pipeline.reader).await?;
        }
        self.put_into_quarantine(failures).await?;
        self.save().await?;
        stopped
    }

    /// The second try in the same run, of all but what is certainly gone.
    async fn once_more(
        &mut self,
        pipeline: &Pipeline<'_>,
        failures: Vec<Failed>,
    ) -> (Vec<Failed>, Result<(), Stop>) {
        let (mut failures, retried): (Vec<_>, Vec<_>) =
            failures.into_iter().partition(|failed| failed.reason == Reason::NotFound);
        let works = retried.iter().map(|failed| failed.work.clone()).collect();
        let (again, stopped) = self.pass(pipeline, works, Pass::Again).await;
        let mut open: BTreeMap<SampleId, Failed> = retried
            .into_iter()
            .filter(|failed| self.progress.is_open(&failed.work.submissions))
            .map(|failed| (failed.work.sample_id, failed))
            .collect();
        for failed in again {
            open.insert(failed.work.sample_id, Failed { attempts: 2, ..failed });
        }
        failures.extend(open.into_values());
        (failures, stopped)
    }

    /// What earlier runs have left in quarantine and is due now.
    async fn due(&mut self, pipeline: &Pipeline<'_>) -> Result<(), Stop> {
        let due = self.quarantine.due(Utc::now());
        let works = due
            .into_iter()
            .filter(|entry| !self.tried.contains(&entry.sample_id))
            .map(|entry| Work { sample_id: entry.sample_id, submissions: entry.submissions })
            .collect();
        let (failures, stopped) = self.pass(pipeline, works, Pass::Again).await;
        if !matches!(stopped, Err(Stop::Failed(_))) {
            self.put_into_quarantine(failures).await?;
        }
        stopped
    }

    /// Reads, maps, packs and delivers. What failed comes back; an error means that the run is to stop, after what had
    /// been delivered was settled.
    async fn pass(
        &mut self,
        pipeline: &Pipeline<'_>,
        works: Vec<Work>,
        pass: Pass,
    ) -> (Vec<Failed>, Result<(), Stop>) {
        if works.is_empty() {
            return (Vec::new(), Ok(()));
        }
        let expected = works.len();
        self.tried.extend(works.iter().map(|work| work.sample_id));
        let mut arrivals = Arrivals::new(self.ingest.settings.run.bundle, pass);
        let (to, mut from) = mpsc::unbounded_channel();
        let reading = async {
            pipeline.run(works, to).await;
            Ok(())
        };
        let delivering = async {
            while let Some(handed) = from.recv().await {
                self.arrive(handed, pipeline.reader, &mut arrivals).await?;
            }
            self.deliver_rest(&mut arrivals).await?;
            if arrivals.finished < expected { Err(Stop::OutOfTime) } else { Ok(()) }
        };
        let stopped = futures::future::try_join(reading, delivering).await;
        (arrivals.failures, stopped.map(|((), ())| ()))
    }

    /// Takes one outcome; delivers when a bundle is full.
    async fn arrive(
        &mut self,
        handed: Handed,
        reader: &Reader<'_>,
        arrivals: &mut Arrivals,
    ) -> Result<(), Stop> {
        let work = handed.work;
        match handed.outcome {
            Outcome::Unfinished => return Ok(()),
            Outcome::Fatal(error) => {
                self.deliver_rest(arrivals).await?;
                return Err(error.into());
            }
            Outcome::Filtered => {
                self.note_read(arrivals.pass);
                self.answer.skipped += work.submissions.len() as u64;
                self.is_fine(&work).await?;
            }
            Outcome::Failed(reason, detail) => {
                let sample = work.sample_id;
                arrivals.fail(work, reason, detail.clone());
                if arrivals.pass == Pass::First
                    && let Err(systemic) = self.health.unreadable(sample, reason, &detail)
                    && let Err(stop) = self.refute(systemic, reader).await
                {
                    self.deliver_rest(arrivals).await?;
                    return Err(stop);
                }
            }
            Outcome::Mapped(mapped) => {
                self.note_read(arrivals.pass);
                self.stored.cursor.last_good = Some(work.sample_id);
                for group in arrivals.pack(work, *mapped, self.ingest.settings.run.bundle) {
                    self.deliver(group, arrivals).await?;
                }
            }
        }
        arrivals.finished += 1;
        Ok(())
    }

    /// Asks again for a sample that VMRay gave before: if it still comes, those that failed are to blame themselves.
    async fn refute(&mut self, systemic: Systemic, reader: &Reader<'_>) -> Result<(), Stop> {
        let known = self.stored.cursor.last_good.filter(|_| systemic.can_be_refuted);
        let well = match known {
            Some(sample) => reader.still_readable(sample).await.unwrap_or(false),
            None => false,
        };
        if !well {
            return Err(systemic.into());
        }
        info!(%systemic, "VMRay still gives a sample that it gave before: going on");
        self.health.vmray_is_well();
        Ok(())
    }

    /// Before VMRay stops a run: what is ready goes out, the other server has done nothing wrong.
    async fn deliver_rest(&mut self, arrivals: &mut Arrivals) -> Result<(), Stop> {
        match arrivals.rest() {
            Some(rest) => self.deliver(rest, arrivals).await,
            None => Ok(()),
        }
    }

    /// Pushes one bundle's samples and saves how far that brings us.
    async fn deliver(&mut self, samples: Vec<MappedSample>, arrivals: &mut Arrivals) -> Result<(), Stop> {
        self.check_queue().await?;
        let mut results = Vec::with_capacity(samples.len());
        let pushed = self.delivery.push(samples, &mut results).await;
        for result in results {
            match result {
                Delivered::Accepted(sample) => {
                    self.health.accepted();
                    let Some((work, left_out)) = arrivals.accepted(sample) else { continue };
                    self.answer.samples += 1;
                    self.answer.left_out.merge(&left_out);
                    self.is_fine(&work).await?;
                }
                Delivered::Refused(sample, error) => {
                    let Some(work) = arrivals.refused(sample) else { continue };
                    let reason = if error.is_too_large() { Reason::TooLarge } else { Reason::PushRefused };
                    arrivals.fail(work, reason, error.to_string());
                    if arrivals.pass == Pass::First {
                        self.health.refused(sample, reason, &error.to_string())?;
                    }
                }
            }
        }
        self.save().await?;
        self.count();
        if let Some(hook) = &self.ingest.progress {
            hook(self.answer);
        }
        Ok(pushed?)
    }

    /// Only first tries say something about the servers' health.
    fn note_read(&mut self, pass: Pass) {
        if pass == Pass::First {
            self.health.read();
        }
    }

    /// A sample is behind us: settled, and no longer in quarantine.
    async fn is_fine(&mut self, work: &Work) -> Result<(), Stop> {
        self.health.recovered(work.sample_id);
        for submission in &work.submissions {
            self.progress.settle(submission.id);
        }
        if !self.answer.dry_run {
            self.quarantine.remove(work.sample_id).await?;
        }
        Ok(())
    }

    /// Quarantine first, then the checkpoint that passes the sample.
    async fn put_into_quarantine(&mut self, failures: Vec<Failed>) -> Result<(), Stop> {
        let most = self.ingest.settings.run.quarantine_max_attempts;
        for Failed { work, reason, detail, attempts } in failures {
            let Work { sample_id, submissions } = work;
            let ids: Vec<_> = submissions.iter().map(|submission| submission.id).collect();
            if !self.answer.dry_run {
                let failure = Failure { sample_id, submissions, reason, detail, attempts };
                let entry = self.quarantine.record(failure, most, Utc::now()).await?;
                let (detail, attempts, next_attempt) = (&entry.detail, entry.attempts, entry.next_attempt);
                if entry.given_up {
                    tracing::error!(sample_id = sample_id.0, %reason, attempts, detail, "given up; retry or drop it with `vmray-bridge quarantine`");
                } else if entry.state == State::Waiting {
                    info!(sample_id = sample_id.0, %reason, attempts, %next_attempt, "waiting for VMRay");
                } else {
                    warn!(sample_id = sample_id.0, %reason, attempts, %next_attempt, detail, "quarantined");
                }
            }
            for id in ids {
                self.progress.settle(id);
            }
        }
        Ok(())
    }

    async fn save(&mut self) -> Result<(), Stop> {
        if !self.moves_cursor {
            return Ok(());
        }
        let cursor = &mut self.stored.cursor;
        let position = Some(self.progress.position());
        let done = self.progress.done();
        if cursor.position == position && cursor.done == *done {
            return Ok(());
        }
        cursor.position = position;
        cursor.done = done.clone();
        Ok(self.stored.save().await?)
    }

    /// Ends the run; says how full the platform's queue was.
    fn finish(mut self) -> f64 {
        self.count();
        self.queue.megabytes
    }

    /// Carries the counts of the parts into the answer.
    fn count(&mut self) {
        let counts = self.quarantine.counts();
        self.answer.quarantined = counts.failed;
        self.answer.waiting = counts.waiting;
        self.answer.objects = self.delivery.objects;
        self.answer.bundles = self.delivery.bundles;
    }
}

/// Samples between mapping and delivery.
struct Arrivals {
    packer: Packer,
    packed: HashMap<SampleId, Packed>,
    pass: Pass,
    failures: Vec<Failed>,
    /// Samples of which the outcome is known.
    finished: usize,
}

/// A sample of which some parts are not delivered yet.
struct Packed {
    work: Work,
    left_out: LeftOut,
    parts: usize,
}

impl Arrivals {
    fn new(limits: BundleLimits, pass: Pass) -> Self {
        Self { packer: Packer::new(limits), packed: HashMap::new(), pass, failures: Vec::new(), finished: 0 }
    }

    /// Adds a sample, in parts if it is larger than a bundle; hands out the bundles that are full.
    fn pack(&mut self, work: Work, mut mapped: MappedSample, limits: BundleLimits) -> Vec<Vec<MappedSample>> {
        let left_out = std::mem::take(&mut mapped.left_out);
        let parts = mapped.split(&limits);
        self.packed.insert(work.sample_id, Packed { work, left_out, parts: parts.len() });
        parts.into_iter().filter_map(|part| self.packer.add(part)).collect()
    }

    /// A sample cannot be ingested now.
    fn fail(&mut self, work: Work, reason: Reason, detail: String) {
        info!(sample_id = work.sample_id.0, %reason, detail, "a sample could not be ingested");
        self.failures.push(Failed { work, reason, detail, attempts: 1 });
    }

    /// What waits for a bundle to fill up.
    fn rest(&mut self) -> Option<Vec<MappedSample>> {
        self.packer.finish()
    }

    /// A part of a sample was accepted. The sample itself, when it was the last part.
    fn accepted(&mut self, sample: SampleId) -> Option<(Work, LeftOut)> {
        let packed = self.packed.get_mut(&sample)?;
        packed.parts -= 1;
        if packed.parts > 0 {
            return None;
        }
        self.packed.remove(&sample).map(|packed| (packed.work, packed.left_out))
    }

    /// A part of a sample was refused, which decides for all of it.
    fn refused(&mut self, sample: SampleId) -> Option<Work> {
        self.packed.remove(&sample).map(|packed| packed.work)
    }
}
