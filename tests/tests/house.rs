//! House rules, held by reading the sources: module heads, import directions, one heavy dependency
//! one room, equal migration trees, no left-overs, no machine paths, documents that name real paths.
//! Standard library only and no build of the product, so that it can run before everything else
//! (`make house` compiles this one file). Each rule has a test that shows it catching a violation.
//! What needs types belongs in clippy.toml; what needs a running product belongs beside this file.
#![allow(clippy::expect_used, reason = "a rule that cannot read the sources must fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Folders that are not ours or not source.
const SKIPPED_FOLDERS: [&str; 6] = [".git", "target", "node_modules", "data", "out", "dist"];

/// A module head shorter than this says nothing.
const HEAD_CHARS_MIN: usize = 20;

/// Rooms whose imports are closed: only these rooms of the same crate may be named inside.
/// `(crate folder, room, allowed rooms)`; a room may always name itself.
const ROOM_MAY_IMPORT: &[(&str, &str, &[&str])] = &[
    ("agent", "engine", &["settings"]),
    ("agent", "sampler", &["settings"]),
    ("agent", "tailer", &["settings"]),
    ("agent", "scrape", &["sampler"]),
    ("agent", "spool", &[]),
    ("agent", "sender", &["settings", "spool"]),
    ("agent", "vitals", &["sampler"]),
    ("agent", "settings", &[]),
    ("server", "model", &[]),
    ("server", "series", &["model"]),
    ("server", "forecast", &["series", "model"]),
    ("server", "watch", &["series", "model"]),
    ("server", "store", &["model"]),
    ("server", "notify", &["model", "settings", "telemetry"]),
    ("server", "seal", &["settings"]),
    ("server", "site", &["model", "store", "seal", "settings"]),
    ("server", "outbox", &["model", "store", "notify", "seal", "telemetry"]),
    ("server", "operate", &["model", "store", "seal", "settings"]),
    ("server", "share", &["model"]),
    ("server", "vigil", &["model", "store", "notify", "settings", "share"]),
    ("server", "judge", &["model", "store", "watch", "outbox", "share", "telemetry"]),
    ("server", "replay", &["model", "series", "forecast", "watch"]),
    ("server", "intake", &["model", "store", "series", "judge", "telemetry"]),
    ("server", "settings", &["model"]),
    ("server", "telemetry", &["model"]),
    ("server", "adopted", &["model", "store", "forecast", "settings"]),
    ("server", "training", &["model", "store", "forecast"]),
    (
        "server",
        "schedule",
        &[
            "model",
            "store",
            "series",
            "forecast",
            "adopted",
            "intake",
            "judge",
            "outbox",
            "share",
            "telemetry",
            "settings",
        ],
    ),
];

/// Rooms that nobody but the crate's root files may import.
const ROOM_ON_TOP: &[(&str, &str)] = &[("server", "http"), ("server", "schedule")];

/// Heavy dependencies and the only places that may name them.
const DEPENDENCY_ROOMS: &[(&str, &[&str])] = &[
    ("warp", &["server/src/http/"]),
    ("hyper", &["agent/src/engine/", "server/src/http/"]),
    ("hyper_util", &["agent/src/engine/", "server/src/http/"]),
    ("diesel", &["server/src/store/"]),
    ("diesel_async", &["server/src/store/"]),
    ("diesel_migrations", &["server/src/store/"]),
    ("mysql_async", &["server/src/store/"]),
    ("augurs", &["server/src/forecast/", "server/src/watch/", "server/benches/"]),
    ("ndarray", &["server/src/forecast/", "server/src/watch/"]),
    ("linfa", &["server/src/forecast/", "server/src/watch/"]),
    ("sysinfo", &["agent/src/sampler/"]),
    ("rustix", &["agent/src/sampler/", "tests/"]),
    ("bollard", &["agent/src/engine/"]),
    ("reqwest", &["agent/src/sender/", "server/src/notify/", "tests/"]),
    ("parquet", &["server/src/operate/"]),
    ("pco", &["server/src/store/", "server/src/series/", "common/"]),
];

