//! Licences, bans and sources of every dependency, as `deny.toml` lists them: the same lists that
//! `cargo deny check` reads, held here with `cargo metadata` so that no machine has to build it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use std::process::Command;

use serde_json::Value;

/// The lists of `deny.toml`.
struct Lists {
    licences: Vec<String>,
    registries: Vec<String>,
    banned: Vec<(String, String)>,
}

fn lists(deny: &str) -> Lists {
    let table: toml::Table = deny.parse().expect("deny.toml is TOML");
    let strings = |value: &toml::Value| {
        let list = value.as_array().expect("a list").iter();
        list.map(|one| one.as_str().expect("a string").to_owned()).collect::<Vec<String>>()
    };
    let banned = table["bans"]["deny"].as_array().expect("a list").iter();
    let text = |one: &toml::Value, key: &str| one[key].as_str().expect("a string").to_owned();
    Lists {
        licences: strings(&table["licenses"]["allow"]),
        registries: strings(&table["sources"]["allow-registry"]),
        banned: banned.map(|one| (text(one, "crate"), text(one, "reason"))).collect(),
    }
}

/// Whether an SPDX expression can be satisfied with allowed licences alone.
fn is_allowed(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let verdict = any_of(&words, &mut at, allowed);
    verdict && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut verdict = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        verdict |= all_of(words, at, allowed);
    }
    verdict
}

fn all_of(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut verdict = one_of(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        verdict &= one_of(words, at, allowed);
    }
    verdict
}

fn one_of(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let verdict = any_of(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return verdict && closed;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return allowed(&format!("{word} WITH {exception}"));
    }
    allowed(word)
}

/// What is wrong with one package of `cargo metadata`.
fn faults(package: &Value, lists: &Lists) -> Vec<String> {
    let name = format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
    let mut faults = Vec::new();
    let licence = package["license"].as_str().unwrap_or_default();
    if !is_allowed(licence, &|one| lists.licences.iter().any(|allowed| allowed == one)) {
        faults.push(format!("{name}: licence {licence:?} is not in the list of deny.toml"));
    }
    if let Some(source) = package["source"].as_str() {
        let address = source.strip_prefix("registry+").unwrap_or_default();
        if !lists.registries.iter().any(|allowed| allowed == address) {
            faults.push(format!("{name}: comes from {source}"));
        }
    } else if package["publish"] != Value::Array(Vec::new()) {
        faults.push(format!("{name}: our own crates say publish = false"));
    }
    for (banned, reason) in &lists.banned {
        if package["name"] == banned.as_str() {
            faults.push(format!("{name}: banned: {reason}"));
        }
    }
    if package["source"].is_null() {
        for dependency in package["dependencies"].as_array().unwrap() {
            if dependency["req"] == "*" && dependency["path"].is_null() {
                faults.push(format!("{name}: {} has no version", dependency["name"]));
            }
        }
    }
    faults
}

#[test]
fn every_dependency_is_licensed_sourced_and_welcome() {
    let top = forewarn_tests::repository();
    let lists = lists(&std::fs::read_to_string(top.join("deny.toml")).unwrap());
    for target in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
        let mut cargo = Command::new("cargo");
        cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target]).current_dir(&top);
        let metadata: Value = serde_json::from_str(&forewarn_tests::process::run(&mut cargo).unwrap()).unwrap();
        // `packages` lists every platform's; what is resolved for this one is in the graph.
        let used: Vec<&str> =
            metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|n| n["id"].as_str().unwrap()).collect();
        let packages = metadata["packages"].as_array().unwrap();
        let packages = packages.iter().filter(|package| used.contains(&package["id"].as_str().unwrap()));
        let found: Vec<String> = packages.flat_map(|package| faults(package, &lists)).collect();
        assert!(used.len() > 50, "cargo metadata lists {} packages", used.len());
        assert!(found.is_empty(), "{target}:\n  {}", found.join("\n  "));
    }
}

#[test]
fn licence_expressions_are_read() {
    let allowed = |one: &str| ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].contains(&one);
    for good in ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-2.0", "(MIT OR GPL-2.0) AND ISC", "Apache-2.0 WITH LLVM-exception"] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC", "MIT ISC", "Apache-2.0"] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}

#[test]
fn catches_a_bad_package() {
    let deny = "[licenses]\nallow = ['MIT']\n[sources]\nallow-registry = ['https://good']\n[bans]\ndeny = [{ crate = 'bad', reason = 'r' }]";
    let lists = lists(deny);
    let package = |name: &str, licence: &str, source: &str| {
        let found =
            faults(&serde_json::json!({ "name": name, "version": "1", "license": licence, "source": source }), &lists);
        found.len()
    };
    assert_eq!(package("a", "MIT", "registry+https://good"), 0);
    assert_eq!(package("a", "GPL-3.0", "registry+https://good"), 1);
    assert_eq!(package("a", "MIT", "git+https://good"), 1);
    assert_eq!(package("bad", "MIT", "registry+https://good"), 1);
    let ours = serde_json::json!({
        "name": "ours", "version": "1", "license": "MIT", "source": null, "publish": null,
        "dependencies": [{ "name": "x", "req": "*", "path": null }],
    });
    assert_eq!(faults(&ours, &lists).len(), 2);
}
