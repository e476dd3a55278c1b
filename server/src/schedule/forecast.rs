//! Rounds of forecasts: which series of a host are asked what, from which state, and where the answers go.
//! No judgement of its own: `forecast` says what will come, `judge` what becomes of an incident.
//!
//! What a round may take is bounded, in memory and in time. States are large and are learnt again from the history
//! (some milliseconds) where there is no room to carry them; what cannot be learnt again is small, kept in a book a
//! host and written to the database at most hourly. The most urgent series come first; what a turn has no time for is
//! judged at the next, bucket by bucket as if it had been judged in time.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use forewarn_common::block::EntityKind;
use forewarn_common::clock;
use forewarn_common::id::{EntityId, HostId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Jobs;
use crate::adopted::{Adopted, site_model};
use crate::forecast::{self, Kept, Model};
use crate::model::forecast::Forecast;
use crate::model::host::Host;
use crate::model::rule::{Condition, Rule};
use crate::model::series::{SeriesInfo, SeriesKey};
use crate::store::{StoreError, StoredForecast, Wanted};

/// Of a history of which nothing was kept the newest buckets are judged one by one, so that a warning can be confirmed.
const JUDGED_BUCKETS: i64 = 6;
/// Buckets that are judged one after the other to catch up with what was kept.
const CATCH_UP_BUCKETS: i64 = 24;
/// Series judged at once: the states of some hundred kilobytes each, and 4,320 points of two weeks.
const SERIES_READ_MAX: usize = 16;
/// States that are carried may take this much; the others are learnt again at each of their turns.
const CARRIED_BYTES_MAX: usize = 16 << 20;
/// Share of the time that forecasts may take of one core …
const BUDGET_RATIO: f64 = 0.1;
/// … and what every host may take at least at its turn.
const TURN_MS_MIN: i64 = 200;
/// Books are written this often at most.
const BOOK_EVERY_MS: i64 = 3_600_000;
/// From this probability on a series is judged before others.
const LIKELY: f64 = 0.3;
/// Buckets that are looked at to see whether a calm series has moved.
const LOOK_BUCKETS: i64 = 3;

/// One question: a series against a rule's threshold.
#[derive(Debug, Clone)]
struct Question {
    rule: String,
    key: SeriesKey,
    threshold: f64,
    horizon_ms: i64,
}

type Name = (String, SeriesKey);

impl Question {
    fn name(&self) -> Name {
        (self.rule.clone(), self.key.clone())
    }
}

/// What is known of a question between its turns.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    /// The last bucket that was judged.
    judged_to_ms: i64,
    probability: f64,
    /// Below this level there is no hurry.
    calm_below: Option<f64>,
    /// Against what it was judged; another threshold or horizon is another question.
    threshold: f64,
    horizon_ms: i64,
    kept: Kept,
}

#[derive(Serialize, Deserialize)]
struct NoteRow {
    rule: String,
    entity: EntityId,
    metric: String,
    instance: String,
    note: Note,
}

/// The notes of one host.
#[derive(Default)]
struct Book {
    written_ms: i64,
    notes: HashMap<Name, Note>,
}

/// A state that is carried to the next turn.
struct Carried {
    /// Up to when its points were read.
    read_to_ms: i64,
    state: forecast::State,
    bytes: usize,
    probability: f64,
}

/// What the turns of a period came to.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Tally {
    judged: usize,
    learnt_again: usize,
    left_over: usize,
    spent_ms: i64,
}

/// Who forecasts, and what is carried from turn to turn. Nothing of it is lost for good with the process.
#[derive(Default)]
pub(super) struct Forecaster {
    carried: HashMap<Name, Carried>,
    carried_bytes: usize,
    books: HashMap<HostId, Book>,
    due_ms: HashMap<HostId, i64>,
    tally: Tally,
    tallied_ms: i64,
}

/// A question that was judged.
struct Judged {
    question: Question,
    read_to_ms: i64,
    judged_to_ms: i64,
    state: forecast::State,
    answer: Forecast,
}

