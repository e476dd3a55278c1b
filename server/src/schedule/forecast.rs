//! Rounds of forecasts: which series of a host are asked what, from which state, and where the answers go.
//! No judgement of its own: `forecast` says what will come, `judge` what becomes of an incident.
//!
//! What a round may take is bounded, in memory, in time and in heavy fits. States are large and none outlives its turn:
//! it is learnt again from the history in some milliseconds. What cannot be learnt again is small, kept in a book a
//! host and written to the database at most hourly. A calm series is only looked at. The most urgent series come first;
//! what a turn has no time for is judged at the next, bucket by bucket as if it had been judged in time.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, mpsc};

use forewarn_common::block::EntityKind;
use forewarn_common::clock;
use forewarn_common::id::{EntityId, HostId};
use tokio::sync::{oneshot, watch};

use super::Jobs;
use super::book::{Book, CALM_FOR_MS, LOOK_BUCKETS, Name, Note, Packed, Passed, Rest};
use crate::adopted::{Adopted, site_model};
use crate::forecast::{self, Model};
use crate::model::forecast::{Forecast, Period, State};
use crate::model::host::Host;
use crate::model::rule::{Condition, Rule};
use crate::model::series::{SeriesInfo, SeriesKey};
use crate::store::{StoreError, StoredForecast, Wanted};

/// Of a history of which nothing was kept the newest buckets are judged one by one, so that a warning can be confirmed.
const JUDGED_BUCKETS: i64 = 6;
/// Buckets that are judged one after the other to catch up with what was kept.
const CATCH_UP_BUCKETS: i64 = 24;
/// Series whose history is read at once: 4,320 points of two weeks.
const SERIES_READ_MAX: usize = 16;
/// Share of the time that forecasts may take of one core, heavy fits included …
const BUDGET_RATIO: f64 = 0.1;
/// … and what every host may take at least at its turn, where there are no more hosts than these.
const TURN_US_MIN: i64 = 200_000;
const TURN_HOSTS: usize = 100;
/// Heavy fits of a turn, as a share of its series …
const FITS_RATIO: f64 = 0.1;
/// … and at least so many: on a small site they cost nothing.
const FITS_MIN: usize = 8;
/// Books are written this often at most.
const BOOK_EVERY_MS: i64 = 3_600_000;
/// Who is there is asked this often at most: of ten thousand hosts it takes some 50 ms.
const MEET_EVERY_MS: i64 = 5_000;
/// From this probability on a series is judged before others.
const LIKELY: f32 = 0.3;

/// One question: a series against a rule's threshold.
#[derive(Debug, Clone)]
struct Question {
    rule: String,
    key: SeriesKey,
    threshold: f64,
    horizon_ms: i64,
}

impl Question {
    fn name(&self) -> Name {
        (self.rule.clone(), self.key.clone())
    }

    /// What the book of its host has of it.
    fn noted<'a>(&self, book: &'a Book) -> Option<&'a Note> {
        let note = book.notes.get(&self.name())?;
        let same = note.threshold.to_bits() == self.threshold.to_bits() && note.horizon_ms == self.horizon_ms;
        same.then_some(note)
    }
}

/// What the turns of a period came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Series that were judged.
    pub judged: usize,
    /// Calm series that a look let pass with the answer they had.
    pub calm: usize,
    /// Series that there was no time for: judged at their next turn.
    pub left_over: usize,
    /// Heavy fits.
    pub fits: usize,
    /// Microseconds of the judgements that had a heavy fit in them.
    pub fit_us: i64,
    /// Series that were judged while their heavy fit waits for its turn.
    pub fits_waiting: usize,
    /// Microseconds of the judgements, reading and writing apart.
    pub work_us: i64,
    /// Microseconds of all turns.
    pub spent_us: i64,
}

/// Microseconds of a clock that does not jump.
type Stopwatch = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Something to do on the thread of the judgements.
type Work = Box<dyn FnOnce() + Send>;

/// The one thread on which series are judged. What a thread lets go of stays with it for the next time: one has the
/// room of a chunk of states, each of the runtime's many would have it too.
#[derive(Default)]
struct Worker {
    queue: Option<mpsc::Sender<Work>>,
}

impl Worker {
    async fn run<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
        let (done, result) = oneshot::channel();
        let mut work: Work = Box::new(move || {
            // Who asked may be gone: the server stops.
            let _ = done.send(work());
        });
        if let Some(queue) = &self.queue {
            match queue.send(work) {
                Ok(()) => return result.await.map_err(failed),
                // The thread ended abnormally with the work before.
                Err(mpsc::SendError(back)) => work = back,
            }
        }
        let (queue, works) = mpsc::channel::<Work>();
        let thread = std::thread::Builder::new().name("forecast".to_owned());
        thread.spawn(move || works.iter().for_each(|work| work())).map_err(failed)?;
        queue.send(work).map_err(failed)?;
        self.queue = Some(queue);
        result.await.map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Setup(format!("a forecast ended abnormally: {error}"))
}

