//! Promises of the tailer: every line once, whatever happens to the file, in bounded memory.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use forewarn_common::id::HostId;
use forewarn_common::keyword::{self, Severity};
use proptest::prelude::*;

use super::frame::{LINE_MATCHED_BYTES_MAX, SPLIT_BYTES, unescape};
use super::*;

fn entity() -> EntityId {
    EntityId::of_host(HostId([1; 16]))
}

fn rule(name: &str, literals: &[&str], regexes: &[&str], ignore_case: bool) -> KeywordRule {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    KeywordRule {
        name: name.to_owned(),
        severity: Severity::Warning,
        literals: owned(literals),
        regexes: owned(regexes),
        ignore_case,
        fields: Vec::new(),
        include: Vec::new(),
        exclude: Vec::new(),
    }
}

fn source(path: &Path, format: Format, is_old: bool) -> Source {
    Source {
        id: "c1".to_owned(),
        entity: entity(),
        path: Some(path.to_owned()),
        beneath: None,
        subject: Subject { name: "shop-db".to_owned(), image: "mysql:8".to_owned(), ..Subject::default() },
        format,
        first_line: Rc::default(),
        is_old,
        is_running: true,
    }
}

fn tailer(rules: &[KeywordRule], path: &Path, format: Format) -> Tailer {
    let mut tailer = Tailer::new(rules, &[], None).unwrap();
    tailer.set_sources([source(path, format, false)]);
    tailer
}

fn counts(tailer: &mut Tailer) -> Counts {
    let mut taken = Counts::default();
    tailer.take_counts(|_, counts| taken = counts.clone());
    taken
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
}

/// A record as Docker writes it: `<`, `>` and `&` escaped like the quotes, Chinese as it is.
fn record(text: &str) -> Vec<u8> {
    let log =
        serde_json::to_string(text).unwrap().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    format!("{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"2026-11-22T17:40:44.2Z\"}}\n").into_bytes()
}

#[test]
fn keywords_match_the_text_that_was_printed_not_its_escapes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let rules = [
        rule("angle", &["<fatal>"], &[], false),
        rule("quote", &["level=\"error\""], &[], false),
        rule("tab", &["a\tb"], &[], false),
        rule("chinese", &["数据库连接超时"], &[], false),
        rule("folded", &["out of memory"], &[], true),
        rule("pattern", &[], &[r"code=5\d\d\b"], false),
    ];
    let mut tailer = tailer(&rules, &path, Format::JsonFile);
    for line in [
        "x <fatal> y\n",
        "level=\"error\"\n",
        "a\tb\n",
        "错误：数据库连接超时\n",
        "OUT of Memory\n",
        "code=503 end\n",
        "nothing\n",
    ] {
        append(&path, &record(line));
    }
    assert!(!tailer.poll(1000));
    let counts = counts(&mut tailer);
    assert_eq!(counts.lines, 7);
    let names: Vec<_> = counts.hits.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(names, [("angle", 1), ("chinese", 1), ("folded", 1), ("pattern", 1), ("quote", 1), ("tab", 1)]);
    let hits = tailer.take_hits();
    assert_eq!(hits.len(), 6);
    let angle = hits.iter().find(|hit| hit.rule == "angle").unwrap();
    assert_eq!(angle.samples[0].line, "x <fatal> y");
    assert_eq!(angle.samples[0].after[0], "level=\"error\"");
}

/// The quick way over whole chunks and the way line by line must agree; a regex rule forces the latter.
fn check_ways(lines: &[String]) -> Result<(), TestCaseError> {
    let rules = [
        rule("plain", &["error", "数据库", "fatal err"], &[], false),
        rule("escaped", &["<b>", "a\tb", "say \"no\"", "x\\y"], &[], false),
        rule("folded", &["WaRn"], &[], true),
        rule("metadata", &["stdout", "stream"], &[], false),
    ];
    let never = rule("never", &[], &["never matches this"], false);
    let dir = tempfile::tempdir().unwrap();
    let mut results = Vec::new();
    for (name, rules) in [("quick", rules.to_vec()), ("slow", [&rules[..], &[never]].concat())] {
        let path = dir.path().join(name);
        let mut tailer = tailer(&rules, &path, Format::JsonFile);
        lines.iter().for_each(|line| append(&path, &record(line)));
        tailer.poll(0);
        results.push((counts(&mut tailer), format!("{:?}", tailer.take_hits())));
    }
    prop_assert_eq!(&results[0], &results[1]);
    prop_assert_eq!(results[0].0.lines, lines.len() as u64);
    Ok(())
}

#[test]
fn a_line_hits_a_rule_once_and_overlapping_rules_each() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut tailer = tailer(&keyword::default_rules(), &path, Format::Plain);
    append(&path, "java.lang.OutOfMemoryError OutOfMemoryError\n数据库连接超时\n".as_bytes());
    tailer.poll(0);
    let counts = counts(&mut tailer);
    let names: Vec<_> = counts.hits.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(names, [("database_timeout", 1), ("out_of_memory", 1), ("timeout", 1)]);
}

#[test]
fn context_is_twenty_lines_before_and_ten_after() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let mut tailer = tailer(&[rule("boom", &["boom"], &[], false)], &path, Format::JsonFile);
    for n in 0..40 {
        append(&path, &record(&format!("line {n}\n")));
    }
    tailer.poll(0);
    append(&path, &record("boom\n"));
    for n in 0..30 {
        append(&path, &record(&format!("later {n}\n")));
    }
    tailer.poll(0);
    let hits = tailer.take_hits();
    let sample = &hits[0].samples[0];
    assert_eq!((sample.before.len(), sample.after.len()), (20, 10));
    assert_eq!((sample.before[0].as_str(), sample.before[19].as_str()), ("line 20", "line 39"));
    assert_eq!((sample.after[0].as_str(), sample.after[9].as_str()), ("later 0", "later 9"));
}