impl Forecaster {
    /// Forecasts every host whose turn it is.
    ///
    /// # Errors
    /// The database does not answer; what is left is tried again at the next look.
    pub(super) async fn round(
        &mut self,
        jobs: &Jobs,
        stop: &watch::Receiver<bool>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let every_ms = jobs.settings.judge.forecast_every_ms;
        let hosts = jobs.store.hosts().await?;
        self.due_ms.retain(|id, _| hosts.iter().any(|host| host.id == *id));
        for host in hosts {
            if !jobs.share.owns(host.id) {
                // Another server goes on from the stored history; what was carried would be of the past.
                if self.due_ms.remove(&host.id).is_some() {
                    self.forget(host.id);
                }
                continue;
            }
            // At once when first seen; then a host's turn within the period follows from its id, so that hosts do
            // not come all at once.
            let stagger_ms = i64::from(u16::from_le_bytes([host.id.0[0], host.id.0[1]])) % every_ms;
            let due_ms = *self.due_ms.entry(host.id).or_insert(now_ms);
            if due_ms <= now_ms {
                let round_ms = now_ms - (now_ms - stagger_ms).rem_euclid(every_ms);
                self.due_ms.insert(host.id, round_ms + every_ms);
                self.turn(jobs, &host, now_ms).await?;
            }
            if *stop.borrow() {
                break;
            }
        }
        self.report(every_ms, now_ms);
        Ok(())
    }

    /// Says once a period what it came to: aloud where there was not time for all.
    fn report(&mut self, every_ms: i64, now_ms: i64) {
        if now_ms - self.tallied_ms < every_ms {
            return;
        }
        let budget_ms = (every_ms as f64 * BUDGET_RATIO) as i64;
        let Tally { judged, learnt_again, left_over, spent_ms } = self.tally;
        if left_over > 0 {
            tracing::warn!(
                judged,
                learnt_again,
                left_over,
                spent_ms,
                budget_ms,
                "there was no time to forecast all series; the calm ones wait for their next turn"
            );
        } else if judged > 0 {
            let carried_bytes = self.carried_bytes;
            tracing::debug!(judged, learnt_again, spent_ms, budget_ms, carried_bytes, "forecasts of a period");
        }
        (self.tally, self.tallied_ms) = (Tally::default(), now_ms);
    }

    fn forget(&mut self, host: HostId) {
        self.books.remove(&host);
        self.carried.retain(|(_, key), _| key.host != host);
        self.carried_bytes = self.carried.values().map(|carried| carried.bytes).sum();
    }

    /// Time that a host has at its turn: its share of the budget.
    fn turn_ms(&self, questions: usize, every_ms: i64) -> i64 {
        let all: usize = self.books.values().map(|book| book.notes.len()).sum();
        let share = questions as f64 / all.max(questions).max(1) as f64;
        ((every_ms as f64 * BUDGET_RATIO * share) as i64).max(TURN_MS_MIN)
    }

