//! The parsers of this room from outside, for fuzz targets and benches; the agent itself does not use it.

use forewarn_common::keyword::{KeywordRule, Subject};

use super::frame::{Joiner, LINE_MATCHED_BYTES_MAX};
use super::{Format, Matcher, RuleError};

const FORMATS: [Format; 3] = [Format::Plain, Format::JsonFile, Format::Cri];

/// Compiled rules.
#[derive(Debug)]
pub struct Scanner {
    matcher: Matcher,
    fold: Vec<u8>,
    starts: Vec<usize>,
    found: Vec<(usize, std::ops::Range<usize>)>,
}

impl Scanner {
    /// Compiles rules.
    ///
    /// # Errors
    /// One cannot be used; the text names it.
    pub fn new(rules: &[KeywordRule]) -> Result<Self, String> {
        let matcher = Matcher::compile(rules).map_err(|error: RuleError| error.to_string())?;
        Ok(Self { matcher, fold: Vec::new(), starts: Vec::new(), found: Vec::new() })
    }

    /// Where the lines begin that may hit, found without taking them apart.
    pub fn scan(&mut self, lines: &[u8]) -> &[usize] {
        self.matcher.scan(lines, &mut self.fold, &mut self.starts);
        &self.starts
    }

    /// Reads whole lines of a log file one by one: where those begin that hit.
    ///
    /// # Panics
    /// What is joined breaks its bound.
    pub fn read(&mut self, format: u8, lines: &[u8]) -> Vec<usize> {
        let format = FORMATS[usize::from(format) % FORMATS.len()];
        let (mut joiner, mut scratch, mut hits, mut at) = (Joiner::default(), Vec::new(), Vec::new(), 0);
        for record in lines.split_inclusive(|byte| *byte == b'\n') {
            let parsed = format.parse(record.strip_suffix(b"\n").unwrap_or(record), &mut scratch);
            if let Some(line) = joiner.add(&parsed, at as u64) {
                assert!(line.text.len() <= LINE_MATCHED_BYTES_MAX, "a line is longer than its bound");
                self.matcher.find(line.text, &mut self.found);
                let is_joined = line.from != at as u64;
                hits.extend((!self.found.is_empty() && !is_joined).then_some(at));
            }
            at += record.len();
        }
        hits
    }

    /// Which rules look at the log of a container of this name.
    #[must_use]
    pub fn applies_to(&self, name: &str) -> bool {
        let subject = Subject { name: name.to_owned(), ..Subject::default() };
        self.matcher.applies_to(&subject).by_line
    }
}