#[test]
fn lines_of_several_records_are_joined_and_a_keyword_across_the_seam_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let mut tailer = tailer(&[rule("seam", &["AB"], &[], false)], &path, Format::JsonFile);
    let long = "x".repeat(SPLIT_BYTES - 1);
    append(&path, &record(&format!("{long}A")));
    tailer.poll(0);
    assert_eq!(counts(&mut tailer).lines, 0, "the line has not ended");
    append(&path, &record(&format!("B{long}\n")));
    tailer.poll(0);
    let counts = counts(&mut tailer);
    assert_eq!((counts.lines, counts.hits["seam"]), (1, 1));
}

#[test]
fn the_last_word_of_a_program_is_not_joined_to_the_first_of_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let mut tailer = tailer(&[rule("seam", &["AB"], &[], false)], &path, Format::JsonFile);
    append(&path, &record("A"));
    append(&path, &record("B\n"));
    tailer.poll(0);
    let counts = counts(&mut tailer);
    assert_eq!((counts.lines, counts.hits.len()), (2, 0));
}

#[test]
fn an_open_line_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let rules = [rule("seam", &["AB"], &[], false)];
    let mut first = tailer(&rules, &path, Format::JsonFile);
    append(&path, &record("done\n"));
    append(&path, &record(&format!("{}A", "x".repeat(SPLIT_BYTES - 1))));
    first.poll(0);
    assert_eq!(counts(&mut first).lines, 1);
    let mut second = Tailer::new(&rules, &[], Some(&first.checkpoint())).unwrap();
    second.set_sources([source(&path, Format::JsonFile, true)]);
    append(&path, &record("B\n"));
    second.poll(0);
    let counts = counts(&mut second);
    assert_eq!((counts.lines, counts.hits["seam"]), (1, 1));
}

#[test]
fn the_past_of_an_old_log_is_passed_over_and_a_new_one_is_read_from_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    append(&path, b"one\ntwo\n");
    for (is_old, lines) in [(true, 1), (false, 3)] {
        let mut tailer = Tailer::new(&[], &[], None).unwrap();
        tailer.set_sources([source(&path, Format::Plain, is_old)]);
        tailer.poll(0);
        if is_old {
            append(&path, b"three\n");
        }
        tailer.poll(0);
        assert_eq!(counts(&mut tailer).lines, lines);
    }
}

#[test]
fn binary_garbage_and_a_line_of_50_mb_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let rules = [rule("boom", &["boom"], &[], false)];
    let mut tailer = tailer(&rules, &path, Format::JsonFile);
    let garbage: Vec<u8> =
        (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).filter(|b| *b != b'\n').collect();
    append(&path, &garbage);
    append(&path, b"\n\0\0\0\n");
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    for _ in 0..50 {
        file.write_all(&vec![b'z'; 1 << 20]).unwrap();
    }
    file.write_all(b"\n").unwrap();
    append(&path, &record("after boom\n"));
    let mut polls = 0;
    while tailer.poll(0) {
        polls += 1;
        assert!(polls < 100);
    }
    let counts = counts(&mut tailer);
    assert!(polls > 5, "a look takes a bounded bite");
    assert_eq!((counts.lines, counts.cut_lines, counts.hits["boom"]), (4, 2, 1));
    assert!(tailer.buffer.capacity() <= 2 * follow::CHUNK_BYTES);
    let kept: usize = tailer.tracked.iter().filter_map(|log| log.follower.as_ref()).map(Follower::held_bytes).sum();
    assert!(kept <= LINE_MATCHED_BYTES_MAX, "{kept} bytes are held");
}

#[test]
fn a_line_of_50_mb_in_records_of_16_kib_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let mut tailer = tailer(&[rule("boom", &["boom"], &[], false)], &path, Format::JsonFile);
    let piece = record(&"z".repeat(16 << 10));
    let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    for _ in 0..3200 {
        file.write_all(&piece).unwrap();
    }
    file.write_all(&record("boom beyond the bound\n")).unwrap();
    while tailer.poll(0) {}
    let counts = counts(&mut tailer);
    assert_eq!((counts.lines, counts.cut_lines), (1, 1));
    let kept: usize = tailer.tracked.iter().filter_map(|log| log.follower.as_ref()).map(Follower::held_bytes).sum();
    assert!(kept <= LINE_MATCHED_BYTES_MAX, "{kept} bytes are held");
}

#[test]
fn a_storm_in_one_log_does_not_starve_another() {
    let dir = tempfile::tempdir().unwrap();
    let (storm, quiet) = (dir.path().join("storm"), dir.path().join("quiet"));
    let mut tailer = Tailer::new(&[rule("boom", &["boom"], &[], false)], &[], None).unwrap();
    let other = EntityId::of(HostId([1; 16]), "container:quiet");
    tailer.set_sources([
        source(&storm, Format::Plain, false),
        Source { id: "c2".into(), entity: other, ..source(&quiet, Format::Plain, false) },
    ]);
    append(&storm, &b"noise noise noise\n".repeat(2_000_000));
    append(&quiet, b"boom\n");
    assert!(tailer.poll(0), "the storm is not over");
    assert!(tailer.has_hits(), "the quiet log was read in the first look");
}

#[test]
fn secrets_leave_masked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut tailer = Tailer::new(&[rule("e", &["error"], &[], false)], &["employee-\\d+".to_owned()], None).unwrap();
    tailer.set_sources([source(&path, Format::Plain, false)]);
    let cases: [(&str, &[&str]); 10] = [
        ("error password=hunter2 user=bob", &["hunter2"]),
        ("error {\"password\": \"hunter two\", \"a\": 1}", &["hunter"]),
        ("error db_token: abc123; x", &["abc123"]),
        ("error Authorization: Bearer abc.def-ghi end", &["abc.def-ghi"]),
        ("error authorization=Basic dXNlcjpwYXNz", &["dXNlcjpwYXNz"]),
        ("error postgres://joe:s3cr3t@db/x", &["s3cr3t", "joe"]),
        ("error 身份证11010519491231002X号", &["11010519491231002X"]),
        ("error 密码：天王盖地虎", &["天王盖地虎"]),
        ("error employee-4711", &["4711"]),
        ("error eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln", &["eyJzdWIi"]),
    ];
    for (line, secrets) in cases {
        append(&path, format!("secret = {line}\n{line}\nsecret = {line}\n").as_bytes());
        tailer.poll(0);
        let hits = tailer.take_hits();
        let sent = format!("{:?}", hits);
        assert!(sent.contains("***"), "{sent}");
        for secret in secrets {
            assert!(!sent.contains(secret), "{secret} left the host in {sent}");
        }
    }
    append(&path, b"error order 123456789012345678901234 is not an ID\n");
    tailer.poll(0);
    assert!(format!("{:?}", tailer.take_hits()).contains("123456789012345678901234"));
}

