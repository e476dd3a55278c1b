//! Any bytes handed to the block decoder: an error or a block, never a panic, never unbounded memory.
//!
//! Checksums would stop the fuzzer at the door, so they are mended before decoding: header and sections as a
//! hostile agent would write them.
#![no_main]

use forewarn_common::block::{Block, RawBlock};
use libfuzzer_sys::fuzz_target;

const FIXED_BYTES: usize = 86;
const SECTION_BYTES: usize = 14;

fn mend(bytes: &mut [u8]) {
    if bytes.len() < FIXED_BYTES + 4 {
        return;
    }
    bytes[..5].copy_from_slice(b"FWB1\x01");
    bytes[5] %= 4;
    let table_end = FIXED_BYTES + usize::from(bytes[5]) * SECTION_BYTES;
    if bytes.len() < table_end + 4 {
        return;
    }
    let mut at = table_end + 4;
    for line in (FIXED_BYTES..table_end).step_by(SECTION_BYTES) {
        let left = bytes.len() - at;
        let len = (bytes[line + 6] as usize | (bytes[line + 7] as usize) << 8).min(left);
        bytes[line + 6..line + 10].copy_from_slice(&(len as u32).to_le_bytes());
        if bytes[line + 1] == 0 {
            bytes[line + 2..line + 6].copy_from_slice(&(len as u32).to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[at..at + len]);
        bytes[line + 10..line + 14].copy_from_slice(&crc.to_le_bytes());
        at += len;
    }
    let crc = crc32c::crc32c(&bytes[..table_end]);
    bytes[table_end..table_end + 4].copy_from_slice(&crc.to_le_bytes());
}

fuzz_target!(|data: &[u8]| {
    let _ = RawBlock::parse(data).map(|raw| (raw.urgent(), raw.dictionary(), raw.group_keys()));
    let mut mended = data.to_vec();
    mend(&mut mended);
    let known = forewarn_common::block::Layout { metrics: Vec::new() };
    if let Ok((block, _)) = Block::decode(&mended, |id| (id == known.id()).then(|| known.clone())) {
        let layouts = block.dictionary.layouts.clone();
        let find = |id| layouts.iter().chain([&known]).find(|layout| layout.id() == id);
        // What was decoded can be encoded again, unless it breaks a limit only encoders have.
        if let Ok(bytes) = block.encode(find) {
            assert_eq!(Block::decode(&bytes, |_| Some(known.clone())).map(|(b, _)| b.header), Ok(block.header));
        }
    }
});
