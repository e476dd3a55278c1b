//! Bytes of a log file into lines: record framing, json-file unescaping, joining of partial records.
//!
//! Nothing is kept of a line longer than [`LINE_MATCHED_BYTES_MAX`] but that it was cut.

use memchr::{memchr, memchr2};

/// A joined line beyond this is matched up to here and counted as cut.
pub(super) const LINE_MATCHED_BYTES_MAX: usize = 64 << 10;

/// Docker cuts a longer line into records of this many bytes. A shorter record without an end is the last word of
/// a program that stopped, and no part of what the next one prints.
pub(super) const SPLIT_BYTES: usize = 16 << 10;

/// How a log file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Docker's `json-file`: a JSON object a record, lines over 16 KiB in several records.
    JsonFile,
    /// A line is a line.
    Plain,
}

/// What one record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// The text, unescaped, without the line's end.
    pub(super) text: &'a [u8],
    /// Whether the line ends with this record.
    pub(super) ends_line: bool,
}

impl Format {
    /// Reads one record (without its newline); `scratch` holds the text where it has to be unescaped.
    pub(super) fn parse<'a>(self, record: &'a [u8], scratch: &'a mut Vec<u8>) -> Record<'a> {
        match self {
            Self::Plain => Record { text: record.strip_suffix(b"\r").unwrap_or(record), ends_line: true },
            Self::JsonFile => parse_json_file(record, scratch),
        }
    }
}

fn parse_json_file<'a>(record: &'a [u8], scratch: &'a mut Vec<u8>) -> Record<'a> {
    let Some(rest) = record.strip_prefix(br#"{"log":""#) else {
        // Garbage between records is still looked at: better a keyword found in it than none.
        return Record { text: record, ends_line: true };
    };
    let end = string_end(rest);
    let Some(end) = end else {
        // The record was cut off (a crash, a bound): what is there is the text.
        unescape(rest, scratch);
        return Record { text: scratch, ends_line: true };
    };
    let quoted = &rest[..end];
    let (body, ends_line) = match quoted.strip_suffix(br"\n") {
        // An escaped backslash before the `n` is no newline.
        Some(body) if trailing_backslashes(body).is_multiple_of(2) => (body, true),
        _ => (quoted, false),
    };
    let body = match body.strip_suffix(br"\r") {
        Some(shorter) if ends_line && trailing_backslashes(shorter).is_multiple_of(2) => shorter,
        _ => body,
    };
    let text = if memchr(b'\\', body).is_none() {
        body
    } else {
        unescape(body, scratch);
        scratch
    };
    Record { text, ends_line: ends_line || text.len() < SPLIT_BYTES }
}

/// Where the string that `rest` begins with ends: at the first quote that is not escaped.
fn string_end(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', rest.get(at..)?)?;
        if rest.get(at) == Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

fn trailing_backslashes(text: &[u8]) -> usize {
    text.iter().rev().take_while(|byte| **byte == b'\\').count()
}

/// Undoes JSON's escapes; what is no escape stays as it is.
pub(super) fn unescape(mut text: &[u8], out: &mut Vec<u8>) {
    out.clear();
    while let Some(at) = memchr(b'\\', text) {
        out.extend_from_slice(&text[..at]);
        text = &text[at + 1..];
        let Some((kind, rest)) = text.split_first() else {
            out.push(b'\\');
            return;
        };
        text = rest;
        match kind {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'"' | b'\\' | b'/' => out.push(*kind),
            b'u' => match code_unit(text) {
                Some(unit) => {
                    text = &text[4..];
                    let char = low_surrogate(unit, text).map_or_else(
                        || char::from_u32(unit),
                        |char| {
                            text = &text[6..];
                            Some(char)
                        },
                    );
                    let char = char.unwrap_or(char::REPLACEMENT_CHARACTER);
                    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                }
                None => out.extend_from_slice(br"\u"),
            },
            other => out.extend_from_slice(&[b'\\', *other]),
        }
    }
    out.extend_from_slice(text);
}

fn code_unit(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text.get(..4)?).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// The character of a surrogate pair whose second half `text` begins with.
fn low_surrogate(high: u32, text: &[u8]) -> Option<char> {
    let low = code_unit(text.strip_prefix(br"\u")?)?;
    let pair = (0xd800..0xdc00).contains(&high) && (0xdc00..0xe000).contains(&low);
    pair.then(|| char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)))?
}

/// Joins the records of one line, bounded.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    text: Vec<u8>,
    /// Where the first record of the open line begins.
    open_from: Option<u64>,
    cut: bool,
}

/// A whole line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) text: &'a [u8],
    /// Whether it was longer than the bound.
    pub(super) cut: bool,
    /// Where its first record begins.
    pub(super) from: u64,
}

impl Joiner {
    /// Adds the record that begins at `from`; gives the line when it is whole. The line's text is the record's own
    /// where there was nothing to join.
    pub(super) fn add<'a>(&'a mut self, record: &Record<'a>, from: u64) -> Option<Line<'a>> {
        if self.open_from.is_none() && record.ends_line {
            let kept = record.text.len().min(LINE_MATCHED_BYTES_MAX);
            return Some(Line { text: &record.text[..kept], cut: kept < record.text.len(), from });
        }
        if self.open_from.is_none() {
            self.text.clear();
            self.cut = false;
        }
        let from = *self.open_from.get_or_insert(from);
        let room = LINE_MATCHED_BYTES_MAX.saturating_sub(self.text.len());
        let kept = record.text.len().min(room);
        self.text.extend_from_slice(&record.text[..kept]);
        self.cut |= kept < record.text.len();
        record.ends_line.then(|| {
            self.open_from = None;
            Line { text: &self.text, cut: self.cut, from }
        })
    }

    /// Gives up the open line: its file has ended. The text so far is a line.
    pub(super) fn finish(&mut self) -> Option<Line<'_>> {
        let from = self.open_from.take()?;
        Some(Line { text: &self.text, cut: self.cut, from })
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.text.len()
    }

    /// Where the first record of the open line begins.
    pub(super) fn open_from(&self) -> Option<u64> {
        self.open_from
    }

    /// Forgets the open line and gives the memory back after a long one.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Gives the memory back after a long line.
    pub(super) fn shrink(&mut self) {
        if self.open_from.is_none() && self.text.capacity() > 4096 {
            self.text = Vec::new();
        }
    }
}