#[test]
fn samples_are_bounded_a_hit_and_a_day_while_every_line_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut tailer = tailer(&[rule("boom", &["boom"], &[], false)], &path, Format::Plain);
    let mut samples = 0;
    for round in 0..100 {
        append(&path, &b"boom\n".repeat(10));
        tailer.poll(round);
        let hits = tailer.take_hits();
        assert_eq!(hits[0].count, 10);
        samples += hits[0].samples.len();
    }
    assert_eq!((counts(&mut tailer).hits["boom"], samples), (1000, SAMPLES_A_DAY_MAX as usize));
    append(&path, b"boom\n");
    tailer.poll(2 * DAY_MS);
    assert_eq!(tailer.take_hits()[0].samples.len(), 1, "the next day has samples again");
}

#[test]
fn pieces_of_a_stream_are_joined_to_lines() {
    let mut tailer = Tailer::new(&[rule("boom", &["boom"], &[], false)], &[], None).unwrap();
    tailer.set_sources([Source { path: None, ..source(Path::new(""), Format::Plain, false) }]);
    tailer.feed("c1", b"one\ntwo bo", Some(1), 5);
    tailer.feed("c1", b"om\r\nthree", None, 6);
    tailer.feed("unknown", b"boom\n", Some(2), 6);
    let counts = counts(&mut tailer);
    assert_eq!((counts.lines, counts.bytes, counts.hits["boom"]), (2, 19, 1));
    assert_eq!(tailer.take_hits()[0].samples[0].line, "two boom");
}

#[test]
fn the_log_of_an_ended_container_is_let_go_and_goes_on_when_it_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut tailer = tailer(&[], &path, Format::Plain);
    append(&path, b"1\n2\n");
    let ended = Source { is_running: false, ..source(&path, Format::Plain, false) };
    tailer.set_sources([ended]);
    for _ in 0..=LAST_LOOKS {
        tailer.poll(0);
    }
    assert!(tailer.tracked[0].is_asleep);
    assert_eq!(counts(&mut tailer).lines, 2, "its last words were read");
    append(&path, b"3\n");
    tailer.poll(0);
    assert_eq!(counts(&mut tailer).lines, 0);
    let mut second = resumed(&[], &path, &tailer.checkpoint());
    tailer.set_sources([source(&path, Format::Plain, false)]);
    for tailer in [&mut tailer, &mut second] {
        tailer.poll(0);
        assert_eq!(counts(tailer).lines, 1);
    }
}

#[test]
fn unusable_rules_are_refused_by_name() {
    let regex = |text: &str| rule("bad", &[], &[text], false);
    for (rules, words) in [
        (vec![regex("(")], "keyword rule bad: regex \"(\" cannot be used"),
        (vec![regex("(a{500}){500}")], "size limit"),
        (vec![rule("Bad Name", &["x"], &[], false)], "keyword rule name \"Bad Name\" must"),
        (vec![rule("a", &["x"], &[], false), rule("a", &["y"], &[], false)], "and be unique"),
        (vec![rule("a", &[""], &[], false)], "keyword rule a has an empty pattern"),
        (vec![rule("a", &["x"; 65], &[], false)], "patterns of keyword rule a is 65, the limit is 64"),
        (
            vec![KeywordRule { fields: vec!["level".into()], ..rule("f", &[], &[], false) }],
            "must look like level=error",
        ),
        (vec![KeywordRule { include: vec!["label:x".into()], ..rule("f", &[], &[], false) }], "label:key=value"),
        ((0..257).map(|n| rule(&format!("r{n}"), &["x"], &[], false)).collect(), "number of keyword rules is 257"),
    ] {
        let message = Matcher::compile(&rules).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    assert!(Tailer::new(&[], &["(".to_owned()], None).unwrap_err().to_string().contains("mask \"(\" cannot be used"));
}

#[test]
fn a_log_that_rotates_twice_between_two_looks_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let rotated = |number: u32| dir.path().join(format!("log.{number}"));
    let mut tailer = tailer(&[], &path, Format::Plain);
    append(&path, b"1\n2\n");
    tailer.poll(0);
    append(&path, b"3\n");
    fs::rename(&path, rotated(1)).unwrap();
    append(&path, b"4\n5\n");
    fs::rename(rotated(1), rotated(2)).unwrap();
    fs::rename(&path, rotated(1)).unwrap();
    append(&path, b"6\nlast without end");
    tailer.poll(0);
    assert_eq!(counts(&mut tailer).lines, 6);
}

#[test]
fn logs_that_rotate_to_names_with_dates_are_counted_once_through_a_restart() {
    for (older, newer) in [
        ("log-20261121", "log-20261122"),
        ("log.20261122-235900", "log.20261123-000100"),
        ("log-2026-11-21", "log-2026-11-22"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        // Of another log, and what cannot be read any more.
        append(&dir.path().join("log-viewer-20261123"), b"other\n");
        append(&dir.path().join("log-20261120.gz"), b"packed\n");
        append(&dir.path().join("log.5"), b"numbered, without those before it\n");
        let mut first = tailer(&[], &path, Format::Plain);
        append(&path, b"1\n2\n");
        first.poll(0);
        assert_eq!(counts(&mut first).lines, 2);
        append(&path, b"3\n");
        let mut second = resumed(&[], &path, &first.checkpoint());
        fs::rename(&path, dir.path().join(older)).unwrap();
        append(&path, b"4\n5\n");
        fs::rename(&path, dir.path().join(newer)).unwrap();
        append(&path, b"6\n");
        second.poll(0);
        let seen = counts(&mut second);
        assert_eq!((seen.lines, seen.lost_bytes), (4, 0), "{older}");
    }
}

#[test]
fn a_new_log_brings_its_rotated_files_and_not_those_of_an_earlier_life() {
    for (yesterday, now) in [("log.2", "log.1"), ("log-20261121", "log-20261122")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let now_ms = 1_795_000_000_000;
        for (name, age_s) in [(yesterday, 86_400), (now, 60)] {
            append(&dir.path().join(name), format!("{name}\n").as_bytes());
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now_ms / 1000 - age_s);
            fs::File::options().append(true).open(dir.path().join(name)).unwrap().set_modified(at).unwrap();
        }
        append(&path, b"now\n");
        let mut tailer = tailer(&[], &path, Format::Plain);
        tailer.poll(now_ms as i64);
        assert_eq!(counts(&mut tailer).lines, 2, "{yesterday}");
    }
}

