//! `forewarn-agent` as a process, here or on a host of its own, with its settings file and data
//! folder. It can be killed, frozen, stopped and started again on its spool.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::daemon::Daemon;
use crate::engine::Engine;
use crate::network::{Namespace, enter};
use crate::process::run;
use crate::program::program;
use crate::server::Server;

/// An agent under test.
#[derive(Debug)]
pub struct Agent {
    daemon: Daemon,
    token_file: PathBuf,
    namespace: Option<String>,
    /// Another build than the one under test.
    binary: Option<PathBuf>,
}

impl Deref for Agent {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
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
        let mut daemon = Daemon::new("agent", settings)?;
        daemon.change("server.urls", vec![server_url.to_owned()]);
        if let Some(engine) = engine {
            daemon.change("engine.socket", engine.socket().display().to_string());
            daemon.change("engine.data_root", engine.data_folder().display().to_string());
        }
        Ok(Self { daemon, token_file: token_file.to_owned(), namespace: None, binary: None })
    }

    /// Runs `binary` from the next start on, to compare two builds.
    pub fn use_binary(&mut self, binary: PathBuf) {
        self.binary = Some(binary);
    }

    /// Starts it (again) on the same data.
    ///
    /// # Errors
    /// When it is not built.
    pub fn restart(&mut self) -> Result<()> {
        let binary = self.binary.clone().map_or_else(|| program("forewarn-agent"), Ok)?;
        let mut command = match &self.namespace {
            None => Command::new(binary),
            Some(name) => enter(name, binary),
        };
        command.arg("run").arg("--config").arg(self.daemon.config()?).arg("--enroll-file").arg(&self.token_file);
        self.daemon.start(&command)
    }

    /// Its data folder: identity, spool, positions.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.daemon.folder().join("data")
    }

    /// Blocks that wait in its spool, as `forewarn-agent spool` tells a user.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn waiting_blocks(&self) -> Result<usize> {
        let mut command = Command::new(program("forewarn-agent")?);
        let listed = run(command.arg("spool").arg("--data-dir").arg(self.data_folder()))?;
        let count = listed.lines().last().and_then(|line| line.strip_suffix(" blocks wait")).context(listed.clone())?;
        Ok(count.parse()?)
    }
}
