//! One invocation of ingest, step by step: the list of steps that `docs/operations.md` gives. While history is left, the
//! steps between registering and the last ping are gone through again and again, each time with a little of it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use runtime::secrets::Secrets;
use serde_json::json;
use store::{Store, StoreError};
use tokio::time::Instant;
use tracing::{Instrument, info, warn};

use crate::answer::{AskedWindow, RunAnswer, RunStatus};
use crate::clients::{self, Clients};
use crate::cursor::{Acquired, Cursor, CursorError, Lease, StoredCursor};
use crate::delivery::Delivery;
use crate::error::{FailureKind, RunError};
use crate::event::{IngestEvent, Manual};
use crate::history::{HistoryLeft, HistoryOrder};
use crate::ingestion;
use crate::memory::PlatformMemory;
use crate::opencti::back_pressure::BackPressure;
use crate::opencti::client::OpenctiClient;
use crate::opencti::connector::{self, ConnectorInfo, ConnectorWork, Identity, Registration};
use crate::opencti::feedback;
use crate::order::Order;
use crate::progress::Progress;
use crate::quarantine::{FailedSample, Quarantine};
use crate::settings::{IngestSettings, RunSettings};
use crate::stop::Stop;
use crate::times::{TimeLimit, Times};

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
    stay: Option<Duration>,
    progress: Option<ProgressHook>,
}

/// Is told how far a run is after each bundle.
pub(crate) type ProgressHook = Box<dyn Fn(&RunAnswer) + Send + Sync>;

impl Ingest {
    #[must_use]
    pub fn new(
        settings: IngestSettings,
        store: Arc<dyn Store>,
        secrets: Arc<Secrets>,
        lease: LeaseKind,
    ) -> Self {
        Self { settings, store, secrets, lease, stay: None, progress: None }
    }

    /// A run that has only history left ends after so long, instead of at its limit.
    #[must_use]
    pub fn staying(mut self, at_most: Duration) -> Self {
        self.stay = Some(at_most);
        self
    }

    #[must_use]
    pub fn with_progress(mut self, hook: ProgressHook) -> Self {
        self.progress = Some(hook);
        self
    }

    #[must_use]
    pub fn settings(&self) -> &IngestSettings {
        &self.settings
    }

    #[must_use]
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// One invocation. Never fails: a failure is an answer with status `failed`.
    pub async fn handle(&self, event: IngestEvent, limit: TimeLimit) -> RunAnswer {
        let run_id = uuid::Uuid::new_v4().to_string();
        let span = tracing::info_span!("run", run_id);
        self.handle_in_span(event, limit, run_id).instrument(span).await
    }

    async fn handle_in_span(&self, event: IngestEvent, limit: TimeLimit, run_id: String) -> RunAnswer {
        let started = Instant::now();
        let times = Times::new(limit.0, self.stay);
        let mut answer = RunAnswer::new(run_id);
        let outcome = {
            let work = async {
                match event {
                    IngestEvent::Heartbeat => self.heartbeat(times, &mut answer).await,
                    IngestEvent::Scheduled => self.run(None, times, &mut answer).await,
                    IngestEvent::Manual(manual) => self.run(Some(manual), times, &mut answer).await,
                }
            };
            // AWS's clients know nothing of the deadline.
            tokio::time::timeout_at(times.answer_at, work).await.unwrap_or(Err(RunError::OutOfTime))
        };
        if let Err(error) = outcome {
            answer.status = RunStatus::Failed;
            answer.error_kind = Some(error.kind());
            answer.error = Some(error.to_string());
        }
        answer.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        log_end(&answer);
        answer
    }

