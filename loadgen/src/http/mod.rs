//! HTTP load over a range of addresses, as a library: [`run`] takes a [`Config`] and returns an [`Outcome`].
//!
//! | module | what |
//! |---|---|
//! | [`engine`] | the event loop |
//! | [`slots`] | which connections are busy, kept, free |
//! | [`connection`] | one connection and the request on it |
//! | [`response`] | reads responses |
//! | [`plan`] | which target next, and when |
//! | [`zipf`] | popular targets and others |
//! | [`record`] | what is recorded |
//! | [`identity`] | what `/id` answers show |
//! | [`error`] | kinds of failure |

pub mod connection;
pub mod engine;
pub mod error;
pub mod identity;
pub mod plan;
pub mod record;
pub mod response;
pub mod slots;
pub mod zipf;

use crate::targets::Targets;
use identity::IdentityReport;
use record::Record;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

/// Whom requests go to, and over which connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A random target for each request.
    Random {
        /// Whether up to `connections` connections are kept and reused, or each request has its own.
        keep_alive: bool,
    },
    /// A target for each request, of which some are far more popular than others: see [`zipf`].
    Zipf {
        /// As above.
        keep_alive: bool,
    },
    /// All targets in turn.
    InTurn {
        /// As above.
        keep_alive: bool,
    },
    /// One connection to every target, or as many to each as it takes for all requests at once to have one, established
    /// beforehand; each request goes over a random idle one.
    Kept,
    /// Every target once.
    Sweep {
        /// How long to ask those again that did not answer; `None`: not at all.
        wait: Option<Duration>,
    },
}

impl Mode {
    /// Whether connections outlive a request.
    #[must_use]
    pub const fn keeps_connections(self) -> bool {
        matches!(
            self,
            Self::Random { keep_alive: true }
                | Self::Zipf { keep_alive: true }
                | Self::InTurn { keep_alive: true }
                | Self::Kept
        )
    }
}

/// When a run ends. A sweep ends when it is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After that time no request begins.
    Duration(Duration),
    /// After that many requests.
    Requests(u64),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses.
    pub targets: Targets,
    /// TCP port.
    pub port: u16,
    /// Path of the resource, checked with [`check_path`].
    pub path: String,
    /// Whom requests go to.
    pub mode: Mode,
    /// Most requests at once.
    pub connections: u32,
    /// When the run ends.
    pub limit: Limit,
    /// Patience with one request, and with establishing one connection.
    pub timeout: Duration,
    /// Requests a second to begin whatever becomes of them (open loop); `None`: the next begins when one has
    /// ended (closed loop).
    pub rate: Option<f64>,
    /// Where random choices start.
    pub seed: u64,
    /// Where the choice of popular targets starts.
    pub ranks_seed: u64,
    /// The VM number of the first target, if the answers are those of `/id` and are to be checked.
    pub identity_of_first: Option<u32>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is doing.
    pub stage: Stage,
    /// Time since the stage began.
    pub elapsed: Duration,
    /// Requests answered well; while connecting, connections established.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
}

/// The stages of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Establishes the connections that are to be kept.
    Connecting,
    /// Asks.
    Running,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// When the first request began.
    pub started: SystemTime,
    /// Time to establish the connections to be kept.
    pub setup: Option<Duration>,
    /// The window in which requests were begun, to the last answer if their number was given.
    pub window: Duration,
    /// From the first request to the end of the last.
    pub elapsed: Duration,
    /// Everything recorded.
    pub record: Record,
    /// What the `/id` answers show, if they were asked for.
    pub identity: Option<IdentityReport>,
    /// Requests that the rate wanted begun by the end and that were not, for want of a free connection.
    pub behind: u64,
    /// Whether it was told to stop.
    pub interrupted: bool,
    /// Processor time the load generator itself took.
    pub cpu: Duration,
}

/// Why a run cannot begin.
#[derive(Debug)]
pub enum StartError {
    /// So many connections need more file descriptors than this process may have.
    TooFewDescriptors {
        /// How many are needed.
        needed: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The system refused something else.
    Io(std::io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooFewDescriptors { needed, limit } => write!(
                f,
                "{needed} file descriptors are needed and {limit} allowed; raise the limit (`ulimit -n {needed}`) or ask \
                 for fewer connections"
            ),
            Self::Io(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<std::io::Error> for StartError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Checks that a path can stand in a request line.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    if !path.starts_with('/') {
        return Err("a path starts with `/`");
    }
    if path.len() > 2048 {
        return Err("a path has at most 2048 bytes");
    }
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("a path has neither spaces nor control characters; write them as %20 and so on");
    }
    Ok(())
}

/// Drives the load. `observe` is told ten times a second how far it is; setting `stop` ends it early.
///
/// # Errors
/// See [`StartError`]. What goes wrong with requests is recorded, not an error.
pub fn run(config: &Config, observe: &mut dyn FnMut(Snapshot), stop: &AtomicBool) -> Result<Outcome, StartError> {
    engine::Engine::new(config)?.run(observe, stop)
}
