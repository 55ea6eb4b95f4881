//! Bots that play on many game servers at once, and measure what players feel: [`run`] takes a [`Config`] and returns
//! an [`Outcome`].
//!
//! | module | what |
//! |---|---|
//! | [`bot`] | one player |
//! | [`record`] | what is recorded |
//! | [`report`] | a run as JSON, and as text |

pub mod bot;
pub mod record;
pub mod report;

use crate::http::StartError;
use crate::process::{allow_descriptors, cpu_time};
use crate::targets::Targets;
use bot::{Bot, TICK_NS};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use record::Record;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Most bots of a run: each has a socket.
pub const MAX_BOTS: u32 = 50_000;

/// Descriptors beside those of the bots.
const OTHER_DESCRIPTORS: u64 = 32;

/// Longest time in which all bots begin.
const START_NS: u64 = 1_000_000_000;

/// How often progress is told and the end is looked for.
const OBSERVE: Duration = Duration::from_millis(100);

/// A run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The servers.
    pub targets: Targets,
    /// UDP port.
    pub port: u16,
    /// Bots on each.
    pub players: u32,
    /// How long they play.
    pub duration: Duration,
    /// Where random choices start.
    pub seed: u64,
}

/// What became of the bots of one server.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it is.
    pub address: Ipv4Addr,
    /// Bots that got in.
    pub played: u32,
    /// Bots that were put out.
    pub put_out: u32,
    /// What it says of itself.
    pub counters: Option<arena_protocol::Counters>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// When it began.
    pub started: SystemTime,
    /// How long the bots played, the time to get in included.
    pub window: Duration,
    /// Everything recorded.
    pub record: Record,
    /// The servers.
    pub targets: Vec<Target>,
    /// Whether it was told to stop.
    pub interrupted: bool,
    /// Processor time the load generator itself took.
    pub cpu: Duration,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Time since it began.
    pub elapsed: Duration,
    /// Snapshots so far.
    pub snapshots: u64,
    /// Bots that got in.
    pub playing: u64,
}

/// Lets bots play. `observe` is told ten times a second how far it is; setting `stop` ends it early.
///
/// # Errors
/// See [`StartError`]. What goes wrong with bots is recorded, not an error.
pub fn run(config: &Config, observe: &mut dyn FnMut(Progress), stop: &AtomicBool) -> Result<Outcome, StartError> {
    let bots = u64::from(config.targets.count()) * u64::from(config.players);
    allow_descriptors(bots + OTHER_DESCRIPTORS)?;
    let mut field = Field::new(config)?;
    let cpu = cpu_time();
    let started = SystemTime::now();
    let window_ns = u64::try_from(config.duration.as_nanos()).unwrap_or(u64::MAX);
    let interrupted = field.play(window_ns, observe, stop)?;
    let ended_ns = field.now_ns();
    field.end()?;
    let window = Duration::from_nanos(ended_ns);
    let cpu = cpu_time().saturating_sub(cpu);
    let targets = field.targets(config);
    Ok(Outcome { started, window, record: field.record, targets, interrupted, cpu })
}

/// All bots, each with its socket.
struct Field {
    poll: Poll,
    events: Events,
    bots: Vec<(Bot, UdpSocket)>,
    /// When bots are due; a bot may be in it more often than once.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    record: Record,
    playing: u64,
    begun: Instant,
}

