//! From the feed to the platform: everything new is read, mapped, packed, pushed and settled; what fails is tried once
//! more and then quarantined.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{TimeDelta, Utc};
use mapping::MappedSample;
use stix::LeftOutReason;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};
use vmray::client::Window;
use vmray::model::{SampleId, Submission, Verdict};

use super::arrivals::{Arrivals, Failed, Pass};
use super::{Ingest, Session, Stop};
use crate::analysis::Reader;
use crate::answer::{Answer, AskedWindow};
use crate::cursor::StoredCursor;
use crate::error::RunError;
use crate::feed::Feed;
use crate::health::{Health, Systemic};
use crate::opencti::client::OpenctiClient;
use crate::opencti::delivery::{Delivered, Delivery};
use crate::opencti::queue::Queue;
use crate::pipeline::{Handed, Outcome, Pipeline, Work};
use crate::progress::{Done, Progress};
use crate::quarantine::{Failure, Quarantine, Reason, State};

/// Submissions that are listed before their samples are read: enough to see all submissions of one sample together, few
/// enough for the memory.
const LOOK_AHEAD: usize = 20_000;

/// One run's state while it reads and delivers.
pub(super) struct Intake<'a, 'c, 's> {
    ingest: &'a Ingest,
    opencti: &'a OpenctiClient,
    /// What is asked of VMRay.
    window: Window,
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

impl<'a, 'c, 's> Intake<'a, 'c, 's> {
    pub(super) fn new(
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
        let suspects = stored.cursor.suspects.clone();
        Self {
            ingest,
            opencti,
            window,
            delivery: Delivery::new(
                opencti,
                connector_id,
                answer.dry_run,
                session.times.push_until,
                suspects.clone(),
            ),
            progress,
            quarantine,
            queue,
            stored,
            moves_cursor: session.manual.is_none(),
            health: Health::new(suspects),
            tried: BTreeSet::new(),
            answer,
        }
    }

    /// Everything that is new, and what is due of the quarantine.
    pub(super) async fn everything(&mut self, session: &Session) -> Result<(), Stop> {
        let ended = self.take_in(session).await;
        match &ended {
            Ok(()) => self.stored.cursor.suspects.clear(),
            Err(Stop::Failed(RunError::Systemic(_))) => self.stored.cursor.suspects = self.health.suspects(),
            Err(_) => {}
        }
        ended
    }

    async fn take_in(&mut self, session: &Session) -> Result<(), Stop> {
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
        let mut feed = Feed::new(&session.vmray, self.window);
        while let Some(rows) = feed.next(LOOK_AHEAD, session.times.look_ahead_until()).await? {
            self.answer.left_out.add_many(LeftOutReason::MalformedRow, feed.take_malformed());
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
                self.answer.left_out.add(LeftOutReason::SubmissionWithoutSample);
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
            self.clear(systemic, pipeline.reader).await?;
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
                self.arrive(handed, &mut arrivals).await?;
            }
            self.deliver_rest(&mut arrivals).await?;
            if arrivals.finished < expected { Err(Stop::OutOfTime) } else { Ok(()) }
        };
        let stopped = futures::future::try_join(reading, delivering).await;
        (arrivals.failures, stopped.map(|((), ())| ()))
    }

    /// Takes one outcome; delivers when a bundle is full.
    async fn arrive(&mut self, handed: Handed, arrivals: &mut Arrivals) -> Result<(), Stop> {
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
                {
                    self.deliver_rest(arrivals).await?;
                    return Err(systemic.into());
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

    /// When all that failed are suspects of an earlier run, a server that works for others is cleared, and they are to
    /// blame themselves.
    async fn clear(&mut self, systemic: Systemic, reader: &Reader<'_>) -> Result<(), Stop> {
        let Some(reason) = systemic.only_suspects else { return Err(systemic.into()) };
        let witness = self.stored.cursor.last_good.filter(|_| reason != Reason::PushRefused);
        let works = match witness {
            _ if self.health.works_for_others(reason) => true,
            Some(sample) => reader.still_readable(sample).await.unwrap_or(false),
            None => false,
        };
        if !works {
            return Err(systemic.into());
        }
        info!(%systemic, "the same samples as before, while others are fine: going on");
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
    pub(super) fn finish(mut self) -> f64 {
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