    async fn turn(&mut self, jobs: &Jobs, host: &Host, now_ms: i64) -> Result<(), StoreError> {
        let judge = &jobs.settings.judge;
        let rules = jobs.judge.rules(now_ms).await?;
        let model = site_model(judge);
        let adopted = Arc::new(Adopted::load(&jobs.store).await?);
        // A carried state cuts its window at every 288th bucket: a rebuilt one must have read as far back.
        let history_ms = (model.window_buckets as i64 + 288) * model.step_ms;
        let questions = questions(&rules, &jobs.store.series(host.id, now_ms - history_ms).await?, host.id);
        self.open_book(jobs, host.id, &questions).await?;
        let standing = if questions.iter().all(|question| self.note(question).is_some()) {
            HashSet::new()
        } else {
            jobs.judge.standing(host.id).await?
        };
        let newest_ms = now_ms - model.close_after_ms;
        let closed_ms = newest_ms - newest_ms.rem_euclid(model.step_ms);
        let levels = self.levels(jobs, host.id, &questions, closed_ms, &model).await?;
        let mut order: Vec<(Urgency, i64, Question)> = questions
            .into_iter()
            .map(|question| {
                let (urgency, judged_to_ms) = self.urgency(&question, &levels, &standing);
                (urgency, judged_to_ms, question)
            })
            .collect();
        order.sort_by(|a, b| (a.0, a.1, &a.2.key, &a.2.rule).cmp(&(b.0, b.1, &b.2.key, &b.2.rule)));
        let (begun_ms, turn_ms) = (clock::boot_ms(), self.turn_ms(order.len(), judge.forecast_every_ms));
        let (mut answers, mut digests, mut left_over) = (Vec::new(), HashMap::new(), HashSet::new());
        for chunk in order.chunks(SERIES_READ_MAX) {
            let is_urgent = chunk.first().is_some_and(|(urgency, ..)| *urgency == Urgency::Warned);
            if !is_urgent && clock::boot_ms() - begun_ms >= turn_ms {
                left_over.extend(chunk.iter().map(|(_, _, question)| question.name()));
                continue;
            }
            let chunk: Vec<Question> = chunk.iter().map(|(_, _, question)| question.clone()).collect();
            let span = Span { from_ms: closed_ms - history_ms, closed_ms, now_ms };
            for judged in self.judge(jobs, host, chunk, &standing, (&model, &adopted), span).await? {
                let name = judged.question.name();
                if judged.answer.warned {
                    digests.insert(name, judged.state.digest());
                }
                let (key, rule) = (judged.question.key.clone(), judged.question.rule.clone());
                answers.push(StoredForecast { key, rule, forecast: judged.answer.clone() });
                self.keep(host.id, judged);
            }
        }
        self.tally.judged += answers.len();
        self.tally.left_over += left_over.len();
        self.tally.spent_ms += clock::boot_ms() - begun_ms;
        let mut stored = answers.clone();
        if !left_over.is_empty() {
            let before = jobs.store.forecasts(host.id).await?;
            stored.extend(
                before.into_iter().filter(|known| left_over.contains(&(known.rule.clone(), known.key.clone()))),
            );
        }
        jobs.store.forecasts_put(host.id, now_ms, stored).await?;
        self.write_book(jobs, host.id, now_ms).await?;
        jobs.judge.forecasts(host, &answers, &digests, now_ms).await
    }

    fn note(&self, question: &Question) -> Option<&Note> {
        let note = self.books.get(&question.key.host)?.notes.get(&question.name())?;
        let same = note.threshold.to_bits() == question.threshold.to_bits() && note.horizon_ms == question.horizon_ms;
        same.then_some(note)
    }

    /// Reads the book of a host that is new here, and strikes out what is no longer asked.
    async fn open_book(&mut self, jobs: &Jobs, host: HostId, questions: &[Question]) -> Result<(), StoreError> {
        if let Entry::Vacant(place) = self.books.entry(host) {
            let mut book = Book::default();
            if let Some((written_ms, body)) = jobs.store.forecast_state(host).await? {
                book.written_ms = written_ms;
                match read_book(host, &body) {
                    Ok(notes) => book.notes = notes,
                    // Nothing is lost but some trust: standing warnings are known from their incidents.
                    Err(error) => tracing::warn!(%host, %error, "kept forecasts are not understood; made anew"),
                }
            }
            place.insert(book);
        }
        let asked: HashSet<Name> = questions.iter().map(Question::name).collect();
        if let Some(book) = self.books.get_mut(&host) {
            book.notes.retain(|name, _| asked.contains(name));
        }
        self.carried.retain(|name, _| name.1.host != host || asked.contains(name));
        self.carried_bytes = self.carried.values().map(|carried| carried.bytes).sum();
        Ok(())
    }

    async fn write_book(&mut self, jobs: &Jobs, host: HostId, now_ms: i64) -> Result<(), StoreError> {
        let Some(book) = self.books.get_mut(&host) else { return Ok(()) };
        if (0..BOOK_EVERY_MS).contains(&(now_ms - book.written_ms)) {
            return Ok(());
        }
        book.written_ms = now_ms;
        jobs.store.forecast_state_put(host, now_ms, write_book(&book.notes)?).await
    }

    /// The highest recent levels of those that are not carried: the look that tells whether a calm one has moved.
    async fn levels(
        &self,
        jobs: &Jobs,
        host: HostId,
        questions: &[Question],
        closed_ms: i64,
        model: &Model,
    ) -> Result<HashMap<SeriesKey, f64>, StoreError> {
        let keys = keys(questions.iter().filter(|question| !self.carried.contains_key(&question.name())));
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let from_ms = closed_ms - LOOK_BUCKETS * model.step_ms;
        let read = jobs.store.means(host, Wanted::Series(keys), from_ms, closed_ms, model.step_ms).await?;
        let highest = |points: &[(i64, f64)]| points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
        Ok(read.series.into_iter().map(|series| (series.info.key, highest(&series.points))).collect())
    }

