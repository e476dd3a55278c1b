//! Finds the keyword rules that a line hits.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use forewarn_common::keyword::{KeywordRule, Severity};
use forewarn_common::limit;
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
        })
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
