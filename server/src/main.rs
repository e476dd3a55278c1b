//! The server's command line and the order in which its parts start and stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use forewarn_common::clock;
use forewarn_server::forecast::Model;
use forewarn_server::http::{App, auth};
use forewarn_server::intake::Intake;
use forewarn_server::judge::Judge;
use forewarn_server::model::rule::default_rules;
use forewarn_server::model::user::User;
use forewarn_server::notify::{Notifier, NotifySettings, Site as MessageSite};
use forewarn_server::operate::{self, BackupArgs, ExportArgs, MoveArgs, RestoreArgs, VerifyArgs};
use forewarn_server::outbox::Outbox;
use forewarn_server::replay;
use forewarn_server::schedule::{self, Jobs};
use forewarn_server::seal::Seal;
use forewarn_server::settings::{self, Settings};
use forewarn_server::share::Share;
use forewarn_server::site::Site;
use forewarn_server::store::{Store, StoreError};
use forewarn_server::vigil::{self, Voice};
use forewarn_server::{adopted, http, telemetry};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A thousand connections leave small pieces in the C library's heap of every thread, and it keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Name of the first user.
const ADMIN: &str = "admin";
/// A local agent's token lives this long: it is read at once.
const LOCAL_TOKEN_TTL_MS: i64 = 10 * 60_000;

/// Stores what the agents send, forecasts when a threshold will be crossed, judges, and tells the chat room.
#[derive(Parser)]
#[command(name = "forewarn-server", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Run(RunArgs),
    /// Make an enrolment token and print it.
    Token(TokenArgs),
    /// Give a user a new password, generated and printed once.
    Password(PasswordArgs),
    /// Write one moment of the database into one file, while the server runs.
    Backup(Operation<BackupArgs>),
    /// Make the database from a backup file; one that holds something is never written over.
    Restore(Operation<RestoreArgs>),
    /// Open and check every row of the database, or of a backup file; damage is told with host and span.
    Verify(Operation<VerifyArgs>),
    /// Copy the database into an empty one of either engine (SQLite to MySQL, or back) and compare every row. Stop the
    /// server first.
    Move(Operation<MoveArgs>),
    /// Write series to a CSV or Parquet file.
    Export(Operation<ExportArgs>),
    /// Print the OpenAPI document of the console's API.
    Openapi,
    /// Replay a warnbench manifest and write the decisions.
    Backtest(BacktestCommand),
    /// Forecast one series from a CSV file.
    Forecast(ForecastCommand),
}

