//! `forewarn-server` as a process: its settings file, its two addresses, the password that it
//! prints at the first start, its API. It can be killed, stopped and started again on its data.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::database::Store;
use crate::http::{Answer, Client};
use crate::program::program;
use crate::{free_port, wait_until};

/// Until a fresh server is healthy: migrations, CA, argon2.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// From a server's first answer to its first words.
const SAYING_PATIENCE: Duration = Duration::from_secs(20);

/// A server under test.
#[derive(Debug)]
pub struct Server {
    daemon: Daemon,
    console_port: u16,
    agent_port: u16,
    /// Of the administrator, where another server of the site printed it.
    password: Option<String>,
}

impl Deref for Server {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

/// A session of the console's API.
#[derive(Debug)]
pub struct Session {
    client: Client,
}

impl Server {
    /// Starts a server on a store; `settings` is TOML that goes over the defaults.
    ///
    /// # Errors
    /// When it is not built, or not healthy in time.
    pub fn start(store: &Store, settings: &str) -> Result<Self> {
        let mut server = Self::new(store, settings)?;
        server.restart()?;
        Ok(server)
    }

    /// Prepares a server without starting it, for tests of bad settings.
    ///
    /// # Errors
    /// When the TOML is malformed or no port can be had.
    pub fn new(store: &Store, settings: &str) -> Result<Self> {
        Self::at(&store.url(), settings)
    }

    /// Prepares a server on a database by its URL.
    ///
    /// # Errors
    /// When the TOML is malformed or no port can be had.
    pub fn at(url: &str, settings: &str) -> Result<Self> {
        let mut daemon = Daemon::new("server", settings)?;
        // The server's own host is among the others only where a test asks for it.
        if !settings.contains("measure_every_ms") {
            daemon.change("store.measure_every_ms", 0);
        }
        let (console_port, agent_port) = (free_port()?, free_port()?);
        daemon.change("database.url", url.to_owned());
        daemon.change("console.listen", format!("127.0.0.1:{console_port}"));
        daemon.change("https.listen", format!("0.0.0.0:{agent_port}"));
        // The chat room of the tests is on loopback.
        daemon.change("notify.allow_loopback", true);
        Ok(Self { daemon, console_port, agent_port, password: None })
    }

    /// Starts another server of the same site: at an address of its own that shows the same data, with a copy of the
    /// site key.
    ///
    /// # Errors
    /// When it is not healthy in time.
    pub fn companion(&self, url: &str, settings: &str) -> Result<Self> {
        let mut server = Self::at(url, settings)?;
        let folder = server.data_folder();
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(self.data_folder().join("site.key"), folder.join("site.key")).context("copy the site key")?;
        server.password = Some(self.admin_password()?);
        server.restart()?;
        Ok(server)
    }

    /// Starts it (again) on the same data, addresses and settings, and waits until it is healthy.
    ///
    /// # Errors
    /// When it ends or is not healthy in time.
    pub fn restart(&mut self) -> Result<()> {
        self.launch()?;
        let client = Client::new(&self.console_url())?;
        self.process()?.wait_until("a healthy server", START_PATIENCE, || {
            Ok(client.get("/api/v1/health").ok().filter(|answer| answer.status == 200))
        })?;
        Ok(())
    }

    /// Starts it without waiting for anything.
    ///
    /// # Errors
    /// When it is not built.
    pub fn launch(&mut self) -> Result<()> {
        let mut command = Command::new(program("forewarn-server")?);
        command.arg("run").arg("--config").arg(self.daemon.config()?).arg("--local-agent-token").arg(self.token_file());
        self.daemon.start(&command)
    }

    /// Where the console is.
    #[must_use]
    pub fn console_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.console_port)
    }

    /// Where agents push to, at an address of this machine.
    #[must_use]
    pub fn agent_url(&self, address: &str) -> String {
        format!("https://{address}:{}", self.agent_port)
    }

    /// Its settings file, for commands beside it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn settings_file(&self) -> Result<PathBuf> {
        self.daemon.config()
    }

    /// Its data folder: site key, embedded database.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.daemon.folder().join("data")
    }

    /// The file with the one-time token for a first agent.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.daemon.folder().join("agent-token")
    }

    /// The administrator's password, printed at the first start only.
    ///
    /// # Errors
    /// When it was not printed.
    pub fn admin_password(&self) -> Result<String> {
        if let Some(password) = &self.password {
            return Ok(password.clone());
        }
        // It answers before it has said so.
        wait_until("the password that a first start prints", SAYING_PATIENCE, || Ok(password_in(&self.log_text())))
    }

    /// Logs in as the administrator.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn log_in(&self) -> Result<Session> {
        let mut client = Client::new(&self.console_url())?;
        let login = json!({ "user": "admin", "password": self.admin_password()? });
        let answer = client.send_json("POST", "/api/v1/login", &login)?;
        answer.ok().context("log in")?;
        let cookie =
            answer.header("set-cookie").and_then(|value| value.split(';').next()).context("no session cookie")?;
        client.always("cookie", cookie);
        // What the console's own scripts send: a form on a foreign page cannot.
        client.always("forewarn-console", "1");
        Ok(Session { client })
    }

    /// A client of the agents' address that shows no credential.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn agent_client(&self) -> Result<Client> {
        Client::new(&self.agent_url("127.0.0.1"))
    }
}

impl Session {
    /// The underlying client, for answers that are not successes.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// GET, successful, as JSON.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.client.get(path)?.ok().with_context(|| format!("GET {path}"))
    }

    /// Any other method, successful, as JSON.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        self.answer(method, path, body)?.ok().with_context(|| format!("{method} {path}"))
    }

    /// Any method, whatever the status.
    ///
    /// # Errors
    /// When no answer came.
    pub fn answer(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        self.client.send_json(method, path, body)
    }

    /// Waits until an answer has what is wanted.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn wait_for<T>(
        &self,
        path: &str,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        wait_until(what, patience, || Ok(wanted(&self.get(path)?)))
    }
}

/// The password in what a server printed at its first start:
/// `  login    admin, password (shown only this once): PASSWORD`.
#[must_use]
pub fn password_in(text: &str) -> Option<String> {
    let (_, password) = text.lines().find_map(|line| line.trim_start().strip_prefix("login ")?.rsplit_once(": "))?;
    Some(password.trim().to_owned())
}