/// Who forecasts, and what is known from turn to turn. Nothing of it is lost for good with the process.
pub struct Forecaster {
    books: HashMap<HostId, Packed>,
    /// Books, and the questions of their hosts, at the begin of this look.
    known: (usize, usize),
    /// The hosts whose turns are taken here, in the order of their names, and when that was asked.
    order: Vec<HostId>,
    met_ms: Option<i64>,
    due_ms: HashMap<HostId, i64>,
    stopwatch: Stopwatch,
    worker: Worker,
    tally: Tally,
    tallied_ms: i64,
    last: Tally,
}

impl Default for Forecaster {
    fn default() -> Self {
        Self::new(Arc::new(|| i64::try_from(clock::monotonic_us()).unwrap_or(i64::MAX)))
    }
}

/// A question that was judged.
struct Judged {
    question: Question,
    judged_to_ms: i64,
    state: forecast::State,
    answer: Forecast,
    /// The mark of the settings.
    model: u32,
    fit_us: i64,
}

/// What is left of a question that was judged.
struct Said {
    question: Question,
    answer: Forecast,
    /// Of the grid, where a warning stands: kept with its incident.
    digest: Option<String>,
    note: Note,
    fits: usize,
    fit_us: i64,
    fit_waits: bool,
}

impl Judged {
    /// Lets go of the state.
    fn said(self) -> Said {
        Said {
            note: self.note(),
            digest: self.answer.warned.then(|| self.state.digest()),
            fits: self.state.fits_made(),
            fit_waits: self.state.fit_waits(),
            question: self.question,
            answer: self.answer,
            fit_us: self.fit_us,
        }
    }

    fn note(&self) -> Note {
        // What is not said to be stable must be judged again: it may be stale, too short, over.
        let calm = self.state.calm(self.question.threshold).filter(|_| self.answer.state == State::Stable);
        Note {
            judged_to_ms: self.judged_to_ms,
            full_ms: self.judged_to_ms,
            probability: self.answer.probability as f32,
            model: self.model,
            rest: calm.map(|calm| Rest { calm, low: self.state.level() as f32 }),
            threshold: self.question.threshold,
            horizon_ms: self.question.horizon_ms,
            kept: self.state.kept(),
        }
    }
}

impl Forecaster {
    /// Times its turns by this stopwatch.
    #[must_use]
    pub fn new(stopwatch: Stopwatch) -> Self {
        Self {
            books: HashMap::new(),
            known: (0, 0),
            order: Vec::new(),
            met_ms: None,
            due_ms: HashMap::new(),
            stopwatch,
            worker: Worker::default(),
            tally: Tally::default(),
            tallied_ms: 0,
            last: Tally::default(),
        }
    }

    /// What the last whole period came to.
    #[must_use]
    pub fn last_period(&self) -> Tally {
        self.last
    }

    /// Forecasts every host whose turn it is.
    ///
    /// # Errors
    /// The database does not answer; what is left is tried again at the next look.
    pub async fn round(&mut self, jobs: &Jobs, stop: &watch::Receiver<bool>, now_ms: i64) -> Result<(), StoreError> {
        let every_ms = jobs.settings.judge.forecast_every_ms;
        self.meet(jobs, now_ms).await?;
        self.known = (self.books.len(), self.books.values().map(|book| book.questions).sum());
        let mut adopted = None;
        for id in self.order.clone() {
            // A host that is due beyond the next period was put there by a clock that has been set back since.
            let due_ms = self.due_ms.get(&id);
            if due_ms.is_none_or(|due_ms| (1..=every_ms).contains(&(due_ms - now_ms))) {
                continue;
            }
            let Some(host) = jobs.store.host(id).await?.filter(|_| jobs.share.owns(id)) else {
                self.part(id);
                continue;
            };
            // At once when first seen; then a host's turn within the period follows from its id, so that hosts do
            // not come all at once.
            let stagger_ms = i64::from(u16::from_le_bytes([id.0[0], id.0[1]])) % every_ms;
            let round_ms = now_ms - (now_ms - stagger_ms).rem_euclid(every_ms);
            self.due_ms.insert(id, round_ms + every_ms);
            let adopted = match &adopted {
                Some(adopted) => Arc::clone(adopted),
                None => Arc::clone(adopted.insert(Arc::new(Adopted::load(&jobs.store).await?))),
            };
            self.turn(jobs, &host, adopted, now_ms).await?;
            if *stop.borrow() {
                break;
            }
        }
        self.report(&jobs.period, every_ms, now_ms);
        Ok(())
    }

