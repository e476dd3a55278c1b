//! `forewarn-agent`: samples one host and its containers, follows their logs and pushes blocks to the server.
//!
//! The binary is this library's [`main`]; it is one so that fuzz targets and benches can reach the parsers. This
//! file is the command line. `agent` is the loop that joins the rooms; `engine`, `sampler`, `tailer`, `scrape` and
//! `sender` never see each other.

mod agent;
mod alarm;
mod assembly;
mod endpoint;
mod engine;
mod hostlog;
#[doc(hidden)]
pub mod probe;
mod report;
mod sampler;
mod scrape;
mod sender;
mod settings;
mod spool;
mod supervisor;
mod tailer;
mod vitals;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use forewarn_common::clock;

use settings::{Overrides, Settings};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Samples one host and its containers and pushes blocks to forewarn-server.
#[derive(Debug, Parser)]
#[command(name = "forewarn-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Samples and pushes until it is told to stop; enrols first if it has to
    Run(RunArgs),
    /// Enrols this host and ends; a host that was enrolled before gets a new key and keeps its history
    Enroll(RunArgs),
    /// Says in one page what the agent can see and what is missing
    Check(Overrides),
    /// Takes one sample and shows it
    Once(OnceArgs),
    /// Lists the blocks that wait for a server, or shows what is in the named ones
    Spool(SpoolArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    token: TokenArgs,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct TokenArgs {
    /// Enrolment token; other users of this host may see it, prefer --enroll-file
    #[arg(long)]
    token: Option<String>,
    /// File that holds the enrolment token
    #[arg(long, value_name = "FILE")]
    enroll_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct OnceArgs {
    #[command(flatten)]
    overrides: Overrides,
    /// Shows the sample as a table (the default)
    #[arg(long)]
    print: bool,
    /// Shows the sample as JSON
    #[arg(long, conflicts_with = "print")]
    json: bool,
}

#[derive(Debug, Args)]
struct SpoolArgs {
    #[command(flatten)]
    overrides: Overrides,
    /// Files of the spool, or single blocks, to show, in the order they were made
    files: Vec<PathBuf>,
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(std::io::stderr).finish();
    // Refused only where a log has been started already.
    let _ = log.with(settings::log_filter()).try_init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(perform(cli.command)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::complain(&error);
            ExitCode::FAILURE
        }
    }
}

async fn perform(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => {
            let settings = Settings::load(&args.overrides)?;
            let identity = agent::identity(&settings, args.token.read()?.as_deref()).await?;
            agent::run(settings, identity, &args.overrides).await
        }
        Command::Enroll(args) => {
            let settings = Settings::load(&args.overrides)?;
            let identity = agent::enrol(&settings, args.token.read()?.as_deref()).await?;
            report::say(&format!("enrolled as host {}", identity.host));
            Ok(())
        }
        Command::Check(overrides) => {
            let settings = Settings::load(&overrides)?;
            report::check(&settings).await;
            Ok(())
        }
        Command::Once(args) => {
            let settings = Settings::load(&args.overrides)?;
            report::once(&settings, args.json, clock::wall_ms()).await
        }
        Command::Spool(args) if args.files.is_empty() => {
            let settings = Settings::load(&args.overrides)?;
            report::waiting(&settings.data_dir)
        }
        Command::Spool(args) => report::blocks(&args.files),
    }
}

impl TokenArgs {
    fn read(&self) -> anyhow::Result<Option<String>> {
        match (&self.token, &self.enroll_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(path)) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Some(text)),
                // A file that was used up and removed must not stop an agent that is enrolled already.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(anyhow::anyhow!("cannot read enrolment file {}: {error}", path.display())),
            },
            (None, None) => Ok(None),
        }
    }
}
