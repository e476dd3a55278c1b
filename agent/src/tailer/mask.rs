//! Hides secrets in the lines that leave the host. The built-in rules cannot be removed, only added to.

use std::cell::OnceCell;

use forewarn_common::limit;
use regex::{Regex, RegexBuilder};

/// A line is cut to this before it is masked: work a line stays bounded.
const MASKED_BYTES_MAX: usize = 32 << 10;

/// What is hidden everywhere; the first group, if any, stays readable.
const BUILT_IN: [&str; 7] = [
    // key=value and "key": "value" of anything that is called a secret, in either language
    r#"(?i)((?:passwords?|passwd|pwd|secrets?|tokens?|api[_-]?keys?|access[_-]?keys?|private[_-]?keys?|credentials?|密码|口令|密钥|令牌)[a-z0-9_]{0,16}["']?\s*(?:[:=：]|=>)\s*)(?:"[^"]*"|'[^']*'|[^\s"',;&}\]]+)"#,
    // header with or without a scheme
    r#"(?i)((?:proxy-)?authorization["']?\s*[:=]\s*["']?)(?:(?:basic|bearer|digest|negotiate|token)\s+)?[^\s"',;]+"#,
    r"(?i)(bearer\s+)[a-z0-9._~+/=-]{8,}",
    // user:password@ of a URL
    r"(://)[^\s:/@]*:[^\s@/]+@",
    // JSON web tokens, and keys that name themselves
    r"()eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?",
    r"()(?:AKIA|ASIA|LTAI)[0-9A-Za-z]{12,}|fwt1\.\S+",
    // ID numbers of 18 digits; a Chinese character beside them is a border too
    r"((?-u:\b))[1-9][0-9]{16}[0-9Xx](?-u:\b)",
];

/// The masks of this host.
#[derive(Debug)]
pub(super) struct Masks {
    own: Vec<String>,
    compiled: OnceCell<Vec<Regex>>,
}

impl Masks {
    /// The built-in masks and `own`.
    ///
    /// # Errors
    /// One of `own` does not compile: its text and why.
    pub(super) fn new(own: &[String]) -> Result<Self, String> {
        for pattern in own {
            compile(&format!("()(?:{pattern})"))
                .map_err(|error| format!("mask {pattern:?} cannot be used: {error}"))?;
        }
        Ok(Self { own: own.to_vec(), compiled: OnceCell::new() })
    }

    /// The text of a line, masked and cut to what a sample may have; `needle` stays in view where it can.
    pub(super) fn apply(&self, line: &[u8], needle: &[u8]) -> String {
        // Most hosts see no hit for days: the masks are compiled at the first.
        let masks = self.compiled.get_or_init(|| {
            let own = self.own.iter().map(|pattern| format!("()(?:{pattern})"));
            BUILT_IN.iter().map(|text| (*text).to_owned()).chain(own).filter_map(|text| compile(&text).ok()).collect()
        });
        // Only the end is cut before masking: a secret is never parted from the word that gives it away.
        let mut text = String::from_utf8_lossy(&line[..line.len().min(MASKED_BYTES_MAX)]).into_owned();
        for mask in masks {
            if let std::borrow::Cow::Owned(masked) = mask.replace_all(&text, "${1}***") {
                text = masked;
            }
        }
        text.retain(|char| char == '\t' || !char.is_control());
        let needle = std::str::from_utf8(needle).ok().and_then(|needle| text.find(needle)).unwrap_or(0);
        if text.len() > limit::LINE_BYTES_MAX && needle > limit::LINE_BYTES_MAX / 2 {
            let mut start = (needle - limit::LINE_BYTES_MAX / 4).min(text.len());
            while !text.is_char_boundary(start) {
                start -= 1;
            }
            text.drain(..start);
        }
        cut(&mut text, limit::LINE_BYTES_MAX);
        text
    }
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(limit::REGEX_BYTES_MAX).build()
}

fn cut(text: &mut String, bytes_max: usize) {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}
