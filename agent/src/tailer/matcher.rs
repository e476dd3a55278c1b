//! Finds the keyword rules that a line hits.

use std::fmt;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use forewarn_common::keyword::{self, KeywordRule, Severity, Subject};
use forewarn_common::limit;
use memchr::{memchr, memmem, memrchr};
use regex::bytes::{Regex, RegexBuilder};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum RuleError {
    /// Too many rules, or patterns in a rule.
    #[error("{what} is {got}, the limit is {max}")]
    Limit {
        /// What is too much.
        what: String,
        /// How much it is.
        got: usize,
        /// How much it may be.
        max: usize,
    },
    /// A name that does not fit.
    #[error("keyword rule name {0:?} must have lower-case letters, digits, _ and - only, and be unique")]
    Name(String),
    /// A literal that would match everything.
    #[error("keyword rule {0} has an empty pattern; remove it")]
    Empty(String),
    /// A field or a selector that means nothing.
    #[error("keyword rule {0}: {1}")]
    Fault(String, String),
    /// A regex that does not compile.
    #[error("keyword rule {rule}: regex {regex:?} cannot be used: {detail}")]
    Regex {
        /// The rule.
        rule: String,
        /// The pattern.
        regex: String,
        /// What the compiler said.
        detail: String,
    },
    /// The literals do not compile.
    #[error("keyword literals cannot be used: {0}")]
    Literals(String),
}

/// Patterns that one packed searcher takes; beyond it the search falls back to a byte at a time.
const PACKED_PATTERNS_MAX: usize = 48;

/// Bytes whose case is folded at once: they stay in the nearest cache for the search.
const FOLDED_BYTES: usize = 32 << 10;

/// What drivers write around every record, but for its time.
const FRAME: &[u8] = br#"{"log":"\n","stream":"stdout","stream":"stderr","time":"Z"} stdout F stderr F "#;

/// By as many first bytes a packed searcher looks for a pattern.
const START_BYTES: usize = 4;

/// Finds the lines of a file that may hit, escapes and all, without taking the lines apart.
///
/// Of every literal only a run of bytes is looked for that no log driver escapes; so no hit is missed, and what is found
/// is looked at again as a line.
#[derive(Debug)]
struct Scan {
    exact: Vec<AhoCorasick>,
    /// Of lower-case patterns: a packed search over folded text is several times quicker than one that folds.
    folded: Vec<AhoCorasick>,
}

impl Scan {
    /// The scan, and which rules can only be judged line by line.
    fn compile(rules: &[KeywordRule]) -> Result<(Self, Vec<bool>), RuleError> {
        let (mut exact, mut folded, mut by_line) = (Vec::new(), Vec::new(), Vec::new());
        for rule in rules {
            let values = rule.fields.iter().filter_map(|text| Some(keyword::field_of(text)?.1));
            let texts = rule.literals.iter().map(String::as_str).chain(values);
            let runs: Option<Vec<&[u8]>> = texts.map(|text| plain_run(text).map(without_frame)).collect();
            by_line.push(runs.is_none() || !rule.regexes.is_empty());
            let runs = runs.into_iter().flatten();
            if rule.ignore_case {
                folded.extend(runs.map(<[u8]>::to_ascii_lowercase));
            } else {
                exact.extend(runs.map(<[u8]>::to_vec));
            }
        }
        let build = |patterns| shortest(patterns).chunks(PACKED_PATTERNS_MAX).map(build).collect::<Result<Vec<_>, _>>();
        Ok((Self { exact: build(exact)?, folded: build(folded)? }, by_line))
    }

    fn find(&self, lines: &[u8], fold: &mut Vec<u8>, starts: &mut Vec<usize>) {
        starts.clear();
        self.exact.iter().for_each(|searcher| find_lines(searcher, lines, 0, starts));
        if !self.folded.is_empty() {
            let mut from = 0;
            while let Some(rest) = lines.get(from..).filter(|rest| !rest.is_empty()) {
                let near = rest.get(..FOLDED_BYTES).and_then(|near| memrchr(b'\n', near));
                let end = near.or_else(|| memchr(b'\n', rest)).map_or(rest.len(), |end| end + 1);
                fold.clear();
                fold.extend_from_slice(&rest[..end]);
                fold_case(fold);
                self.folded.iter().for_each(|searcher| find_lines(searcher, fold, from, starts));
                from += end;
            }
        }
        if self.exact.len() + self.folded.len() > 1 {
            starts.sort_unstable();
            starts.dedup();
        }
    }
}

/// ASCII letters to lower case, eight bytes at a time: as quick where code is compiled to be small.
pub(super) fn fold_case(text: &mut [u8]) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = text.as_chunks_mut::<8>();
    for word in words {
        let bytes = u64::from_le_bytes(*word);
        let low = bytes & (0x7f * ONES);
        // The top bit of a byte tells whether it is at least `A`, and whether it is beyond `Z`.
        let from_a = low + (0x80 - u64::from(b'A')) * ONES;
        let beyond_z = low + (0x7f - u64::from(b'Z')) * ONES;
        let is_upper = (from_a ^ beyond_z) & !bytes & (0x80 * ONES);
        *word = (bytes | is_upper >> 2).to_le_bytes();
    }
    rest.make_ascii_lowercase();
}

