//! Lines that belong together: a stack trace is one record, and hits a rule once however many of its lines do.
//!
//! Nothing is held back and nothing is copied: lines are matched one by one as they come, and only the rules that the
//! record has hit so far are remembered.

use regex::bytes::{Regex, RegexBuilder};

use forewarn_common::limit;

/// A record ends after this many lines or this long after it began, whatever they look like.
const RECORD_LINES_MAX: usize = 200;
const RECORD_MS_MAX: i64 = 1_000;
/// What goes on with an exception without being indented.
const CONTINUATIONS: [&[u8]; 3] = [b"Caused by:", b"Suppressed:", b"... "];

/// How the first line of a record is told from those that belong to it.
#[derive(Debug, Clone, Default)]
pub(crate) enum FirstLine {
    /// What is indented belongs to the line before it.
    #[default]
    NotIndented,
    /// A record begins where this matches.
    Matches(Regex),
}

impl FirstLine {
    /// The rule of a setting: a regular expression, or nothing.
    ///
    /// # Errors
    /// It does not compile; the text says why.
    pub(crate) fn compile(pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() {
            return Ok(Self::NotIndented);
        }
        let compiled = RegexBuilder::new(pattern).size_limit(limit::REGEX_BYTES_MAX).build();
        compiled.map(Self::Matches).map_err(|error| error.to_string())
    }

    /// Whether a record begins with this line.
    pub(super) fn begins(&self, text: &[u8]) -> bool {
        match self {
            Self::NotIndented => {
                let is_indented = matches!(text.first(), Some(b' ' | b'\t'));
                !is_indented && !CONTINUATIONS.iter().any(|word| text.starts_with(word))
            }
            Self::Matches(regex) => regex.is_match(text),
        }
    }
}

/// The record that is open in one log, if it has hit anything.
#[derive(Debug, Default)]
pub(super) struct Group {
    rules: Vec<usize>,
    lines: usize,
    begun_ms: i64,
}

impl Group {
    /// Goes on with a line that hit something, or that would end the record.
    pub(super) fn step(&mut self, begins: bool, now_ms: i64) {
        self.lines += 1;
        if begins || self.lines > RECORD_LINES_MAX || now_ms - self.begun_ms > RECORD_MS_MAX {
            self.rules.clear();
            (self.lines, self.begun_ms) = (1, now_ms);
        }
    }

    /// Goes past lines that were not looked at one by one.
    pub(super) fn pass(&mut self, lines: usize) {
        self.lines += lines;
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Forgets the record: another one has begun.
    pub(super) fn end(&mut self) {
        self.rules.clear();
    }

    /// Notes a hit. `false` when the record has hit that rule before.
    pub(super) fn note(&mut self, rule: usize) -> bool {
        let is_new = !self.rules.contains(&rule);
        if is_new {
            self.rules.push(rule);
        }
        is_new
    }
}
