//! A program that a test started: its output goes to a file, it dies with the test, it can be
//! killed, frozen and stopped. Also commands that are run to their end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait_until;

/// How long a program may take to stop when asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Lines of a log that go into an error.
const TAIL_LINES: usize = 40;

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command in a process group of its own; both outputs go to the end of `log`.
    /// It is killed when the thread that started it ends, so start parts in the test's own thread.
    ///
    /// # Errors
    /// When the program is missing or the log cannot be opened.
    pub fn start(name: &str, command: &Command, log: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let output =
            File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
        let mut tied = Command::new("setpriv");
        tied.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => tied.env(key, value),
                None => tied.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            tied.current_dir(folder);
        }
        tied.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = tied.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what it wrote, for an error.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Waits until `look` finds something; a program that ends meanwhile is an error with its log.
    ///
    /// # Errors
    /// When the program ended, or nothing was found in time.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let name = self.name.clone();
        let child = &mut self.child;
        let found = wait_until(what, patience, || match child.try_wait()? {
            None => look().map(|found| found.map(Ok)),
            Some(status) => Ok(Some(Err(status))),
        });
        match found {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(status)) => bail!("{name} ended ({status}) before {what}; its log ends:\n{}", self.log_tail()),
            Err(error) => Err(error.context(format!("the log of {name} ends:\n{}", self.log_tail()))),
        }
    }

    /// Waits until its output contains a text.
    ///
    /// # Errors
    /// When the program ended, or the text did not come in time.
    pub fn wait_for_output(&mut self, text: &str, patience: Duration) -> Result<()> {
        let log = self.log.clone();
        self.wait_until(&format!("the output {text:?}"), patience, || {
            Ok(String::from_utf8_lossy(&std::fs::read(&log)?).contains(text).then_some(()))
        })
    }

    /// SIGKILL, as a power cut would: no chance to clean up.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal_group(Signal::KILL);
        self.child.wait().with_context(|| format!("wait for {}", self.name))
    }

    /// SIGTERM, then its exit status.
    ///
    /// # Errors
    /// When it does not stop in time; it is killed then.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        let child = &mut self.child;
        let stopped = wait_until("the end of the program", STOP_PATIENCE, || Ok(child.try_wait()?));
        // Whatever it left in its group goes as well.
        self.signal_group(Signal::KILL);
        if stopped.is_err() {
            _ = self.child.wait();
        }
        stopped.with_context(|| format!("{} did not stop when asked to; its log ends:\n{}", self.name, self.log_tail()))
    }

    /// Freezes it: alive, holding its sockets, answering nothing.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends a freeze.
    ///
    /// # Errors
    /// When it is gone.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends a signal to the program alone.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).with_context(|| format!("signal {}", self.name))
    }

    fn signal_group(&self, signal: Signal) {
        if let Ok(pid) = self.pid() {
            _ = kill_process_group(pid, signal);
        }
    }

    fn pid(&self) -> Result<Pid> {
        let id = i32::try_from(self.child.id())?;
        Pid::from_raw(id).context("a process id is positive")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            _ = self.thaw();
            _ = self.stop();
        }
    }
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails; the error has its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} {} failed ({}): {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
