//! The two databases behind the server: a MariaDB of the test's own (data folder, socket, port and
//! password are its alone), which can be killed, frozen and started again, and an SQLite file.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::folder::Folder;
use crate::free_port;
use crate::process::{Process, run};

/// Until mariadbd takes connections; crash recovery included.
const START_PATIENCE: Duration = Duration::from_secs(60);

const USER: &str = "forewarn";
const PASSWORD: &str = "quiet-harbour-73";

/// A running MariaDB with an empty database `forewarn`.
#[derive(Debug)]
pub struct MariaDb {
    daemon: Option<Process>,
    port: u16,
    data: PathBuf,
    options: Vec<String>,
    folder: Folder,
}

impl MariaDb {
    /// Makes a data folder, starts the database, adds a user with a password.
    ///
    /// # Errors
    /// When MariaDB is missing or does not come up.
    pub fn start() -> Result<Self> {
        Self::start_with(None, &[])
    }

    /// The same with its data elsewhere, and with options of its own.
    ///
    /// # Errors
    /// When MariaDB is missing or does not come up.
    pub fn start_with(data: Option<PathBuf>, options: &[String]) -> Result<Self> {
        let folder = Folder::new("db")?;
        let data = data.unwrap_or_else(|| folder.join("data"));
        // A temporary folder of its own: databases that share one remove each other's tables in it.
        let scratch = folder.join("tmp");
        std::fs::create_dir(&scratch)?;
        let mut install = Command::new("mariadb-install-db");
        install.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        install.arg(format!("--tmpdir={}", scratch.display()));
        install.args(["--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        run(&mut install).context("install mariadb-server (make machine)")?;
        let mut database = Self { daemon: None, port: free_port()?, data, options: options.to_vec(), folder };
        database.restart()?;
        database.as_root(&format!(
            "CREATE DATABASE {USER} CHARACTER SET utf8mb4;
             CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';
             GRANT ALL ON {USER}.* TO '{USER}'@'%';
             ALTER USER 'root'@'localhost' IDENTIFIED VIA unix_socket;"
        ))?;
        Ok(database)
    }

    /// Starts it again after [`MariaDb::kill`] or [`MariaDb::stop`], on the same port and data.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new("mariadbd");
        command.arg("--no-defaults").args(["--user=root", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
        command.arg(format!("--datadir={}", self.data.display())).arg(format!("--socket={}", path("sock")));
        command.arg(format!("--tmpdir={}", path("tmp")));
        command.arg(format!("--pid-file={}", path("pid"))).arg(format!("--port={}", self.port));
        command.args(["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=48M", "--max-allowed-packet=64M"]);
        command.args(&self.options);
        let mut daemon = Process::start("mariadbd", &command, &self.folder.join("mariadbd.log"))?;
        daemon.wait_until("the database to answer", START_PATIENCE, || self.as_root("SELECT 1").map(Some))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Starts it again if it ended by itself, as its supervisor would.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn supervise(&mut self) -> Result<()> {
        if self.daemon.as_mut().is_some_and(Process::is_running) { Ok(()) } else { self.restart() }
    }

    /// Kills it as a power cut would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.as_mut().context("the database does not run")?.kill()?;
        self.daemon = None;
        Ok(())
    }

    /// Stops it in an orderly way.
    ///
    /// # Errors
    /// When it does not run or does not stop.
    pub fn stop(&mut self) -> Result<()> {
        self.daemon.as_mut().context("the database does not run")?.stop()?;
        self.daemon = None;
        Ok(())
    }

    /// Freezes it: connections stay open and nothing answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.daemon.as_ref().context("the database does not run")?.freeze()
    }

    /// Ends a freeze.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.daemon.as_ref().context("the database does not run")?.thaw()
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of the database as the server's settings want it.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same where another port leads to it.
    #[must_use]
    pub fn url_at(&self, port: u16) -> String {
        format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{port}/{USER}")
    }

    /// A client that runs one statement as the product's user, for connections that are held.
    #[must_use]
    pub fn client(&self, sql: &str) -> Command {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--batch", "--skip-column-names", "--protocol=tcp", "--host=127.0.0.1"]);
        client.args([&format!("--port={}", self.port), &format!("--user={USER}"), USER, "-e", sql]);
        client.env("MYSQL_PWD", PASSWORD);
        client
    }

    /// Rows of a query over TCP as the product's user, tab between fields.
    ///
    /// # Errors
    /// When the database refuses it.
    pub fn query(&self, sql: &str) -> Result<Vec<String>> {
        let mut client = self.client(sql);
        Ok(run(&mut client)?.lines().map(str::to_owned).collect())
    }

    /// What a statement answers to root.
    ///
    /// # Errors
    /// When the database refuses it.
    pub fn as_root(&self, sql: &str) -> Result<String> {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--batch", "--user=root"]);
        client.arg(format!("--socket={}", self.folder.join("sock").display())).args(["-e", sql]);
        run(&mut client)
    }
}

/// Where a server under test keeps its data.
#[derive(Debug)]
pub enum Store {
    /// The embedded database: one file in a folder of the test.
    Sqlite(Folder),
    /// A MariaDB of the test.
    MariaDb(Box<MariaDb>),
}

impl Store {
    /// An embedded database.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn sqlite() -> Result<Self> {
        Folder::new("sqlite").map(Self::Sqlite)
    }

    /// A MariaDB, started.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn mariadb() -> Result<Self> {
        MariaDb::start().map(Box::new).map(Self::MariaDb)
    }

    /// The URL for the server's settings.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite://{}", folder.join("forewarn.db").display()),
            Self::MariaDb(database) => database.url(),
        }
    }

    /// Rows of a query, tab between fields.
    ///
    /// # Errors
    /// When the database refuses it.
    pub fn query(&self, sql: &str) -> Result<Vec<String>> {
        match self {
            Self::Sqlite(folder) => query_sqlite(&folder.join("forewarn.db"), sql),
            Self::MariaDb(database) => database.query(sql),
        }
    }

    /// The one number that a query answers.
    ///
    /// # Errors
    /// When the answer is not one number.
    pub fn number(&self, sql: &str) -> Result<i64> {
        match self.query(sql)?.as_slice() {
            [one] => one.parse().with_context(|| format!("{one:?} is not a number")),
            rows => bail!("{} rows where one number was asked for", rows.len()),
        }
    }

    /// The MariaDB, for faults that only a separate database can have.
    ///
    /// # Errors
    /// When this is the embedded database.
    pub fn as_mariadb(&mut self) -> Result<&mut MariaDb> {
        match self {
            Self::Sqlite(_) => bail!("the embedded database cannot fail apart from the server"),
            Self::MariaDb(database) => Ok(database),
        }
    }
}

/// Rows of an SQLite file, read beside the program that writes it.
///
/// # Errors
/// When the file or the query is bad.
pub fn query_sqlite(file: &PathBuf, sql: &str) -> Result<Vec<String>> {
    let mut client = Command::new("sqlite3");
    client.args(["-batch", "-noheader", "-readonly", "-separator", "\t", "-cmd", ".timeout 5000"]).arg(file).arg(sql);
    let rows = run(&mut client).context("read the SQLite file (package sqlite3, make machine)")?;
    Ok(rows.lines().map(str::to_owned).collect())
}
