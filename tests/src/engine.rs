//! A Docker Engine of the test's own: data and exec folders, socket and bridge are its alone, and
//! the host's firewall is left as it is. Containers run from one image made of static busybox.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::folder::Folder;
use crate::network::{Namespace, enter};
use crate::process::{Process, run};

/// Until dockerd answers; its first start makes its folders.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// The oldest API version we speak, that of Docker 20.10; the client may be newer than the engine.
const API_VERSION: &str = "1.41";

/// The image that holds busybox and nothing else.
pub const BUSYBOX: &str = "busybox:test";

/// A running Docker Engine.
#[derive(Debug)]
pub struct Engine {
    // Fields drop in this order: the daemon goes before its bridge and its folder.
    daemon: Option<Process>,
    network: EngineNetwork,
    folder: Folder,
}

/// Where an engine and its containers live on the network.
#[derive(Debug)]
enum EngineNetwork {
    /// On this machine, with a bridge of the engine's own.
    Bridge(Bridge),
    /// On a host of its own; containers take the host's network.
    Namespace(String),
}

impl Engine {
    /// Starts an engine and gives it the busybox image.
    ///
    /// # Errors
    /// When dockerd is missing or does not come up.
    pub fn start() -> Result<Self> {
        let engine = Self::start_on(EngineNetwork::Bridge(Bridge::new()?))?;
        engine.import_busybox()?;
        Ok(engine)
    }

    /// Starts an engine without any image on a host of its own; its containers have that host's
    /// network (`--network host`) or none.
    ///
    /// # Errors
    /// When dockerd is missing or does not come up.
    pub fn start_in(host: &Namespace) -> Result<Self> {
        Self::start_on(EngineNetwork::Namespace(host.name().to_owned()))
    }

    fn start_on(network: EngineNetwork) -> Result<Self> {
        let mut engine = Self { daemon: None, network, folder: Folder::new("engine")? };
        engine.start_daemon()?;
        Ok(engine)
    }

    /// Starts the daemon again after [`Engine::kill`] or [`Engine::stop`].
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_daemon(&mut self) -> Result<()> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let (mut command, bridge) = match &self.network {
            EngineNetwork::Bridge(bridge) => (Command::new("dockerd"), bridge.name()),
            EngineNetwork::Namespace(name) => (enter(name, "dockerd"), "none"),
        };
        command.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")]);
        command.args(["-H", &format!("unix://{}", path("sock")), "--bridge", bridge]);
        command.args(["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]);
        command.args(["--log-driver", "json-file", "--shutdown-timeout", "3"]);
        let mut daemon = Process::start("dockerd", &command, &self.folder.join("dockerd.log"))
            .context("install a container engine (make machine)")?;
        daemon.wait_until("the engine to answer", START_PATIENCE, || self.docker(&["version"]).map(Some))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Kills the daemon as a crash would; its containers die with it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.as_mut().context("the engine does not run")?.kill()?;
        self.daemon = None;
        Ok(())
    }

    /// Stops the daemon.
    ///
    /// # Errors
    /// When it does not run or does not stop.
    pub fn stop(&mut self) -> Result<()> {
        self.daemon.as_mut().context("the engine does not run")?.stop()?;
        self.daemon = None;
        Ok(())
    }

    /// The unix socket of the engine's API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("sock")
    }

    /// The data folder; `containers/<id>/` below it holds state and log files.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The address of this machine on the engine's bridge, which containers can reach; none for an
    /// engine on a host of its own.
    #[must_use]
    pub fn host_address(&self) -> Option<String> {
        match &self.network {
            EngineNetwork::Bridge(bridge) => Some(bridge.address.clone()),
            EngineNetwork::Namespace(_) => None,
        }
    }

