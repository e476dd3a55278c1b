//! The block, format version 1: all series of one host over one span, from the agent's memory to the database.
//!
//! `docs/block-format.md` describes the bytes. A block is a header with a section table, then the sections:
//! *urgent* (decoded at intake), *dictionary* (layouts and entities that the receiver may not know yet) and
//! *samples* (stored unopened). Nothing is decompressed before its length is known and allowed.

use std::borrow::Borrow;

mod cursor;
mod dictionary;
mod header;
mod samples;
mod urgent;

pub use cursor::{Reader, Writer};
pub use dictionary::{Dictionary, Entity, EntityKind, Layout, Metric};
pub use header::{Header, Section, SectionKind};
pub use samples::{Column, Group, Ticks, round, scale, unscale};
pub use urgent::{EngineEvent, EventKind, KeywordHit, LastValue, LogSample, Urgent};

/// zstd level of a section: 1.95 bytes a sample at six steps; higher levels cost the agent more than they save.
const ZSTD_LEVEL: i32 = 3;

/// Why bytes are not a block.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end inside `what`.
    #[error("block ends inside {0}")]
    Truncated(&'static str),
    /// Not a block at all.
    #[error("not a block: the first bytes are not FWB1")]
    Magic,
    /// A version that this build does not read.
    #[error("block version {0} is not supported, this build reads version 1; upgrade the receiver first")]
    Version(u8),
    /// A checksum does not match.
    #[error("checksum of {0} does not match: the block was damaged on its way or on disk")]
    Checksum(&'static str),
    /// A limit of [`crate::limit`] is exceeded.
    #[error("{what} is {got}, the limit is {max}")]
    Limit {
        /// What is too much.
        what: &'static str,
        /// How much it is.
        got: u64,
        /// How much it may be.
        max: u64,
    },
    /// A value that no encoder writes.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// Why a block cannot be encoded: it breaks a limit, or its parts contradict each other.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EncodeError {
    /// A limit of [`crate::limit`] is exceeded.
    #[error("{what} is {got}, the limit is {max}")]
    Limit {
        /// What is too much.
        what: &'static str,
        /// How much it is.
        got: u64,
        /// How much it may be.
        max: u64,
    },
    /// Columns and ticks or layout do not fit each other.
    #[error("group {0} has columns that do not fit its layout and ticks")]
    Shape(usize),
    /// The compressor failed.
    #[error("compression failed: {0}")]
    Compress(String),
}

/// A block in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Whose, when, which.
    pub header: Header,
    /// What must be seen at once.
    pub urgent: Urgent,
    /// What the receiver may not know yet.
    pub dictionary: Dictionary,
    /// The samples.
    pub groups: Vec<Group>,
}

impl Block {
    /// Encodes the block. Values are rounded to their layout's decimals; `layout` finds a group's layout.
    ///
    /// # Errors
    /// A part exceeds its limit, a layout is unknown or a group's columns do not fit it.
    pub fn encode<'a>(
        &self,
        layout: impl Fn(crate::id::LayoutId) -> Option<&'a Layout>,
    ) -> Result<Vec<u8>, EncodeError> {
        let mut sections = Vec::with_capacity(3);
        let mut urgent = Writer::default();
        self.urgent.write(&mut urgent);
        sections.push((SectionKind::Urgent, urgent.into_bytes()));
        if !self.dictionary.is_empty() {
            let mut dictionary = Writer::default();
            self.dictionary.write(&mut dictionary);
            sections.push((SectionKind::Dictionary, dictionary.into_bytes()));
        }
        let mut raw = Writer::default();
        samples::write(&mut raw, &self.groups, self.header.ticks, layout)?;
        sections.push((SectionKind::Samples, raw.into_bytes()));
        header::assemble(&self.header, &sections)
    }

    /// Decodes a whole block; `layout` finds the layouts that the block's own dictionary lacks.
    /// Groups with an unknown layout are counted, not decoded.
    ///
    /// # Errors
    /// The bytes are not a sound block within the limits.
    pub fn decode(
        bytes: &[u8],
        layout: impl Fn(crate::id::LayoutId) -> Option<Layout>,
    ) -> Result<(Self, usize), DecodeError> {
        let raw = RawBlock::parse(bytes)?;
        let dictionary = raw.dictionary()?;
        let (groups, unknown) =
            raw.groups(|id| dictionary.layouts.iter().find(|known| known.id() == id).cloned().or_else(|| layout(id)))?;
        Ok((Self { urgent: raw.urgent()?, header: raw.header, dictionary, groups }, unknown))
    }
}

/// A block whose header, table and checksums have been verified and whose sections are still closed.
#[derive(Debug)]
pub struct RawBlock<'a> {
    /// Whose, when, which.
    pub header: Header,
    sections: Vec<(Section, &'a [u8])>,
}

impl<'a> RawBlock<'a> {
    /// Verifies length, header, section table and the checksum of every section; opens none.
    ///
    /// # Errors
    /// The bytes are not a sound block within the limits.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (header, sections) = header::parse(bytes)?;
        Ok(Self { header, sections })
    }

    /// The urgent section.
    ///
    /// # Errors
    /// The section is malformed or exceeds a limit.
    pub fn urgent(&self) -> Result<Urgent, DecodeError> {
        self.open(SectionKind::Urgent, Urgent::read)
    }

    /// The dictionary; empty when the block has none.
    ///
    /// # Errors
    /// The section is malformed or exceeds a limit.
    pub fn dictionary(&self) -> Result<Dictionary, DecodeError> {
        self.open(SectionKind::Dictionary, Dictionary::read)
    }

    /// The samples, and how many groups were left out because `layout` does not know theirs.
    ///
    /// # Errors
    /// The section is malformed or exceeds a limit.
    pub fn groups<L: Borrow<Layout>>(
        &self,
        layout: impl Fn(crate::id::LayoutId) -> Option<L>,
    ) -> Result<(Vec<Group>, usize), DecodeError> {
        let ticks = self.header.ticks;
        self.open(SectionKind::Samples, |reader| samples::read(reader, ticks, &layout))
    }

    /// Entity, layout and ticks of each group of the samples, without decoding a value.
    ///
    /// # Errors
    /// The section is malformed or exceeds a limit.
    pub fn group_keys(&self) -> Result<Vec<(crate::id::EntityId, crate::id::LayoutId, usize)>, DecodeError> {
        let ticks = self.header.ticks;
        self.open(SectionKind::Samples, |reader| samples::read_keys(reader, ticks))
    }

    fn open<T: Default>(
        &self,
        kind: SectionKind,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let Some((section, bytes)) = self.sections.iter().find(|(section, _)| section.kind == kind) else {
            return Ok(T::default());
        };
        let raw = header::open(section, bytes)?;
        let mut reader = Reader::new(&raw);
        let value = read(&mut reader)?;
        if reader.is_empty() { Ok(value) } else { Err(DecodeError::Malformed("section: bytes are left over")) }
    }
}

pub(crate) fn check(what: &'static str, got: usize, max: usize) -> Result<usize, DecodeError> {
    if got > max { Err(DecodeError::Limit { what, got: got as u64, max: max as u64 }) } else { Ok(got) }
}

pub(crate) fn bound(what: &'static str, got: usize, max: usize) -> Result<usize, EncodeError> {
    if got > max { Err(EncodeError::Limit { what, got: got as u64, max: max as u64 }) } else { Ok(got) }
}

#[cfg(test)]
mod tests;