/// Where a room needs a dependency that lives elsewhere: `(file or folder, dependency, reason)`.
const DEPENDENCY_EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("agent/src/tailer/", "rustix", "inotify and opening what is no symlink have no safe call in the standard library"),
    ("agent/src/alarm.rs", "rustix", "a timer of the kernel has no safe call in the standard library"),
    ("common/src/clock.rs", "rustix", "CLOCK_BOOTTIME has no safe call in the standard library"),
    ("server/src/store/size.rs", "rustix", "how full a file system is has no safe call in the standard library"),
    ("server/src/notify/tests.rs", "hyper", "the robot that the tests send to is a real HTTP server"),
    ("server/src/notify/tests.rs", "hyper_util", "the robot that the tests send to is a real HTTP server"),
];

/// Reading the environment.
const ENVIRONMENT_CALLS: [&str; 6] =
    ["env::var", "env::var_os", "env::vars", "env::vars_os", "env::set_var", "env::remove_var"];

/// Reading the clock.
const CLOCK_CALLS: [&str; 4] = ["SystemTime::now", "Timestamp::now", "Zoned::now", "Utc::now"];

/// One text file of the repository; the path is relative to its top and uses `/`.
#[derive(Debug)]
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn of(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// `(crate folder, room)` of a product source; root files (`main.rs`, `lib.rs`) have no room.
    fn room(&self) -> Option<(&str, &str)> {
        let (folder, inside) = self.path.split_once("/src/")?;
        let first = inside.split('/').next()?;
        let room = first.strip_suffix(".rs").unwrap_or(first);
        (room != "main" && room != "lib").then_some((folder, room))
    }

    fn is_in(&self, place: &str) -> bool {
        self.path.starts_with(place) || place.strip_suffix('/').is_some_and(|room| self.path == format!("{room}.rs"))
    }
}

// ---------------------------------------------------------------- reading

fn repository_top() -> PathBuf {
    let mut folder = std::env::current_dir().expect("a current directory");
    while !(folder.join("rust-toolchain.toml").is_file() && folder.join("Cargo.lock").is_file()) {
        assert!(folder.pop(), "run the house rules inside the repository");
    }
    folder
}

fn collect(folder: &Path, top: &Path, found: &mut Vec<Source>) {
    let entries = std::fs::read_dir(folder).expect("a readable folder");
    for entry in entries.map(|e| e.expect("a readable entry")) {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if !SKIPPED_FOLDERS.contains(&name.as_str()) {
                collect(&path, top, found);
            }
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let relative = path.strip_prefix(top).expect("inside the repository");
            found.push(Source { path: relative.to_string_lossy().replace('\\', "/"), text });
        }
    }
}

fn repository() -> Vec<Source> {
    let top = repository_top();
    let mut found = Vec::new();
    collect(&top, &top, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.iter().filter(|s| s.is_rust()).count() > 5, "the sources were not found");
    found
}

/// Rust text with comments and the contents of literals blanked, line structure kept.
fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let previous_is_name = i > 0 && (chars[i - 1].is_alphanumeric() || chars[i - 1] == '_');
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                code.push(' ');
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0_usize;
            while i < chars.len() {
                if chars[i] == '/' && at(i + 1) == '*' {
                    depth += 1;
                    code.push_str("  ");
                    i += 2;
                } else if chars[i] == '*' && at(i + 1) == '/' {
                    depth -= 1;
                    code.push_str("  ");
                    i += 2;
                    if depth == 0 {
                        break;
                    }
                } else {
                    code.push(blank(chars[i]));
                    i += 1;
                }
            }
        } else if let Some(hashes) = raw_string_hashes(&chars, i).filter(|_| !previous_is_name) {
            let closing: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            while i < chars.len() && chars[i] != '"' {
                code.push(' ');
                i += 1;
            }
            code.push('"');
            i += 1;
            while i < chars.len() && !closing.chars().enumerate().all(|(k, want)| at(i + k) == want) {
                code.push(blank(chars[i]));
                i += 1;
            }
            code.push('"');
            i += closing.len();
        } else if c == '"' {
            code.push('"');
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                if chars[i] == '\\' {
                    code.push(' ');
                    i += 1;
                }
                if i < chars.len() {
                    code.push(blank(chars[i]));
                    i += 1;
                }
            }
            code.push('"');
            i += 1;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character literal, not a lifetime.
            let mut end = if at(i + 1) == '\\' { i + 3 } else { i + 2 };
            while end < chars.len() && chars[end] != '\'' {
                end += 1;
            }
            code.push_str(&" ".repeat(end + 1 - i));
            i = end + 1;
        } else {
            code.push(c);
            i += 1;
        }
    }
    code
}

