//! The fixed header, the section table and the envelope of a section (codec, lengths, checksum).

use std::cell::RefCell;

use zstd::zstd_safe::CParameter;

use super::{DecodeError, EncodeError, Reader, Writer, ZSTD_LEVEL, bound, check};
use crate::id::HostId;
use crate::limit;

const MAGIC: &[u8; 4] = b"FWB1";
const VERSION: u8 = 1;
/// Bytes before the section table.
const FIXED_BYTES: usize = 86;
/// Bytes of one line of the section table.
const SECTION_BYTES: usize = 14;
/// Sections below this are stored raw: zstd's frame would cost more than it saves.
const COMPRESS_FROM_BYTES: usize = 64;
/// Sections up to two to this many bytes are compressed with tables of their size.
const SMALL_LOG: u32 = 13;

/// Whose block it is, which one, and which span it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The host.
    pub host: HostId,
    /// Random per agent start: with `seq` it names a block for ever.
    pub epoch: u64,
    /// Counts the blocks of an epoch from 0.
    pub seq: u64,
    /// Unix milliseconds of tick 0 by the agent's wall clock.
    pub start_ms: i64,
    /// Milliseconds between ticks.
    pub step_ms: u32,
    /// Ticks of the span; tick `i` is at `start_ms + i * step_ms`.
    pub ticks: u16,
    /// The kernel's boot id.
    pub boot_id: [u8; 16],
    /// `CLOCK_BOOTTIME` at tick 0, milliseconds.
    pub boot_ms: i64,
    /// The wall clock when the block was closed, unix milliseconds.
    pub closed_ms: i64,
}

impl Header {
    /// The end of the span, exclusive, unix milliseconds.
    #[must_use]
    pub fn end_ms(&self) -> i64 {
        self.start_ms.saturating_add(i64::from(self.step_ms) * i64::from(self.ticks))
    }
}

/// What a section holds. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// Last values, keyword hits, engine events.
    Urgent,
    /// Layouts and entities.
    Dictionary,
    /// Groups of columns.
    Samples,
    /// A kind of a newer version; it is passed over.
    Unknown(u8),
}

impl SectionKind {
    fn code(self) -> u8 {
        match self {
            Self::Urgent => 1,
            Self::Dictionary => 2,
            Self::Samples => 3,
            Self::Unknown(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Urgent,
            2 => Self::Dictionary,
            3 => Self::Samples,
            other => Self::Unknown(other),
        }
    }
}

/// A line of the section table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// 0 raw, 1 zstd.
    pub codec: u8,
    /// Bytes after decompression.
    pub raw_bytes: u32,
    /// Bytes in the block.
    pub bytes: u32,
    /// crc32c of the bytes in the block.
    pub crc32c: u32,
}

/// Compresses the sections and puts header, table and sections together.
pub(super) fn assemble(header: &Header, sections: &[(SectionKind, Vec<u8>)]) -> Result<Vec<u8>, EncodeError> {
    bound("sections", sections.len(), limit::SECTIONS_MAX)?;
    bound("ticks", usize::from(header.ticks), limit::TICKS_MAX)?;
    let mut table = Writer::default();
    let mut body = Vec::new();
    for (kind, raw) in sections {
        bound("section", raw.len(), limit::SECTION_RAW_BYTES_MAX)?;
        let compressed = if raw.len() < COMPRESS_FROM_BYTES {
            None
        } else {
            let packed = compress(raw).map_err(|e| EncodeError::Compress(e.to_string()))?;
            (packed.len() < raw.len()).then_some(packed)
        };
        let (codec, bytes) = compressed.as_deref().map_or((0, raw.as_slice()), |packed| (1, packed));
        table.u8(kind.code());
        table.u8(codec);
        table.raw(&(raw.len() as u32).to_le_bytes());
        table.raw(&(bytes.len() as u32).to_le_bytes());
        table.raw(&crc32c::crc32c(bytes).to_le_bytes());
        body.extend_from_slice(bytes);
    }
    let mut out = Writer::default();
    out.raw(MAGIC);
    out.u8(VERSION);
    out.u8(sections.len() as u8);
    out.raw(&header.host.0);
    out.u64(header.epoch);
    out.u64(header.seq);
    out.u64(header.start_ms as u64);
    out.raw(&header.step_ms.to_le_bytes());
    out.raw(&header.ticks.to_le_bytes());
    out.raw(&header.boot_id);
    out.u64(header.boot_ms as u64);
    out.u64(header.closed_ms as u64);
    out.raw(&[0; 2]);
    out.raw(&table.into_bytes());
    let mut bytes = out.into_bytes();
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&body);
    bound("block", bytes.len(), limit::BLOCK_BYTES_MAX)?;
    Ok(bytes)
}

/// The sections of a block, still closed.
type Closed<'a> = Vec<(Section, &'a [u8])>;