    /// Asks now and then who is there and whose turns are taken here: a new host waits for this at most.
    async fn meet(&mut self, jobs: &Jobs, now_ms: i64) -> Result<(), StoreError> {
        if self.met_ms.is_some_and(|met_ms| (0..MEET_EVERY_MS).contains(&(now_ms - met_ms))) {
            return Ok(());
        }
        let hosts = jobs.store.hosts().await?;
        let own: Vec<HostId> = hosts.iter().map(|host| host.id).filter(|id| jobs.share.owns(*id)).collect();
        let here: HashSet<HostId> = own.iter().copied().collect();
        // Another server goes on from what is stored; what is known here would be of the past.
        let gone: Vec<HostId> = self.due_ms.keys().filter(|id| !here.contains(id)).copied().collect();
        for id in gone {
            self.part(id);
        }
        for id in &own {
            self.due_ms.entry(*id).or_insert(now_ms);
        }
        (self.order, self.met_ms) = (own, Some(now_ms));
        Ok(())
    }

    /// Lets go of a host that is gone, or somebody else's.
    fn part(&mut self, host: HostId) {
        if self.due_ms.remove(&host).is_some() {
            self.books.remove(&host);
        }
    }

    /// Says once a period what it came to: aloud where there was not time for all.
    fn report(&mut self, told: &watch::Sender<Option<Period>>, every_ms: i64, now_ms: i64) {
        if (0..every_ms).contains(&(now_ms - self.tallied_ms)) {
            return;
        }
        let Tally { judged, calm, left_over, fits, fit_us, fits_waiting, work_us, spent_us } = self.tally;
        let period = Period {
            ended_ms: now_ms,
            period_ms: every_ms,
            hosts: self.order.len() as u32,
            judged: judged as u32,
            looked_at: calm as u32,
            left_over: left_over as u32,
            heavy_fits: fits as u32,
            heavy_fits_waiting: fits_waiting as u32,
            duration_ms: spent_us / 1000,
            processor_ms: work_us / 1000,
            heavy_fit_ms: fit_us / 1000,
            budget_ms: (every_ms as f64 * BUDGET_RATIO) as i64,
        };
        if left_over > 0 {
            tracing::warn!(
                ?period,
                "there was no time to forecast all series; the less urgent ones wait for their next turn"
            );
        } else if judged + calm > 0 {
            tracing::info!(?period, "forecasts of a period");
        }
        told.send_replace(Some(period));
        (self.last, self.tally, self.tallied_ms) = (self.tally, Tally::default(), now_ms);
    }

    /// Time that a host has at its turn: its share of the budget.
    fn turn_us(&self, questions: usize, every_ms: i64) -> i64 {
        // Hosts that had no turn yet are taken to be like this one.
        let (books, known) = self.known;
        let unknown = self.due_ms.len().saturating_sub(books) * questions;
        let share = questions as f64 / (known + unknown).max(questions).max(1) as f64;
        let least_us = TURN_US_MIN * TURN_HOSTS as i64 / self.due_ms.len().max(TURN_HOSTS) as i64;
        ((every_ms as f64 * 1000.0 * BUDGET_RATIO * share) as i64).max(least_us)
    }

    async fn turn(&mut self, jobs: &Jobs, host: &Host, adopted: Arc<Adopted>, now_ms: i64) -> Result<(), StoreError> {
        let begun_us = (self.stopwatch)();
        let judge = &jobs.settings.judge;
        let rules = jobs.judge.rules(now_ms).await?;
        let site = site_model(judge);
        // A window is cut at every 288th bucket: who learns it must have read as far back.
        let history_ms = (site.window_buckets as i64 + 288) * site.step_ms;
        let questions = questions(&rules, &jobs.store.series(host.id, now_ms - history_ms).await?, host.id);
        let mut book = self.open_book(jobs, host.id, &questions).await?;
        let standing = if questions.iter().all(|question| question.noted(&book).is_some()) {
            HashSet::new()
        } else {
            jobs.judge.standing(host.id).await?
        };
        let newest_ms = now_ms - site.close_after_ms;
        let closed_ms = newest_ms - newest_ms.rem_euclid(site.step_ms);
        let span = Span { from_ms: closed_ms - history_ms, closed_ms, now_ms };
        let terms = Terms { site, adopted, component: host.component.clone() };
        let means = look(jobs, &book, &questions, closed_ms, &terms.site).await?;
        let mut order: Vec<Asked> =
            questions.into_iter().map(|q| ask(q, &book, &means, &standing, span, &terms)).collect();
        order.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let until_us = begun_us.saturating_add(self.turn_us(order.len(), judge.forecast_every_ms));
        let mut fits_left = ((order.len() as f64 * FITS_RATIO) as usize).max(FITS_MIN);
        let (mut answers, mut digests, mut as_before) = (Vec::new(), HashMap::new(), HashSet::new());
        let due = order.partition_point(|asked| asked.urgency != Urgency::Calm);
        let calm = order.split_off(due);
        let mut late = Vec::new();
        for chunk in order.chunks(SERIES_READ_MAX) {
            let is_urgent = chunk.first().is_some_and(|asked| asked.urgency == Urgency::Warned);
            if !is_urgent && (self.stopwatch)() >= until_us {
                late.extend_from_slice(chunk);
                continue;
            }
            let judged = self.judge(jobs, &book, chunk, &standing, &terms, span, until_us, &mut fits_left).await?;
            late.extend_from_slice(&chunk[judged.len()..]);
            for said in judged {
                let name = said.question.name();
                if let Some(digest) = said.digest {
                    digests.insert(name.clone(), digest);
                }
                // Where nothing could be said yet nothing was judged: the first answer is confirmed by the buckets before it.
                let is_silent = matches!(said.answer.state, State::NoForecast { .. });
                if !is_silent || said.question.noted(&book).is_some() {
                    book.notes.insert(name, said.note);
                }
                let Question { rule, key, .. } = said.question;
                let model = terms.adopted.model_id(&rule, &key, &terms.component).map(str::to_owned);
                answers.push(StoredForecast { key, rule, model, forecast: said.answer });
            }
        }
        for asked in calm.into_iter().chain(late) {
            let name = asked.question.name();
            match (asked.passed, book.notes.get_mut(&name)) {
                (Some(passed), Some(note)) => {
                    note.pass(passed);
                    self.tally.calm += 1;
                }
                _ => self.tally.left_over += 1,
            }
            as_before.insert(name);
        }
        self.tally.judged += answers.len();
        put(jobs, &mut book, &answers, &as_before, now_ms).await?;
        write_down(jobs, &mut book, now_ms).await?;
        if !answers.is_empty() {
            jobs.judge.forecasts(host, &answers, &digests, now_ms).await?;
        }
        // Not before all of it is stored: a turn that fails is judged again, from where it began.
        self.books.insert(host.id, book.pack()?);
        self.tally.spent_us += (self.stopwatch)() - begun_us;
        Ok(())
    }