    fn urgency(
        &self,
        question: &Question,
        levels: &HashMap<SeriesKey, f64>,
        standing: &HashSet<Name>,
    ) -> (Urgency, i64) {
        let name = question.name();
        let Some(note) = self.note(question) else {
            return (if standing.contains(&name) { Urgency::Warned } else { Urgency::Unknown }, 0);
        };
        let level = levels.get(&question.key).copied();
        let moved = note.calm_below.is_none_or(|calm| level.is_some_and(|level| level >= calm));
        let urgency = if note.kept.warned() || note.probability >= LIKELY {
            Urgency::Warned
        } else if self.carried.contains_key(&name) {
            Urgency::Carried
        } else if moved {
            Urgency::Moved
        } else {
            Urgency::Calm
        };
        (urgency, note.judged_to_ms)
    }

    /// Judges some questions, each from the state that is carried or from one that is learnt again.
    async fn judge(
        &mut self,
        jobs: &Jobs,
        host: &Host,
        questions: Vec<Question>,
        standing: &HashSet<Name>,
        (site, adopted): (&Model, &Arc<Adopted>),
        span: Span,
    ) -> Result<Vec<Judged>, StoreError> {
        let mut work = Vec::with_capacity(questions.len());
        let mut spans: HashMap<i64, Vec<Question>> = HashMap::new();
        for question in &questions {
            let name = question.name();
            let note = self.note(question).cloned();
            let carried = self.carried.remove(&name).filter(|_| note.is_some());
            let carried = carried.filter(|carried| carried.read_to_ms > span.from_ms);
            if let Some(carried) = &carried {
                spans.entry(carried.read_to_ms).or_default().push(question.clone());
            }
            work.push((question.clone(), carried, note));
        }
        self.carried_bytes = self.carried.values().map(|carried| carried.bytes).sum();
        let mut points: HashMap<SeriesKey, Vec<(i64, f64)>> = HashMap::new();
        for (from_ms, asked) in spans {
            // Raw points, so that the grid of the forecast is the only one that buckets what is still open.
            let wanted = Wanted::Series(keys(asked.iter()));
            let read = jobs.store.read(host.id, wanted, from_ms, span.now_ms, 0).await?;
            points.extend(read.series.into_iter().map(|series| (series.info.key, series.points)));
        }
        let again = keys(work.iter().filter(|(_, carried, _)| carried.is_none()).map(|(question, ..)| question));
        let mut means: HashMap<SeriesKey, Vec<(i64, f64)>> = HashMap::new();
        if !again.is_empty() {
            let wanted = Wanted::Series(again);
            let read = jobs.store.means(host.id, wanted, span.from_ms, span.closed_ms, site.step_ms).await?;
            means.extend(read.series.into_iter().map(|series| (series.info.key, series.points)));
        }
        self.tally.learnt_again += work.iter().filter(|(_, carried, _)| carried.is_none()).count();
        let (site, standing, adopted) = (site.clone(), standing.clone(), Arc::clone(adopted));
        let component = host.component.clone();
        let judged = tokio::task::spawn_blocking(move || {
            work.into_iter()
                .map(|(question, carried, note)| {
                    let model = &adopted.model(&question.rule, &question.key, &component, &site);
                    if let Some(carried) = carried {
                        let points = points.get(&question.key).map(Vec::as_slice).unwrap_or_default();
                        let read_to_ms = points.last().map_or(carried.read_to_ms, |point| point.0 + 1);
                        return finish(question, carried.state, points, read_to_ms, span, model);
                    }
                    let means = means.get(&question.key).map(Vec::as_slice).unwrap_or_default();
                    let warned = standing.contains(&question.name());
                    let state = learn_again(&question, note, warned, means, span, model);
                    finish(question, state.0, state.1, span.closed_ms + 1, span, model)
                })
                .collect::<Vec<_>>()
        });
        judged.await.map_err(|error| StoreError::Setup(format!("a forecast ended abnormally: {error}")))
    }