/// Reads header and table and verifies every checksum.
pub(super) fn parse(bytes: &[u8]) -> Result<(Header, Closed<'_>), DecodeError> {
    check("block", bytes.len(), limit::BLOCK_BYTES_MAX)?;
    let mut reader = Reader::new(bytes);
    if &reader.array::<4>("magic")? != MAGIC {
        return Err(DecodeError::Magic);
    }
    let version = reader.u8("version")?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let count = check("sections", usize::from(reader.u8("section count")?), limit::SECTIONS_MAX)?;
    let sealed = FIXED_BYTES + count * SECTION_BYTES;
    let head = bytes.get(..sealed).ok_or(DecodeError::Truncated("header"))?;
    let crc = bytes.get(sealed..sealed + 4).ok_or(DecodeError::Truncated("header"))?;
    if crc32c::crc32c(head).to_le_bytes() != crc {
        return Err(DecodeError::Checksum("header"));
    }
    let header = Header {
        host: HostId(reader.array("host")?),
        epoch: reader.u64("epoch")?,
        seq: reader.u64("seq")?,
        start_ms: reader.u64("start")? as i64,
        step_ms: reader.u32("step")?,
        ticks: u16::from_le_bytes(reader.array("ticks")?),
        boot_id: reader.array("boot id")?,
        boot_ms: reader.u64("boot time")? as i64,
        closed_ms: reader.u64("closing time")? as i64,
    };
    reader.take(2, "reserved")?;
    check("ticks", usize::from(header.ticks), limit::TICKS_MAX)?;
    if header.step_ms == 0 || header.start_ms < 0 || header.start_ms > i64::MAX / 2 {
        return Err(DecodeError::Malformed("span"));
    }
    let mut table = Vec::with_capacity(count);
    for _ in 0..count {
        table.push(Section {
            kind: SectionKind::from_code(reader.u8("section table")?),
            codec: reader.u8("section table")?,
            raw_bytes: reader.u32("section table")?,
            bytes: reader.u32("section table")?,
            crc32c: reader.u32("section table")?,
        });
    }
    reader.take(4, "header checksum")?;
    let mut sections = Vec::with_capacity(count);
    for section in table {
        let bytes = reader.take(section.bytes as usize, "section")?;
        check("section", section.raw_bytes as usize, limit::SECTION_RAW_BYTES_MAX)?;
        if crc32c::crc32c(bytes) != section.crc32c {
            return Err(DecodeError::Checksum("section"));
        }
        if sections.iter().any(|(other, _): &(Section, &[u8])| other.kind == section.kind) {
            return Err(DecodeError::Malformed("section table: a kind twice"));
        }
        sections.push((section, bytes));
    }
    if !reader.is_empty() {
        return Err(DecodeError::Malformed("block: bytes are left over"));
    }
    Ok((header, sections))
}

thread_local! {
    /// For what an agent sends: small tables are as good for sections of some kilobytes, and kept they need not be made
    /// and cleared for every block.
    static PACKER: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}

fn small_packer() -> std::io::Result<zstd::bulk::Compressor<'static>> {
    let mut packer = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
    packer.set_parameter(CParameter::WindowLog(SMALL_LOG))?;
    packer.set_parameter(CParameter::HashLog(SMALL_LOG - 1))?;
    packer.set_parameter(CParameter::ChainLog(SMALL_LOG - 1))?;
    Ok(packer)
}

fn compress(raw: &[u8]) -> std::io::Result<Vec<u8>> {
    if raw.len() > 1 << SMALL_LOG {
        return zstd::bulk::compress(raw, ZSTD_LEVEL);
    }
    PACKER.with_borrow_mut(|kept| {
        let mut packer = match kept.take() {
            Some(packer) => packer,
            None => small_packer()?,
        };
        let packed = packer.compress(raw)?;
        *kept = Some(packer);
        Ok(packed)
    })
}

thread_local! {
    /// Making a context costs as much as opening three blocks with it: each thread keeps one (160 KiB).
    static OPENER: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// At most `raw_bytes` of raw bytes.
fn decompress(bytes: &[u8], raw_bytes: usize) -> std::io::Result<Vec<u8>> {
    OPENER.with_borrow_mut(|kept| {
        let mut opener = match kept.take() {
            Some(opener) => opener,
            None => zstd::bulk::Decompressor::new()?,
        };
        let raw = opener.decompress(bytes, raw_bytes)?;
        // One that failed is not kept: the next section begins with a sound one.
        *kept = Some(opener);
        Ok(raw)
    })
}

/// Decompresses one section to exactly the length that the table promised.
pub(super) fn open(section: &Section, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let raw_bytes = section.raw_bytes as usize;
    let raw = match section.codec {
        0 => bytes.to_vec(),
        1 => decompress(bytes, raw_bytes).map_err(|_| DecodeError::Malformed("compressed section"))?,
        _ => return Err(DecodeError::Malformed("section codec")),
    };
    if raw.len() == raw_bytes { Ok(raw) } else { Err(DecodeError::Malformed("section length")) }
}