/// The number of `#` of a raw string that starts here (`r"`, `r#"`, `br##"`…).
fn raw_string_hashes(chars: &[char], start: usize) -> Option<usize> {
    let mut i = start;
    if matches!(chars.get(i), Some('b' | 'c')) {
        i += 1;
    }
    if chars.get(i) != Some(&'r') {
        return None;
    }
    i += 1;
    let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
    (chars.get(i + hashes) == Some(&'"')).then_some(hashes)
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `path` (such as `crate` or `env::var`) stands as a whole path in code, and what follows.
fn occurrences<'a>(code: &'a str, path: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    code.match_indices(path).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back();
        let rest = &code[at + path.len()..];
        let whole = !before.is_some_and(is_name) && !rest.starts_with(is_name);
        whole.then_some((at, rest))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The rooms named after `crate::` (or the crate's own name): `crate::a::b`, `crate::{a, b::{c, d}}`.
fn rooms_named(code: &str, crate_name: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate", crate_name] {
        for (at, rest) in occurrences(code, root) {
            let Some(rest) = rest.trim_start().strip_prefix("::") else { continue };
            for name in first_segments(rest.trim_start()) {
                found.push((line_of(code, at), name));
            }
        }
    }
    found
}

/// How many modules deep a file is: `src/store.rs` and `src/store/mod.rs` are one.
fn module_depth(path: &str) -> usize {
    let inside = path.split_once("/src/").map_or(path, |(_, inside)| inside);
    inside.trim_end_matches("/mod.rs").split('/').count()
}

/// The rooms named by climbing out of one's own: `super::super::store` in a file two modules deep.
fn rooms_climbed_to(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, rest) in occurrences(code, "super") {
        if code[..at].ends_with("super::") {
            continue; // not the head of its chain
        }
        let (mut steps, mut rest) = (1, rest);
        while let Some(further) = rest.strip_prefix("::super") {
            steps += 1;
            rest = further;
        }
        let Some(rest) = rest.strip_prefix("::").filter(|_| steps >= depth) else { continue };
        found.extend(first_segments(rest).into_iter().map(|name| (line_of(code, at), name)));
    }
    found
}

fn first_segments(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        let name: String = rest.chars().take_while(|c| is_name(*c)).collect();
        return if name.is_empty() { Vec::new() } else { vec![name] };
    };
    let mut names = Vec::new();
    let (mut depth, mut name, mut open) = (0_usize, String::new(), true);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(std::mem::take(&mut name));
                open = true;
            }
            _ if depth == 0 && open && is_name(c) => name.push(c),
            _ if depth == 0 && open && !name.is_empty() => open = false,
            _ => {}
        }
    }
    names.push(name);
    names.retain(|n| !n.is_empty());
    names
}

// ---------------------------------------------------------------- rules

fn module_heads(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources.iter().filter(|s| s.is_rust()) {
        let head: String = source.text.lines().take_while(|l| l.starts_with("//!")).collect();
        if head.is_empty() {
            faults.push(format!("{}: starts without a //! head that says what the room is for", source.path));
        } else if head.chars().count() < HEAD_CHARS_MIN {
            faults.push(format!("{}: its //! head says too little", source.path));
        }
    }
    faults
}

