//! A guest that takes all it can get of something: processor, wakes, network, faults, virtual instructions. None of it
//! is forbidden. What a neighbour loses by it is what a fair kernel is measured by.
#![cfg_attr(firn_guest, no_std)]

extern crate alloc;

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;
use libos::arguments::{BadArgument, parse_or};
use libos::net::{self, UdpSocket};
use libos::time::{Duration, Instant, sleep_until};

/// Where large datagrams go if nothing else is said: the host, in a network of which nothing is said.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);

/// Port that is flooded: nobody listens there.
const PORT: u16 = 9;

/// Bytes of the datagrams that are sent as fast as possible: as large as a frame allows.
const LARGE: usize = 1472;

/// Bytes of the datagrams of a flood: as many frames as possible.
const SMALL: usize = 18;

/// Datagrams between two looks at what else there is to do.
const BURST: u32 = 64;

/// Bytes that are touched page by page.
const TOUCHED: usize = 2 << 20;

/// Steps of a piece of work: milliseconds.
const PIECE: u32 = 1_000_000;

/// What an attacker takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The processor: it computes and never calls the kernel.
    Spin,
    /// Wakes, at a period of its own.
    Wake,
    /// Wakes, in the same instant as all other VMs that do this.
    Storm,
    /// A neighbour's network: small datagrams to it.
    Flood,
    /// The wire: large datagrams to the host.
    Send,
    /// Page faults: it touches memory that it has given back.
    Fault,
    /// Virtual instructions that do nothing.
    Instruct,
    /// The processor too: it computes, and executes a virtual instruction for each piece of work that it has done, so
    /// that these can be counted.
    Work,
    /// Timers: it sleeps until a time that has passed.
    Past,
    /// Memory: it writes all it may have, again and again, and nothing that could be compressed.
    Hog,
}

/// All of them, by name.
const MODES: [(&str, Mode); 10] = [
    ("spin", Mode::Spin),
    ("wake", Mode::Wake),
    ("storm", Mode::Storm),
    ("flood", Mode::Flood),
    ("send", Mode::Send),
    ("fault", Mode::Fault),
    ("instruct", Mode::Instruct),
    ("past", Mode::Past),
    ("hog", Mode::Hog),
    ("work", Mode::Work),
];

impl FromStr for Mode {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        MODES.iter().find(|(name, _)| *name == word).map(|&(_, mode)| mode).ok_or(())
    }
}

/// Why there is no attack.
#[derive(Debug)]
pub enum Error {
    /// An argument is wrong.
    Argument(BadArgument),
    /// The network refuses.
    Network(net::Error),
    /// It can be done in a VM only.
    NoVm,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(e) => e.fmt(f),
            Self::Network(e) => e.fmt(f),
            Self::NoVm => f.write_str("this attack is one on a kernel: it needs a VM"),
        }
    }
}

impl From<BadArgument> for Error {
    fn from(e: BadArgument) -> Self {
        Self::Argument(e)
    }
}

impl From<net::Error> for Error {
    fn from(e: net::Error) -> Self {
        Self::Network(e)
    }
}

/// Attacks, for ever.
///
/// # Errors
/// See [`Error`].
pub async fn run() -> Result<(), Error> {
    let mode = parse_or("mode", Mode::Spin)?;
    let period = Duration::from_millis(parse_or("period_ms", 100u64)?.max(1));
    match mode {
        Mode::Spin => spin(),
        Mode::Work => work(),
        Mode::Wake => wake(Instant::now(), period).await,
        // The clock is the machine's: multiples of the period are the same instants for all.
        Mode::Storm => wake(next_multiple(Instant::now(), period), period).await,
        Mode::Flood => {
            let target = parse_or("target", Ipv4Addr::UNSPECIFIED)?;
            send(target, SMALL).await
        }
        Mode::Send => send(parse_or("target", HOST)?, LARGE).await,
        Mode::Fault => fault(),
        Mode::Instruct => instruct(),
        Mode::Past => past(),
        Mode::Hog => hog(),
    }
}

