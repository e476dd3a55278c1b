//! A MariaDB of the tests' own: own folder, port and user; gone when the test process is, however that ends.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const SERVER: &str = "/usr/sbin/mariadbd";
const INSTALLER: &str = "mariadb-install-db";
const PASSWORD: &str = "only-for-tests";

/// A running server.
pub(super) struct Mariadb {
    folder: TempDir,
    port: u16,
    watchdog: Option<(Child, u32)>,
    databases: AtomicU32,
}

/// The one that the tests of this process share.
pub(super) fn shared() -> &'static Mariadb {
    static SHARED: OnceLock<Mariadb> = OnceLock::new();
    SHARED.get_or_init(Mariadb::start)
}

impl Mariadb {
    /// Starts a server on an empty folder.
    pub(super) fn start() -> Self {
        assert!(Path::new(SERVER).exists(), "{SERVER} is missing: the store's contract needs mariadb-server installed");
        let folder = tempfile::tempdir().unwrap();
        // A temporary folder of its own: servers that share one delete each other's files when they start.
        let (data, temporary) = (folder.path().join("data"), folder.path().join("temporary"));
        std::fs::create_dir(&temporary).unwrap();
        let installed = Command::new(INSTALLER)
            .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"])
            .arg(format!("--datadir={}", data.display()))
            .args(run_as())
            .env("TMPDIR", &temporary)
            .output()
            .unwrap_or_else(|error| panic!("{INSTALLER} is missing, install mariadb-server: {error}"));
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let grants = format!(
            "CREATE USER 'forewarn'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO 'forewarn'@'127.0.0.1';"
        );
        let mut user = Command::new(SERVER)
            .args(["--no-defaults", "--bootstrap", "--skip-grant-tables=0"])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--tmpdir={}", temporary.display()))
            .args(run_as())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        user.stdin
            .take()
            .unwrap()
            .write_all(format!("FLUSH PRIVILEGES;\n{}\n", grants.replace("; ", ";\n")).as_bytes())
            .unwrap();
        assert!(user.wait().unwrap().success(), "the tests' database user could not be made");
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let mut server = Self { folder, port, watchdog: None, databases: AtomicU32::new(0) };
        server.run();
        server
    }

    /// Starts the server again on its folder.
    pub(super) fn run(&mut self) {
        let folder = self.folder.path();
        let server = Command::new(SERVER);
        let mut line = vec![format!("{:?}", server.get_program())];
        line.extend(
            [
                "--no-defaults".to_owned(),
                format!("--datadir={}", folder.join("data").display()),
                format!("--tmpdir={}", folder.join("temporary").display()),
                format!("--socket={}", folder.join("socket").display()),
                format!("--pid-file={}", folder.join("pid").display()),
                format!("--port={}", self.port),
                "--bind-address=127.0.0.1".into(),
                "--skip-name-resolve".into(),
                "--innodb-buffer-pool-size=64M".into(),
                "--innodb-log-file-size=32M".into(),
                "--innodb-flush-log-at-trx-commit=1".into(),
                "--character-set-server=latin1".into(),
                "--sql-mode=".into(),
            ]
            .into_iter()
            .chain(run_as()),
        );
        // The shell holds our pipe: a line ends the server; when this process ends, even by SIGKILL, the pipe ends
        // without one, and the folder goes too.
        let shown = folder.display();
        let script = format!(
            "{} >{shown}/log 2>&1 & echo $!; read line && gone= || gone={shown}; kill -9 $! 2>/dev/null; wait; \
             test -z \"$gone\" || rm -rf \"$gone\"",
            line.join(" ")
        );
        let mut watchdog =
            Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(watchdog.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        self.watchdog = Some((watchdog, pid.trim().parse().unwrap()));
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "the tests' MariaDB does not start:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the server as a power cut would.
    pub(super) fn kill(&mut self) {
        if let Some((mut watchdog, pid)) = self.watchdog.take() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            let _ = watchdog.stdin.take().map(|mut pipe| pipe.write_all(b"end\n"));
            let _ = watchdog.wait();
        }
    }

    /// The URL of a new, empty database.
    pub(super) fn new_database(&self) -> String {
        let name = format!("forewarn_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let client = Command::new("mariadb")
            .args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user=forewarn"])
            .arg(format!("--password={PASSWORD}"))
            .arg(format!("--port={}", self.port))
            .args(["-e", &format!("CREATE DATABASE {name}")])
            .output()
            .expect("the mariadb client is missing, install mariadb-client");
        assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
        format!("mysql://forewarn:{PASSWORD}@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        self.kill();
    }
}

/// As root the server wants to be told that it shall run as root.
fn run_as() -> Option<String> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    root.then(|| "--user=root".to_owned())
}