#[test]
fn a_log_that_was_quiet_for_long_is_seen_to_rotate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut tailer = tailer(&[], &path, Format::Plain);
    append(&path, b"1\n");
    let later = i64::MAX / 2;
    tailer.poll(later);
    tailer.poll(later);
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::rename(&path, dir.path().join("log.1")).unwrap();
    append(&path, b"2\n");
    tailer.poll(later);
    assert_eq!(counts(&mut tailer).lines, 2);
    fs::remove_file(&path).unwrap();
    append(&path, b"3\n");
    std::thread::sleep(std::time::Duration::from_millis(20));
    tailer.poll(later);
    assert_eq!(counts(&mut tailer).lines, 1);
}

#[test]
fn what_was_rotated_and_removed_while_the_agent_was_away_is_said_to_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut first = tailer(&[], &path, Format::Plain);
    append(&path, b"1\n2\n");
    first.poll(0);
    counts(&mut first);
    fs::rename(&path, dir.path().join("gone")).unwrap();
    append(&path, b"3\n");
    let mut second = Tailer::new(&[], &[], Some(&first.checkpoint())).unwrap();
    second.set_sources([source(&path, Format::Plain, true)]);
    second.poll(0);
    let counts = counts(&mut second);
    assert_eq!((counts.lines, counts.lost_bytes), (1, 1));
}

fn cri(stream: &str, tag: &str, text: &str) -> Vec<u8> {
    format!("2026-11-22T17:40:44.123456789+08:00 {stream} {tag} {text}\n").into_bytes()
}

#[test]
fn cri_records_are_read_as_kubernetes_and_podman_write_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let rules = [rule("seam", &["AB"], &[], false), rule("plain", &["boom"], &[], false)];
    let mut tailer = tailer(&rules, &path, Format::Cri);
    // The two streams take turns within their open lines.
    for (stream, tag, text) in [
        ("stdout", "F", "boom"),
        ("stdout", "P", "first A"),
        ("stderr", "P", "other A"),
        ("stdout", "P", "B second A"),
        ("stderr", "F", " no seam"),
        ("stdout", "F:x", "B third"),
        ("stdout", "F", ""),
    ] {
        append(&path, &cri(stream, tag, text));
    }
    append(&path, b"no record at all: boom\n\n2026-11-22T17:40:44Z stdout F\n");
    tailer.poll(5_000);
    let counts = counts(&mut tailer);
    assert_eq!((counts.lines, counts.hits["seam"], counts.hits["plain"]), (7, 1, 2));
    let hits = tailer.take_hits();
    let seam = hits.iter().find(|hit| hit.rule == "seam").unwrap();
    assert_eq!(seam.samples[0].line, "first AB second AB third");
}

#[test]
fn a_stack_trace_hits_a_rule_once() {
    let dir = tempfile::tempdir().unwrap();
    let trace = "boom at first\n\tat boom.Main\n  at boom.Other\nCaused by: boom\n\tat boom.Deep\nboom again\nquiet\n  boom beside\n";
    for (name, format) in [("plain", Format::Plain), ("json", Format::JsonFile), ("cri", Format::Cri)] {
        // A regex is judged line by line, literals are not.
        for rules in [vec![rule("boom", &["boom"], &[], false)], vec![rule("boom", &[], &["bo+m"], false)]] {
            let path = dir.path().join(format!("{name}-{}", rules[0].regexes.len()));
            let mut tailer = tailer(&rules, &path, format);
            for line in trace.lines() {
                append(
                    &path,
                    &match format {
                        Format::Plain => format!("{line}\n").into_bytes(),
                        Format::JsonFile => record(&format!("{line}\n")),
                        Format::Cri => cri("stderr", "F", line),
                    },
                );
            }
            tailer.poll(5_000);
            let counts = counts(&mut tailer);
            assert_eq!((counts.lines, counts.hits["boom"]), (8, 3), "{name}");
        }
    }
}

#[test]
fn a_record_may_begin_where_a_pattern_says_and_ends_after_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut tailer = Tailer::new(&[rule("boom", &["boom"], &[], false)], &[], None).unwrap();
    let first_line = Rc::new(FirstLine::compile(r"^\d{4}-").unwrap());
    tailer.set_sources([Source { first_line, ..source(&path, Format::Plain, false) }]);
    append(&path, b"2026-11-22 boom\nTraceback\nboom\n2026-11-22 boom\n");
    tailer.poll(5_000);
    assert_eq!(counts(&mut tailer).hits["boom"], 2);
    append(&path, &b"boom\n".repeat(1000));
    tailer.poll(5_000);
    assert_eq!(counts(&mut tailer).hits["boom"], 5, "no record has more than 200 lines");
    append(&path, b"boom\n");
    tailer.poll(9_000);
    assert_eq!(counts(&mut tailer).hits["boom"], 1, "nor lasts longer than a second");
    assert!(FirstLine::compile("(").is_err());
}