fn import_directions(sources: &[Source]) -> Vec<String> {
    let mut rooms: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (folder, room) in sources.iter().filter(|s| s.is_rust()).filter_map(Source::room) {
        rooms.entry(folder).or_default().insert(room);
    }
    let mut faults = Vec::new();
    for source in sources.iter().filter(|s| s.is_rust()) {
        let Some((folder, room)) = source.room() else { continue };
        let code = code_only(&source.text);
        let crate_name = format!("forewarn_{}", folder.rsplit('/').next().unwrap_or(folder));
        let allowed = ROOM_MAY_IMPORT.iter().find(|(f, r, _)| *f == folder && *r == room).map(|(_, _, a)| *a);
        let mut named = rooms_named(&code, &crate_name);
        named.extend(rooms_climbed_to(&code, module_depth(&source.path)));
        for (line, name) in named {
            if name == room || !rooms.get(folder).is_some_and(|r| r.contains(name.as_str())) {
                continue;
            }
            let closed = allowed.is_some_and(|a| !a.contains(&name.as_str()));
            let on_top = ROOM_ON_TOP.contains(&(folder, name.as_str()));
            if closed || on_top {
                faults.push(format!("{}:{line}: {room} must not import {name}", source.path));
            }
        }
    }
    faults
}

fn dependency_rooms(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources.iter().filter(|s| s.is_rust()) {
        let code = code_only(&source.text);
        for (dependency, places) in DEPENDENCY_ROOMS {
            let excepted = DEPENDENCY_EXCEPTIONS.iter().any(|(place, d, _)| d == dependency && source.is_in(place));
            if excepted || places.iter().any(|place| source.is_in(place)) {
                continue;
            }
            for (at, rest) in occurrences(&code, dependency) {
                let is_path = rest.trim_start().starts_with("::") && !code[..at].ends_with("::");
                let before = code[..at].trim_end();
                let is_use =
                    (before.ends_with("use") || before.ends_with("extern crate")) && rest.starts_with([';', ' ']);
                if is_path || is_use {
                    let line = line_of(&code, at);
                    faults.push(format!("{}:{line}: {dependency} belongs in {}", source.path, places.join(" or ")));
                }
            }
        }
    }
    faults
}

fn environment_and_clock(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    // Tests say at the call why they must; clippy holds that.
    let is_test =
        |s: &Source| s.path.starts_with("tests/") || s.path.contains("/tests/") || s.path.ends_with("/tests.rs");
    let product = |s: &&Source| s.is_rust() && s.path.contains("src/") && !is_test(s);
    for source in sources.iter().filter(product) {
        let code = code_only(&source.text);
        let rules: [(&[&str], &str, &str); 2] = [
            (&ENVIRONMENT_CALLS, "/src/settings", "the environment is read only in settings"),
            (&CLOCK_CALLS, "common/src/clock", "the time is read only in common/src/clock.rs"),
        ];
        for (calls, home, saying) in rules {
            if source.path.contains(home) {
                continue;
            }
            for (at, _) in calls.iter().flat_map(|call| occurrences(&code, call)) {
                faults.push(format!("{}:{}: {saying}", source.path, line_of(&code, at)));
            }
        }
    }
    faults
}

/// Every module file is named by a `mod` of a file above it.
fn dead_files(sources: &[Source]) -> Vec<String> {
    let mut declared: BTreeSet<String> = BTreeSet::new();
    for source in sources.iter().filter(|s| s.is_rust()) {
        let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let stem = source.path.rsplit('/').next().and_then(|f| f.strip_suffix(".rs")).unwrap_or_default();
        let is_root = matches!(stem, "main" | "lib" | "mod") || folder.ends_with("/tests") || folder.ends_with("/bin");
        let base = if is_root { folder.to_owned() } else { format!("{folder}/{stem}") };
        let code = code_only(&source.text);
        for (_, rest) in occurrences(&code, "mod") {
            let name: String = rest.trim_start().chars().take_while(|c| is_name(*c)).collect();
            declared.insert(format!("{base}/{name}"));
        }
    }
    let mut faults = Vec::new();
    let has_modules = |s: &&Source| s.is_rust() && (s.path.contains("/src/") || s.path.contains("/tests/suite/"));
    for source in sources.iter().filter(has_modules) {
        let Some(module) = source.path.strip_suffix(".rs") else { continue };
        let module = module.strip_suffix("/mod").unwrap_or(module);
        let root = ["/src/main", "/src/lib", "/tests/suite/main"].iter().any(|root| module.ends_with(root));
        let root = root || module.contains("/src/bin/");
        if !root && !declared.contains(module) {
            faults.push(format!("{}: no mod names this file", source.path));
        }
    }
    faults
}

