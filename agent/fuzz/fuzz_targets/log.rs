//! Any bytes as a log file of each format: never a panic, bounded lines, and the quick search over whole chunks misses
//! no line that the slow way finds.
#![no_main]

use std::cell::RefCell;

use forewarn_agent::probe::Scanner;
use forewarn_common::keyword::{KeywordRule, default_rules};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static SCANNER: RefCell<Scanner> = RefCell::new(Scanner::new(&rules()).expect("usable rules"));
}

fn rules() -> Vec<KeywordRule> {
    let mut rules = default_rules();
    let first = rules[0].clone();
    let field = vec!["level=error".to_owned(), "a.b=1".to_owned()];
    rules.push(KeywordRule { name: "field".into(), literals: Vec::new(), fields: field, ..first.clone() });
    let folded = vec!["fatal <b>".to_owned(), "a\tb".to_owned()];
    rules.push(KeywordRule { name: "folded".into(), literals: folded, ignore_case: true, ..first });
    rules
}

fuzz_target!(|data: &[u8]| {
    let Some((format, lines)) = data.split_first() else { return };
    SCANNER.with_borrow_mut(|scanner| {
        let hits = scanner.read(*format, lines);
        let starts = scanner.scan(lines);
        assert!(starts.is_sorted());
        // Docker never escapes a letter, so only the other formats can be held to it.
        if format % 3 != 1 {
            assert!(hits.iter().all(|hit| starts.contains(hit)), "{hits:?} of {starts:?}");
        }
    });
});