#[test]
fn fields_of_json_lines_are_matched_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let rules = [
        KeywordRule { fields: vec!["level=error".into()], ..rule("level", &[], &[], true) },
        KeywordRule { fields: vec!["log.level=50".into(), "ok=false".into()], ..rule("deep", &[], &[], false) },
        KeywordRule { fields: vec!["msg=磁盘 \"满\"".into()], ..rule("chinese", &[], &[], false) },
    ];
    for format in [Format::Plain, Format::JsonFile] {
        let path = dir.path().join(format!("{format:?}"));
        let mut tailer = tailer(&rules, &path, format);
        for line in [
            r#"  {"a":[1,{"level":"error"}],"b":{"c":null}, "level" : "error"}"#,
            r#"{"level":"ERROR","msg":"x"}"#,
            r#"{"log":{"level":50,"other":"x"}}"#,
            r#"{"log.level":50}"#,
            r#"{"ok":false}"#,
            r#"{"msg":"磁盘 \"满\""}"#,
            r#"{"level":"errors"}"#,
            r#"{"nested":{"level":"error"}}"#,
            r#"{"msg":"level=error"}"#,
            r#"{"level":"error""#,
            "level=error 50 false",
            r#"["level","error"]"#,
        ] {
            append(
                &path,
                &if format == Format::Plain { format!("{line}\n").into_bytes() } else { record(&format!("{line}\n")) },
            );
        }
        tailer.poll(5_000);
        let counts = counts(&mut tailer);
        let hits: Vec<_> = counts.hits.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(hits, [("chinese", 1), ("deep", 3), ("level", 2)], "{format:?}");
        assert_eq!(counts.lines, 12);
    }
}

#[test]
fn a_rule_looks_only_at_the_containers_it_names_and_learns_of_a_change_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let named = |include: &[&str], exclude: &[&str]| KeywordRule {
        include: include.iter().map(|text| (*text).to_owned()).collect(),
        exclude: exclude.iter().map(|text| (*text).to_owned()).collect(),
        ..rule("boom", &["boom"], &[], false)
    };
    let mut tailer = tailer(&[named(&["image:mysql*"], &[])], &path, Format::Plain);
    let mut round = |rules: &[KeywordRule], version: u64| {
        if version > 0 {
            tailer.set_rules(rules, version).unwrap();
        }
        append(&path, b"boom\n");
        tailer.poll(version.cast_signed() * 10_000);
        let hits = counts(&mut tailer).hits.values().sum::<u64>();
        (hits, tailer.rules_version())
    };
    assert_eq!(round(&[], 0), (1, 0));
    assert_eq!(round(&[named(&["web-*"], &[])], 1), (0, 1));
    assert_eq!(round(&[named(&[], &["shop-*"])], 2), (0, 2));
    assert_eq!(round(&[named(&["shop-db"], &["web"])], 3), (1, 3));
    // A regex for others does not slow this log down.
    assert_eq!(round(&[KeywordRule { regexes: vec!["b".into()], ..named(&["web"], &[]) }], 4), (0, 4));
    assert!(!tailer.tracked[0].applies.by_line);
}

#[test]
fn the_server_may_lower_the_bound_of_samples_and_not_raise_it() {
    let dir = tempfile::tempdir().unwrap();
    for (asked, given) in [(Some(3), 3), (Some(u32::MAX), SAMPLES_A_DAY_MAX), (Some(0), 0), (None, SAMPLES_A_DAY_MAX)] {
        let path = dir.path().join(format!("{asked:?}"));
        let mut tailer = tailer(&[rule("boom", &["boom"], &[], false)], &path, Format::Plain);
        tailer.set_samples_a_day_max(asked);
        let mut samples = 0;
        for round in 0..100 {
            append(&path, &b"boom\n".repeat(4));
            tailer.poll(round);
            samples += tailer.take_hits()[0].samples.len();
        }
        assert_eq!(samples, given as usize, "{asked:?}");
    }
}

#[test]
fn a_log_that_is_copied_and_emptied_loses_nothing_that_the_copy_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut tailer = tailer(&[], &path, Format::Plain);
    append(&path, b"1\n2\n");
    tailer.poll(0);
    for round in 0..3 {
        append(&path, b"not looked at\n");
        let _ = fs::rename(dir.path().join("log.1"), dir.path().join("log.2"));
        fs::copy(&path, dir.path().join("log.1")).unwrap();
        fs::write(&path, b"").unwrap();
        append(&path, format!("new {round}\n").as_bytes());
        tailer.poll(0);
    }
    let counts = counts(&mut tailer);
    assert_eq!((counts.lines, counts.lost_bytes), (8, 0));
}

#[test]
fn a_log_that_rotates_its_oldest_file_away_goes_on_with_the_next_and_says_that_it_may_have_lost_some() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let at = |number: u32| dir.path().join(format!("log.{number}"));
    append(&at(1), b"older than the agent\n");
    append(&path, b"0\n");
    let mut tailer = Tailer::new(&[], &[], None).unwrap();
    tailer.set_sources([source(&path, Format::Plain, true)]);
    tailer.poll(0);
    let rotate = |text: &[u8]| {
        let _ = fs::rename(at(1), at(2));
        fs::rename(&path, at(1)).unwrap();
        append(&path, text);
    };
    rotate(b"1\n");
    tailer.poll(0);
    assert_eq!(counts(&mut tailer), Counts { lines: 1, bytes: 2, ..Counts::default() });
    rotate(b"2\n");
    rotate(b"3\n");
    rotate(b"4\n");
    tailer.poll(0);
    assert_eq!(counts(&mut tailer), Counts { lines: 3, bytes: 6, lost_bytes: 1, ..Counts::default() });
}

#[test]
fn no_link_is_followed_below_the_folder_that_the_settings_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("logs/app")).unwrap();
    fs::create_dir(at("outside")).unwrap();
    append(&at("outside/a.log"), b"secret\n");
    append(&at("logs/app/a.log"), b"1\n");
    let source = Source { beneath: Some(at("logs")), ..source(&at("logs/app/a.log"), Format::Plain, false) };
    let mut tailer = Tailer::new(&[], &[], None).unwrap();
    tailer.set_sources([source.clone()]);
    tailer.poll(0);
    // The folder is exchanged for a link by whoever may write there.
    fs::rename(at("logs/app"), at("logs/was")).unwrap();
    std::os::unix::fs::symlink(at("outside"), at("logs/app")).unwrap();
    tailer.poll(0);
    let mut later = Tailer::new(&[], &[], None).unwrap();
    later.set_sources([source]);
    later.poll(0);
    assert_eq!((counts(&mut tailer).lines, counts(&mut later).lines), (1, 0));
}