    /// The book of a host, read where it is new here, without what is no longer asked.
    async fn open_book(&self, jobs: &Jobs, host: HostId, questions: &[Question]) -> Result<Book, StoreError> {
        let kept = match self.books.get(&host) {
            Some(packed) => Some(packed.open(host)),
            None => {
                let stored = jobs.store.forecast_state(host).await?;
                stored.map(|(written_ms, body)| Book::read(host, written_ms, &body))
            }
        };
        let mut book = kept.unwrap_or_else(|| Ok(Book::of(host))).unwrap_or_else(|error| {
            // Nothing is lost but some trust: standing warnings are known from their incidents.
            tracing::warn!(%host, %error, "kept forecasts are not understood; made anew");
            Book::of(host)
        });
        book.questions = questions.len();
        let asked: HashSet<Name> = questions.iter().map(Question::name).collect();
        book.notes.retain(|name, _| asked.contains(name));
        Ok(book)
    }

    /// Judges some questions in their order, each from a state that is learnt again: the first, as long as there is
    /// time, and whatever is urgent.
    #[expect(clippy::too_many_arguments, reason = "what a turn has at hand, each thing once")]
    async fn judge(
        &mut self,
        jobs: &Jobs,
        book: &Book,
        asked: &[Asked],
        standing: &HashSet<Name>,
        terms: &Terms,
        span: Span,
        until_us: i64,
        fits_left: &mut usize,
    ) -> Result<Vec<Said>, StoreError> {
        let wanted = Wanted::Series(keys(asked.iter().map(|asked| &asked.question)));
        let read = jobs.store.means(book.host, wanted, span.from_ms, span.closed_ms, terms.site.step_ms).await?;
        let means: HashMap<SeriesKey, Vec<(i64, f64)>> =
            read.series.into_iter().map(|series| (series.info.key, series.points)).collect();
        let with_note = |asked: &Asked| (asked.clone(), asked.question.noted(book).cloned());
        let work: Vec<(Asked, Option<Note>)> = asked.iter().map(with_note).collect();
        let (terms, standing, stopwatch, mut left) =
            (terms.clone(), standing.clone(), Arc::clone(&self.stopwatch), *fits_left);
        let (judged, work_us) = self
            .worker
            .run(move || {
                let thread_us = clock::thread_us();
                let mut judged = Vec::with_capacity(work.len());
                for (Asked { question, urgency, .. }, note) in work {
                    let may_wait = urgency != Urgency::Warned && !judged.is_empty();
                    if may_wait && stopwatch() >= until_us {
                        break;
                    }
                    let (model, mark) = (terms.model(&question), terms.mark(&question));
                    let means = means.get(&question.key).map(Vec::as_slice).unwrap_or_default();
                    let warned = standing.contains(&question.name());
                    let (state, new) = learn_again(&question, note, warned, means, span, &model);
                    let learnt_us = stopwatch();
                    let mut one = finish(question, state.with_fits_left(left), new, span, &model);
                    one.model = mark;
                    let fits = one.state.fits_made();
                    one.fit_us = if fits > 0 { stopwatch() - learnt_us } else { 0 };
                    left = left.saturating_sub(fits);
                    // States are large: one does not wait for the others of its chunk.
                    judged.push(one.said());
                }
                (judged, clock::thread_us().saturating_sub(thread_us))
            })
            .await?;
        self.tally.work_us += work_us as i64;
        for one in &judged {
            *fits_left = fits_left.saturating_sub(one.fits);
            self.tally.fits += one.fits;
            self.tally.fit_us += one.fit_us;
            self.tally.fits_waiting += usize::from(one.fit_waits);
        }
        Ok(judged)
    }
}