fn spin() -> ! {
    let mut n = 0u64;
    loop {
        n = step(n);
    }
}

/// A step of a computation whose end nobody can know beforehand.
fn step(n: u64) -> u64 {
    core::hint::black_box(n.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1))
}

#[cfg(firn_guest)]
fn work() -> Result<(), Error> {
    let mut n = 0;
    loop {
        for _ in 0..PIECE {
            n = step(n);
        }
        libos::instruction::notify(libos::instruction::Devices::empty());
    }
}

fn next_multiple(now: Instant, period: Duration) -> Instant {
    let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
    Instant::from_nanos((now.as_nanos() / period).saturating_add(1).saturating_mul(period))
}

async fn wake(first: Instant, period: Duration) -> Result<(), Error> {
    let mut at = first;
    loop {
        sleep_until(at).await;
        at += period;
    }
}

async fn send(to: Ipv4Addr, bytes: usize) -> Result<(), Error> {
    let socket = UdpSocket::bind(([0, 0, 0, 0], 0))?;
    let bytes = alloc::vec![0x5a; bytes];
    loop {
        for _ in 0..BURST {
            // What cannot be sent is lost: the next one follows at once.
            let _ = socket.send_to(&bytes, (to, PORT)).await;
        }
        libos::task::yield_now().await;
    }
}

#[cfg(firn_guest)]
fn fault() -> Result<(), Error> {
    const PAGE: usize = 4096;
    let mut memory = alloc::vec![0u8; TOUCHED];
    let first = memory.as_mut_ptr().addr().next_multiple_of(PAGE);
    let end = (memory.as_mut_ptr().addr() + TOUCHED) / PAGE * PAGE;
    loop {
        for page in memory.chunks_mut(PAGE) {
            core::hint::black_box(page)[0] = 1;
        }
        // SAFETY: whole pages of a buffer of bytes in which nothing is kept.
        let _ = unsafe { libos::instruction::discard(first as u64..end as u64) };
    }
}

#[cfg(firn_guest)]
fn instruct() -> Result<(), Error> {
    loop {
        libos::instruction::notify(libos::instruction::Devices::empty());
    }
}

#[cfg(firn_guest)]
fn past() -> Result<(), Error> {
    loop {
        // Nothing is pending but the timer that this sets.
        libos::instruction::idle(1);
    }
}

#[cfg(firn_guest)]
fn hog() -> Result<(), Error> {
    // What is left is for everything else that it does.
    let mut memory = alloc::vec![0u64; libos::memory::left() / 10 * 9 / size_of::<u64>()];
    let mut n = 1;
    loop {
        for word in &mut memory {
            n = step(n);
            *word = n;
        }
        core::hint::black_box(&mut memory);
    }
}

#[cfg(not(firn_guest))]
fn hog() -> Result<(), Error> {
    Err(Error::NoVm)
}

#[cfg(not(firn_guest))]
fn fault() -> Result<(), Error> {
    let _ = TOUCHED;
    Err(Error::NoVm)
}

#[cfg(not(firn_guest))]
fn work() -> Result<(), Error> {
    let _ = PIECE;
    Err(Error::NoVm)
}

#[cfg(not(firn_guest))]
fn instruct() -> Result<(), Error> {
    Err(Error::NoVm)
}

#[cfg(not(firn_guest))]
fn past() -> Result<(), Error> {
    Err(Error::NoVm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_names() {
        for (name, mode) in MODES {
            assert_eq!(name.parse(), Ok(mode));
        }
        assert_eq!("sleep".parse::<Mode>(), Err(()));
    }

    #[test]
    fn storms_come_at_the_same_instants_for_all() {
        let period = Duration::from_millis(100);
        let at = |ns| next_multiple(Instant::from_nanos(ns), period).as_nanos();
        assert_eq!(
            (at(0), at(1), at(99_999_999), at(100_000_000)),
            (100_000_000, 100_000_000, 100_000_000, 200_000_000)
        );
    }
}