    /// What the platform has. Another platform, and one that was told in another way, has nothing of it.
    fn memory(&self) -> Option<PlatformMemory<'_>> {
        let IngestSettings { connector, opencti, mapping, run, .. } = &self.settings;
        let lifetime = TimeDelta::from_std(run.platform_memory).unwrap_or_default();
        PlatformMemory::new(self.store(), &connector.id, lifetime, &(opencti.url.as_str(), mapping))
    }

    /// Clients to both servers, for commands that only look.
    pub async fn connect(&self) -> Result<Clients, RunError> {
        let end = Times::new(TimeLimit::NONE.0, None).end;
        Clients::open(&self.settings, &self.secrets, end, end).await
    }

    /// Pings with the state that the platform holds. A pending reset is left to the next run: it is recognised by the
    /// timestamp, which no ping changes.
    async fn heartbeat(&self, times: Times, answer: &mut RunAnswer) -> Result<(), RunError> {
        answer.status = RunStatus::Heartbeat;
        let opencti = clients::opencti(&self.settings, &self.secrets, times.end).await?;
        let registered = self.register(&opencti).await;
        answer.calls.opencti = opencti.calls();
        registered.map(|_| ())
    }

    /// Registers, and pings with exactly the state that was read: that consumes a pending reset, without which the ping
    /// at the end would be dropped.
    async fn register(&self, opencti: &OpenctiClient) -> Result<Registration, RunError> {
        let connector = &self.settings.connector;
        let identity = Identity { id: &connector.id, name: &connector.name, scope: &connector.scope };
        let registration = connector::register(opencti, &identity).await?;
        connector::ping(opencti, &connector.id, registration.state(), None).await?;
        Ok(registration)
    }

    async fn run(
        &self,
        manual: Option<Manual>,
        times: Times,
        answer: &mut RunAnswer,
    ) -> Result<(), RunError> {
        answer.dry_run = manual.is_some_and(|manual| manual.dry_run);
        let load = StoredCursor::load(self.store.as_ref(), &self.settings.connector.id);
        let (keys, stored) = tokio::join!(self.secrets.keys(), load);
        if let Ok(stored) = &stored {
            answer.position = stored.cursor.position;
            answer.lag_seconds = Some(lag_seconds(&stored.cursor, self.settings.feed.initial_fetch, false));
        }
        keys?;
        let RunSettings { queue_recheck, history_queue_messages, .. } = self.settings.run;
        let queue = BackPressure::new(
            self.settings.connector.queue_threshold_mb,
            history_queue_messages,
            queue_recheck,
        );
        let started_at = Utc::now();
        let run = IngestRun { ingest: self, manual, times, started_at, stored: stored?, queue, answer };
        run.answer.history = run.history_left();
        run.with_lease().await
    }
}

/// One run over what is new, or over a window.
struct IngestRun<'a> {
    ingest: &'a Ingest,
    manual: Option<Manual>,
    times: Times,
    /// This round.
    started_at: DateTime<Utc>,
    stored: StoredCursor<'a>,
    queue: BackPressure,
    answer: &'a mut RunAnswer,
}

