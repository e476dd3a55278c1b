//! What the log path costs beside the bare searchers, on json-file text with its escapes; CPU time, one run.
//!
//! `cargo bench -p forewarn-agent --bench scan`; in the profile that ships: add `--profile agent`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench prints and stops")]

use std::hint::black_box;
use std::io::Write;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use forewarn_agent::probe::{Scanner, follow};
use forewarn_common::keyword::{KeywordRule, Severity};

const KEYWORDS: [&str; 20] = [
    "OutOfMemoryError",
    "Out of memory",
    "No space left on device",
    "Too many open files",
    "Connection refused",
    "Connection reset by peer",
    "Segmentation fault",
    "core dumped",
    "panicked at",
    "<fatal error>",
    "deadlock detected",
    "Read-only file system",
    "Input/output error",
    "certificate has expired",
    "level=\"error\"",
    "replication\tlag",
    "内存不足",
    "磁盘空间不足",
    "数据库连接超时",
    "拒绝连接",
];
const TEXT_BYTES: usize = 64 << 20;
const ROUNDS: usize = 10;

fn rule(name: &str, literals: &[&str], ignore_case: bool) -> KeywordRule {
    KeywordRule {
        name: name.to_owned(),
        severity: Severity::Warning,
        literals: literals.iter().map(|text| (*text).to_owned()).collect(),
        regexes: Vec::new(),
        ignore_case,
        fields: Vec::new(),
        include: Vec::new(),
        exclude: Vec::new(),
    }
}

/// Log lines as Docker writes them, about one in a hundred with a keyword; how many bytes were printed, and hits.
fn text() -> (Vec<u8>, usize, u64) {
    let mut state = 7_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut text, mut payload, mut hits) = (Vec::with_capacity(TEXT_BYTES + 1024), 0, 0);
    while text.len() < TEXT_BYTES {
        let n = next(1_000_000);
        let mut line = match next(4) {
            0 => format!(
                "2026-11-22 17:40:{:02}.{n:06} INFO  [main] com.example.Shop <order {n}> took {} ms",
                n % 60,
                n % 977
            ),
            1 => format!(
                "10.0.{}.{} - - \"GET /api/v1/items/{n}?page={} HTTP/1.1\" 200 {}",
                n % 256,
                n % 251,
                n % 9,
                n % 40_000
            ),
            2 => format!("{{\"level\":\"info\",\"msg\":\"用户 {n} 登录成功\",\"elapsed\":{}}}", n % 5000),
            _ => format!("kernel: [{n:>9}] eth0: link up, \t100 Mbps & full duplex, flags={:#x}", n * 31),
        };
        if next(100) == 0 {
            line.push_str(" : ");
            line.push_str(KEYWORDS[next(20) as usize]);
            hits += 1;
        }
        line.push('\n');
        payload += line.len();
        let quoted = line.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t");
        let quoted = quoted.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
        writeln!(text, "{{\"log\":\"{quoted}\",\"stream\":\"stdout\",\"time\":\"2026-11-22T17:40:44.{n:09}Z\"}}")
            .unwrap();
    }
    (text, payload, hits)
}

/// CPU seconds of this process.
fn cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// CPU seconds of the children that have ended.
fn children_cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let words: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    // Ticks of 10 ms: the text has to be long.
    words[13..15].iter().map(|word| word.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Bytes a second of `rg -i` on one thread over this file; `None` where it is not installed.
fn ripgrep(file: &std::path::Path, bytes: usize) -> Option<f64> {
    let patterns = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(patterns.path(), KEYWORDS.join("\n")).unwrap();
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begun = children_cpu_s();
        let mut rg = std::process::Command::new("rg");
        rg.args(["-j1", "-i", "-c", "-F", "-f"]).arg(patterns.path()).arg(file);
        rg.stdout(std::process::Stdio::null()).status().ok()?;
        best = best.min(children_cpu_s() - begun);
    }
    Some(bytes as f64 / best)
}

/// A way to search, by name.
type Way<'a> = (&'static str, Box<dyn FnMut() -> usize + 'a>);

