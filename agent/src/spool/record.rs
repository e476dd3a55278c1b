//! The bytes of a segment: records one after the other, each with its checksums.
//!
//! A record is a head of 48 bytes, then the block, then the log positions that are covered by the block and those
//! before it. Numbers are little-endian. Nothing here reads or writes a file.

use super::Key;

const MAGIC: &[u8; 4] = b"FWS1";
/// Bytes of a head.
pub(super) const HEAD_BYTES: usize = 48;
const KIND_BLOCK: u8 = 1;
const KIND_DONE: u8 = 2;

/// The head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) key: Key,
    /// The block was acknowledged, refused or dropped; the record has no body.
    pub(super) is_done: bool,
    pub(super) block_bytes: u32,
    pub(super) positions_bytes: u32,
    body_crc: u32,
}

impl Head {
    /// Reads the head that `bytes` begin with; `None` where there is none.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let head = bytes.get(..HEAD_BYTES)?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let is_sound = head.starts_with(MAGIC) && u32_at(44)? == crc32c::crc32c(&head[..44]);
        let kind = head[4];
        (is_sound && matches!(kind, KIND_BLOCK | KIND_DONE)).then_some(())?;
        Some(Self {
            key: Key { closed_ms: i64::try_from(u64_at(8)?).ok()?, epoch: u64_at(16)?, seq: u64_at(24)? },
            is_done: kind == KIND_DONE,
            block_bytes: u32_at(32)?,
            positions_bytes: u32_at(36)?,
            body_crc: u32_at(40)?,
        })
    }

    /// Bytes after the head.
    pub(super) fn body_bytes(&self) -> u64 {
        u64::from(self.block_bytes) + u64::from(self.positions_bytes)
    }

    /// Block and positions, if `body` is what was written.
    pub(super) fn open<'a>(&self, body: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let is_sound = body.len() as u64 == self.body_bytes() && crc32c::crc32c(body) == self.body_crc;
        is_sound.then(|| body.split_at_checked(self.block_bytes as usize))?
    }
}

/// The record of a block.
pub(super) fn of_block(key: Key, block: &[u8], positions: &[u8]) -> Vec<u8> {
    let body_crc = crc32c::crc32c_append(crc32c::crc32c(block), positions);
    let mut record = head(KIND_BLOCK, key, [block.len() as u32, positions.len() as u32, body_crc]);
    record.extend_from_slice(block);
    record.extend_from_slice(positions);
    record
}

/// The record that says that a block need not be kept any more.
pub(super) fn of_done(key: Key) -> Vec<u8> {
    head(KIND_DONE, key, [0; 3])
}

fn head(kind: u8, key: Key, numbers: [u32; 3]) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES + numbers[0] as usize + numbers[1] as usize);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&[kind, 0, 0, 0]);
    head.extend_from_slice(&key.closed_ms.to_le_bytes());
    head.extend_from_slice(&key.epoch.to_le_bytes());
    head.extend_from_slice(&key.seq.to_le_bytes());
    numbers.iter().for_each(|number| head.extend_from_slice(&number.to_le_bytes()));
    head.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
    head
}

/// The whole records of a segment, each with where it begins, and how many were damaged between them. What a power
/// cut left at the end is no record and no damage.
pub(super) fn scan(bytes: &[u8]) -> (Vec<(u64, Head)>, u64) {
    let (mut records, mut damaged, mut at) = (Vec::new(), 0, 0);
    let mut last_good = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= HEAD_BYTES) {
        let head = Head::parse(rest);
        let end = head.and_then(|head| Some(at + HEAD_BYTES + usize::try_from(head.body_bytes()).ok()?));
        let body = end.and_then(|end| bytes.get(at + HEAD_BYTES..end));
        match head.zip(end) {
            Some((head, end)) if body.is_some_and(|body| head.is_done || head.open(body).is_some()) => {
                if at > last_good {
                    damaged += 1;
                }
                records.push((at as u64, head));
                (at, last_good) = (end, end);
            }
            _ => at += 1 + memchr::memmem::find(&rest[1..], MAGIC).unwrap_or(rest.len()),
        }
    }
    (records, damaged)
}