/// Stores the answers beside those that stay as they were; nothing where nothing changed.
async fn put(
    jobs: &Jobs,
    book: &mut Book,
    answers: &[StoredForecast],
    as_before: &HashSet<Name>,
    now_ms: i64,
) -> Result<(), StoreError> {
    let all = answers.len() + as_before.len();
    if answers.is_empty() && book.answers == Some(all) {
        return Ok(());
    }
    let mut stored = answers.to_vec();
    if !as_before.is_empty() {
        let before = jobs.store.forecasts(book.host).await?;
        stored.extend(before.into_iter().filter(|known| as_before.contains(&(known.rule.clone(), known.key.clone()))));
    }
    jobs.store.forecasts_put(book.host, now_ms, stored).await?;
    book.answers = Some(all);
    Ok(())
}

async fn write_down(jobs: &Jobs, book: &mut Book, now_ms: i64) -> Result<(), StoreError> {
    if (0..BOOK_EVERY_MS).contains(&(now_ms - book.written_ms)) {
        return Ok(());
    }
    book.written_ms = now_ms;
    jobs.store.forecast_state_put(book.host, now_ms, book.write()?).await
}

/// The newest means of the series that were judged before: the look that tells whether a calm one has moved.
async fn look(
    jobs: &Jobs,
    book: &Book,
    questions: &[Question],
    closed_ms: i64,
    site: &Model,
) -> Result<HashMap<SeriesKey, Vec<(i64, f64)>>, StoreError> {
    let known = questions.iter().filter(|question| question.noted(book).is_some_and(|note| note.rest.is_some()));
    let since_ms = known.clone().filter_map(|question| Some(question.noted(book)?.judged_to_ms)).min();
    let Some(since_ms) = since_ms.filter(|since_ms| *since_ms < closed_ms) else { return Ok(HashMap::new()) };
    let from_ms = since_ms.max(closed_ms - LOOK_BUCKETS * site.step_ms);
    let read = jobs.store.means(book.host, Wanted::Series(keys(known)), from_ms, closed_ms, site.step_ms).await?;
    Ok(read.series.into_iter().map(|series| (series.info.key, series.points)).collect())
}

/// How urgent a question is, and whether it may pass.
fn ask(
    question: Question,
    book: &Book,
    means: &HashMap<SeriesKey, Vec<(i64, f64)>>,
    standing: &HashSet<Name>,
    span: Span,
    terms: &Terms,
) -> Asked {
    let Some(note) = question.noted(book) else {
        let urgency = if standing.contains(&question.name()) { Urgency::Warned } else { Urgency::Unknown };
        return Asked { question, urgency, likely_pct: 0, judged_to_ms: 0, passed: None };
    };
    let means = means.get(&question.key).map(Vec::as_slice).unwrap_or_default();
    let same = note.model == terms.mark(&question);
    let passed = note.passed(means, span.closed_ms, terms.site.step_ms).filter(|_| same);
    let is_answered = passed.is_some() && note.judged_to_ms == span.closed_ms;
    let urgency = if is_answered {
        Urgency::Calm
    } else if note.kept.warned() || note.probability >= LIKELY {
        Urgency::Warned
    } else if passed.is_none() {
        Urgency::Moved
    } else if span.closed_ms - note.full_ms >= CALM_FOR_MS {
        Urgency::Due
    } else {
        Urgency::Calm
    };
    let (likely_pct, judged_to_ms) = ((note.probability * 100.0) as u8, note.judged_to_ms);
    Asked { question, urgency, likely_pct, judged_to_ms, passed }
}

/// In this order series are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// A warning stands or is near.
    Warned,
    /// It is not calm, or moved.
    Moved,
    /// Never judged.
    Unknown,
    /// Calm, and not judged in full for long.
    Due,
    /// Calm, or nothing is new: it is not judged.
    Calm,
}

/// A question at its turn.
#[derive(Debug, Clone)]
struct Asked {
    question: Question,
    urgency: Urgency,
    likely_pct: u8,
    judged_to_ms: i64,
    /// That it may pass, should there be no time.
    passed: Option<Passed>,
}

impl Asked {
    /// The likeliest of what is urgent first, of the rest the longest waiting.
    fn rank(&self) -> (Urgency, i64, i64, &SeriesKey, &str) {
        let likely_pct = i64::from(self.likely_pct);
        let likely = if self.urgency == Urgency::Warned { -likely_pct } else { 0 };
        (self.urgency, likely, self.judged_to_ms, &self.question.key, &self.question.rule)
    }
}