/// What may happen to a log between two looks.
#[derive(Debug, Clone)]
enum Step {
    Write(Vec<u8>),
    Rotate,
    /// Rotation that compresses at once: what was not read is gone from its name, not from who holds it.
    Compress,
    Truncate,
    CopyTruncate,
    /// The log is removed and begun anew.
    Remove,
    Poll,
    /// Hits are told in a block of their own, before the tick that has the counts.
    Tell,
    Restart,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => proptest::collection::vec(prop_oneof![3 => Just(b'a'), 1 => Just(b'\n'), 1 => Just(0_u8)], 1..30).prop_map(Step::Write),
        1 => Just(Step::Rotate),
        1 => Just(Step::Compress),
        1 => Just(Step::Truncate),
        1 => Just(Step::CopyTruncate),
        1 => Just(Step::Remove),
        4 => Just(Step::Poll),
        2 => Just(Step::Tell),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

/// What was stored of a tailer's work: lines with a tick, hits with a block, and positions with either.
#[derive(Default)]
struct Stored {
    lines: u64,
    hits: u64,
    checkpoint: Vec<u8>,
}

impl Stored {
    fn tick(&mut self, tailer: &mut Tailer) {
        self.lines += counts(tailer).lines;
        self.block(tailer);
    }

    fn block(&mut self, tailer: &mut Tailer) {
        self.hits += tailer.take_hits().iter().map(|hit| hit.count).sum::<u64>();
        self.checkpoint = tailer.checkpoint();
    }
}

/// Random histories of one log against a model: bytes that were there for a look are counted exactly once and their
/// hits told exactly once, and a crash takes all back to the last checkpoint together.
fn check_history(steps: &[Step], see: fn(&mut Tailer)) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    // A first line that differs each time, as log lines with times do.
    let mut generation = 0;
    let mut begin = |path: &Path| {
        generation += 1;
        fs::write(path, format!("file {generation}\n")).unwrap();
        format!("file {generation}\n").into_bytes()
    };
    let mut content = begin(&path);
    let rules = [rule("told", &["aa"], &[], false)];
    let mut tailer = resumed(&rules, &path, b"");
    let mut stored = Stored::default();
    // Lines and hits in files that are closed for good.
    let (mut closed_lines, mut closed_hits, mut must_store) = (0, 0, false);
    let whole = |content: &[u8]| content.iter().filter(|byte| **byte == b'\n').count() as u64;
    let hits = |content: &[u8], ends: bool| {
        let kept =
            if ends { content.len() } else { content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1) };
        let lines = content[..kept].split(|byte| *byte == b'\n');
        lines.filter(|line| line.windows(2).any(|pair| pair == b"aa")).count() as u64
    };
    for step in steps {
        match step {
            Step::Write(bytes) => {
                append(&path, bytes);
                content.extend_from_slice(bytes);
            }
            Step::Rotate | Step::Compress | Step::Remove => {
                if !matches!(step, Step::Rotate) {
                    // Only what is held by then is promised.
                    see(&mut tailer);
                }
                let is_shifted = !matches!(step, Step::Remove);
                for number in (1..15).rev().filter(|_| is_shifted) {
                    let name = |number: u32| dir.path().join(format!("log.{number}"));
                    let _ = fs::rename(name(number), name(number + 1));
                }
                match step {
                    Step::Rotate => fs::rename(&path, dir.path().join("log.1")).unwrap(),
                    Step::Compress => fs::rename(&path, dir.path().join("log.1.gz")).unwrap(),
                    _ => fs::remove_file(&path).unwrap(),
                }
                // A file that is left for good ends its last line.
                closed_lines += whole(&content) + u64::from(content.last() != Some(&b'\n'));
                closed_hits += hits(&content, true);
                content = begin(&path);
                must_store = !matches!(step, Step::Rotate);
            }
            Step::CopyTruncate => {
                for number in (1..15).rev() {
                    let name = |number: u32| dir.path().join(format!("log.{number}"));
                    let _ = fs::rename(name(number), name(number + 1));
                }
                // A line is ended before: what is read of a copy is not joined to what was read before it.
                if content.last() != Some(&b'\n') {
                    append(&path, b"\n");
                    content.push(b'\n');
                }
                fs::copy(&path, dir.path().join("log.1")).unwrap();
                closed_lines += whole(&content);
                closed_hits += hits(&content, false);
                content = begin(&path);
                must_store = true;
            }
            Step::Truncate => {
                // Only what was looked at before is promised.
                see(&mut tailer);
                closed_lines += whole(&content);
                closed_hits += hits(&content, false);
                content = begin(&path);
            }
            Step::Poll => {
                see(&mut tailer);
            }
            Step::Tell => {
                see(&mut tailer);
                stored.block(&mut tailer);
            }
            Step::Restart => {
                see(&mut tailer);
                stored.tick(&mut tailer);
                tailer = resumed(&rules, &path, &stored.checkpoint);
            }
            Step::Crash => tailer = resumed(&rules, &path, &stored.checkpoint),
        }
        if std::mem::take(&mut must_store) || matches!(step, Step::Truncate) {
            // A crash before the next checkpoint would lose what is gone by now: the model stores it here.
            see(&mut tailer);
            stored.tick(&mut tailer);
        }
    }
    see(&mut tailer);
    stored.tick(&mut tailer);
    prop_assert_eq!(stored.lines, closed_lines + whole(&content));
    prop_assert_eq!(stored.hits, closed_hits + hits(&content, false));
    Ok(())
}

/// A look at everything.
fn see_all(tailer: &mut Tailer) {
    tailer.poll(0);
}

/// A look at what the kernel told about, and nothing else.
fn see_told(tailer: &mut Tailer) {
    // Looks at everything are far away, but for the first one.
    for boot_ms in 1..100 {
        tailer.pace.is_due = true;
        tailer.look(0, boot_ms);
        if !tailer.tracked.iter().any(|log| log.is_dirty) {
            break;
        }
    }
}