/// The longest part of a text that is in a log file as it was printed.
fn plain_run(text: &str) -> Option<&[u8]> {
    let plain = |byte: &u8| !matches!(byte, 0..0x20 | b'"' | b'\\' | b'<' | b'>' | b'&' | b'/' | 0x7f);
    text.as_bytes().split(|byte| !plain(byte)).max_by_key(|run| run.len()).filter(|run| !run.is_empty())
}

/// The run from where it begins like nothing in a record's frame: a searcher would stop at every record.
pub(super) fn without_frame(run: &[u8]) -> &[u8] {
    let is_framed = |pair: &[u8]| FRAME.windows(2).any(|frame| frame.eq_ignore_ascii_case(pair));
    let from = run.windows(START_BYTES).position(|start| !is_framed(&start[..2]));
    &run[from.unwrap_or(0)..]
}

/// Adds where the lines begin that the searcher hits; `base` is where `lines` begin.
fn find_lines(searcher: &AhoCorasick, lines: &[u8], base: usize, starts: &mut Vec<usize>) {
    let mut from = 0;
    while let Some(found) = searcher.find(Input::new(lines).range(from..)) {
        starts.push(base + memrchr(b'\n', &lines[..found.start()]).map_or(0, |end| end + 1));
        from = memchr(b'\n', &lines[found.end()..]).map_or(lines.len(), |end| found.end() + end + 1);
    }
}

/// The patterns without those that contain another one: where they are, the shorter one is.
fn shortest(mut patterns: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    patterns.sort_by_key(Vec::len);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for pattern in patterns {
        if !kept.iter().any(|shorter| memchr::memmem::find(&pattern, shorter).is_some()) {
            kept.push(pattern);
        }
    }
    // Neighbours in the alphabet share their first bytes: a searcher of like patterns has fewer false starts.
    kept.sort();
    kept
}

fn build(patterns: &[Vec<u8>]) -> Result<AhoCorasick, RuleError> {
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostFirst)
        .kind(Some(AhoCorasickKind::ContiguousNFA))
        .build(patterns)
        .map_err(|error| RuleError::Literals(error.to_string()))
}

/// Whether a line that is a JSON object has a field of this value.
struct Field<'a> {
    /// What is left of the path; empty at the value. Names may have dots themselves.
    path: &'a str,
    value: &'a str,
    ignore_case: bool,
}

impl Field<'_> {
    fn is_in(&self, text: &[u8]) -> bool {
        let is_object = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        is_object && self.deserialize(&mut serde_json::Deserializer::from_slice(text)).unwrap_or(false)
    }

    fn is(&self, text: &str) -> bool {
        self.path.is_empty()
            && if self.ignore_case { text.eq_ignore_ascii_case(self.value) } else { text == self.value }
    }

    /// The way on below `name`.
    fn below(&self, name: &str) -> Option<Self> {
        let rest = self.path.strip_prefix(name)?;
        let path = if rest.is_empty() { rest } else { rest.strip_prefix('.')? };
        Some(Self { path, ..*self })
    }
}

