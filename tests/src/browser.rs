//! Chromium, driven by a script in `tests/browser/` through playwright-core. A script gets its
//! arguments as JSON, fails when the page asks for anything outside its origin or logs an error,
//! and answers with JSON on its last line.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::folder::Folder;
use crate::{artefacts, process, repository};

/// Runs `tests/browser/<script>.mjs` and returns what it answers. Screenshots go to the artefacts.
///
/// # Errors
/// When Chromium or the node packages are missing, or an expectation of the script fails.
pub fn run_script(script: &str, arguments: &Value) -> Result<Value> {
    let scripts = repository().join("tests/browser");
    ensure!(scripts.join("node_modules/playwright-core").is_dir(), "install the browser driver: make product");
    let profile = Folder::new("chromium")?;
    let mut command = Command::new("node");
    command.arg(format!("{script}.mjs")).current_dir(&scripts);
    command.env("BROWSER_ARGUMENTS", arguments.to_string());
    command.env("BROWSER_PROFILE", profile.path()).env("BROWSER_ARTEFACTS", artefacts()?);
    let said = process::run(&mut command).with_context(|| format!("browser script {script}"))?;
    let last = said.lines().last().unwrap_or("null");
    serde_json::from_str(last).with_context(|| format!("the script's last line is not JSON: {last}"))
}