impl Field {
    fn new(config: &Config) -> Result<Self, StartError> {
        let poll = Poll::new()?;
        let count = config.targets.count() as usize * config.players as usize;
        let mut random = fastrand::Rng::with_seed(config.seed);
        let mut bots = Vec::with_capacity(count);
        let mut due = BinaryHeap::with_capacity(2 * count);
        for n in 0..count {
            // In turn, so that no server has all of its players at once.
            let target = u32::try_from(n % config.targets.count() as usize).unwrap_or(0);
            let mut socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
            socket.connect(SocketAddr::from((config.targets.address(target), config.port)))?;
            poll.registry().register(&mut socket, Token(n), Interest::READABLE)?;
            let begins_ns = (n as u64).saturating_mul(TICK_NS / 16).min(START_NS * n as u64 / count.max(1) as u64);
            let asks = n < config.targets.count() as usize;
            bots.push((Bot::new(random.u64(..), begins_ns, asks), socket));
            due.push(Reverse((begins_ns, n)));
        }
        let (events, record) = (Events::with_capacity(1024), Record::default());
        Ok(Self { poll, events, bots, due, record, playing: 0, begun: Instant::now() })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns whether it was stopped before its end.
    fn play(&mut self, window_ns: u64, observe: &mut dyn FnMut(Progress), stop: &AtomicBool) -> std::io::Result<bool> {
        let mut next = Duration::ZERO;
        loop {
            let elapsed = self.begun.elapsed();
            if elapsed >= next {
                next = elapsed + OBSERVE;
                observe(Progress { elapsed, snapshots: self.record.snapshots, playing: self.playing });
                if stop.load(Ordering::Relaxed) {
                    return Ok(true);
                }
            }
            let now_ns = self.now_ns();
            if now_ns >= window_ns {
                return Ok(false);
            }
            self.turn(window_ns.min(u64::try_from(next.as_nanos()).unwrap_or(u64::MAX)))?;
        }
    }

    /// All leave, and one of each server asks it for its counters.
    fn end(&mut self) -> std::io::Result<()> {
        let now_ns = self.now_ns();
        self.due.clear();
        for (n, (bot, _)) in self.bots.iter_mut().enumerate() {
            bot.stop(now_ns, &mut self.record);
            self.due.extend(bot.due_ns().map(|due_ns| Reverse((due_ns, n))));
        }
        // Each bot has only so many tries.
        while self.bots.iter().any(|(bot, _)| bot.due_ns().is_some()) {
            self.turn(self.now_ns() + TICK_NS)?;
        }
        Ok(())
    }

    /// Says what is due, and waits for what comes, until then at the latest.
    fn turn(&mut self, until_ns: u64) -> std::io::Result<()> {
        let now_ns = self.now_ns();
        while let Some(&Reverse((due_ns, n))) = self.due.peek()
            && due_ns <= now_ns
        {
            self.due.pop();
            let (bot, socket) = &mut self.bots[n];
            // It may have changed its mind since; then it is in the queue for that, too.
            if bot.due_ns() != Some(due_ns) {
                continue;
            }
            if let Some(datagram) = bot.speak(now_ns, &mut self.record)
                && socket.send(datagram.bytes()).is_err()
            {
                self.record.errors += 1;
            }
            self.due.extend(bot.due_ns().map(|due_ns| Reverse((due_ns, n))));
        }
        let next_ns = self.due.peek().map_or(until_ns, |&Reverse((due_ns, _))| due_ns.min(until_ns));
        let wait = Duration::from_nanos(next_ns.saturating_sub(self.now_ns()));
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        ready.into_iter().for_each(|n| self.hear(n));
        Ok(())
    }

    /// Takes all that has come for a bot.
    fn hear(&mut self, n: usize) {
        let mut bytes = [0; 2048];
        loop {
            let now_ns = self.now_ns();
            let (bot, socket) = &mut self.bots[n];
            match socket.recv(&mut bytes) {
                Ok(length) => {
                    let (had_due, had_played) = (bot.due_ns(), bot.has_played);
                    bot.hear(&bytes[..length], now_ns, &mut self.record);
                    self.playing += u64::from(bot.has_played && !had_played);
                    if bot.due_ns() != had_due {
                        self.due.extend(bot.due_ns().map(|due_ns| Reverse((due_ns, n))));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Nobody listens there: the bot says it again, and gives up in the end.
                Err(_) => self.record.errors += 1,
            }
        }
    }

    fn targets(&self, config: &Config) -> Vec<Target> {
        let count = config.targets.count();
        let of = |i: u32| self.bots.iter().skip(i as usize).step_by(count as usize).map(|(bot, _)| bot);
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let target = |i: u32| Target {
            address: config.targets.address(i),
            played: number(of(i).filter(|bot| bot.has_played).count()),
            put_out: number(of(i).filter(|bot| bot.was_put_out).count()),
            counters: of(i).find_map(|bot| bot.counters),
        };
        (0..count).map(target).collect()
    }
}
