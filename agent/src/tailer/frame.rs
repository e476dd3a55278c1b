//! Bytes of a log file into lines: record framing (json-file, CRI, plain), unescaping, joining of partial records.
//!
//! Nothing is kept of a line longer than [`LINE_MATCHED_BYTES_MAX`] but that it was cut.

use memchr::{memchr, memchr2, memmem};

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
    /// Kubernetes' CRI and Podman's `k8s-file`: time, stream and tag before the text; the tag `P` says that the line
    /// goes on in the next record of the same stream.
    Cri,
    /// A line is a line.
    Plain,
}

/// A time in a CRI record is not longer than this.
const CRI_TIME_BYTES_MAX: usize = 40;

/// What one record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// The text, unescaped, without the line's end.
    pub(super) text: &'a [u8],
    /// Whether the line ends with this record.
    pub(super) ends_line: bool,
    /// Whether it was printed to the error stream: lines of the two streams are joined apart.
    pub(super) is_error: bool,
}

impl<'a> Record<'a> {
    /// A line of its own.
    fn whole(text: &'a [u8]) -> Self {
        Self { text, ends_line: true, is_error: false }
    }
}

impl Format {
    /// Reads one record (without its newline); `scratch` holds the text where it has to be unescaped.
    pub(super) fn parse<'a>(self, record: &'a [u8], scratch: &'a mut Vec<u8>) -> Record<'a> {
        match self {
            Self::Plain => Record::whole(without_return(record)),
            Self::JsonFile => parse_json_file(record, scratch),
            Self::Cri => parse_cri(record),
        }
    }

    /// Whether a line may go on beyond its record, in whole records of ordinary length.
    pub(super) fn has_parts(self, lines: &[u8]) -> bool {
        match self {
            Self::Cri => memmem::find(lines, b"out P").is_some() || memmem::find(lines, b"err P").is_some(),
            Self::JsonFile | Self::Plain => false,
        }
    }
}

fn without_return(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\r").unwrap_or(text)
}

/// `2026-11-22T17:40:44.123456789+08:00 stdout F text`; more tags may follow the first one after colons.
fn parse_cri(record: &[u8]) -> Record<'_> {
    // What does not look like one is still looked at: better a keyword found in garbage than none.
    let word = |rest: &'_ [u8]| memchr(b' ', rest);
    let Some(time) = word(record).filter(|at| (1..=CRI_TIME_BYTES_MAX).contains(at)) else {
        return Record::whole(without_return(record));
    };
    let rest = &record[time + 1..];
    let is_error = rest.starts_with(b"stderr ");
    let Some(tagged) = rest.strip_prefix(b"stdout ").or_else(|| rest.strip_prefix(b"stderr ")) else {
        return Record::whole(without_return(record));
    };
    // A record without any text may end with its tag.
    let end = word(tagged).unwrap_or(tagged.len());
    let text = tagged.get(end + 1..).unwrap_or_default();
    match tagged[..end].split(|byte| *byte == b':').next() {
        Some(b"P") => Record { text, ends_line: false, is_error },
        Some(b"F") => Record { text: without_return(text), ends_line: true, is_error },
        _ => Record::whole(without_return(record)),
    }
}

fn parse_json_file<'a>(record: &'a [u8], scratch: &'a mut Vec<u8>) -> Record<'a> {
    let Some(rest) = record.strip_prefix(br#"{"log":""#) else {
        // Garbage between records is still looked at: better a keyword found in it than none.
        return Record::whole(record);
    };
    let end = string_end(rest);
    let Some(end) = end else {
        // The record was cut off (a crash, a bound): what is there is the text.
        unescape(rest, scratch);
        return Record::whole(scratch);
    };
    let is_error = rest[end..].starts_with(br#"","stream":"stderr""#);
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
    Record { text, ends_line: ends_line || text.len() < SPLIT_BYTES, is_error }
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

/// Joins the records of one line, bounded, for either stream.
#[derive(Debug, Default)]
pub(super) struct Joiner([Lane; 2]);

/// The open line of one stream.
#[derive(Debug, Default)]
struct Lane {
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
        let [out, error] = &mut self.0;
        let lane = if record.is_error { error } else { out };
        if lane.open_from.is_none() && record.ends_line {
            let kept = record.text.len().min(LINE_MATCHED_BYTES_MAX);
            return Some(Line { text: &record.text[..kept], cut: kept < record.text.len(), from });
        }
        if lane.open_from.is_none() {
            lane.text.clear();
            lane.cut = false;
        }
        let from = *lane.open_from.get_or_insert(from);
        let room = LINE_MATCHED_BYTES_MAX.saturating_sub(lane.text.len());
        let kept = record.text.len().min(room);
        lane.text.extend_from_slice(&record.text[..kept]);
        lane.cut |= kept < record.text.len();
        record.ends_line.then(|| {
            lane.open_from = None;
            Line { text: &lane.text, cut: lane.cut, from }
        })
    }

    /// Gives up the open lines one by one: their file has ended. The text so far is a line.
    pub(super) fn finish(&mut self) -> Option<Line<'_>> {
        let lane = self.0.iter_mut().find(|lane| lane.open_from.is_some())?;
        let from = lane.open_from.take()?;
        Some(Line { text: &lane.text, cut: lane.cut, from })
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.0.iter().map(|lane| lane.text.len()).sum()
    }

    /// Where the first record of the oldest open line begins.
    pub(super) fn open_from(&self) -> Option<u64> {
        self.0.iter().filter_map(|lane| lane.open_from).min()
    }

    /// Forgets the open lines and gives the memory back after a long one.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Gives the memory back after a long line.
    pub(super) fn shrink(&mut self) {
        for lane in &mut self.0 {
            if lane.open_from.is_none() && lane.text.capacity() > 4096 {
                lane.text = Vec::new();
            }
        }
    }
}
