//! How far a run has come: what is settled, quarantined and saved, and what its answer says of that.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use stix::LeftOutReason;
use tracing::{info, warn};
use vmray::client::Window;
use vmray::model::{SampleId, Submission, Verdict};

use crate::analysis::SubmittedSample;
use crate::answer::RunAnswer;
use crate::cursor::{Cursor, CursorError, StoredCursor};
use crate::delivery::{Delivery, Push};
use crate::feed::Feed;
use crate::handled::Row;
use crate::history::Day;
use crate::memory::known::Known;
use crate::opencti::connector;
use crate::order::Order;
use crate::portion::{Portion, row_of, rows_of};
use crate::quarantine::{FailedSample, Quarantine, QuarantineState, QuarantinedSample};
use crate::stop::Stop;

pub(crate) struct Progress<'a, 'c, 's> {
    order: Order<'a>,
    stored: &'s mut StoredCursor<'c>,
    /// Moves instead of the stored one in manual windows, dry runs and history.
    aside: Option<Cursor>,
    /// The part of history that is under way.
    day: Option<Day>,
    /// Rows of the portion of history that are counted in the answer.
    counted: usize,
    /// Those of it that are skipped and not counted yet.
    skipped: Vec<Row>,
    quarantine: Quarantine<'a>,
    portion: Portion,
    /// The oldest finish time that was not listed yet.
    unread_from: Option<DateTime<Utc>>,
    /// Samples that this run has read.
    tried: BTreeSet<SampleId>,
    /// Bundles, objects and known objects of the run before this round.
    before: (u64, u64, u64),
    pub answer: &'s mut RunAnswer,
}

impl<'a, 'c, 's> Progress<'a, 'c, 's> {
    pub(crate) fn new(
        order: Order<'a>,
        stored: &'s mut StoredCursor<'c>,
        quarantine: Quarantine<'a>,
        answer: &'s mut RunAnswer,
    ) -> Self {
        let aside = order.manual.map(|manual| match manual.from {
            Some(from) => Cursor::beginning_at(from),
            None => stored.cursor.clone(),
        });
        Self {
            order,
            stored,
            aside,
            day: None,
            counted: 0,
            skipped: Vec::new(),
            quarantine,
            portion: Portion::default(),
            unread_from: None,
            tried: BTreeSet::new(),
            before: (answer.bundles, answer.objects, answer.known),
            answer,
        }
    }

    fn cursor(&mut self) -> &mut Cursor {
        self.aside.as_mut().unwrap_or(&mut self.stored.cursor)
    }