/// Every crate that ships has at most one binary of integration tests, `tests/suite`: each one more links everything again.
fn test_binaries(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources.iter().filter(|s| s.is_rust()) {
        let Some((name, inside)) = source.path.split_once("/tests/") else { continue };
        if ["agent", "common", "server"].contains(&name) && !inside.starts_with("suite/") {
            faults.push(format!("{}: belongs below {name}/tests/suite", source.path));
        }
    }
    faults
}

/// MySQL tables that leave engine, charset or collation to the server's defaults.
fn bare_tables(sql: &str) -> Vec<String> {
    let words = |text: &str| {
        let text = text.to_lowercase().replace('=', " ").replace("character set", "charset");
        text.split_whitespace().collect::<Vec<&str>>().join(" ")
    };
    let sql = words(sql).replace("create table if not exists", "create table");
    let mut faults = Vec::new();
    for table in sql.split("create table ").skip(1) {
        let table = table.split(';').next().unwrap_or_default();
        let name: String = table.chars().take_while(|c| is_name(*c) || *c == '`').collect();
        for wanted in ["engine innodb", "charset utf8mb4", "collate utf8mb4"] {
            if !table.contains(wanted) {
                faults.push(format!("table {name} must state {wanted}"));
            }
        }
    }
    faults
}

fn migrations(sources: &[Source]) -> Vec<String> {
    let mut trees: BTreeMap<&str, BTreeSet<String>> =
        BTreeMap::from([("mysql", BTreeSet::new()), ("sqlite", BTreeSet::new())]);
    let mut faults = Vec::new();
    for source in sources {
        if let Some(inside) = source.path.strip_prefix("server/migrations/") {
            let (engine, file) = inside.split_once('/').unwrap_or(("", inside));
            match trees.get_mut(engine) {
                Some(names) => _ = names.insert(file.to_owned()),
                None => faults.push(format!("{}: migrations belong in mysql/ or sqlite/", source.path)),
            }
            if engine == "mysql" {
                faults.extend(bare_tables(&source.text).into_iter().map(|fault| format!("{}: {fault}", source.path)));
            }
        }
        let sql = source.path.ends_with(".sql") || (source.path.starts_with("server/src/store") && source.is_rust());
        for words in [
            concat!("insert", " ignore"),
            concat!("replace", " into"),
            concat!("insert", "_or_ignore"),
            concat!("replace", "_into"),
        ] {
            if sql && source.text.to_lowercase().contains(words) {
                faults.push(format!("{}: {words} turns errors into warnings on MySQL", source.path));
            }
        }
    }
    if trees["mysql"].is_empty() {
        faults.push("server/migrations/mysql: there are no migrations".to_owned());
    }
    for name in trees["mysql"].symmetric_difference(&trees["sqlite"]) {
        faults.push(format!("server/migrations: {name} is in one of mysql/ and sqlite/ only"));
    }
    faults
}

/// Left-over marks, machine paths, tests that are skipped.
fn left_overs(sources: &[Source]) -> Vec<String> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("HA", "CK:")];
    let paths = [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
    let skips = [
        concat!("#[ig", "nore"),
        concat!("it.sk", "ip("),
        concat!("it.on", "ly("),
        concat!("test.sk", "ip("),
        concat!("test.on", "ly("),
        concat!("describe.sk", "ip("),
    ];
    let written =
        [".rs", ".ts", ".vue", ".mjs", ".js", ".sh", ".md", ".toml", ".sql", ".yaml", ".yml", ".service", "Makefile"];
    let mut faults = Vec::new();
    for source in sources.iter().filter(|s| written.iter().any(|end| s.path.ends_with(end))) {
        for (number, line) in source.text.lines().enumerate() {
            let mut fault =
                |what: &str, word: &str| faults.push(format!("{}:{}: {what}: {word}", source.path, number + 1));
            for word in marks {
                if occurrences(line, word.trim_end_matches(':')).next().is_some() && line.contains(word) {
                    fault("finish it or drop it", word);
                }
            }
            for word in paths {
                if line.contains(word) {
                    fault("path of one machine", word);
                }
            }
            for word in skips {
                if line.contains(word) {
                    fault("skipped test", word);
                }
            }
        }
    }
    faults
}

