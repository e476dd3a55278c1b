//! Finds the keyword rules that a line hits.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use forewarn_common::keyword::{KeywordRule, Severity};
use forewarn_common::limit;
use memchr::{memchr, memrchr};
use regex::bytes::{Regex, RegexBuilder};

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

/// Finds the lines of a file that may hit, escapes and all, without taking the lines apart.
///
/// Of every literal only the longest run of bytes is looked for that no log driver escapes; so no hit is missed, and
/// what is found is looked at again as a line.
#[derive(Debug)]
struct Scan(Vec<AhoCorasick>);

impl Scan {
    /// `None` where a rule can only be judged line by line.
    fn compile(rules: &[KeywordRule]) -> Option<Self> {
        let (mut exact, mut folded) = (Vec::new(), Vec::new());
        for rule in rules {
            if !rule.regexes.is_empty() {
                return None;
            }
            let set = if rule.ignore_case { &mut folded } else { &mut exact };
            for literal in &rule.literals {
                let plain = |byte: &u8| !matches!(byte, 0..0x20 | b'"' | b'\\' | b'<' | b'>' | b'&' | b'/' | 0x7f);
                let run = literal.as_bytes().split(|byte| !plain(byte)).max_by_key(|run| run.len())?;
                if run.is_empty() {
                    return None;
                }
                set.push(run.to_vec());
            }
        }
        let packed = shortest(exact).chunks(PACKED_PATTERNS_MAX).map(|set| build(set, false)).collect::<Vec<_>>();
        let folded = shortest(folded).chunks(limit::KEYWORD_RULES_MAX).map(|set| build(set, true)).collect::<Vec<_>>();
        packed.into_iter().chain(folded).collect::<Option<Vec<_>>>().map(Self)
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

fn build(patterns: &[Vec<u8>], ignore_case: bool) -> Option<AhoCorasick> {
    AhoCorasick::builder()
        .ascii_case_insensitive(ignore_case)
        .match_kind(MatchKind::LeftmostFirst)
        .kind(Some(AhoCorasickKind::ContiguousNFA))
        .build(patterns)
        .ok()
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
    rules: Vec<(String, Severity)>,
    exact: Option<Literals>,
    folded: Option<Literals>,
    regexes: Vec<(Regex, usize)>,
    scan: Option<Scan>,
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
            let patterns = rule.literals.len() + rule.regexes.len();
            within(
                &format!("number of patterns of keyword rule {}", rule.name),
                patterns,
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
        Ok(Self {
            rules: rules.iter().map(|rule| (rule.name.clone(), rule.severity)).collect(),
            exact: Literals::compile(&exact, false)?,
            folded: Literals::compile(&folded, true)?,
            regexes,
            scan: Scan::compile(rules),
        })
    }

    /// Puts where the lines begin that may hit into `starts`, ascending. `false` when every line must be looked at.
    pub(super) fn scan(&self, lines: &[u8], starts: &mut Vec<usize>) -> bool {
        starts.clear();
        let Some(Scan(searchers)) = &self.scan else { return false };
        for searcher in searchers {
            let mut from = 0;
            while let Some(found) = searcher.find(Input::new(lines).range(from..)) {
                let start = memrchr(b'\n', &lines[..found.start()]).map_or(0, |end| end + 1);
                starts.push(start);
                from = memchr(b'\n', &lines[found.end()..]).map_or(lines.len(), |end| found.end() + end + 1);
            }
        }
        if searchers.len() > 1 {
            starts.sort_unstable();
            starts.dedup();
        }
        true
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
    }

    /// The name and severity of a rule.
    pub(super) fn rule(&self, index: usize) -> Option<(&str, Severity)> {
        self.rules.get(index).map(|(name, severity)| (name.as_str(), *severity))
    }
}