    /// Writes down what was found, and carries the state where there is room: the likelier a crossing, the sooner.
    fn keep(&mut self, host: HostId, judged: Judged) {
        let Judged { question, read_to_ms, judged_to_ms, state, answer } = judged;
        let note = Note {
            judged_to_ms,
            probability: answer.probability,
            calm_below: state.calm_below(question.threshold),
            threshold: question.threshold,
            horizon_ms: question.horizon_ms,
            kept: state.kept(),
        };
        let name = question.name();
        self.books.entry(host).or_default().notes.insert(name.clone(), note);
        let carried = Carried { read_to_ms, bytes: state.bytes(), state, probability: answer.probability };
        while self.carried_bytes + carried.bytes > CARRIED_BYTES_MAX {
            let calmest = self.carried.iter().min_by(|a, b| a.1.probability.total_cmp(&b.1.probability));
            match calmest.map(|(name, other)| (name.clone(), other.probability)) {
                Some((name, probability)) if probability < carried.probability => {
                    self.carried_bytes -= self.carried.remove(&name).map_or(0, |other| other.bytes);
                }
                // Those that are carried stay: to change them round and round would be the same work for nothing.
                _ => return,
            }
        }
        self.carried_bytes += carried.bytes;
        self.carried.insert(name, carried);
    }
}

/// In this order series are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// A warning stands or is near.
    Warned,
    /// It has moved to where a crossing is possible.
    Moved,
    /// Never judged.
    Unknown,
    /// Calm, and the state is at hand.
    Carried,
    /// Calm; the longest waiting first.
    Calm,
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
    let known = note.filter(|note| note.judged_to_ms <= span.closed_ms);
    let goes_on = known.as_ref().map(|note| note.judged_to_ms).filter(|judged_to_ms| *judged_to_ms >= oldest_ms);
    let learn_to_ms = goes_on.unwrap_or(span.closed_ms - JUDGED_BUCKETS * model.step_ms);
    let (old, new) = means.split_at(means.partition_point(|point| point.0 <= learn_to_ms));
    let empty = forecast::State::new(question.horizon_ms, model);
    let learnt = forecast::learn(empty, old, question.horizon_ms, learn_to_ms + model.close_after_ms, model);
    let state = match known {
        Some(note) if goes_on.is_some() => learnt.with_kept(note.kept),
        Some(note) => learnt.with_kept(note.kept.standing_only()),
        None => learnt.with_warning(warned),
    };
    (state, new)
}

fn finish(
    question: Question,
    state: forecast::State,
    points: &[(i64, f64)],
    read_to_ms: i64,
    span: Span,
    model: &Model,
) -> Judged {
    let (state, answer) = forecast::step(state, points, question.threshold, question.horizon_ms, span.now_ms, model);
    Judged { question, read_to_ms, judged_to_ms: span.closed_ms, state, answer }
}