/// Lock files name the public registries or none: no mirror of the machine that wrote them.
fn lock_files(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources {
        let (mark, wanted) = match source.path.rsplit('/').next().unwrap_or_default() {
            "package-lock.json" => ("\"resolved\": \"http", "\"resolved\": \"https://registry.npmjs.org/"),
            "Cargo.lock" => ("source = ", "source = \"registry+https://github.com/rust-lang/crates.io-index\""),
            _ => continue,
        };
        for (number, line) in source.text.lines().enumerate() {
            if line.contains(mark) && !line.contains(wanted) {
                faults.push(format!("{}:{}: comes from elsewhere than the public registry", source.path, number + 1));
            }
        }
    }
    faults
}

/// Every path in back quotes in the two pages about the code exists; the shipped settings exist.
fn documents(sources: &[Source], exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for wanted in
        ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "LICENSE", "config/agent.toml", "config/server.toml"]
    {
        if !sources.iter().any(|s| s.path == wanted) {
            faults.push(format!("{wanted}: is missing"));
        }
    }
    for source in sources.iter().filter(|s| ["ARCHITECTURE.md", "CONTRIBUTING.md"].contains(&s.path.as_str())) {
        for quoted in source.text.split('`').skip(1).step_by(2) {
            let plain = quoted.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
            let top = quoted.trim_start_matches("./").split('/').next().unwrap_or_default();
            // What a build or a run makes is not there on a clean clone.
            let made = SKIPPED_FOLDERS.contains(&top);
            if plain
                && !made
                && quoted.contains('/')
                && !top.is_empty()
                && exists(top)
                && !exists(quoted.trim_end_matches('/'))
            {
                faults.push(format!("{}: names {quoted}, which does not exist", source.path));
            }
        }
    }
    faults
}

// ---------------------------------------------------------------- the house as it stands

fn hold(rule: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{rule}, {} faults:\n  {}", faults.len(), faults.join("\n  "));
}

#[test]
fn every_module_says_what_it_is_for() {
    hold("every .rs file starts with a head", &module_heads(&repository()));
}

#[test]
fn imports_point_one_way() {
    hold("imports point one way", &import_directions(&repository()));
}

#[test]
fn a_heavy_dependency_has_one_room() {
    hold("one heavy dependency, one room", &dependency_rooms(&repository()));
}

#[test]
fn environment_and_clock_have_one_room() {
    hold("environment in settings, time in clock", &environment_and_clock(&repository()));
}

#[test]
fn no_module_file_is_dead() {
    hold("no dead files", &dead_files(&repository()));
}

#[test]
fn a_crate_has_one_binary_of_integration_tests() {
    hold("one integration binary a crate", &test_binaries(&repository()));
}

#[test]
fn both_migration_trees_are_equal() {
    hold("migrations", &migrations(&repository()));
}

#[test]
fn nothing_is_left_over() {
    hold("no left-overs, machine paths or skipped tests", &left_overs(&repository()));
}

#[test]
fn lock_files_name_public_registries() {
    hold("lock files", &lock_files(&repository()));
}

#[test]
fn documents_name_what_exists() {
    let top = repository_top();
    hold("documents", &documents(&repository(), &|path| top.join(path).exists()));
}

// ---------------------------------------------------------------- each rule catches what it is for

#[test]
fn catches_a_file_without_a_head() {
    let good = "//! Reads the engine's state files; holds no policy of its own.\nfn main() {}";
    assert!(module_heads(&[Source::of("agent/src/a.rs", good)]).is_empty());
    assert_eq!(module_heads(&[Source::of("agent/src/a.rs", "fn main() {}")]).len(), 1);
    assert_eq!(module_heads(&[Source::of("agent/src/a.rs", "//! too short\n")]).len(), 1);
}

