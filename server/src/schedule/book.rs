//! What is known of a question between its turns: the note, when it lets a series pass unjudged, and the notes of a
//! host as one row of the database. Pure; no store and no clock enters here.

use std::collections::HashMap;

use forewarn_common::id::{EntityId, HostId};
use serde::{Deserialize, Serialize};

use crate::forecast::{Calm, Kept};
use crate::model::series::SeriesKey;
use crate::store::StoreError;

/// A calm series is judged in full this often at least: its most and its noise may have changed.
pub(super) const CALM_FOR_MS: i64 = 6 * 3_600_000;
/// Buckets that one look may make good: the hour since a book was written, and an hour without a server. A series
/// that was looked at longer ago is judged in full.
pub(super) const LOOK_BUCKETS: i64 = 24;

/// Names and times repeat from note to note: the first level takes them out.
const PACK_LEVEL: i32 = 1;

/// Rule and series of a question.
pub(super) type Name = (String, SeriesKey);

/// What is known of a question between its turns. There is one for every series: small.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The last bucket that was judged, or passed by a look.
    pub(super) judged_to_ms: i64,
    /// The last bucket that was judged in full.
    #[serde(default)]
    pub(super) full_ms: i64,
    pub(super) probability: f32,
    /// By which settings it was judged.
    #[serde(default)]
    pub(super) model: u32,
    #[serde(default)]
    pub(super) rest: Option<Rest>,
    /// Against what it was judged; another threshold or horizon is another question.
    pub(super) threshold: f64,
    pub(super) horizon_ms: i64,
    pub(super) kept: Kept,
}

/// Within which bounds a series may pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Rest {
    pub(super) calm: Calm,
    /// The lowest level since it was judged in full.
    pub(super) low: f32,
}

impl Note {
    /// The note of a calm series after the buckets up to `closed_ms`, of which these are the newest means: every one
    /// was seen, none is up to where a crossing begins to be possible, and none rose above the lowest since the last
    /// full judgement by more than this series ever did within a horizon. None if it is to be judged. Without a new
    /// bucket every note stays, a warned one too.
    pub(super) fn passed(&self, means: &[(i64, f64)], closed_ms: i64, step_ms: i64) -> Option<Passed> {
        if closed_ms == self.judged_to_ms {
            return Some(Passed { to_ms: closed_ms, rest: self.rest });
        }
        let mut rest = self.rest?;
        let buckets = (closed_ms - self.judged_to_ms).div_euclid(step_ms.max(1));
        if !(0..=LOOK_BUCKETS).contains(&buckets) {
            return None;
        }
        let new = &means[means.partition_point(|point| point.0 <= self.judged_to_ms)..];
        if new.len() as i64 != buckets {
            return None;
        }
        for (_, level) in new {
            let level = *level as f32;
            rest.low = rest.low.min(level);
            if level >= rest.calm.below || level - rest.low > rest.calm.rise {
                return None;
            }
        }
        Some(Passed { to_ms: closed_ms, rest: Some(rest) })
    }

    pub(super) fn pass(&mut self, passed: Passed) {
        self.judged_to_ms = passed.to_ms;
        self.rest = passed.rest;
    }
}

/// That a series may pass, and up to when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Passed {
    to_ms: i64,
    rest: Option<Rest>,
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
pub(super) struct Book {
    pub(super) host: HostId,
    pub(super) written_ms: i64,
    /// How many answers of this host are stored, once that is known.
    pub(super) answers: Option<usize>,
    /// Questions asked of it at this turn.
    pub(super) questions: usize,
    pub(super) notes: HashMap<Name, Note>,
}

/// A closed book: there is one in memory for every host, a few dozen bytes a series.
pub(super) struct Packed {
    written_ms: i64,
    answers: Option<usize>,
    /// Questions asked of the host at its last turn, judged or not: its share of a period goes by them.
    pub(super) questions: usize,
    /// What the database has of it, as zstd, and how long it is.
    text_bytes: usize,
    body: Box<[u8]>,
}

impl Packed {
    pub(super) fn open(&self, host: HostId) -> Result<Book, StoreError> {
        let body = zstd::bulk::decompress(&self.body, self.text_bytes).map_err(damaged)?;
        let book = Book::read(host, self.written_ms, std::str::from_utf8(&body).map_err(damaged)?)?;
        Ok(Book { answers: self.answers, questions: self.questions, ..book })
    }
}

fn damaged(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("kept forecasts: {error}"))
}

impl Book {
    /// An empty one.
    pub(super) fn of(host: HostId) -> Self {
        Self { host, written_ms: 0, answers: None, questions: 0, notes: HashMap::new() }
    }

    pub(super) fn pack(&self) -> Result<Packed, StoreError> {
        let text = self.write()?;
        let body = zstd::bulk::compress(text.as_bytes(), PACK_LEVEL).map_err(damaged)?;
        let Self { written_ms, answers, questions, .. } = *self;
        Ok(Packed { written_ms, answers, questions, text_bytes: text.len(), body: body.into() })
    }

    pub(super) fn write(&self) -> Result<String, StoreError> {
        let mut rows: Vec<NoteRow> = self
            .notes
            .iter()
            .map(|((rule, key), note)| NoteRow {
                rule: rule.clone(),
                entity: key.entity,
                metric: key.metric.clone(),
                instance: key.instance.clone(),
                note: note.clone(),
            })
            .collect();
        rows.sort_by(|a, b| {
            (&a.rule, a.entity, &a.metric, &a.instance).cmp(&(&b.rule, b.entity, &b.metric, &b.instance))
        });
        serde_json::to_string(&rows).map_err(damaged)
    }

