//! `forewarn-agent` as a process, here or on a host of its own, with its settings file and data
//! folder. It can be killed, frozen, stopped and started again on its spool.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};

use crate::engine::Engine;
use crate::folder::Folder;
use crate::network::{Namespace, enter};
use crate::process::Process;
use crate::program::program;
use crate::server::{Server, set};

/// An agent under test.
#[derive(Debug)]
pub struct Agent {
    process: Option<Process>,
    settings: toml::Table,
    token_file: PathBuf,
    namespace: Option<String>,
    folder: Folder,
}

impl Agent {
    /// Starts an agent on this machine against a server; `settings` is TOML over the defaults.
    ///
    /// # Errors
    /// When it is not built or cannot start.
    pub fn start(server: &Server, engine: Option<&Engine>, settings: &str) -> Result<Self> {
        let mut agent = Self::new(&server.agent_url("127.0.0.1"), &server.token_file(), engine, settings)?;
        agent.restart()?;
        Ok(agent)
    }

    /// Starts an agent on a host of its own that reaches the server at `address`.
    ///
    /// # Errors
    /// When it is not built or cannot start.
    pub fn start_in(
        host: &Namespace,
        address: &str,
        server: &Server,
        engine: Option<&Engine>,
        settings: &str,
    ) -> Result<Self> {
        let mut agent = Self::new(&server.agent_url(address), &server.token_file(), engine, settings)?;
        agent.namespace = Some(host.name().to_owned());
        agent.restart()?;
        Ok(agent)
    }

    /// Prepares an agent without starting it, for tests of bad settings.
    ///
    /// # Errors
    /// When the TOML is malformed.
    pub fn new(server_url: &str, token_file: &Path, engine: Option<&Engine>, settings: &str) -> Result<Self> {
        let folder = Folder::new("agent")?;
        let mut table: toml::Table = settings.parse().context("the test's own settings")?;
        set(&mut table, "data_dir", folder.join("data").display().to_string());
        set(&mut table, "server.urls", vec![server_url.to_owned()]);
        if let Some(engine) = engine {
            set(&mut table, "engine.socket", engine.socket().display().to_string());
            set(&mut table, "engine.data_root", engine.data_folder().display().to_string());
        }
        Ok(Self { process: None, settings: table, token_file: token_file.to_owned(), namespace: None, folder })
    }

    /// Starts it (again) on the same data.
    ///
    /// # Errors
    /// When it is not built.
    pub fn restart(&mut self) -> Result<()> {
        let config = self.folder.write("agent.toml", self.settings.to_string())?;
        let binary = program("forewarn-agent")?;
        let mut command = match &self.namespace {
            None => Command::new(binary),
            Some(name) => enter(name, binary),
        };
        command.arg("run").arg("--config").arg(config).arg("--enroll-file").arg(&self.token_file);
        self.process = Some(Process::start("forewarn-agent", &command, &self.folder.join("agent.log"))?);
        Ok(())
    }

    /// The running process.
    ///
    /// # Errors
    /// When it was stopped.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the agent does not run")
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

    /// Its data folder: identity, spool, positions.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Everything it logged, over all starts.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }
}
