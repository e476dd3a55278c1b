//! Any bytes as a page in the Prometheus text format, read again and again: never a panic, bounded series.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forewarn_agent::probe::scrape(data));
