//! The arguments, and how they become a checked [`Config`]: whatever is wrong names the argument and the remedy.
//! [`machine`] has those of the subcommands that start machines, [`arena`] those of the bots.

pub mod arena;
pub mod machine;

use self::arena::ArenaArgs;
use self::machine::{BenchArgs, DemoArgs};
use crate::http::{Config, Limit, Mode, check_path};
use crate::targets::Targets;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// Most requests at once.
const MAX_CONNECTIONS: u32 = 1_000_000;

/// Longest run in seconds: a day.
const MAX_SECONDS: f64 = 86_400.0;

/// The program's arguments.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, about = "Drives load over many small services, and measures it")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Drives HTTP load over a range of addresses
    Http(Box<HttpArgs>),
    /// Lets bots play on game servers, and measures how even their ticks are
    Arena(ArenaArgs),
    /// Builds, boots, loads, measures and ends a machine with many web VMs
    Demo(DemoArgs),
    /// Runs a benchmark, or lists them
    Bench(BenchArgs),
    /// Makes what the Linux boots that Firn is compared with: target/peer
    Peer,
}

/// Whom requests go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetChoice {
    /// A random target for each request
    Random,
    /// A random target for each request, the one of rank r in proportion to 1/r
    Zipf,
    /// A kept connection to every target, or as many to each as --connections need, established first; requests go over
    /// a random one
    Kept,
    /// All targets in turn
    All,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people
    Human,
    /// The whole report
    Json,
}

/// Arguments of `loadgen http`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 if every target that was asked answered and nothing failed, 1 if not, 2 for bad \
                        arguments, 130 if interrupted."
)]
pub struct HttpArgs {
    /// First address of the range
    #[arg(long, value_name = "ADDRESS")]
    pub first: Ipv4Addr,
    /// Number of addresses
    #[arg(long, value_name = "N")]
    pub count: u32,
    /// Distance from one address to the next
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub stride: u32,
    /// TCP port
    #[arg(long, default_value_t = 80)]
    pub port: u16,
    /// Path to ask for [default: / or, with --sweep, /id]
    #[arg(long)]
    pub path: Option<String>,
    /// Most requests at once [default: 16 or, with --sweep, 64]
    #[arg(long, value_name = "C")]
    pub connections: Option<u32>,
    /// Begin requests for that long [default: 10]
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", conflicts_with_all = ["requests", "sweep"])]
    pub duration: Option<f64>,
    /// Begin that many requests
    #[arg(long, value_name = "N", conflicts_with = "sweep")]
    pub requests: Option<u64>,
    /// Ask every target once; with path /id, check that each answer comes from its own VM
    #[arg(long)]
    pub sweep: bool,
    /// Sweep: ask again those that did not answer, until all have or that many seconds have passed
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", requires = "sweep")]
    pub wait: Option<f64>,
    /// Sweep of /id: VM number of the first target [default: from its address]
    #[arg(long, value_name = "VM", requires = "sweep")]
    pub first_vm: Option<u32>,
    /// Keep connections and reuse them
    #[arg(long, conflicts_with_all = ["new_connections", "sweep"])]
    pub keep_alive: bool,
    /// A new connection for each request (the default unless --targets kept)
    #[arg(long)]
    pub new_connections: bool,
    /// Whom requests go to [default: random]
    #[arg(long, value_enum, conflicts_with = "sweep")]
    pub targets: Option<TargetChoice>,
    /// Begin that many requests a second, whatever becomes of them, instead of one when another has ended
    #[arg(long, allow_negative_numbers = true, value_name = "R", conflicts_with = "sweep")]
    pub rate: Option<f64>,
    /// Patience with one request, and with one connection, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub timeout: u64,
    /// Where random choices start [default: random]
    #[arg(long)]
    pub seed: Option<u64>,
    /// With --targets zipf: where the choice of popular targets starts [default: as --seed]
    #[arg(long, value_name = "SEED")]
    pub ranks_seed: Option<u64>,
    /// Write the whole report there
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// What to print on stdout
    #[arg(long, value_enum, default_value = "human")]
    pub format: Format,
    /// Write a plot there
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
}

/// A number of seconds, checked.
///
/// # Errors
/// What is wrong with it, naming the argument.
pub fn seconds(argument: &str, value: f64) -> Result<Duration, String> {
    if value > 0.0 && value <= MAX_SECONDS {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(format!("{argument} {value}: give more than 0 and at most {MAX_SECONDS} seconds"))
    }
}

impl HttpArgs {
    /// The run they ask for.
    ///
    /// # Errors
    /// What is wrong and how to mend it.
    pub fn config(&self) -> Result<Config, String> {
        let targets = Targets::new(self.first, self.count, self.stride).map_err(|error| error.to_string())?;
        let path = self.path.clone().unwrap_or_else(|| if self.sweep { "/id" } else { "/" }.to_owned());
        check_path(&path).map_err(|remedy| format!("--path {path:?}: {remedy}"))?;
        if self.port == 0 {
            return Err("--port 0: give 1 to 65535".to_owned());
        }
        let connections = self.connections.unwrap_or(if self.sweep { 64 } else { 16 });
        if connections == 0 || connections > MAX_CONNECTIONS {
            return Err(format!("--connections {connections}: give 1 to {MAX_CONNECTIONS}"));
        }
        if self.timeout == 0 || self.timeout > 600_000 {
            return Err(format!("--timeout {}: give 1 to 600000 milliseconds", self.timeout));
        }
        if let Some(rate) = self.rate.filter(|&rate| !(rate > 0.0 && rate <= 1e6)) {
            return Err(format!("--rate {rate}: give more than 0 and at most 1000000 requests a second"));
        }
        let limit = match self.requests {
            Some(0) => return Err("--requests 0: give at least 1".to_owned()),
            Some(n) => Limit::Requests(n),
            None => Limit::Duration(seconds("--duration", self.duration.unwrap_or(10.0))?),
        };
        let identity_of_first = match self.first_vm.or(targets.first_vm()) {
            _ if !self.sweep || path != "/id" => None,
            None => {
                return Err(format!(
                    "--first {}: no VM of the default network has this address; say with --first-vm which VM it is",
                    self.first
                ));
            }
            vm => vm,
        };
        if self.ranks_seed.is_some() && self.targets != Some(TargetChoice::Zipf) {
            return Err("--ranks-seed: only --targets zipf has ranks; add it, or leave this out".to_owned());
        }
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        Ok(Config {
            targets,
            port: self.port,
            path,
            mode: self.mode()?,
            connections,
            limit,
            timeout: Duration::from_millis(self.timeout),
            rate: self.rate,
            seed,
            ranks_seed: self.ranks_seed.unwrap_or(seed),
            identity_of_first,
        })
    }

    fn mode(&self) -> Result<Mode, String> {
        if self.sweep {
            let wait = self.wait.map(|wait| seconds("--wait", wait)).transpose()?;
            return Ok(Mode::Sweep { wait });
        }
        Ok(match self.targets.unwrap_or(TargetChoice::Random) {
            TargetChoice::Random => Mode::Random { keep_alive: self.keep_alive },
            TargetChoice::Zipf => Mode::Zipf { keep_alive: self.keep_alive },
            TargetChoice::All => Mode::InTurn { keep_alive: self.keep_alive },
            TargetChoice::Kept if self.new_connections => {
                return Err("--targets kept keeps its connections: leave out --new-connections, or choose \
                            --targets random"
                    .to_owned());
            }
            TargetChoice::Kept => Mode::Kept,
        })
    }
}