/// By which settings the series of a host are judged.
#[derive(Debug, Clone)]
struct Terms {
    site: Model,
    adopted: Arc<Adopted>,
    component: String,
}

impl Terms {
    fn model(&self, question: &Question) -> Model {
        self.adopted.model(&question.rule, &question.key, &self.component, &self.site)
    }

    /// Tells settings apart: an answer by others may not stay.
    fn mark(&self, question: &Question) -> u32 {
        let id = self.adopted.model_id(&question.rule, &question.key, &self.component).unwrap_or_default();
        let grid = (self.site.step_ms as u64) << 32 | self.site.window_buckets as u64;
        crc32c::crc32c_append(crc32c::crc32c(id.as_bytes()), &grid.to_le_bytes())
    }
}

/// What is read at a turn.
#[derive(Debug, Clone, Copy)]
struct Span {
    from_ms: i64,
    /// End of the newest closed bucket.
    closed_ms: i64,
    now_ms: i64,
}

/// A state learnt again, up to where it had been judged, and the points that are left to judge.
fn learn_again<'a>(
    question: &Question,
    note: Option<Note>,
    warned: bool,
    means: &'a [(i64, f64)],
    span: Span,
    model: &Model,
) -> (forecast::State, &'a [(i64, f64)]) {
    let oldest_ms = span.closed_ms - CATCH_UP_BUCKETS * model.step_ms;
    // A note of this bucket is one by other settings, one of the time to come is from before the clock was set back:
    // what stands, stands.
    let goes_on =
        note.as_ref().map(|note| note.judged_to_ms).filter(|to_ms| (oldest_ms..span.closed_ms).contains(to_ms));
    let learn_to_ms = goes_on.unwrap_or(span.closed_ms - JUDGED_BUCKETS * model.step_ms);
    let (old, new) = means.split_at(means.partition_point(|point| point.0 <= learn_to_ms));
    let empty = forecast::State::new(question.horizon_ms, model);
    let learnt = forecast::learn(empty, old, question.horizon_ms, learn_to_ms + model.close_after_ms, model);
    let state = match note {
        Some(note) if goes_on.is_some() => learnt.with_kept(note.kept),
        Some(note) => learnt.with_kept(note.kept.standing_only()),
        None => learnt.with_warning(warned),
    };
    (state, new)
}

fn finish(question: Question, state: forecast::State, points: &[(i64, f64)], span: Span, model: &Model) -> Judged {
    let (state, answer) = forecast::step(state, points, question.threshold, question.horizon_ms, span.now_ms, model);
    Judged { question, judged_to_ms: span.closed_ms, state, answer, model: 0, fit_us: 0 }
}