#[test]
fn catches_an_import_that_points_the_wrong_way() {
    let with = |path: &str, text: &str| {
        let mut all = vec![
            Source::of("agent/src/sender.rs", ""),
            Source::of("agent/src/spool.rs", ""),
            Source::of("server/src/http/mod.rs", ""),
            Source::of("server/src/store/mod.rs", ""),
            Source::of("server/src/series/mod.rs", ""),
        ];
        all.push(Source::of(path, text));
        import_directions(&all)
    };
    assert_eq!(
        with("agent/src/engine/docker.rs", "use crate::sender::Push;"),
        ["agent/src/engine/docker.rs:1: engine must not import sender"]
    );
    assert_eq!(
        with("agent/src/tailer/follow.rs", "use crate::{\n    spool::Spool,\n    tailer::{a, sender},\n};").len(),
        1
    );
    assert_eq!(with("server/src/forecast/step.rs", "fn f() { crate::store::read() }").len(), 1);
    assert_eq!(with("server/src/forecast/step.rs", "fn f() { forewarn_server::store::read() }").len(), 1);
    assert_eq!(with("server/src/forecast/mod.rs", "use super::store;").len(), 1);
    assert_eq!(with("server/src/forecast/a.rs", "use super::super::{model, store};").len(), 1);
    assert!(with("server/src/forecast/a/b.rs", "use super::super::store;").is_empty(), "forecast::store is its own");
    assert_eq!(with("server/src/intake.rs", "use crate::http::reply;").len(), 1);
    assert!(
        with(
            "server/src/forecast/step.rs",
            "use crate::series::Grid; // not crate::store\nconst A: &str = \"crate::store\";"
        )
        .is_empty()
    );
    assert!(with("server/src/main.rs", "use crate::http::serve;").is_empty());
    assert!(with("agent/src/sender/mod.rs", "use crate::spool::Spool;").is_empty());
}

#[test]
fn catches_a_heavy_dependency_in_the_wrong_room() {
    let faults = |path: &str, text: &str| dependency_rooms(&[Source::of(path, text)]).len();
    assert_eq!(faults("server/src/watch/rule.rs", "use diesel::prelude::*;"), 1);
    assert_eq!(faults("server/src/main.rs", "async fn f() { warp::serve(x) }"), 1);
    assert_eq!(faults("agent/src/spool.rs", "use rustix::fs::statvfs;"), 1);
    assert_eq!(faults("agent/src/tailer/mod.rs", "use bollard;"), 1);
    assert_eq!(faults("agent/src/sender.rs", "use reqwest::Client;"), 0);
    assert_eq!(faults("server/src/store/mod.rs", "use diesel::prelude::*;"), 0);
    assert_eq!(faults("server/src/model/a.rs", "/// like diesel::Queryable\nlet s = \"warp::x\"; let hyper = 1;"), 0);
}

#[test]
fn catches_environment_and_clock_outside_their_rooms() {
    let faults = |path: &str, text: &str| environment_and_clock(&[Source::of(path, text)]).len();
    assert_eq!(faults("server/src/http/mod.rs", "let a = std::env::var(\"HOME\");"), 1);
    assert_eq!(faults("server/src/watch/mod.rs", "let t = std::time::SystemTime::now();"), 1);
    assert_eq!(faults("server/src/settings.rs", "let a = std::env::var(\"HOME\");"), 0);
    assert_eq!(faults("common/src/clock.rs", "SystemTime::now()"), 0);
    assert_eq!(faults("server/src/a.rs", "let t = Instant::now(); // SystemTime::now"), 0);
}

#[test]
fn catches_a_dead_file() {
    let lib = Source::of("server/src/lib.rs", "pub mod store;");
    let store = Source::of("server/src/store/mod.rs", "mod row;");
    let row = Source::of("server/src/store/row.rs", "");
    let dead = Source::of("server/src/store/old.rs", "");
    assert!(dead_files(&[lib, store, row]).is_empty());
    assert_eq!(dead_files(&[dead]), ["server/src/store/old.rs: no mod names this file"]);
    let suite = || Source::of("agent/tests/suite/main.rs", "mod live;");
    let live = || Source::of("agent/tests/suite/live.rs", "");
    assert!(dead_files(&[suite(), live()]).is_empty());
    assert_eq!(dead_files(&[live()]).len(), 1);
}

