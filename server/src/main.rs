//! The server's command line.

use clap::{Parser, Subcommand};
use forewarn_server::replay;

#[derive(Parser)]
#[command(name = "forewarn-server", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Backtest(replay::BacktestArgs),
    Forecast(replay::ForecastArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Backtest(args) => replay::backtest(&args),
        Command::Forecast(args) => replay::forecast_file(&args, &mut std::io::stdout().lock()),
    }
}