fn keys<'a>(questions: impl Iterator<Item = &'a Question>) -> Vec<SeriesKey> {
    let mut keys: Vec<SeriesKey> = questions.map(|question| question.key.clone()).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// The questions that the rules ask of a host's series.
fn questions(rules: &[Rule], series: &[SeriesInfo], host: HostId) -> Vec<Question> {
    let own = EntityId::of_host(host);
    let asks = |rule: &Rule, info: &SeriesInfo| {
        let kind = if info.key.entity == own { EntityKind::Host } else { EntityKind::Workload };
        match &rule.condition {
            Condition::Threshold { metric, entity_kind, threshold, horizon_ms, .. }
                if *metric == info.key.metric && *entity_kind == kind =>
            {
                Some(Question {
                    rule: rule.id.clone(),
                    key: info.key.clone(),
                    threshold: *threshold,
                    horizon_ms: *horizon_ms,
                })
            }
            _ => None,
        }
    };
    rules
        .iter()
        .filter(|rule| rule.enabled)
        .flat_map(|rule| series.iter().filter_map(move |info| asks(rule, info)))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const STEP_MS: i64 = 300_000;
    const DAY: i64 = 288;
    const HOST: HostId = HostId([3; 16]);

    fn model() -> Model {
        Model::default()
    }

    fn question(horizon_ms: i64) -> Question {
        let key =
            SeriesKey { host: HOST, entity: EntityId(7), metric: "fs_used_ratio".into(), instance: "/data".into() };
        Question { rule: "disk".into(), key, threshold: 90.0, horizon_ms }
    }

    /// A disk that fills by a few per cent a day, in working hours.
    fn disk(buckets: i64) -> Vec<(i64, f64)> {
        let mut level = 20.0;
        let points = (0..buckets).map(|i| {
            let hour = (i % DAY) as f64 / 12.0;
            level +=
                if (8.0..18.0).contains(&hour) { 0.045 } else { 0.002 } + 0.01 * ((i * 7919 % 31) as f64 / 31.0 - 0.5);
            (1_735_516_800_000 + (i + 1) * STEP_MS, level)
        });
        points.collect()
    }

    fn at(closed_ms: i64) -> Span {
        Span { from_ms: 0, closed_ms, now_ms: closed_ms + model().close_after_ms }
    }

    fn turn(state: forecast::State, points: &[(i64, f64)], closed_ms: i64, horizon_ms: i64) -> Judged {
        finish(question(horizon_ms), state, points, at(closed_ms), &model())
    }

    /// A history of which only the last bucket is judged.
    fn learnt(points: &[(i64, f64)], horizon_ms: i64) -> Judged {
        let (last, past) = points.split_last().unwrap();
        let empty = forecast::State::new(horizon_ms, &model());
        let end_ms = past.last().unwrap().0;
        let state = forecast::learn(empty, past, horizon_ms, end_ms + model().close_after_ms, &model());
        turn(state, &[*last], last.0, horizon_ms)
    }

    /// Through the bytes that the database has.
    fn through_the_book(note: Note, horizon_ms: i64) -> Note {
        let name = question(horizon_ms).name();
        let book = Book { notes: HashMap::from([(name.clone(), note)]), ..Book::of(HOST) };
        Book::read(HOST, 0, &book.write().unwrap()).unwrap().notes.remove(&name).unwrap()
    }

    #[test]
    fn a_hosts_share_of_the_time_goes_by_its_questions_however_many_were_judged() {
        const PERIOD_MS: i64 = 300_000;
        let hosts = (0..1000_u128).map(|i| (HostId(i.to_le_bytes()), 0));
        let mut forecaster = Forecaster { due_ms: hosts.collect(), ..Forecaster::default() };
        for known in [(0, 0), (500, 50_000), (1000, 100_000)] {
            forecaster.known = known;
            assert_eq!(forecaster.turn_us(100, PERIOD_MS), 30_000, "a thousandth of a tenth of a core: {known:?}");
        }
        assert_eq!(forecaster.turn_us(1000, PERIOD_MS), 300_000);
        assert_eq!(forecaster.turn_us(1, PERIOD_MS), 20_000, "what every host may take");
    }

    #[test]
    fn series_learnt_again_after_a_restart_goes_on_as_if_nothing_had_been() {
        for horizon_ms in [4 * 3_600_000, 24 * 3_600_000] {
            let points = disk(16 * DAY);
            let begin = points.len() - 200;
            let mut carried = learnt(&points[..begin], horizon_ms).state;
            let mut kept = None;
            for (i, point) in points.iter().enumerate().skip(begin) {
                let went_on = turn(carried, &[*point], point.0, horizon_ms);
                // Written an hour ago, the process died, and the buckets since are judged again.
                if i % 12 == 0 {
                    kept = Some(through_the_book(went_on.note(), horizon_ms));
                }
                if i % 12 == 11 || i % 12 == 5 {
                    let span = at(point.0);
                    let (state, new) =
                        learn_again(&question(horizon_ms), kept.clone(), false, &points[..=i], span, &model());
                    let again = turn(state, new, point.0, horizon_ms);
                    if kept.is_some() {
                        assert_eq!(again.answer, went_on.answer, "bucket {i}");
                        assert_eq!(again.state.kept(), went_on.state.kept(), "bucket {i}");
                    }
                }
                carried = went_on.state;
            }
            assert!(carried.warned(), "the story is one of a warning");
        }
    }

    #[test]
    fn what_is_kept_of_a_series_is_two_kilobytes_at_most() {
        let horizon_ms = 24 * 3_600_000;
        let points = disk(16 * DAY);
        let judged = learnt(&points, horizon_ms);
        assert!(judged.answer.probability > 0.05, "the heavy expert was asked");
        let notes = HashMap::from([(question(horizon_ms).name(), judged.note())]);
        let body = Book { notes, ..Book::of(HOST) }.write().unwrap();
        assert!(body.contains("mean") && body.len() <= 2048, "{} bytes", body.len());
    }

    #[test]
    fn urgent_series_come_first_and_a_calm_one_only_when_it_has_moved() {
        let points = disk(15 * DAY);
        let flat: Vec<(i64, f64)> = points.iter().map(|p| (p.0, 20.0 + (p.0 / STEP_MS % 7) as f64 * 0.1)).collect();
        let judged = learnt(&flat, 3_600_000);
        let terms = Terms { site: model(), adopted: Arc::default(), component: String::new() };
        let calm = question(3_600_000);
        let calm_note = Note { model: terms.mark(&calm), ..judged.note() };
        let rest = calm_note.rest.unwrap();
        assert!((21.0..90.0).contains(&rest.calm.below), "{rest:?}");
        let closed_ms = judged.judged_to_ms;
        let ask = |note: &Note, level: f64, later: i64| {
            let book = Book { notes: HashMap::from([(calm.name(), note.clone())]), ..Book::of(HOST) };
            let means = HashMap::from([(calm.key.clone(), vec![(closed_ms + STEP_MS, level)])]);
            ask(calm.clone(), &book, &means, &HashSet::new(), at(closed_ms + later * STEP_MS), &terms).urgency
        };
        assert_eq!(ask(&calm_note, 20.5, 1), Urgency::Calm);
        assert_eq!(ask(&calm_note, 89.9, 1), Urgency::Moved);
        assert_eq!(ask(&calm_note, 20.5, 2), Urgency::Moved, "a bucket without a value");
        assert_eq!(ask(&Note { full_ms: closed_ms - CALM_FOR_MS, ..calm_note.clone() }, 20.5, 1), Urgency::Due);
        assert_eq!(ask(&Note { model: 1, ..calm_note.clone() }, 20.5, 1), Urgency::Moved, "another model was adopted");
        assert_eq!(ask(&Note { probability: 0.4, ..calm_note }, 20.5, 1), Urgency::Warned);
        assert!(Urgency::Warned < Urgency::Moved && Urgency::Moved < Urgency::Unknown && Urgency::Due < Urgency::Calm);
    }

    #[test]
    fn of_the_urgent_the_likeliest_comes_first_and_of_the_rest_the_longest_waiting() {
        let asked = |urgency, likely_pct, judged_to_ms| Asked {
            question: question(3_600_000),
            urgency,
            likely_pct,
            judged_to_ms,
            passed: None,
        };
        let (sure, likely) = (asked(Urgency::Warned, 90, 7), asked(Urgency::Warned, 40, 1));
        let (waiting, fresh) = (asked(Urgency::Moved, 1, 3), asked(Urgency::Moved, 29, 4));
        assert!(sure.rank() < likely.rank() && likely.rank() < waiting.rank() && waiting.rank() < fresh.rank());
    }

    /// A wandering load with a day in it, teeth and steps; a number in 0..1 follows from its arguments alone.
    fn wandering(seed: u64, buckets: i64) -> Vec<(i64, f64)> {
        let unit = |i: u64| {
            let mut x = (seed << 32 ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for _ in 0..2 {
                x = (x ^ (x >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
            }
            (x >> 11) as f64 / (1_u64 << 53) as f64
        };
        let (base, day, noise) = (10.0 + 60.0 * unit(1), 12.0 * unit(2), 0.1 + 2.0 * unit(3));
        let (tooth, period) = (if unit(4) < 0.5 { 25.0 * unit(5) } else { 0.0 }, 20.0 + 200.0 * unit(6));
        let (step, step_at) = (30.0 * (unit(7) - 0.3), (buckets as f64 * (0.6 + 0.5 * unit(8))) as i64);
        let mut walk = 0.0;
        let value = |i: i64| {
            walk += noise * (unit(1000 + i as u64) - 0.5);
            let hour = (i as f64 / DAY as f64 * std::f64::consts::TAU).sin();
            base + day * hour + tooth * (i as f64 / period).fract() + walk + if i > step_at { step } else { 0.0 }
        };
        let values: Vec<f64> = (0..buckets).map(value).collect();
        (1..).map(|i| 1_735_516_800_000 + i * STEP_MS).zip(values).collect()
    }

    #[test]
    fn series_that_passes_a_look_would_have_been_stable_and_goes_on_as_if_judged() {
        let (mut passed_all, mut judged_all) = (0, 0);
        for seed in 0..40_u64 {
            let horizon_ms = if seed % 2 == 0 { 3_600_000 } else { 4 * 3_600_000 };
            let points = wandering(seed, 6 * DAY);
            let begin = points.len() - 2 * DAY as usize;
            let first = learnt(&points[..begin], horizon_ms);
            let (mut full, mut lazy, mut note) = (first.state.clone(), first.state.clone(), first.note());
            let mut unread = begin;
            for (i, point) in points.iter().enumerate().skip(begin) {
                let judged = turn(full, &[*point], point.0, horizon_ms);
                let passed = note.passed(&points[i - 2..=i], point.0, STEP_MS);
                if let Some(passed) = passed.filter(|_| point.0 - note.full_ms < CALM_FOR_MS) {
                    note.pass(passed);
                    passed_all += 1;
                    assert_eq!(judged.answer.state, State::Stable, "seed {seed}, bucket {i}");
                    assert!(!judged.answer.warned && judged.answer.probability < model().evidence_from, "seed {seed}");
                } else {
                    let now_ms = points[i - 1].0 + model().close_after_ms;
                    let caught_up = forecast::learn(lazy, &points[unread..i], horizon_ms, now_ms, &model());
                    let again = turn(caught_up.with_kept(note.kept.clone()), &[*point], point.0, horizon_ms);
                    assert_eq!(again.answer, judged.answer, "seed {seed}, bucket {i}");
                    assert_eq!(again.state.kept(), judged.state.kept(), "seed {seed}, bucket {i}");
                    judged_all += 1;
                    (note, lazy, unread) = (again.note(), again.state, i + 1);
                }
                full = judged.state;
            }
        }
        assert!(passed_all > 2000 && judged_all > 2000, "passed {passed_all}, judged {judged_all}");
    }
}