    /// Runs the docker client against this engine and returns its output, trimmed.
    ///
    /// # Errors
    /// When the client fails.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        Ok(run(self.docker_command().args(arguments))?.trim().to_owned())
    }

    /// A docker client command for this engine.
    #[must_use]
    pub fn docker_command(&self) -> Command {
        let mut command = Command::new("docker");
        self.point(&mut command);
        command
    }

    /// Points the docker client that a command may call at this engine.
    pub fn point(&self, command: &mut Command) {
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_API_VERSION", API_VERSION).env("DOCKER_BUILDKIT", "0");
        // No settings of whoever runs the tests.
        command.env("DOCKER_CONFIG", self.folder.join("client"));
    }

    /// Starts a container that runs a shell script.
    ///
    /// # Errors
    /// When the engine refuses it.
    pub fn run_script(&self, name: &str, options: &[&str], script: &str) -> Result<Container<'_>> {
        let mut arguments = vec!["run", "-d", "--init", "--name", name];
        arguments.extend_from_slice(options);
        arguments.extend_from_slice(&[BUSYBOX, "/bin/sh", "-c", script]);
        let id = self.docker(&arguments).or_else(|_| {
            // Engines without docker-init in the path refuse --init.
            let plain: Vec<&str> = arguments.iter().copied().filter(|a| *a != "--init").collect();
            _ = self.docker(&["rm", "-f", name]);
            self.docker(&plain)
        })?;
        Ok(Container { engine: self, id, name: name.to_owned() })
    }

    fn import_busybox(&self) -> Result<()> {
        let archive = busybox_archive(&self.folder)?;
        self.docker(&["import", "-c", "ENV PATH=/bin", &archive.display().to_string(), BUSYBOX])?;
        Ok(())
    }
}

/// An archive of a root that holds busybox and its names, made in a folder.
pub(crate) fn busybox_archive(folder: &Folder) -> Result<PathBuf> {
    let root = folder.join("busybox");
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::create_dir_all(root.join("tmp"))?;
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).context("install busybox-static (make machine)")?;
    let applets = run(Command::new("/bin/busybox").arg("--list"))?;
    for applet in applets.lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    let archive = folder.join("busybox.tar");
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
    Ok(archive)
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            if let Ok(ids) = self.docker(&["ps", "-aq"]) {
                let mut arguments = vec!["rm", "-f", "-v"];
                arguments.extend(ids.lines());
                if arguments.len() > 3 {
                    _ = self.docker(&arguments);
                }
            }
            _ = self.stop();
        }
        // After a crash of the daemon its containerd and shims live on; they name our folder.
        kill_those_naming(self.folder.path());
    }
}

/// Kills the processes whose command line names a folder that this test made.
pub(crate) fn kill_those_naming(folder: &Path) {
    let needle = folder.display().to_string();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&needle)
            && let Some(pid) = rustix::process::Pid::from_raw(id)
            && pid != rustix::process::getpid()
        {
            _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// A container of an [`Engine`]; removed with it.
#[derive(Debug)]
pub struct Container<'a> {
    engine: &'a Engine,
    id: String,
    name: String,
}

impl Container<'_> {
    /// Its full id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its json-file log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.engine.data_folder().join("containers").join(&self.id).join(format!("{}-json.log", self.id))
    }

    /// Runs a shell script inside it.
    ///
    /// # Errors
    /// When the script fails.
    pub fn exec(&self, script: &str) -> Result<String> {
        self.engine.docker(&["exec", &self.id, "/bin/sh", "-c", script])
    }

    /// One field of `docker inspect`, as a Go template.
    ///
    /// # Errors
    /// When the container is gone.
    pub fn inspect(&self, template: &str) -> Result<String> {
        self.engine.docker(&["inspect", "--format", template, &self.id])
    }

    /// Stops it at once.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn kill(&self) -> Result<()> {
        self.engine.docker(&["kill", &self.id]).map(|_| ())
    }

    /// Removes it, running or not.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn remove(self) -> Result<()> {
        self.engine.docker(&["rm", "-f", "-v", &self.id]).map(|_| ())
    }
}

/// A bridge of our own, so that no other engine's is touched.
#[derive(Debug)]
struct Bridge {
    name: String,
    address: String,
}

impl Bridge {
    /// Candidates for the third byte of the bridge's network.
    const NETWORKS: std::ops::Range<u32> = 1..250;

    fn new() -> Result<Self> {
        let first = std::process::id() % (Self::NETWORKS.end - 1);
        for step in Self::NETWORKS {
            let third = 1 + (first + step) % (Self::NETWORKS.end - 1);
            let name = format!("fwbr{third}");
            let made = run(Command::new("ip").args(["link", "add", "name", &name, "type", "bridge"]));
            if let Err(error) = made {
                if format!("{error}").contains("File exists") {
                    continue;
                }
                return Err(error.context("make a bridge (needs root and iproute2)"));
            }
            let bridge = Self { name, address: format!("10.217.{third}.1") };
            run(Command::new("ip").args(["addr", "add", &format!("{}/24", bridge.address), "dev", &bridge.name]))?;
            run(Command::new("ip").args(["link", "set", &bridge.name, "up"]))?;
            return Ok(bridge);
        }
        bail!("no bridge name is free: remove the fwbr links that earlier runs left behind")
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        _ = run(Command::new("ip").args(["link", "del", &self.name]));
    }
}