/// The best of some rounds, in seconds; taken in turn, so that all meet the same machine.
fn race(ways: &mut [Way<'_>]) -> Vec<f64> {
    let mut best = vec![f64::MAX; ways.len()];
    for _ in 0..ROUNDS {
        for (slot, (_, way)) in best.iter_mut().zip(ways.iter_mut()) {
            let begun = cpu_s();
            black_box(way());
            *slot = slot.min(cpu_s() - begun);
        }
    }
    best
}

fn main() {
    let (text, payload, hits) = text();
    let bare = |ignore_case| {
        let mut builder = AhoCorasick::builder();
        builder.ascii_case_insensitive(ignore_case).match_kind(MatchKind::LeftmostFirst);
        builder.kind(Some(AhoCorasickKind::ContiguousNFA)).build(KEYWORDS).unwrap()
    };
    let (exact, folded) = (bare(false), bare(true));
    let pattern = KEYWORDS.map(regex::escape).join("|");
    let regex = regex::bytes::Regex::new(&pattern).unwrap();
    let regex_folded = regex::bytes::Regex::new(&format!("(?i-u:{pattern})")).unwrap();
    let mut ours = Scanner::new(&[rule("all", &KEYWORDS, false)]).unwrap();
    let mut ours_folded = Scanner::new(&[rule("all", &KEYWORDS, true)]).unwrap();
    let mut ways: [Way<'_>; 6] = [
        ("bare aho-corasick", Box::new(|| exact.find_iter(&text).count())),
        ("scan", Box::new(|| text.chunks(256 << 10).map(|chunk| ours.scan(chunk).len()).sum())),
        ("regex crate", Box::new(|| regex.find_iter(&text).count())),
        ("bare aho-corasick, any case", Box::new(|| folded.find_iter(&text).count())),
        ("scan, any case", Box::new(|| text.chunks(256 << 10).map(|chunk| ours_folded.scan(chunk).len()).sum())),
        ("regex crate, any case", Box::new(|| regex_folded.find_iter(&text).count())),
    ];
    let best = race(&mut ways);
    let names: Vec<&str> = ways.iter().map(|(name, _)| *name).collect();
    for (name, seconds) in names.iter().zip(&best) {
        println!("{name:<30} {:.2} GB/s", text.len() as f64 / seconds / 1e9);
    }
    println!("scan / bare aho-corasick       {:.2} (bar 0.85)", best[0] / best[1]);

    // Compiling rules and masks is done once in the agent's life: it is left out by what a longer file costs more.
    let files: [tempfile::NamedTempFile; 2] = std::array::from_fn(|_| tempfile::NamedTempFile::new().unwrap());
    std::fs::write(files[0].path(), &text).unwrap();
    std::fs::write(files[1].path(), text.repeat(3)).unwrap();
    match ripgrep(files[1].path(), 3 * text.len()) {
        Some(bytes_a_s) => println!(
            "scan, any case / rg -i         {:.1} (bar 3; rg -i {:.2} GB/s)",
            text.len() as f64 / best[4] / bytes_a_s,
            bytes_a_s / 1e9
        ),
        None => println!("rg is not installed: scan, any case has nothing to be compared with"),
    }
    for (name, rules) in [
        ("one rule of 20 literals", vec![rule("all", &KEYWORDS, false)]),
        ("the default rules", forewarn_common::keyword::default_rules()),
        ("20 literals, any case", vec![rule("all", &KEYWORDS, true)]),
    ] {
        let (mut least, mut counted) = ([f64::MAX; 2], (0, 0));
        for _ in 0..ROUNDS {
            for (least, file) in least.iter_mut().zip(&files).rev() {
                let begun = cpu_s();
                counted = follow(file.path(), 1, &rules).unwrap();
                *least = least.min(cpu_s() - begun);
            }
        }
        if name.starts_with("one") {
            assert_eq!(counted.1, hits, "every keyword is found through its escapes");
        }
        let ms = (least[1] - least[0]) * 1e3 / (2.0 * payload as f64 / 1e6);
        println!(
            "log path, {name:<24} {ms:.3} ms CPU per MB of payload (bar 0.7), {} lines, {} hits",
            counted.0, counted.1
        );
    }
}