impl IngestRun<'_> {
    /// Takes the lease, runs, and gives it back.
    async fn with_lease(mut self) -> Result<(), RunError> {
        if self.answer.dry_run {
            return self.connected().await;
        }
        if self.ingest.lease == LeaseKind::Document {
            let lease = Lease { owner: self.answer.run_id.clone(), until: self.times.ends_at + LEASE_MARGIN };
            if let Acquired::HeldBy(held) = self.stored.acquire(lease, Utc::now()).await? {
                info!(owner = held.owner, until = %held.until, "another run holds the lease");
                self.answer.status = RunStatus::Busy;
                return Ok(());
            }
        }
        let ended = self.connected().await;
        if !lost_the_lease(ended.as_ref().err()) {
            self.stored.cursor.lease = None;
            if let Err(error) = self.stored.save().await {
                warn!(%error, "could not save the cursor and give the lease back; the lease ends by itself");
            }
            self.answer.position = self.stored.saved_position();
        }
        ended
    }

    async fn connected(&mut self) -> Result<(), RunError> {
        let Ingest { settings, secrets, .. } = self.ingest;
        let clients = Clients::open(settings, secrets, self.times.read_until, self.times.end).await?;
        let ended = self.rounds(&clients).await;
        self.answer.calls = clients.calls();
        // A window is not everything, and a dry run handles nothing.
        let everything = ended.is_ok() && self.answer.status == RunStatus::Done && self.manual.is_none();
        let lag = lag_seconds(&self.stored.cursor, settings.feed.initial_fetch, everything);
        self.answer.lag_seconds = Some(lag);
        ended
    }

    /// Stays while history is left and there is time: for fresh submissions, and for resets, once a round.
    async fn rounds(&mut self, clients: &Clients) -> Result<(), RunError> {
        loop {
            self.steps(clients).await?;
            // A round that is cut off by the deadline would leave a run unfinished that was not.
            let next = Instant::now() + self.ingest.settings.run.queue_recheck / 4;
            let stays = self.manual.is_none()
                && self.answer.status == RunStatus::Done
                && self.answer.history.is_some()
                && next < self.times.stay_until;
            if !stays {
                return Ok(());
            }
            self.started_at = Utc::now();
        }
    }

    fn history_left(&self) -> Option<HistoryLeft> {
        let is_left = self.ingest.settings.feed.history != HistoryOrder::LastDay;
        self.stored.cursor.history.filter(|_| is_left).map(|history| history.left(Utc::now()))
    }

    async fn steps(&mut self, clients: &Clients) -> Result<(), RunError> {
        let opencti = &clients.opencti;
        let ingest = self.ingest;
        let mut quarantine = Quarantine::load(ingest.store(), &ingest.settings.connector.id).await?;
        let registration = if self.answer.dry_run { None } else { Some(ingest.register(opencti).await?) };
        if let (Some(registration), None) = (&registration, self.manual) {
            self.follow_operator(registration, &mut quarantine).await?;
        }
        self.check_marking(opencti).await?;
        let ended = self.ingest_all(clients, quarantine).await;
        let error = self.note_end(ended);
        if let Some(registration) = registration
            && !lost_the_lease(error.as_ref())
            && !matches!(error, Some(RunError::Opencti(_)))
        {
            self.read_feedback(opencti).await;
            self.show(opencti, &registration, error.as_ref()).await;
        }
        error.map_or(Ok(()), Err)
    }

    /// Moves what is new, and of history what there is time and room for.
    async fn ingest_all(&mut self, clients: &Clients, quarantine: Quarantine<'_>) -> Result<(), Stop> {
        let settings = &self.ingest.settings;
        let memory = self.ingest.memory();
        let order = Order {
            settings,
            clients,
            times: self.times,
            manual: self.manual,
            started_at: self.started_at,
            memory: memory.as_ref().filter(|_| self.manual.is_none()),
            progress: self.ingest.progress.as_deref(),
        };
        let window = order.window(&self.stored.cursor);
        self.answer.window.get_or_insert(AskedWindow { from: window.from, to: window.to });
        let mut delivery = Delivery::new(
            &clients.opencti,
            &settings.connector.id,
            self.answer.dry_run,
            &mut self.queue,
            self.times.push_until,
        );
        let mut progress = Progress::new(order, &mut self.stored, quarantine, self.answer);
        let ended = ingestion::ingest(order, window, &mut delivery, &mut progress).await;
        progress.count(&delivery);
        ended
    }

    /// Starts where the operator wants: anew after a reset, or where the Python connector stood.
    async fn follow_operator(
        &mut self,
        registration: &Registration,
        quarantine: &mut Quarantine<'_>,
    ) -> Result<(), RunError> {
        let feed = &self.ingest.settings.feed;
        let cursor = &mut self.stored.cursor;
        let seen = registration.connector_state_timestamp.clone();
        if cursor.position.is_none() {
            match registration.python_last_run() {
                Some(last_run) => {
                    let from = last_run.min(Utc::now()) - feed.look_back();
                    info!(%from, "taking over from the Python connector's last run instead of the initial date");
                    cursor.start_at(from);
                }
                None => cursor.begin(feed.beginning(Utc::now())),
            }
            cursor.state_timestamp = seen;
            self.stored.save().await?;
        } else if cursor.state_timestamp.is_none() && seen.is_some() {
            // An operator has set the position before the first run: there was no reset since.
            cursor.state_timestamp = seen;
            self.stored.save().await?;
        } else if seen.is_some() && cursor.state_timestamp != seen {
            info!(from = %feed.initial_fetch, "the connector was reset in OpenCTI: everything comes again");
            quarantine.retry_all(Utc::now()).await?;
            cursor.begin(feed.beginning(Utc::now()));
            cursor.checked_at = None;
            cursor.state_timestamp = seen;
            self.stored.save().await?;
        }
        Ok(())
    }

    async fn check_marking(&self, opencti: &OpenctiClient) -> Result<(), RunError> {
        let marking = self.ingest.settings.mapping.marking;
        if connector::marking_exists(opencti, &marking.id().to_string()).await? {
            return Ok(());
        }
        Err(RunError::MarkingMissing(marking.to_string()))
    }

    fn note_end(&mut self, ended: Result<(), Stop>) -> Option<RunError> {
        self.answer.status = match &ended {
            Ok(()) => RunStatus::Done,
            Err(Stop::OutOfTime) => RunStatus::Partial,
            Err(Stop::Buffering) => RunStatus::Buffering,
            Err(Stop::Failed(_)) => RunStatus::Failed,
        };
        self.answer.history = self.history_left();
        if self.manual.is_none() {
            self.answer.position = self.stored.saved_position();
            if self.answer.status == RunStatus::Done {
                self.stored.cursor.checked_at = Some(self.started_at);
            }
        }
        match ended {
            Err(Stop::Failed(error)) => Some(error),
            _ => None,
        }
    }

    /// What the platform has to say about earlier bundles. That it cannot be read does not make a run fail that has
    /// delivered.
    async fn read_feedback(&mut self, opencti: &OpenctiClient) {
        if self.manual.is_some() {
            return;
        }
        match connector::works(opencti, &self.ingest.settings.connector.id).await {
            Ok(works) => {
                let reported = &mut self.stored.cursor.reported_errors;
                for (reason, count) in feedback::new_errors(&works, reported) {
                    *self.answer.rejected.entry(reason).or_default() += count;
                }
                if let Err(error) = self.learn(&works).await {
                    warn!(%error, "could not write down what became of earlier bundles");
                }
            }
            Err(error) => warn!(%error, "could not read what became of earlier bundles"),
        }
    }

    /// What the platform has imported since the last run need not be pushed again.
    async fn learn(&mut self, works: &[ConnectorWork]) -> Result<(), StoreError> {
        let Some(memory) = self.ingest.memory() else { return Ok(()) };
        let again = memory.settle(&mut self.stored.cursor.imports, works).await?;
        if again.is_empty() {
            return Ok(());
        }
        let IngestSettings { connector, run, .. } = &self.ingest.settings;
        let failed = again.into_iter().map(FailedSample::reference_missing).collect();
        let mut quarantine = Quarantine::load(self.ingest.store(), &connector.id).await?;
        quarantine.record(failed, run.quarantine_max_attempts, Utc::now()).await.map(|_| ())
    }

    /// What people are told of this run on the connector's page.
    async fn show(&self, opencti: &OpenctiClient, registration: &Registration, error: Option<&RunError>) {
        let connector = &self.ingest.settings.connector;
        let state =
            if self.manual.is_some() { registration.state().to_owned() } else { mirror(self.answer, error) };
        let info = ConnectorInfo {
            run_and_terminate: true,
            buffering: self.answer.status == RunStatus::Buffering,
            queue_threshold: connector.queue_threshold_mb,
            queue_messages_size: self.queue.megabytes(),
            last_run_datetime: Some(self.started_at),
        };
        if let Err(error) = connector::ping(opencti, &connector.id, &state, Some(&info)).await {
            warn!(%error, "could not show the state on the connector's page");
        }
    }
}

/// What people read on the connector's page. Without `last_run`, which would be another connector's.
fn mirror(answer: &RunAnswer, error: Option<&RunError>) -> String {
    let mut mirror = json!({
        "bridge": 1,
        "position": answer.position,
        "status": answer.status,
        "quarantined": answer.quarantined,
        "waiting": answer.waiting,
        "last_error": error.map(ToString::to_string),
    });
    if let Some(history) = answer.history {
        mirror["history"] = json!(history);
    }
    mirror.to_string()
}

fn lost_the_lease(error: Option<&RunError>) -> bool {
    matches!(error, Some(RunError::Cursor(CursorError::Lost)))
}

/// Seconds since everything was last known to be handled. Not since the last row: a quiet weekend is no lag.
fn lag_seconds(cursor: &Cursor, initial: DateTime<Utc>, everything_handled: bool) -> i64 {
    if everything_handled {
        return 0;
    }
    let since = cursor.checked_at.or(cursor.position).unwrap_or(initial);
    (Utc::now() - since).num_seconds().max(0)
}

fn log_end(answer: &RunAnswer) {
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
        history_days_left = answer.history.map(|history| history.days_left),
        duration_ms = answer.duration_ms,
        "run ended"
    );
}
