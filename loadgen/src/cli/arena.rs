//! Arguments of `loadgen arena`.

use super::{Format, seconds};
use crate::arena::{Config, MAX_BOTS};
use crate::targets::Targets;
use arena_protocol::{MAX_PLAYERS, PORT};
use clap::Args;
use std::net::Ipv4Addr;

/// Arguments of `loadgen arena`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 if every bot got in and played to the end and every server told its counters, 1 if \
                        not, 2 for bad arguments, 130 if interrupted."
)]
pub struct ArenaArgs {
    /// First address of the range
    #[arg(long, value_name = "ADDRESS")]
    pub first: Ipv4Addr,
    /// Number of addresses
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub count: u32,
    /// Distance from one address to the next
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub stride: u32,
    /// UDP port
    #[arg(long, default_value_t = PORT)]
    pub port: u16,
    /// Bots on each server
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub players: u32,
    /// Play for that long
    #[arg(
        long,
        visible_alias = "seconds",
        allow_negative_numbers = true,
        value_name = "SECONDS",
        default_value_t = 10.0
    )]
    pub duration: f64,
    /// Where random choices start [default: random]
    #[arg(long)]
    pub seed: Option<u64>,
    /// What to print on stdout
    #[arg(long, value_enum, default_value = "human")]
    pub format: Format,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
}

impl ArenaArgs {
    /// The run they ask for.
    ///
    /// # Errors
    /// What is wrong and how to mend it.
    pub fn config(&self) -> Result<Config, String> {
        let targets = Targets::new(self.first, self.count, self.stride).map_err(|error| error.to_string())?;
        if self.port == 0 {
            return Err("--port 0: give 1 to 65535".to_owned());
        }
        if self.players == 0 || self.players as usize > MAX_PLAYERS {
            return Err(format!("--players {}: give 1 to {MAX_PLAYERS}", self.players));
        }
        let bots = u64::from(self.count) * u64::from(self.players);
        if bots > u64::from(MAX_BOTS) {
            return Err(format!("--count, --players: {bots} bots; give numbers that make at most {MAX_BOTS}"));
        }
        Ok(Config {
            targets,
            port: self.port,
            players: self.players,
            duration: seconds("--duration", self.duration)?,
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..)),
        })
    }
}