#[derive(Args)]
struct Where {
    /// Settings file; without it the defaults hold (config/server.toml shows them).
    #[arg(long)]
    config: Option<PathBuf>,
    /// Directory of the server's files, instead of the settings' one.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// A command on the database as a whole.
#[derive(Args)]
struct Operation<T: Args> {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    args: T,
}

#[derive(Args)]
struct BacktestCommand {
    #[command(flatten)]
    args: replay::BacktestArgs,
    #[command(flatten)]
    place: Where,
}

#[derive(Args)]
struct ForecastCommand {
    #[command(flatten)]
    args: replay::ForecastArgs,
    #[command(flatten)]
    place: Where,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    place: Where,
    /// Write an enrolment token for an agent on this machine to this file.
    #[arg(long)]
    local_agent_token: Option<PathBuf>,
}

#[derive(Args)]
struct TokenArgs {
    #[command(flatten)]
    place: Where,
    /// How many hosts it lets in.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    uses: u32,
    /// How many hours it lives.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(i64).range(1..=720))]
    hours: i64,
}

#[derive(Args)]
struct PasswordArgs {
    #[command(flatten)]
    place: Where,
    /// Whose.
    #[arg(default_value = ADMIN)]
    user: String,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(args) => {
            begin_again_frugal();
            runtime()?.block_on(run(args))
        }
        Command::Token(args) => runtime()?.block_on(token(args)),
        Command::Password(args) => runtime()?.block_on(password(args)),
        Command::Backup(Operation { place, args }) => {
            runtime()?.block_on(operate::backup(&settings_of(&place)?, &args, &say))?;
            Ok(())
        }
        Command::Restore(Operation { place, args }) => {
            runtime()?.block_on(operate::restore(&settings_of(&place)?, &args, &say))?;
            Ok(())
        }
        Command::Verify(Operation { place, args }) => {
            runtime()?.block_on(operate::verify(&settings_of(&place)?, &args, &say))?;
            Ok(())
        }
        Command::Move(Operation { place, args }) => {
            runtime()?.block_on(operate::move_to(&settings_of(&place)?, &args, &say))?;
            Ok(())
        }
        Command::Export(Operation { place, args }) => runtime()?.block_on(async {
            let (_, _, store) = open(&place).await?;
            let points = operate::export(&store, &args, clock::wall_ms(), &say).await?;
            say(&format!("{points} points were written"));
            Ok(())
        }),
        Command::Openapi => {
            say(&serde_json::to_string_pretty(&http::openapi())?);
            Ok(())
        }
        Command::Backtest(command) => runtime()?.block_on(backtest(command)),
        Command::Forecast(command) => {
            let model = runtime()?.block_on(read_model(command.args.model.as_deref(), &command.place))?;
            replay::forecast_file(&command.args, &model, &mut std::io::stdout().lock())
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// Gives the allocator its one setting, which it takes from its environment before `main` only: this program takes its
/// own place. Freed pages go back at once; otherwise the 19 MiB of one password's hash stay for good. Whoever has set
/// it knows better, and a program that cannot be started again goes on as it is.
fn begin_again_frugal() {
    use std::os::unix::process::CommandExt as _;
    if settings::allocator_is_told() {
        return;
    }
    let Ok(own) = std::env::current_exe() else { return };
    let mut again = std::process::Command::new(own);
    let mut args = std::env::args_os();
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    let _ = again.args(args).env(settings::ALLOCATOR_DELAY, "0").exec();
}

/// Prints a line for the person who started the program.
#[expect(clippy::print_stdout, reason = "what the command line was asked for")]
fn say(line: &str) {
    println!("{line}");
}

fn settings_of(place: &Where) -> anyhow::Result<Settings> {
    Ok(Settings::load(place.config.as_deref(), place.data_dir.as_deref())?)
}

/// Settings, data directory, site key and database: what every command that touches the site needs.
async fn open(place: &Where) -> anyhow::Result<(Settings, Seal, Store)> {
    let settings = settings_of(place)?;
    std::fs::create_dir_all(&settings.data_dir).with_context(|| {
        format!("cannot create the data directory {}; give another one with --data-dir", settings.data_dir.display())
    })?;
    let key = Seal::open_or_create(&settings.site_key_file())?;
    let (store, found) = Store::open(&settings.database_url).await.context("cannot open the database")?;
    for line in found {
        tracing::info!("{line}");
    }
    operate::check_key(&store, &key, &settings.site_key_file()).await?;
    Ok((settings, key, store))
}

/// The settings that a command names: a file, the id of a model of this site, or none for the defaults.
async fn read_model(named: Option<&str>, place: &Where) -> anyhow::Result<Model> {
    let Some(named) = named else { return Ok(Model::default()) };
    let path = Path::new(named);
    let is_id = named.len() == 16 && named.bytes().all(|byte| byte.is_ascii_hexdigit());
    if path.exists() || !is_id {
        return replay::read_model(path);
    }
    let settings = Settings::load(place.config.as_deref(), place.data_dir.as_deref())?;
    anyhow::ensure!(
        settings.data_dir.is_dir(),
        "{named} is no file, and there is no site at {}; name one with --config or --data-dir",
        settings.data_dir.display()
    );
    let (store, _) = Store::open(&settings.database_url).await.context("cannot open the database")?;
    let stored = store.model(named).await?.with_context(|| format!("this site has no model {named}"))?;
    Ok(adopted::open(&stored)?.settings)
}

/// Replays on threads of its own, so that a signal can cancel it.
async fn backtest(BacktestCommand { args, place }: BacktestCommand) -> anyhow::Result<()> {
    let model = read_model(args.model.as_deref(), &place).await?;
    let cancel = Arc::new(AtomicBool::new(false));
    let replaying = {
        let cancel = Arc::clone(&cancel);
        tokio::task::spawn_blocking(move || replay::backtest(&args, &model, &cancel))
    };
    let stopping = tokio::spawn(async move {
        if wait_for_signal().await.is_ok() {
            cancel.store(true, Ordering::Relaxed);
        }
    });
    let done = replaying.await.context("the replay ended abnormally")?;
    stopping.abort();
    done
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    telemetry::start();
    let settings = settings_of(&args.place)?;
    let voice = voice(&settings)?;
    let (settings, key, store) = match open(&args.place).await {
        Ok(opened) => opened,
        Err(error) => {
            if let Some(gone) = error.downcast_ref::<StoreError>() {
                voice.say_at_start(gone).await;
            }
            return Err(error);
        }
    };
    store.set_cache_bytes(settings.store.cache_bytes);
    let now_ms = clock::wall_ms();
    seed_rules(&store).await?;
    let site = Site::open(&store, &key, &settings, now_ms).await?;
    let plain = bind(settings.console.listen, "console.listen").await?;
    let secure = bind(settings.https.listen, "https.listen").await?;
    let tls = Arc::clone(&site.tls);

    let own = vigil::introduce(&store, &settings, &auth::new_secret()?, now_ms).await?;
    let share = Arc::new(if store.is_shared() { Share::among(own.id.clone()) } else { Share::alone(own.id.clone()) });
    let outbox = Outbox::new(store.clone(), key, notifier(&settings)?, words(&settings), own.id.clone());
    let outbox = Arc::new(outbox);
    let judge = Arc::new(Judge::new(store.clone(), Arc::clone(&outbox), Arc::clone(&share), now_ms));
    let intake = Intake::start(store.clone(), settings.limits.blocks_in_flight_max);
    let (period, told) = watch::channel(None);
    let jobs = Jobs {
        store: store.clone(),
        settings: settings.clone(),
        intake: intake.clone(),
        judge: Arc::clone(&judge),
        outbox: Arc::clone(&outbox),
        share: Arc::clone(&share),
        period,
    };
    if let Some(file) = &args.local_agent_token {
        write_local_token(&store, &site, file, now_ms).await?;
    }
    let app = Arc::new(App::new(store.clone(), site, settings.clone(), intake, judge, outbox, told)?);

    let (stop, stopped) = watch::channel(false);
    let mut running = schedule::start(&jobs, &stopped);
    running.push(tokio::spawn(vigil::keep(store.clone(), share, own, voice, stopped.clone())));
    let routes = http::filter(&app);
    let connections_max = settings.limits.connections_max;
    let console = tokio::spawn(http::listener::serve(plain, None, routes.clone(), connections_max, stopped.clone()));
    let agents = tokio::spawn(http::listener::serve(secure, Some(tls), routes, connections_max, stopped));

    say(&format!("Forewarn {} is running.", env!("CARGO_PKG_VERSION")));
    say(&format!("  console  http://{}", settings.console.listen));
    say(&format!("  agents   https://{} (and the console from elsewhere)", settings.https.listen));
    if let Some(password) = first_user(&store, now_ms).await? {
        say(&format!("  login    {ADMIN}, password (shown only this once): {password}"));
    }

    wait_for_signal().await?;
    tracing::info!("stopping: open requests may end, new ones are refused");
    stop.send_replace(true);
    let _ = tokio::join!(console, agents);
    for job in running {
        let _ = job.await;
    }
    Ok(())
}

fn notifier(settings: &Settings) -> anyhow::Result<Notifier> {
    let ca_pem = settings.notify.read_ca()?;
    Ok(Notifier::new(&NotifySettings { allow_loopback: settings.notify.allow_loopback, ca_pem })?)
}

fn words(settings: &Settings) -> MessageSite {
    let public_url = settings.site.public_url.trim_end_matches('/');
    MessageSite { zone: settings.site.time_zone(), public_url: (!public_url.is_empty()).then(|| public_url.to_owned()) }
}

fn voice(settings: &Settings) -> anyhow::Result<Voice> {
    Voice::new(settings, notifier(settings)?, words(settings))
        .context("[fallback_channel] of the settings cannot be used")
}

async fn bind(address: std::net::SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}; is it taken? change {key}"))
}

async fn wait_for_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Adds default rules that this database does not have yet; those it has keep their switches.
async fn seed_rules(store: &Store) -> anyhow::Result<()> {
    let known = store.rules().await?;
    for rule in default_rules() {
        if !known.iter().any(|old| old.id == rule.id) {
            store.rule_save(&rule).await?;
        }
    }
    Ok(())
}

/// Adds the first user to a site that has none, and returns the password.
async fn first_user(store: &Store, now_ms: i64) -> anyhow::Result<Option<String>> {
    if !store.users().await?.is_empty() {
        return Ok(None);
    }
    Ok(Some(set_password(store, ADMIN, now_ms).await?))
}

async fn set_password(store: &Store, name: &str, now_ms: i64) -> anyhow::Result<String> {
    let password: String = auth::new_secret()?.chars().take(20).collect();
    let password_hash = auth::hash_password(&password).map_err(|e| anyhow::anyhow!("cannot hash the password: {e}"))?;
    store.user_save(&User { name: name.to_owned(), password_hash, created_ms: now_ms }).await?;
    Ok(password)
}

async fn write_local_token(store: &Store, site: &Site, file: &Path, now_ms: i64) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let (token, record) = auth::new_token(&site.ca_sha256, 1, LOCAL_TOKEN_TTL_MS, now_ms)?;
    store.token_create(&record).await?;
    let mut out = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("cannot write the enrolment token to {}", file.display()))?;
    writeln!(out, "{}", token.encode())?;
    Ok(())
}

async fn token(args: TokenArgs) -> anyhow::Result<()> {
    let (settings, key, store) = open(&args.place).await?;
    let now_ms = clock::wall_ms();
    let site = Site::open(&store, &key, &settings, now_ms).await?;
    let (token, record) = auth::new_token(&site.ca_sha256, args.uses, args.hours * 3_600_000, now_ms)?;
    store.token_create(&record).await?;
    say(&token.encode());
    Ok(())
}

async fn password(args: PasswordArgs) -> anyhow::Result<()> {
    let (_, _, store) = open(&args.place).await?;
    let password = set_password(&store, &args.user, clock::wall_ms()).await?;
    say(&format!("{} / {password}", args.user));
    Ok(())
}
