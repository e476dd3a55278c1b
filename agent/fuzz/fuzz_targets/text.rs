//! Any bytes as a text of `/proc`, of a cgroup or of the engine's state files: never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forewarn_agent::probe::read_texts(data));
