//! From the feed to the platform: everything new is read, mapped, packed, pushed and settled; what fails goes to
//! quarantine and is tried once more.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use mapping::MappedSample;
use stix::LeftOutReason;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};
use vmray::client::Window;
use vmray::model::{SampleId, Submission, Verdict};

use super::arrivals::{Arrivals, Failed};
use super::{Ingest, Session, Stop};
use crate::analysis::{Reader, Testimony};
use crate::answer::{Answer, AskedWindow};
use crate::cursor::{Cursor, StoredCursor};
use crate::feed::Feed;
use crate::opencti::client::OpenctiClient;
use crate::opencti::delivery::{Delivered, Delivery};
use crate::opencti::queue::Queue;
use crate::pipeline::{Handed, Outcome, Pipeline, Work};
use crate::progress::{Portion, rows_of};
use crate::proof::Systemic;
use crate::quarantine::{Entry, Failure, Quarantine, Reason, State};

/// Submissions that are listed before their samples are read: enough to see all submissions of one sample together, few
/// enough for the memory.
const LOOK_AHEAD: usize = 20_000;

/// Failures that are written down together, at the same time: what is under way when the time is over must not take
/// long.
const WRITTEN_TOGETHER: usize = 16;

/// One run's state while it reads and delivers.
pub(super) struct Intake<'a, 'c, 's> {
    ingest: &'a Ingest,
    opencti: &'a OpenctiClient,
    /// What is asked of VMRay.
    window: Window,
    delivery: Delivery<'a>,
    start_until: Instant,
    portion: Portion,
    /// The oldest finish time that was not listed yet.
    unread_from: Option<DateTime<Utc>>,
    quarantine: Quarantine<'a>,
    queue: Queue,
    stored: &'c mut StoredCursor<'s>,
    /// Moves instead of the stored one in manual windows and dry runs.
    aside: Option<Cursor>,
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
        let aside = session.manual.map(|manual| match manual.from {
            Some(from) => Cursor::beginning_at(from),
            None => stored.cursor.clone(),
        });
        let connector_id = &ingest.settings.connector.id;
        Self {
            ingest,
            opencti,
            window,
            delivery: Delivery::new(opencti, connector_id, answer.dry_run, session.times.push_until),
            start_until: session.times.start_until,
            portion: Portion::default(),
            unread_from: None,
            quarantine,
            queue,
            stored,
            aside,
            tried: BTreeSet::new(),
            answer,
        }
    }

    /// Everything that is new, and what is due of the quarantine.
    pub(super) async fn everything(&mut self, session: &Session) -> Result<(), Stop> {
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
        let cursor = self.cursor();
        let (position, known) = (cursor.position, cursor.handled.near_end());
        let mut feed = Feed::new(&session.vmray, self.window, position.unwrap_or(self.window.from), known);
        while let Some(listed) = feed.next(LOOK_AHEAD, session.times.look_ahead_until()).await? {
            self.answer.left_out.add_many(LeftOutReason::MalformedRow, feed.take_malformed());
            self.unread_from = feed.unread_from();
            let works = self.begin(listed).await?;
            self.ingest_portion(&pipeline, works).await?;
            if Instant::now() >= pipeline.start_until {
                return Err(Stop::OutOfTime);
            }
        }
        if session.manual.is_none() {
            self.quarantine.forget_long_gone(Utc::now()).await?;
            self.ingest_due(&pipeline).await?;
        }
        Ok(())
    }

    fn cursor(&mut self) -> &mut Cursor {
        self.aside.as_mut().unwrap_or(&mut self.stored.cursor)
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
    async fn begin(&mut self, mut listed: Vec<Submission>) -> Result<Vec<Work>, Stop> {
        let position = self.cursor().position.unwrap_or(self.window.from);
        let rows = rows_of(&mut listed, position);
        let unknown = self.cursor().handled.unknown(&rows);
        for segment in self.stored.read_segments(&unknown).await? {
            self.cursor().handled.learn(segment);
        }
        self.portion = Portion::new(rows, self.cursor());
        let mut works: Vec<Work> = Vec::new();
        let mut places: HashMap<SampleId, usize> = HashMap::new();
        for row in listed {
            if !self.portion.is_open(row.id) {
                continue;
            }
            self.answer.submissions += 1;
            let Some(sample_id) = row.sample_id else {
                warn!(submission_id = row.id.0, "a submission without a sample: nothing to ingest");
                self.answer.left_out.add(LeftOutReason::SubmissionWithoutSample);
                self.settle(&[row]);
                continue;
            };
            if row.verdict == Some(Verdict::Clean) {
                self.answer.skipped += 1;
                self.settle(&[row]);
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
        Ok(works)
    }

    /// All samples of one portion of the feed; what fails is tried once more.
    async fn ingest_portion(&mut self, pipeline: &Pipeline<'_>, works: Vec<Work>) -> Result<(), Stop> {
        let again = self.pass(pipeline, works).await?;
        if Instant::now() < pipeline.start_until {
            self.pass(pipeline, again).await?;
        }
        self.save().await
    }

    /// What earlier runs have left in quarantine and is due now.
    async fn ingest_due(&mut self, pipeline: &Pipeline<'_>) -> Result<(), Stop> {
        let due = self.quarantine.due(Utc::now()).into_iter();
        let works = due
            .filter(|entry| !self.tried.contains(&entry.sample_id))
            .map(|entry| Work { sample_id: entry.sample_id, submissions: entry.submissions })
            .collect();
        self.pass(pipeline, works).await?;
        Ok(())
    }

    /// Reads, maps, packs and delivers samples, and puts those that fail into quarantine. Says which of these are worth
    /// another try. When the run is to stop, what had been decided is settled and saved.
    async fn pass(&mut self, pipeline: &Pipeline<'_>, works: Vec<Work>) -> Result<Vec<Work>, Stop> {
        if works.is_empty() {
            return Ok(Vec::new());
        }
        self.tried.extend(works.iter().map(|work| work.sample_id));
        let mut arrivals = Arrivals::new(self.ingest.settings.run.bundle, &works);
        let (to, mut from) = mpsc::unbounded_channel();
        let reading = async {
            pipeline.run(works, to).await;
            Ok(())
        };
        let delivering = async {
            while let Some(handed) = from.recv().await {
                self.arrive(handed, pipeline, &mut arrivals).await?;
            }
            self.deliver_rest(&mut arrivals).await?;
            self.decide_refusals(&mut arrivals).await?;
            self.prove(pipeline, &mut arrivals).await?;
            if arrivals.is_complete() { Ok(()) } else { Err(Stop::OutOfTime) }
        };
        let ended = futures::future::try_join(reading, delivering).await;
        if !matches!(&ended, Err(stop) if stop.is_of_the_store()) {
            self.put_into_quarantine(&mut arrivals).await?;
        }
        ended.map(|_| arrivals.again)
    }

    /// Takes one outcome; delivers when a bundle is full.
    async fn arrive(
        &mut self,
        handed: Handed,
        pipeline: &Pipeline<'_>,
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
                self.answer.skipped += work.submissions.len() as u64;
                self.leave_behind(vec![work]).await?;
            }
            Outcome::Failed(reason, detail) => {
                info!(sample_id = work.sample_id.0, %reason, detail, "a sample could not be ingested");
                let failed = Failed { work, reason, detail };
                if reason.is_the_samples_own() {
                    arrivals.failures.push(failed);
                } else {
                    arrivals.unproven.add(failed);
                }
            }
            Outcome::Mapped(mapped) => {
                self.stored.cursor.remember_witness(work.sample_id);
                for group in arrivals.pack(work, *mapped, self.ingest.settings.run.bundle) {
                    self.deliver(group, arrivals).await?;
                }
            }
        }
        arrivals.finished += 1;
        if arrivals.unproven.is_enough() {
            self.prove(pipeline, arrivals).await?;
        }
        if arrivals.failures.len() >= WRITTEN_TOGETHER && Instant::now() < pipeline.start_until {
            self.put_into_quarantine(arrivals).await?;
        }
        Ok(())
    }

    /// Whether VMRay is to blame for the failures since it was last seen to work: then the run stops, else they are the
    /// samples' own.
    async fn prove(&mut self, pipeline: &Pipeline<'_>, arrivals: &mut Arrivals) -> Result<(), Stop> {
        let Some(last) = arrivals.unproven.last() else { return Ok(()) };
        let mut candidates = self.stored.cursor.witnesses.clone();
        candidates.extend(arrivals.ahead());
        let proof = match pipeline.reader.testimony(&candidates, pipeline.sample_timeout).await? {
            Testimony::Given(sample) => {
                self.stored.cursor.remember_witness(sample);
                None
            }
            Testimony::Refused(sample, error) => {
                Some(format!("VMRay does not give sample {sample} either ({error})"))
            }
            Testimony::Silent if arrivals.unproven.is_few() => None,
            Testimony::Silent => Some("no sample was ever read".to_owned()),
        };
        if let Some(proof) = proof {
            let detail = last.detail.clone();
            self.deliver_rest(arrivals).await?;
            return Err(Systemic { count: arrivals.unproven.len(), proof, detail }.into());
        }
        arrivals.failures.extend(arrivals.unproven.prove());
        Ok(())
    }

    /// What is ready goes out, also before VMRay stops a run: the other server has done nothing wrong.
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
        self.take(results, arrivals).await?;
        self.save().await?;
        self.count();
        if let Some(hook) = &self.ingest.progress {
            hook(self.answer);
        }
        Ok(pushed?)
    }

    /// Whether `OpenCTI` is to blame for the samples that it has refused since it last took one.
    async fn decide_refusals(&mut self, arrivals: &mut Arrivals) -> Result<(), Stop> {
        let mut results = Vec::new();
        let decided = self.delivery.decide(&mut results).await;
        self.take(results, arrivals).await?;
        Ok(decided?)
    }

    /// Takes what the platform has made of samples.
    async fn take(&mut self, results: Vec<Delivered>, arrivals: &mut Arrivals) -> Result<(), Stop> {
        let mut delivered = Vec::new();
        for result in results {
            match result {
                Delivered::Accepted(sample) => {
                    let Some((work, left_out)) = arrivals.accepted(sample) else { continue };
                    self.answer.samples += 1;
                    self.answer.left_out.merge(&left_out);
                    delivered.push(work);
                }
                Delivered::Refused(sample, error) => {
                    let Some(work) = arrivals.refused(sample) else { continue };
                    let reason = if error.is_too_large() { Reason::TooLarge } else { Reason::PushRefused };
                    info!(sample_id = sample.0, %reason, %error, "a sample could not be ingested");
                    arrivals.failures.push(Failed { work, reason, detail: error.to_string() });
                }
            }
        }
        self.leave_behind(delivered).await
    }

    /// Samples are behind us: settled, and no longer in quarantine.
    async fn leave_behind(&mut self, works: Vec<Work>) -> Result<(), Stop> {
        for work in &works {
            self.settle(&work.submissions);
        }
        if !self.answer.dry_run {
            let samples: Vec<SampleId> = works.iter().map(|work| work.sample_id).collect();
            self.quarantine.remove(&samples).await?;
        }
        Ok(())
    }

    fn settle(&mut self, submissions: &[Submission]) {
        let cursor = self.aside.as_mut().unwrap_or(&mut self.stored.cursor);
        for submission in submissions {
            self.portion.settle(submission.id, cursor);
        }
    }

    /// Quarantine first, then the checkpoint that passes the samples.
    async fn put_into_quarantine(&mut self, arrivals: &mut Arrivals) -> Result<(), Stop> {
        while !arrivals.failures.is_empty() {
            let several = arrivals.failures.len().min(WRITTEN_TOGETHER);
            let together: Vec<Failed> = arrivals.failures.drain(..several).collect();
            for Failed { work, reason, .. } in &together {
                self.settle(&work.submissions);
                if *reason != Reason::NotFound {
                    arrivals.again.push(work.clone());
                }
            }
            if !self.answer.dry_run {
                let failures = together.into_iter().map(|Failed { work, reason, detail }| Failure {
                    sample_id: work.sample_id,
                    submissions: work.submissions,
                    reason,
                    detail,
                });
                let most = self.ingest.settings.run.quarantine_max_attempts;
                let entries = self.quarantine.record(failures.collect(), most, Utc::now()).await?;
                for entry in &entries {
                    log_quarantined(entry);
                }
            }
            self.save().await?;
            if Instant::now() >= self.start_until {
                break; // the others come again in the next run
            }
        }
        let given_up = |id| self.quarantine.get(id).is_some_and(|entry| entry.given_up);
        arrivals.again.retain(|work| !given_up(work.sample_id));
        Ok(())
    }

    async fn save(&mut self) -> Result<(), Stop> {
        if self.aside.is_some() {
            return Ok(());
        }
        let overlap = self.ingest.overlap();
        let cursor = &mut self.stored.cursor;
        cursor.go_on_from = [self.unread_from, self.portion.first_open()].into_iter().flatten().min();
        let behind = cursor.position.map(|position| position - overlap);
        cursor.forget_before = [behind, cursor.go_on_from].into_iter().flatten().min();
        if self.stored.is_saved() {
            return Ok(());
        }
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

fn log_quarantined(entry: &Entry) {
    let Entry { reason, detail, attempts, next_attempt, .. } = entry;
    let sample_id = entry.sample_id.0;
    if entry.given_up {
        tracing::error!(sample_id, %reason, attempts, detail, "given up; retry or drop it with `vmray-bridge quarantine`");
    } else if entry.state == State::Waiting {
        info!(sample_id, %reason, attempts, %next_attempt, "waiting for VMRay");
    } else {
        warn!(sample_id, %reason, attempts, %next_attempt, detail, "quarantined");
    }
}
