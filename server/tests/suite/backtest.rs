//! The backtest command: a manifest in, decisions out, the same bytes whatever the threads.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use forewarn_server::forecast::Model;
use forewarn_server::replay::{BacktestArgs, ForecastArgs, backtest, forecast_file, read_model};

use crate::stories;

fn write_series(folder: &Path, name: &str, values: &[f64]) {
    let mut text = String::from("timestamp,value\n");
    for (t_ms, value) in stories::points(values) {
        writeln!(text, "{},{value:.3}", t_ms / 1000).unwrap();
    }
    std::fs::write(folder.join(name), text).unwrap();
}

fn manifest(folder: &Path) -> PathBuf {
    write_series(folder, "fill.csv", &stories::steady_fill(1, 8));
    write_series(folder, "rotation.csv", &stories::log_rotation(3, 8));
    write_series(folder, "leak.csv", &stories::leak_under_collection(4, 3));
    let task = |id: &str, threshold: f64, horizon_s: i64| {
        serde_json::json!({
            "id": id,
            "file": format!("{id}.csv"),
            "threshold": threshold,
            "horizon_s": horizon_s,
            "eval_start": stories::START_MS / 1000 + 86_400,
        })
    };
    let series = [task("fill", 90.0, 86_400), task("rotation", 90.0, 86_400), task("leak", 86.0, 14_400)];
    let path = folder.join("manifest.json");
    std::fs::write(&path, serde_json::json!({ "series": series }).to_string()).unwrap();
    path
}

fn run(manifest: &Path, out: PathBuf, threads: usize) -> String {
    let args = BacktestArgs { manifest: manifest.into(), out: out.clone(), model: None, threads: Some(threads) };
    backtest(&args, &Model::default(), &AtomicBool::new(false)).unwrap();
    std::fs::read_to_string(out).unwrap()
}

#[test]
fn decisions_are_the_same_bytes_on_one_and_on_three_threads() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    let one = run(&manifest, folder.path().join("one.csv"), 1);
    let three = run(&manifest, folder.path().join("three.csv"), 3);
    assert_eq!(one, three);
    assert!(one.starts_with("series_id,timestamp,warn,crossing_at,probability"));
    let warned = |id: &str| one.lines().any(|l| l.starts_with(id) && l.split(',').nth(2) == Some("1"));
    assert!(warned("fill,") && warned("leak,"));
    assert!(!warned("rotation,"));
}

#[test]
fn unknown_setting_and_missing_file_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let said = |text: &str| {
        std::fs::write(&path, text).unwrap();
        format!("{:#}", read_model(&path).unwrap_err())
    };
    assert!(said(r#"{"on_probabilty": 0.7}"#).contains("on_probabilty"));
    assert!(said(r#"{"on_probability": 7}"#).contains("on_probability is out of range"));
    assert!(said(r#"{"version": 99}"#).contains("version 99"));
    let manifest = manifest(folder.path());
    std::fs::remove_file(folder.path().join("leak.csv")).unwrap();
    let out = folder.path().join("out.csv");
    let args = BacktestArgs { manifest, out: out.clone(), model: None, threads: Some(1) };
    let error = backtest(&args, &Model::default(), &AtomicBool::new(false)).unwrap_err();
    assert!(format!("{error:#}").contains("leak.csv"));
    assert!(!out.exists(), "half a table must not pass for a whole one");
}

#[test]
fn cancelled_backtest_leaves_the_old_table_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    let out = folder.path().join("out.csv");
    std::fs::write(&out, "old").unwrap();
    let before = std::fs::read_dir(folder.path()).unwrap().count();
    let args = BacktestArgs { manifest, out: out.clone(), model: None, threads: Some(2) };
    let error = backtest(&args, &Model::default(), &AtomicBool::new(true)).unwrap_err();
    assert!(error.to_string().contains("cancelled"));
    assert_eq!(std::fs::read_to_string(out).unwrap(), "old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), before);
}

#[test]
fn one_file_is_answered_in_words_and_as_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    write_series(folder.path(), "fill.csv", &stories::steady_fill(1, 10)[..2560]);
    let plot = folder.path().join("fill.svg");
    let args = ForecastArgs {
        file: folder.path().join("fill.csv"),
        threshold: 90.0,
        horizon: 86_400_000,
        plot: Some(plot.clone()),
        json: false,
        model: None,
        step: None,
    };
    let mut said = Vec::new();
    forecast_file(&args, &Model::default(), &mut said).unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("warning: "), "said {said}");
    let svg = std::fs::read_to_string(plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"));
}

#[test]
fn interrupted_program_ends_soon_says_so_and_leaves_the_old_table() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    // Enough of the same that no machine is done with it before the signal.
    let text: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&manifest).unwrap()).unwrap();
    let again = |task: &serde_json::Value, i: usize| {
        let mut task = task.clone();
        task["id"] = format!("{}-{i}", task["id"].as_str().unwrap()).into();
        task
    };
    let tasks = text["series"].as_array().unwrap();
    let series: Vec<_> = (0..2000).map(|i| again(&tasks[i % tasks.len()], i)).collect();
    std::fs::write(&manifest, serde_json::json!({ "series": series }).to_string()).unwrap();
    let out = folder.path().join("out.csv");
    std::fs::write(&out, "old").unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let before = files();

    let mut program = Command::new(env!("CARGO_BIN_EXE_forewarn-server"));
    program.arg("backtest").arg("--manifest").arg(&manifest).arg("--out").arg(&out).stderr(Stdio::piped());
    let program = program.spawn().unwrap();
    // The signal may come before the program listens for it: then it dies of it, which is no test of ours.
    std::thread::sleep(Duration::from_secs(2));
    let begun = Instant::now();
    let kill = Command::new("sh").arg("-c").arg(format!("kill -INT {}", program.id())).status().unwrap();
    assert!(kill.success());
    let ended = program.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("cancelled"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(10), "it went on for {:?}", begun.elapsed());
    assert_eq!((std::fs::read_to_string(out).unwrap().as_str(), files()), ("old", before));
}
