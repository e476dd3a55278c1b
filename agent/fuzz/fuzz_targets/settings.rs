//! Any text as the agent's settings: used or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = forewarn_agent::probe::read_settings(text);
});