    /// The submissions of a window, of which some are known.
    pub(crate) fn feed(&mut self, window: Window) -> Feed<'a> {
        let vmray = &self.order.clients.vmray;
        let cursor = self.cursor();
        Feed::new(vmray, window, cursor.position.unwrap_or(window.from), cursor.handled.near_end())
    }

    /// Takes a portion of the feed: settles what needs no work, and groups the rest by sample, in the order of first
    /// appearance.
    pub(crate) async fn begin(
        &mut self,
        mut listed: Vec<Submission>,
        feed: &mut Feed<'_>,
    ) -> Result<Vec<SubmittedSample>, Stop> {
        self.answer.left_out.add_many(LeftOutReason::MalformedRow, feed.take_malformed());
        match self.day {
            Some(day) => listed.retain(|row| day.holds(row)),
            None => self.unread_from = feed.unread_from(),
        }
        let rows = rows_of(&mut listed, feed.position());
        let unknown = self.cursor().handled.unknown(&rows);
        for segment in self.stored.read_segments(&unknown).await? {
            self.cursor().handled.learn(segment);
        }
        self.portion = Portion::new(rows, self.cursor());
        self.counted = 0;
        self.skipped.clear();
        let mut samples: Vec<SubmittedSample> = Vec::new();
        let mut places: HashMap<SampleId, usize> = HashMap::new();
        for row in listed {
            if !self.portion.is_open(row.id) {
                continue;
            }
            let row_of_it = row_of(&row, feed.position());
            self.answer.submissions += u64::from(self.day.is_none());
            let Some(id) = row.sample_id else {
                warn!(submission_id = row.id.0, "a submission without a sample: nothing to ingest");
                self.answer.left_out.add(LeftOutReason::SubmissionWithoutSample);
                self.settle(&[row]);
                continue;
            };
            if row.verdict == Some(Verdict::Clean) {
                if self.day.is_some() {
                    self.skipped.push(row_of_it);
                } else {
                    self.answer.skipped += 1;
                }
                self.settle(&[row]);
                continue;
            }
            let place = *places.entry(id).or_insert(samples.len());
            if place == samples.len() {
                let known = self.quarantine.get(id).map(|quarantined| quarantined.submissions.clone());
                samples.push(SubmittedSample { id, submissions: known.unwrap_or_default() });
            }
            let submissions = &mut samples[place].submissions;
            submissions.retain(|known| known.id != row.id);
            submissions.push(row);
        }
        Ok(samples)
    }

    /// What earlier runs have left in quarantine and is due now.
    pub(crate) fn due(&self) -> Vec<SubmittedSample> {
        let due = self.quarantine.due(Utc::now()).into_iter();
        due.filter(|quarantined| !self.tried.contains(&quarantined.sample_id))
            .map(|quarantined| SubmittedSample {
                id: quarantined.sample_id,
                submissions: quarantined.submissions,
            })
            .collect()
    }

    pub(crate) fn note_tried(&mut self, samples: &[SubmittedSample]) {
        self.tried.extend(samples.iter().map(|sample| sample.id));
    }

    /// A sample was read whole.
    pub(crate) fn remember_witness(&mut self, sample: SampleId) {
        self.stored.cursor.remember_witness(sample);
    }

    /// The samples that were last read whole.
    #[must_use]
    pub(crate) fn witnesses(&self) -> Vec<SampleId> {
        self.stored.cursor.witnesses.clone()
    }

    /// Samples are behind us: settled, and no longer in quarantine.
    pub(crate) async fn leave_behind(&mut self, samples: &[SubmittedSample]) -> Result<(), Stop> {
        for sample in samples {
            self.settle(&sample.submissions);
        }
        if !self.answer.dry_run {
            let ids: Vec<SampleId> = samples.iter().map(|sample| sample.id).collect();
            self.quarantine.remove(&ids).await?;
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
    pub(crate) async fn put_into_quarantine(&mut self, failed: Vec<FailedSample>) -> Result<(), Stop> {
        for FailedSample { sample, .. } in &failed {
            self.settle(&sample.submissions);
        }
        if !self.answer.dry_run {
            let most_attempts = self.order.settings.run.quarantine_max_attempts;
            for quarantined in self.quarantine.record(failed, most_attempts, Utc::now()).await? {
                log_quarantined(quarantined);
            }
        }
        self.save().await
    }

    #[must_use]
    pub(crate) fn has_given_up(&self, sample: SampleId) -> bool {
        self.quarantine.get(sample).is_some_and(|quarantined| quarantined.given_up)
    }

    pub(crate) async fn forget_long_gone(&mut self) -> Result<(), Stop> {
        Ok(self.quarantine.forget_long_gone(Utc::now()).await?)
    }

    /// What the platform has. First learns what became of earlier pushes.
    pub(crate) async fn recall(&mut self) -> Result<Known, Stop> {
        let Some(memory) = self.order.memory else { return Ok(Known::off()) };
        if self.stored.cursor.imports.unsettled() > 0 {
            self.check_lease().await?;
            let imports = &mut self.stored.cursor.imports;
            let Order { settings, clients, .. } = self.order;
            match connector::works(&clients.opencti, &settings.connector.id).await {
                Ok(works) => {
                    let again = memory.settle(imports, &works).await?;
                    let failed = again.into_iter().map(FailedSample::reference_missing).collect();
                    let most_attempts = settings.run.quarantine_max_attempts;
                    self.quarantine.record(failed, most_attempts, Utc::now()).await?;
                }
                Err(error) => warn!(%error, "could not read what became of earlier bundles"),
            }
        }
        Ok(memory.load(self.stored.cursor.imports.epoch(), Utc::now()).await?)
    }

    /// A run that has lost its lease writes nothing more.
    async fn check_lease(&self) -> Result<(), Stop> {
        Ok(self.stored.check_ownership().await.map_err(CursorError::from)?)
    }

    /// Writes down what the platform took, with the samples that are thereby delivered. After this, and before
    /// [`save`](Self::save), nothing of it is trusted.
    pub(crate) async fn remember(
        &mut self,
        pushes: Vec<Push>,
        delivered: &[SubmittedSample],
    ) -> Result<(), Stop> {
        let Some(memory) = self.order.memory.filter(|_| !pushes.is_empty()) else { return Ok(()) };
        self.check_lease().await?;
        let imports = &mut self.stored.cursor.imports;
        let mut samples = delivered;
        for Push { size, objects } in pushes {
            let documents = memory.record(imports.epoch(), &objects, samples, Utc::now()).await?;
            imports.add(documents, size);
            samples = &[];
        }
        Ok(())
    }

    #[must_use]
    pub(crate) fn has_history(&self) -> bool {
        self.stored.cursor.history.is_some()
    }

    /// Turns to the next day of history, if there is one.
    pub(crate) fn turn_to_history(&mut self) -> Option<Day> {
        self.day = self.stored.cursor.history.map(|history| history.day());
        self.aside = self.day.map(|day| Cursor::beginning_at(day.from()));
        self.portion = Portion::default();
        self.day
    }

    /// Every submission of the day is settled. It is saved with the next day that has any.
    pub(crate) fn finish_day(&mut self) {
        self.pass_history();
        self.portion = Portion::default();
        let history = &mut self.stored.cursor.history;
        *history = history.and_then(|history| history.without_day(Utc::now()));
        if history.is_none() {
            info!("history is done");
        }
    }

    /// What lies behind a submission that is not settled is listed again, and counts only then.
    fn pass_history(&mut self) {
        let Some((row, count)) = self.portion.passed() else { return };
        if let Some(history) = &mut self.stored.cursor.history {
            history.pass(row);
        }
        self.answer.submissions += (count - self.counted) as u64;
        self.counted = count;
        let before = self.skipped.len();
        self.skipped.retain(|skipped| *skipped > row);
        self.answer.skipped += (before - self.skipped.len()) as u64;
    }

    /// Saves how far the run has come.
    pub(crate) async fn save(&mut self) -> Result<(), Stop> {
        if self.day.is_some() {
            self.pass_history();
            if self.stored.is_saved() {
                return Ok(());
            }
            return Ok(self.stored.save().await?);
        }
        if self.aside.is_some() {
            return Ok(());
        }
        let look_back = self.order.settings.feed.look_back();
        let cursor = &mut self.stored.cursor;
        cursor.go_on_from = [self.unread_from, self.portion.first_open()].into_iter().flatten().min();
        let behind = cursor.position.map(|position| position - look_back);
        cursor.forget_before = [behind, cursor.go_on_from].into_iter().flatten().min();
        if self.stored.is_saved() {
            return Ok(());
        }
        Ok(self.stored.save().await?)
    }

    /// Carries counts of this round into the answer.
    pub(crate) fn count(&mut self, delivery: &Delivery<'_>) {
        let in_quarantine = self.quarantine.counts();
        self.answer.quarantined = in_quarantine.failed;
        self.answer.waiting = in_quarantine.waiting;
        let (bundles, objects, known) = self.before;
        self.answer.bundles = bundles + delivery.bundles;
        self.answer.objects = objects + delivery.objects;
        self.answer.known = known + delivery.left_out;
    }

    /// Tells the caller's hook how far the run is.
    pub(crate) fn report(&self) {
        if let Some(hook) = self.order.progress {
            hook(self.answer);
        }
    }
}

fn log_quarantined(quarantined: &QuarantinedSample) {
    let QuarantinedSample { reason, detail, attempts, next_attempt, .. } = quarantined;
    let sample_id = quarantined.sample_id.0;
    if quarantined.given_up {
        tracing::error!(sample_id, %reason, attempts, detail, "given up; retry or drop it with `vmray-bridge quarantine`");
    } else if quarantined.state == QuarantineState::Waiting {
        info!(sample_id, %reason, attempts, %next_attempt, "waiting for VMRay");
    } else {
        warn!(sample_id, %reason, attempts, %next_attempt, detail, "quarantined");
    }
}
