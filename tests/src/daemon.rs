//! What an agent and a server under test have in common: settings of their own, a folder, a process that is
//! killed, stopped and started again on the same data.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};

use crate::folder::Folder;
use crate::process::Process;

/// One of our two programs, running or not.
#[derive(Debug)]
pub struct Daemon {
    role: &'static str,
    process: Option<Process>,
    settings: toml::Table,
    folder: Folder,
}

impl Daemon {
    /// Prepares an `agent` or a `server` with a data folder of its own; `settings` is TOML over the defaults.
    ///
    /// # Errors
    /// When the TOML is malformed.
    pub(crate) fn new(role: &'static str, settings: &str) -> Result<Self> {
        let folder = Folder::new(role)?;
        let settings = settings.parse().context("the test's own settings")?;
        let mut daemon = Self { role, process: None, settings, folder };
        daemon.change("data_dir", daemon.folder.join("data").display().to_string());
        Ok(daemon)
    }

    /// Writes its settings file and returns where it is.
    pub(crate) fn config(&self) -> Result<PathBuf> {
        self.folder.write(&format!("{}.toml", self.role), self.settings.to_string())
    }

    pub(crate) fn start(&mut self, command: &Command) -> Result<()> {
        self.process = Some(Process::start(&format!("forewarn-{}", self.role), command, &self.log())?);
        Ok(())
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    fn log(&self) -> PathBuf {
        self.folder.join(&format!("{}.log", self.role))
    }

    /// The running process.
    ///
    /// # Errors
    /// When it was stopped.
    pub fn process(&mut self) -> Result<&mut Process> {
        let role = self.role;
        self.process.as_mut().with_context(|| format!("the {role} does not run"))
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// SIGTERM, and its exit status.
    ///
    /// # Errors
    /// When it does not run or does not stop.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let status = self.process()?.stop()?;
        self.process = None;
        Ok(status)
    }

    /// Changes one setting (`a.b` for a key in a table) for the next start.
    pub fn change(&mut self, key: &str, value: impl Into<toml::Value>) {
        set(&mut self.settings, key, value);
    }

    /// Everything it logged, over all starts.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

/// Sets `a.b.c`, making the tables on the way.
fn set(table: &mut toml::Table, key: &str, value: impl Into<toml::Value>) {
    match key.split_once('.') {
        None => _ = table.insert(key.to_owned(), value.into()),
        Some((first, rest)) => {
            let inner = table.entry(first.to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}