    pub(super) fn read(host: HostId, written_ms: i64, body: &str) -> Result<Self, StoreError> {
        let rows: Vec<NoteRow> = serde_json::from_str(body).map_err(damaged)?;
        let notes = rows.into_iter().map(|row| {
            let key = SeriesKey { host, entity: row.entity, metric: row.metric, instance: row.instance };
            ((row.rule, key), row.note)
        });
        Ok(Self { written_ms, notes: notes.collect(), ..Self::of(host) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const STEP_MS: i64 = 300_000;

    fn calm() -> Note {
        let rest = Rest { calm: Calm { below: 60.0, rise: 10.0 }, low: 40.0 };
        Note {
            judged_to_ms: 10 * STEP_MS,
            full_ms: 10 * STEP_MS,
            probability: 0.0,
            model: 0,
            rest: Some(rest),
            threshold: 90.0,
            horizon_ms: 12 * STEP_MS,
            kept: Kept::default(),
        }
    }

    fn passes(note: &Note, levels: &[f64], closed: i64) -> bool {
        let means: Vec<(i64, f64)> = (0..).map(|i| (9 + i) * STEP_MS).zip(levels.iter().copied()).collect();
        note.passed(&means, closed * STEP_MS, STEP_MS).is_some()
    }

    #[test]
    fn calm_series_passes_only_where_every_bucket_was_seen_low_and_steady() {
        let note = calm();
        assert!(passes(&note, &[40.0, 41.0, 42.0], 11), "older buckets of the look do not count");
        assert!(passes(&note, &[], 10), "nothing new, nothing to judge");
        assert!(passes(&note, &[99.0, 99.0, 45.0, 46.0, 47.0], 13));
        assert!(!passes(&note, &[40.0, 41.0, 42.0], 12), "a bucket is missing");
        assert!(passes(&note, &[40.0; 26], 10 + LOOK_BUCKETS));
        assert!(!passes(&note, &[40.0; 27], 11 + LOOK_BUCKETS), "longer ago than a look reaches");
        assert!(!passes(&note, &[40.0, 41.0, 60.0], 11), "where a crossing begins to be possible");
        assert!(!passes(&note, &[40.0, 41.0, 51.0], 11), "a steeper rise than ever");
        assert!(!passes(&note, &[40.0, 41.0], 9), "a clock that went back");
        let restless = Note { rest: None, ..note };
        assert!(passes(&restless, &[], 10), "its last answer is still the newest");
        assert!(!passes(&restless, &[40.0, 41.0, 42.0], 11));
    }

    #[test]
    fn rise_is_counted_from_the_lowest_since_the_last_full_judgement() {
        let mut note = calm();
        for (bucket, level) in [(11, 35.0), (12, 38.0), (13, 44.0)] {
            let passed = note.passed(&[(bucket * STEP_MS, level)], bucket * STEP_MS, STEP_MS).unwrap();
            note.pass(passed);
        }
        assert_eq!(note.rest.map(|rest| rest.low), Some(35.0));
        assert!(note.passed(&[(14 * STEP_MS, 45.5)], 14 * STEP_MS, STEP_MS).is_none());
    }

    #[test]
    fn closed_book_of_a_hundred_series_takes_six_kilobytes_and_opens_as_it_was() {
        let host = HostId([3; 16]);
        let mut book = Book { written_ms: 7, answers: Some(100), questions: 120, ..Book::of(host) };
        for i in 0..100_u32 {
            let (metric, instance) = ("container_memory_used_ratio".to_owned(), format!("/data/{i}"));
            let key = SeriesKey { host, entity: EntityId(u64::from(i).wrapping_mul(0x9e37_79b9)), metric, instance };
            let odd = (f64::from(i) * 0.7).sin() as f32;
            let rest = Rest { calm: Calm { below: 60.0 + odd, rise: 10.0 * odd }, low: 40.0 - odd };
            let note = Note { probability: odd.abs() / 50.0, rest: Some(rest), ..calm() };
            book.notes.insert(("container-memory".to_owned(), key), note);
        }
        let packed = book.pack().unwrap();
        assert!(packed.body.len() <= 6 << 10, "{} bytes", packed.body.len());
        let opened = packed.open(host).unwrap();
        assert_eq!((opened.written_ms, opened.answers, opened.questions), (7, Some(100), 120));
        assert_eq!(opened.notes, book.notes);
    }

    #[test]
    fn numbers_of_a_closed_book_are_the_same_to_the_bit() {
        let host = HostId([3; 16]);
        let mut book = Book::of(host);
        for i in 0..2000_u32 {
            let key = SeriesKey { host, entity: EntityId(u64::from(i)), metric: "m".into(), instance: String::new() };
            let threshold = 100.0 * f64::from(i).sin().abs() / 3.0;
            book.notes.insert(("rule".to_owned(), key), Note { threshold, ..calm() });
        }
        assert_eq!(book.pack().unwrap().open(host).unwrap().notes, book.notes);
    }

    #[test]
    fn book_that_cannot_be_read_is_an_error_and_no_panic() {
        let host = HostId([3; 16]);
        let packed = Book::of(host).pack().unwrap();
        assert!(Packed { text_bytes: 0, ..packed }.open(host).is_err());
        assert!(Book::read(host, 0, "[{\"rule\": null}]").is_err());
    }
}