/// Random records of two streams with open lines, read in pieces, with crashes: every line once.
fn check_streams(steps: &[(bool, bool, u8)]) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    append(&path, b"");
    let mut tailer = Tailer::new(&[], &[], None).unwrap();
    tailer.set_sources([source(&path, Format::Cri, false)]);
    let (mut lines, mut stored, mut open) = (0, Stored::default(), [false; 2]);
    for (number, (is_error, is_part, then)) in steps.iter().enumerate() {
        let stream = if *is_error { "stderr" } else { "stdout" };
        append(&path, &cri(stream, if *is_part { "P" } else { "F" }, &format!("text {number}")));
        open[usize::from(*is_error)] = *is_part;
        lines += u64::from(!is_part);
        match then {
            0 | 1 => drop(tailer.poll(0)),
            2 => {
                tailer.poll(0);
                stored.tick(&mut tailer);
            }
            5 => {
                tailer.poll(0);
                stored.block(&mut tailer);
            }
            3 => {
                let mut next = Tailer::new(&[], &[], Some(&stored.checkpoint)).unwrap();
                next.set_sources([source(&path, Format::Cri, false)]);
                tailer = next;
            }
            4 => {
                for number in (1..10).rev() {
                    let name = |number: u32| dir.path().join(format!("0.log.{number}"));
                    let _ = fs::rename(name(number), name(number + 1));
                }
                fs::rename(&path, dir.path().join("0.log.1")).unwrap();
                append(&path, &cri("stdout", "F", &format!("file {number}")));
                // Open lines end with their file.
                lines += 1 + open.iter().filter(|is_open| **is_open).count() as u64;
                open = [false; 2];
            }
            _ => {}
        }
    }
    tailer.poll(0);
    stored.tick(&mut tailer);
    prop_assert_eq!(stored.lines, lines);
    Ok(())
}

fn resumed(rules: &[KeywordRule], path: &Path, checkpoint: &[u8]) -> Tailer {
    let mut next = Tailer::new(rules, &[], Some(checkpoint)).unwrap();
    next.set_sources([source(path, Format::Plain, false)]);
    next
}

#[test]
fn what_is_looked_for_begins_like_nothing_that_is_in_every_record() {
    let sought = |run: &'static str| std::str::from_utf8(matcher::without_frame(run.as_bytes())).unwrap();
    assert_eq!(sought("output error"), "tput error", "every record ends with stdout or stderr");
    assert_eq!(sought("Timed out"), "ed out");
    assert_eq!(sought("No space left"), "No space left");
    assert_eq!(sought("数据库连接超时"), "数据库连接超时");
    for short in ["error", "std", "o", ""] {
        assert_eq!(sought(short), short, "too little would be left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn each_line_is_counted_once_whatever_happens(steps in proptest::collection::vec(step(), 0..40)) {
        check_history(&steps, see_all)?;
        check_history(&steps, see_told)?;
    }

    #[test]
    fn lines_of_two_streams_are_counted_once(
        steps in proptest::collection::vec((any::<bool>(), any::<bool>(), 0_u8..7), 0..30),
    ) {
        check_streams(&steps)?;
    }

    #[test]
    fn the_quick_way_finds_what_the_slow_way_finds(
        lines in proptest::collection::vec("(error|数据库|fatal|<b>|a\tb|say \"no\"|x\\\\y|wArN|stdout|stream| |[a-z]{0,4}|\\\\|\"){0,6}\n", 0..12),
    ) {
        check_ways(&lines)?;
    }

    #[test]
    fn case_is_folded_as_the_library_folds_it(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut folded = bytes.clone();
        matcher::fold_case(&mut folded);
        prop_assert_eq!(folded, bytes.to_ascii_lowercase());
    }

    #[test]
    fn json_file_records_give_back_what_was_printed(text in "\\PC{0,40}[\\t\\\\\"<>&\\x00-\\x1f]{0,6}\\PC{0,10}") {
        let text = text.replace('\n', " ");
        let mut scratch = Vec::new();
        for (printed, ends) in [(text.clone(), false), (format!("{text}\n"), true)] {
            let bytes = record(&printed);
            let parsed = Format::JsonFile.parse(&bytes[..bytes.len() - 1], &mut scratch);
            let expected = if ends { text.strip_suffix('\r').unwrap_or(&text) } else { &text };
            prop_assert_eq!(String::from_utf8_lossy(parsed.text), expected);
            prop_assert!(parsed.ends_line, "it is shorter than what Docker cuts");
        }
    }

    #[test]
    fn escapes_are_read_as_json_reads_them(text in "\\PC{0,60}") {
        let ascii: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        let mut out = Vec::new();
        unescape(ascii.as_bytes(), &mut out);
        let read: String = serde_json::from_str(&format!("\"{ascii}\"")).unwrap();
        prop_assert_eq!(String::from_utf8(out).unwrap(), read);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), escaped in "[\\\\u0-9a-fn\"{}log:]{0,100}") {
        let dir = tempfile::tempdir().unwrap();
        for (name, format) in [("a", Format::JsonFile), ("b", Format::Plain), ("c", Format::Cri)] {
            let path = dir.path().join(name);
            let mut tailer = tailer(&keyword::default_rules(), &path, format);
            append(&path, &bytes);
            append(&path, format!("\n{{\"log\":\"{escaped}\n").as_bytes());
            tailer.poll(0);
            prop_assert_eq!(counts(&mut tailer).bytes, fs::metadata(&path).unwrap().len());
        }
        let _ = Tailer::new(&[], &[], Some(&bytes)).unwrap();
    }
}

/// What the loop does: looks when something is due, and says how often it looked at a file.
struct Clock {
    boot_ms: i64,
}

impl Clock {
    /// Lets time pass to `boot_ms`; how often a look was due.
    fn run_to(&mut self, tailer: &mut Tailer, boot_ms: i64) -> u32 {
        let mut looks = 0;
        while tailer.due_ms() <= boot_ms {
            self.boot_ms = self.boot_ms.max(tailer.due_ms());
            tailer.look(self.boot_ms, self.boot_ms);
            looks += 1;
            assert!(looks < 10_000, "it never rests");
        }
        self.boot_ms = boot_ms;
        looks
    }
}

