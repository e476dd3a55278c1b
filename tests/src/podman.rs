//! A Podman of the test's own: storage, run folder and socket are its alone; containers run from one image made of
//! static busybox. Its configuration is that of Debian, less what a machine without systemd cannot do.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::engine::{BUSYBOX, busybox_archive, kill_those_naming};
use crate::folder::Folder;
use crate::process::{Process, run};

/// Until the service answers.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// A Podman with its service on a socket.
#[derive(Debug)]
pub struct Podman {
    service: Option<Process>,
    folder: Folder,
}

impl Podman {
    /// Gives a new Podman the busybox image and starts its service.
    ///
    /// # Errors
    /// When Podman is missing or does not come up.
    pub fn start() -> Result<Self> {
        let mut podman = Self { service: None, folder: Folder::new("podman")? };
        let archive = busybox_archive(&podman.folder)?;
        podman
            .podman(&["import", "-c", "ENV PATH=/bin", &archive.display().to_string(), BUSYBOX])
            .context("install podman (make machine)")?;
        podman.start_service()?;
        Ok(podman)
    }

    /// Starts the service, again after [`Podman::stop_service`].
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_service(&mut self) -> Result<()> {
        let mut command = self.command();
        command.args(["system", "service", "--time", "0", &format!("unix://{}", self.socket().display())]);
        let mut service = Process::start("podman service", &command, &self.folder.join("service.log"))?;
        let socket = self.socket();
        service.wait_until("the service to listen", START_PATIENCE, || Ok(socket.exists().then_some(())))?;
        self.service = Some(service);
        Ok(())
    }

    /// Stops the service; containers go on, as Podman's do.
    ///
    /// # Errors
    /// When it does not run or does not stop.
    pub fn stop_service(&mut self) -> Result<()> {
        self.service.take().context("the service does not run")?.stop()?;
        _ = std::fs::remove_file(self.socket());
        Ok(())
    }

    /// The socket that speaks Docker's language.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("sock")
    }

    /// The storage: state and logs of containers are below it.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn command(&self) -> Command {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new("podman");
        // Its monitors leave word of a container out of memory where they were started.
        command.current_dir(self.folder.path());
        command.args(["--root", &path("root"), "--runroot", &path("run"), "--tmpdir", &path("tmp")]);
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command.args(["--runtime", "runc"]);
        command
    }

    /// Runs podman and returns its output, trimmed.
    ///
    /// # Errors
    /// When it fails.
    pub fn podman(&self, arguments: &[&str]) -> Result<String> {
        Ok(run(self.command().args(arguments))?.trim().to_owned())
    }

    /// Starts a container without a network that runs a shell script; its id.
    ///
    /// # Errors
    /// When Podman refuses it.
    pub fn run_script(&self, name: &str, options: &[&str], script: &str) -> Result<String> {
        let mut arguments = vec!["run", "-d", "--name", name, "--network", "none", "--log-driver", "k8s-file"];
        // Podman asks for more than a machine in a machine may give.
        arguments.extend(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        arguments.extend_from_slice(options);
        arguments.extend_from_slice(&[BUSYBOX, "/bin/sh", "-c", script]);
        self.podman(&arguments)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        _ = self.podman(&["rm", "-f", "-a", "-t", "0"]);
        if self.service.is_some() {
            _ = self.stop_service();
        }
        // Each container has a monitor that would outlive us.
        kill_those_naming(self.folder.path());
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let ours = self.folder.path().display().to_string();
        for place in mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|place| place.starts_with(&ours)) {
            _ = run(Command::new("umount").args(["-l", place]));
        }
    }
}