impl<'de> DeserializeSeed<'de> for &Field<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Field<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut is_found = false;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            is_found |= match self.below(&name).filter(|_| !self.path.is_empty()) {
                Some(below) => map.next_value_seed(&below)?,
                None => map.next_value::<IgnoredAny>().map(|_| false)?,
            };
        }
        Ok(is_found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(self.is(text))
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        Ok(self.is(if value { "true" } else { "false" }))
    }

    fn visit_i64<E>(self, value: i64) -> Result<bool, E> {
        Ok(self.is(&value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
        Ok(self.is(&value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<bool, E> {
        Ok(self.is(&value.to_string()))
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(self.is("null"))
    }
}

/// A literal set with the rule of each literal. The first search is quick and says only whether; the second finds
/// literals that overlap, in the few lines where the first one hit.
#[derive(Debug)]
struct Literals {
    quick: AhoCorasick,
    all: AhoCorasick,
    rules: Vec<usize>,
}

impl Literals {
    fn compile(patterns: &[(&str, usize)], ignore_case: bool) -> Result<Option<Self>, RuleError> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let build = |kind| {
            AhoCorasick::builder()
                .ascii_case_insensitive(ignore_case)
                .match_kind(kind)
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(patterns.iter().map(|(text, _)| text))
                .map_err(|error| RuleError::Literals(error.to_string()))
        };
        Ok(Some(Self {
            quick: build(MatchKind::LeftmostFirst)?,
            all: build(MatchKind::Standard)?,
            rules: patterns.iter().map(|(_, rule)| *rule).collect(),
        }))
    }

    fn find(&self, text: &[u8], hit: &mut impl FnMut(usize, Range<usize>)) {
        if self.quick.is_match(text) {
            for found in self.all.find_overlapping_iter(text) {
                if let Some(rule) = self.rules.get(found.pattern().as_usize()) {
                    hit(*rule, found.range());
                }
            }
        }
    }
}

/// Compiled rules.
#[derive(Debug)]
pub(crate) struct Matcher {
    exact: Option<Literals>,
    folded: Option<Literals>,
    regexes: Vec<(Regex, usize)>,
    /// The rules as they were given: fields and selectors are read from them.
    given: Vec<KeywordRule>,
    scan: Scan,
    by_line: Vec<bool>,
}

/// Which rules look at one log.
#[derive(Debug, Clone, Default)]
pub(super) struct Applies {
    /// `None` when all of them do.
    rules: Option<Box<[bool]>>,
    /// Whether one of them can only be judged line by line.
    pub(super) by_line: bool,
}

impl Applies {
    pub(super) fn has(&self, rule: usize) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.get(rule) == Some(&true))
    }
}

impl Matcher {
    /// Compiles rules within the limits.
    ///
    /// # Errors
    /// A rule breaks a limit or does not compile; the text names it.
    pub(crate) fn compile(rules: &[KeywordRule]) -> Result<Self, RuleError> {
        let within = |what: &str, got: usize, max: usize| {
            if got > max { Err(RuleError::Limit { what: what.to_owned(), got, max }) } else { Ok(()) }
        };
        within("number of keyword rules", rules.len(), limit::KEYWORD_RULES_MAX)?;
        let (mut exact, mut folded, mut regexes) = (Vec::new(), Vec::new(), Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
            let unique = rules.iter().take(index).all(|other| other.name != rule.name);
            if rule.name.is_empty() || rule.name.len() > 64 || !rule.name.bytes().all(sound) || !unique {
                return Err(RuleError::Name(rule.name.chars().take(64).collect()));
            }
            if let Some(fault) = rule.fault() {
                return Err(RuleError::Fault(rule.name.clone(), fault));
            }
            within(
                &format!("number of patterns of keyword rule {}", rule.name),
                rule.patterns(),
                limit::KEYWORD_PATTERNS_MAX,
            )?;
            for text in rule.literals.iter().chain(&rule.regexes) {
                within(
                    &format!("length of a pattern of keyword rule {}", rule.name),
                    text.len(),
                    limit::LINE_BYTES_MAX,
                )?;
                if text.is_empty() {
                    return Err(RuleError::Empty(rule.name.clone()));
                }
            }
            let set = if rule.ignore_case { &mut folded } else { &mut exact };
            set.extend(rule.literals.iter().map(|text| (text.as_str(), index)));
            for text in &rule.regexes {
                let compiled = RegexBuilder::new(text)
                    .case_insensitive(rule.ignore_case)
                    .size_limit(limit::REGEX_BYTES_MAX)
                    .dfa_size_limit(limit::REGEX_BYTES_MAX)
                    .build()
                    .map_err(|error| RuleError::Regex {
                        rule: rule.name.clone(),
                        regex: text.clone(),
                        detail: error.to_string(),
                    })?;
                regexes.push((compiled, index));
            }
        }
        let (scan, by_line) = Scan::compile(rules)?;
        Ok(Self {
            exact: Literals::compile(&exact, false)?,
            folded: Literals::compile(&folded, true)?,
            regexes,
            given: rules.to_vec(),
            scan,
            by_line,
        })
    }

    /// Which rules look at the log of `subject`.
    pub(super) fn applies_to(&self, subject: &Subject) -> Applies {
        let rules: Box<[bool]> =
            self.given.iter().map(|rule| subject.is_wanted(&rule.include, &rule.exclude)).collect();
        let by_line = rules.iter().zip(&self.by_line).any(|(applies, by_line)| *applies && *by_line);
        Applies { rules: rules.contains(&false).then_some(rules), by_line }
    }

    /// Puts where the lines begin that may hit into `starts`, ascending. It sees no rule that is judged line by line.
    pub(super) fn scan(&self, lines: &[u8], fold: &mut Vec<u8>, starts: &mut Vec<usize>) {
        self.scan.find(lines, fold, starts);
    }

    /// Puts every rule that the line hits into `hits`, once, with where.
    pub(super) fn find(&self, text: &[u8], hits: &mut Vec<(usize, Range<usize>)>) {
        hits.clear();
        let mut hit = |rule: usize, at: Range<usize>| {
            if hits.iter().all(|(known, _)| *known != rule) {
                hits.push((rule, at));
            }
        };
        for literals in self.exact.iter().chain(&self.folded) {
            literals.find(text, &mut hit);
        }
        for (regex, rule) in &self.regexes {
            if let Some(found) = regex.find(text) {
                hit(*rule, found.range());
            }
        }
        for (index, rule) in self.given.iter().enumerate() {
            for (path, value) in rule.fields.iter().filter_map(|text| keyword::field_of(text)) {
                if (Field { path, value, ignore_case: rule.ignore_case }).is_in(text) {
                    let start = memmem::find(text, value.as_bytes()).unwrap_or(0);
                    hit(index, start..(start + value.len()).min(text.len()));
                }
            }
        }
    }

    /// The name and severity of a rule.
    pub(super) fn rule(&self, index: usize) -> Option<(&str, Severity)> {
        self.given.get(index).map(|rule| (rule.name.as_str(), rule.severity))
    }
}