/// Whether the loop is woken.
async fn is_woken(tailer: &mut Tailer, patience_ms: u64) -> bool {
    tokio::time::timeout(std::time::Duration::from_millis(patience_ms), tailer.written()).await.is_ok()
}

fn logs_in(dir: &Path, count: usize) -> Vec<Source> {
    let logs = (0..count).map(|n| {
        let path = dir.join(format!("{n}.log"));
        append(&path, b"");
        Source { id: format!("c{n}"), ..source(&path, Format::Plain, false) }
    });
    logs.collect()
}

#[tokio::test]
async fn a_quiet_host_is_left_asleep_and_a_line_wakes_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs_in(dir.path(), 20);
    let mut tailer = Tailer::new(&[], &[], None).unwrap();
    tailer.set_sources(logs.clone());
    let mut clock = Clock { boot_ms: 100_000 };
    clock.run_to(&mut tailer, 103_000);
    assert_eq!(tailer.unwatched(), 0);
    assert!(clock.run_to(&mut tailer, 103_000 + 10 * LOOK_ALL_MS) <= 11, "nothing but the look at everything");
    assert!(!is_woken(&mut tailer, 200).await, "nothing was written");
    append(logs[7].path.as_ref().unwrap(), b"a line\n");
    assert!(is_woken(&mut tailer, 5000).await, "a line was written");
    assert_eq!(tailer.due_ms(), 0);
    let now_ms = clock.boot_ms;
    tailer.look(now_ms, now_ms);
    assert_eq!(counts(&mut tailer).lines, 1);
}

#[tokio::test]
async fn many_containers_that_print_a_little_wake_it_once_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs_in(dir.path(), 200);
    let mut tailer = Tailer::new(&[], &[], None).unwrap();
    tailer.set_sources(logs.clone());
    let mut clock = Clock { boot_ms: 100_000 };
    clock.run_to(&mut tailer, 103_000);
    let (mut looks, mut taken) = (0, 0);
    for step in 0..100 {
        for log in logs.iter().skip(step % 10).step_by(10) {
            append(log.path.as_ref().unwrap(), b"a little\n");
        }
        // The loop is woken only while nothing is being gathered.
        looks += u32::from(is_woken(&mut tailer, 1).await);
        looks += clock.run_to(&mut tailer, clock.boot_ms + 100);
        tailer.take_counts(|_, counts| taken += counts.lines);
    }
    assert!(looks <= 14, "{looks} looks in ten seconds");
    clock.run_to(&mut tailer, clock.boot_ms + 2000);
    tailer.take_counts(|_, counts| taken += counts.lines);
    assert_eq!(taken, 2000);
}

#[test]
fn files_that_the_kernel_refuses_to_watch_are_looked_at_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs_in(dir.path(), 5);
    let mut tailer = Tailer::new(&[], &[], None).unwrap();
    tailer.wake.watches_max.set(2);
    tailer.set_sources(logs.clone());
    let mut clock = Clock { boot_ms: 100_000 };
    clock.run_to(&mut tailer, 101_000);
    assert_eq!(tailer.unwatched(), 3);
    assert!(tailer.wake.refusal().unwrap().contains("max_user_watches is used up"));
    logs.iter().for_each(|log| append(log.path.as_ref().unwrap(), b"x\n"));
    clock.run_to(&mut tailer, 103_500);
    assert_eq!(counts(&mut tailer).lines, 5, "those without a watch are looked at once a second");
    // As soon as watches are free again, all are watched.
    tailer.wake.watches_max.set(usize::MAX);
    clock.run_to(&mut tailer, 106_000);
    assert_eq!(tailer.unwatched(), 0);
}

#[tokio::test]
async fn rotation_moves_the_watch_and_leaves_no_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs_in(dir.path(), 1);
    let path = logs[0].path.clone().unwrap();
    let mut tailer = Tailer::new(&[], &[], None).unwrap();
    tailer.set_sources(logs);
    let mut clock = Clock { boot_ms: 100_000 };
    clock.run_to(&mut tailer, 102_000);
    let held = || {
        let all = fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        all.filter(|link| link.starts_with(dir.path())).count()
    };
    for round in 0..50 {
        fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        append(&path, format!("round {round}\n").as_bytes());
        assert!(is_woken(&mut tailer, 5000).await, "it rotated");
        clock.run_to(&mut tailer, clock.boot_ms + 2000);
        append(&path, b"more\n");
        assert!(is_woken(&mut tailer, 5000).await, "it was written to");
        clock.run_to(&mut tailer, clock.boot_ms + 2000);
    }
    assert_eq!(counts(&mut tailer).lines, 100);
    assert_eq!((held(), tailer.unwatched()), (1, 0));
    fs::remove_file(&path).unwrap();
    tailer.set_sources([]);
    clock.run_to(&mut tailer, clock.boot_ms + 2000);
    assert_eq!((held(), tailer.tracked.len()), (0, 0));
}

#[test]
fn what_a_removed_container_said_last_is_counted_however_much_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs_in(dir.path(), 1);
    let path = logs[0].path.clone().unwrap();
    let mut tailer = Tailer::new(&[], &[], None).unwrap();
    tailer.set_sources(logs);
    let mut clock = Clock { boot_ms: 100_000 };
    clock.run_to(&mut tailer, 102_000);
    append(&path, &b"sixteen bytes..\n".repeat(2 << 20));
    append(&path, b"the last word has no end");
    fs::remove_file(&path).unwrap();
    tailer.set_sources([]);
    clock.run_to(&mut tailer, 103_000);
    tailer.set_sources([]);
    assert_eq!(counts(&mut tailer).lines, (2 << 20) + 1);
}

#[test]
fn links_pipes_and_devices_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    append(&at("secret"), b"root:x\n");
    std::os::unix::fs::symlink(at("secret"), at("link")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RUSR).unwrap();
    for name in ["link", "device", "pipe", "."] {
        let mut tailer = tailer(&[], &at(name), Format::Plain);
        assert!(!tailer.poll(0));
        assert_eq!(counts(&mut tailer).bytes, 0, "{name} was read");
    }
}