#[test]
fn catches_a_second_binary_of_integration_tests() {
    let faults = |path: &str| test_binaries(&[Source::of(path, "")]).len();
    assert_eq!(faults("agent/tests/suite/live.rs") + faults("server/src/store/tests/mod.rs"), 0);
    assert_eq!(faults("agent/tests/live.rs"), 1);
    assert_eq!(faults("server/tests/other/main.rs"), 1);
}

#[test]
fn catches_unequal_migrations() {
    let table = "CREATE TABLE host (id BIGINT) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;";
    let mysql = || Source::of("server/migrations/mysql/1_start/up.sql", table);
    let sqlite = || Source::of("server/migrations/sqlite/1_start/up.sql", "CREATE TABLE host (id BIGINT);");
    assert!(migrations(&[mysql(), sqlite()]).is_empty());
    assert_eq!(migrations(&[mysql()]).len(), 1);
    assert_eq!(migrations(&[]).len(), 1);
    let bare = Source::of("server/migrations/mysql/1_start/up.sql", "CREATE TABLE host (id BIGINT);");
    assert_eq!(migrations(&[bare, sqlite()]).len(), 3);
    assert_eq!(
        bare_tables("CREATE TABLE IF NOT EXISTS `a` (x INT)\nENGINE = InnoDB CHARACTER SET utf8mb4"),
        ["table `a` must state collate utf8mb4"]
    );
    let ignoring = Source::of("server/src/store/block.rs", concat!("sql(\"INSERT", " IGNORE INTO block\")"));
    assert_eq!(migrations(&[mysql(), sqlite(), ignoring]).len(), 1);
}

#[test]
fn catches_left_overs() {
    let faults = |path: &str, text: &str| left_overs(&[Source::of(path, text)]).len();
    assert_eq!(faults("agent/src/a.rs", concat!("// TO", "DO later")), 1);
    assert_eq!(faults("docs/a.md", concat!("see /wo", "rk/main")), 1);
    assert_eq!(faults("agent/src/a.rs", concat!("#[ig", "nore]")), 1);
    assert_eq!(faults("agent/src/a.rs", "// workspace, homework, mastodon"), 0);
}

#[test]
fn catches_a_mirror_in_a_lock_file() {
    let npm =
        |host: &str| Source::of("tests/browser/package-lock.json", &format!("\"resolved\": \"https://{host}/a.tgz\""));
    assert!(lock_files(&[npm("registry.npmjs.org")]).is_empty());
    assert_eq!(lock_files(&[npm("mirror.example")]).len(), 1);
    assert_eq!(lock_files(&[Source::of("Cargo.lock", "source = \"git+https://example.com/a\"")]).len(), 1);
}

#[test]
fn catches_a_document_that_names_nothing() {
    let exists = |path: &str| path == "server" || path == "server/src/store";
    let page = |text: &str| {
        let faults = documents(&[Source::of("ARCHITECTURE.md", text)], &exists);
        faults.into_iter().filter(|f| f.starts_with("ARCHITECTURE.md")).count()
    };
    assert_eq!(page("see `server/src/attic` and `server/src/store/`, and `crate::store`, and `GET /api`"), 1);
    assert_eq!(documents(&[], &exists).len(), 6);
}

#[test]
fn reads_code_and_not_text() {
    let code = code_only("a /* b /* c */ d */ e \"f\\\"g\" 'h' '\\'' &'i r#\"j\"k\"# l // m\nn");
    for kept in ["a", "e", "&'i", "l", "\nn"] {
        assert!(code.contains(kept), "{kept} is code in {code}");
    }
    for blanked in ["b", "c", "d", "f", "g", "h", "j", "k", "m"] {
        assert!(!code.contains(blanked), "{blanked} is no code in {code}");
    }
}