fn keys<'a>(questions: impl Iterator<Item = &'a Question>) -> Vec<SeriesKey> {
    let mut keys: Vec<SeriesKey> = questions.map(|question| question.key.clone()).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn write_book(notes: &HashMap<Name, Note>) -> Result<String, StoreError> {
    let mut rows: Vec<NoteRow> = notes
        .iter()
        .map(|((rule, key), note)| NoteRow {
            rule: rule.clone(),
            entity: key.entity,
            metric: key.metric.clone(),
            instance: key.instance.clone(),
            note: note.clone(),
        })
        .collect();
    rows.sort_by(|a, b| (&a.rule, a.entity, &a.metric, &a.instance).cmp(&(&b.rule, b.entity, &b.metric, &b.instance)));
    serde_json::to_string(&rows).map_err(|error| StoreError::Corrupt(format!("kept forecasts: {error}")))
}

fn read_book(host: HostId, body: &str) -> Result<HashMap<Name, Note>, serde_json::Error> {
    let rows: Vec<NoteRow> = serde_json::from_str(body)?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let key = SeriesKey { host, entity: row.entity, metric: row.metric, instance: row.instance };
            ((row.rule, key), row.note)
        })
        .collect())
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
        finish(question(horizon_ms), state, points, closed_ms + 1, at(closed_ms), &model())
    }

    /// A history of which only the last bucket is judged.
    fn learnt(points: &[(i64, f64)], horizon_ms: i64) -> Judged {
        let (last, past) = points.split_last().unwrap();
        let empty = forecast::State::new(horizon_ms, &model());
        let end_ms = past.last().unwrap().0;
        let state = forecast::learn(empty, past, horizon_ms, end_ms + model().close_after_ms, &model());
        turn(state, &[*last], last.0, horizon_ms)
    }

    fn note(judged: &Judged) -> Note {
        Note {
            judged_to_ms: judged.judged_to_ms,
            probability: judged.answer.probability,
            calm_below: judged.state.calm_below(judged.question.threshold),
            threshold: judged.question.threshold,
            horizon_ms: judged.question.horizon_ms,
            kept: judged.state.kept(),
        }
    }

    /// Through the bytes that the database has.
    fn through_the_book(note: Note, horizon_ms: i64) -> Note {
        let name = question(horizon_ms).name();
        let body = write_book(&HashMap::from([(name.clone(), note)])).unwrap();
        read_book(HOST, &body).unwrap().remove(&name).unwrap()
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
                    kept = Some(through_the_book(note(&went_on), horizon_ms));
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
        let body = write_book(&HashMap::from([(question(horizon_ms).name(), note(&judged))])).unwrap();
        assert!(body.contains("mean") && body.len() <= 2048, "{} bytes", body.len());
    }

    #[test]
    fn carried_states_stay_within_their_room_and_the_likeliest_are_kept() {
        let points = disk(15 * DAY);
        let end_ms = points.last().unwrap().0;
        let mut forecaster = Forecaster::default();
        let one = learnt(&points, 3_600_000);
        for i in 0..400 {
            let Judged { question, state, answer, .. } = &one;
            let (question, state, answer) = (question.clone(), state.clone(), answer.clone());
            let mut judged = Judged { question, read_to_ms: end_ms, judged_to_ms: end_ms, state, answer };
            judged.question.key.instance = format!("/{i}");
            judged.answer.probability = if i >= 390 { 0.9 } else { 0.0 };
            forecaster.keep(HOST, judged);
        }
        assert!(forecaster.carried_bytes <= CARRIED_BYTES_MAX);
        assert_eq!(forecaster.carried_bytes, forecaster.carried.values().map(|carried| carried.bytes).sum::<usize>());
        assert!(forecaster.carried.len() < 400, "there was not room for all");
        let likely = forecaster.carried.values().filter(|carried| carried.probability > 0.5).count();
        assert_eq!(likely, 10);
    }

    #[test]
    fn notes_and_carried_states_of_a_hundred_thousand_series_fit_64_mib() {
        // The map has room for twice as many at worst; three short texts on the heap.
        let note_bytes = 2 * size_of::<(Name, Note)>() + 3 * 32;
        assert!(100_000 * note_bytes + CARRIED_BYTES_MAX <= 64 << 20, "{note_bytes} bytes a series");
    }

    #[test]
    fn urgent_series_come_first_and_a_calm_one_when_it_has_moved() {
        let mut forecaster = Forecaster::default();
        let points = disk(15 * DAY);
        let flat: Vec<(i64, f64)> = points.iter().map(|p| (p.0, 20.0 + (p.0 / STEP_MS % 7) as f64 * 0.1)).collect();
        let judged = learnt(&flat, 3_600_000);
        let calm_note = note(&judged);
        assert!(calm_note.calm_below.is_some_and(|calm| (21.0..90.0).contains(&calm)), "{calm_note:?}");
        let calm = question(3_600_000);
        forecaster.books.entry(HOST).or_default().notes.insert(calm.name(), calm_note.clone());
        let levels = |level: f64| HashMap::from([(calm.key.clone(), level)]);
        let urgency = |forecaster: &Forecaster, level| forecaster.urgency(&calm, &levels(level), &HashSet::new()).0;
        assert_eq!(urgency(&forecaster, 21.0), Urgency::Calm);
        assert_eq!(urgency(&forecaster, 89.9), Urgency::Moved);
        let near = Note { probability: 0.4, ..calm_note };
        forecaster.books.entry(HOST).or_default().notes.insert(calm.name(), near);
        assert_eq!(urgency(&forecaster, 21.0), Urgency::Warned);
        assert!(Urgency::Warned < Urgency::Moved && Urgency::Moved < Urgency::Calm);
    }
}
