//! What the kernel's paths cost, seen from inside: a VM that takes them again and again.
//!
//! VM 1 measures and says the result in a line, `probe MODE: COUNT in NS ns`. VM 2 is the other side: it takes turns
//! with VM 1, or sends back what comes. All others sleep.
#![cfg_attr(firn_guest, no_std)]

extern crate alloc;

#[cfg(firn_guest)]
mod spaces;

use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use core::str::FromStr;
use libos::arguments::{BadArgument, parse_or};
use libos::net::{self, TcpListener, TcpStream, UdpSocket};
use libos::time::{Duration, Instant, sleep, timeout};

/// Bytes of a datagram, if nothing else is said, and at most.
const DATAGRAM_BYTES: (usize, usize) = (100, 1472);

/// Port of the other side.
const PORT: u16 = 7;

/// How long a VM sleeps that takes turns: less than it takes to change to the other one.
const TURN: Duration = Duration::from_nanos(500);

/// How long the other side may take to be there, and an answer to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// The VM that measures, and its other side.
const FIRST: u32 = 1;
const SECOND: u32 = 2;

/// Why there is no result.
#[derive(Debug)]
pub enum Error {
    /// An argument is wrong.
    Argument(BadArgument),
    /// The network refuses.
    Network(net::Error),
    /// The other side does not answer.
    NoAnswer,
    /// It can be measured in a VM only.
    NoVm,
    /// The kernel has refused an instruction for address spaces, or a context has come back for another reason.
    Space,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(e) => e.fmt(f),
            Self::Network(e) => e.fmt(f),
            Self::NoAnswer => f.write_str("the other side does not answer"),
            Self::NoVm => f.write_str("virtual instructions are there in a VM only"),
            Self::Space => f.write_str("an address space is not as it must be"),
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

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Virtual instructions that do nothing.
    Null,
    /// Two VMs that take turns: each sleeps while the other one runs.
    Yield,
    /// Datagrams to the other VM and back.
    Udp,
    /// Bytes over a connection to the other VM and back.
    Tcp,
    /// Contexts that come back at once, in one address space after the other.
    Enter,
    /// Pages of an address space for which there is no entry yet.
    Miss,
    /// Loading one entry.
    WriteOne,
    /// Loading 64 entries at once.
    WriteMany,
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "null" => Ok(Self::Null),
            "yield" => Ok(Self::Yield),
            "udp" => Ok(Self::Udp),
            "tcp" => Ok(Self::Tcp),
            "enter" => Ok(Self::Enter),
            "miss" => Ok(Self::Miss),
            "write1" => Ok(Self::WriteOne),
            "write64" => Ok(Self::WriteMany),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Yield => "yield",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Enter => "enter",
            Self::Miss => "miss",
            Self::WriteOne => "write1",
            Self::WriteMany => "write64",
        })
    }
}

/// Measures, or is the other side.
///
/// # Errors
/// See [`Error`].
pub async fn run() -> Result<(), Error> {
    let (mode, count) = (parse_or("mode", Mode::Null)?, parse_or("count", 100_000u32)?);
    let page = libos::registers();
    let took = match (page.vm, mode) {
        (FIRST, Mode::Null) => null(count)?,
        (FIRST, Mode::Enter | Mode::Miss | Mode::WriteOne | Mode::WriteMany) => use_spaces(mode, count)?,
        (FIRST | SECOND, Mode::Yield) => take_turns(count).await,
        (FIRST, Mode::Udp | Mode::Tcp) => {
            let next = u32::from(Ipv4Addr::from(page.ipv4)).wrapping_add(1);
            let other = SocketAddr::new(Ipv4Addr::from(next).into(), PORT);
            let bytes = parse_or("bytes", DATAGRAM_BYTES.0)?.min(DATAGRAM_BYTES.1);
            if mode == Mode::Udp {
                round_trips(&UdpSocket::bind(([0, 0, 0, 0], 0))?, other, bytes, count).await?
            } else {
                stream(other, bytes, count).await?
            }
        }
        (SECOND, Mode::Udp) => {
            echo::serve_udp(UdpSocket::bind(([0, 0, 0, 0], PORT))?).await;
            return Ok(());
        }
        (SECOND, Mode::Tcp) => return Ok(echo::serve_tcp(TcpListener::bind(([0, 0, 0, 0], PORT))?).await?),
        _ => return rest().await,
    };
    if page.vm == FIRST {
        libos::log::info!("probe {mode}: {count} in {} ns", took.as_nanos());
    }
    rest().await
}

async fn rest() -> Result<(), Error> {
    loop {
        sleep(Duration::from_secs(3600)).await;
    }
}

#[cfg(firn_guest)]
fn null(count: u32) -> Result<Duration, Error> {
    use libos::instruction::{Devices, notify};
    let begun = Instant::now();
    for _ in 0..count {
        notify(Devices::empty());
    }
    Ok(begun.elapsed())
}

#[cfg(not(firn_guest))]
fn null(_: u32) -> Result<Duration, Error> {
    Err(Error::NoVm)
}

#[cfg(firn_guest)]
fn use_spaces(mode: Mode, count: u32) -> Result<Duration, Error> {
    let mut spaces = spaces::Spaces::new()?;
    let begun = Instant::now();
    match mode {
        Mode::Enter => spaces.enter(count)?,
        Mode::Miss => spaces.miss(count)?,
        Mode::WriteMany => spaces.write::<64>(count)?,
        _ => spaces.write::<1>(count)?,
    }
    Ok(begun.elapsed())
}

#[cfg(not(firn_guest))]
fn use_spaces(_: Mode, _: u32) -> Result<Duration, Error> {
    Err(Error::NoVm)
}

/// Sleeps again and again, each time no longer than the other VM's turn takes.
async fn take_turns(count: u32) -> Duration {
    let begun = Instant::now();
    for _ in 0..count {
        sleep(TURN).await;
    }
    begun.elapsed()
}

/// Sends a datagram of so many bytes and waits for it to come back, again and again. The first ones, while the other side may not be
/// there yet, do not count.
///
/// # Errors
/// If one does not come back.
pub async fn round_trips(socket: &UdpSocket, to: SocketAddr, bytes: usize, count: u32) -> Result<Duration, Error> {
    let mut bytes = alloc::vec![7; bytes];
    let ready_by = Instant::now() + PATIENCE;
    loop {
        socket.send_to(&bytes, to).await?;
        match timeout(Duration::from_millis(100), socket.recv_from(&mut bytes)).await {
            Ok(answer) => {
                answer?;
                break;
            }
            Err(_) if Instant::now() < ready_by => {}
            Err(_) => return Err(Error::NoAnswer),
        }
    }
    let begun = Instant::now();
    for _ in 0..count {
        socket.send_to(&bytes, to).await?;
        timeout(PATIENCE, socket.recv_from(&mut bytes)).await.map_err(|_| Error::NoAnswer)??;
    }
    Ok(begun.elapsed())
}

/// Sends bytes over a connection and waits for them to come back, again and again. The connection's beginning does not
/// count.
///
/// # Errors
/// If nobody listens there, or they do not come back.
pub async fn stream(to: SocketAddr, bytes: usize, count: u32) -> Result<Duration, Error> {
    let ready_by = Instant::now() + PATIENCE;
    let stream = loop {
        match timeout(PATIENCE, TcpStream::connect(to)).await {
            Ok(Ok(stream)) => break stream,
            _ if Instant::now() < ready_by => sleep(Duration::from_millis(100)).await,
            _ => return Err(Error::NoAnswer),
        }
    };
    let (sent, mut got) = (alloc::vec![7; bytes], alloc::vec![0; bytes]);
    let begun = Instant::now();
    for _ in 0..count {
        stream.write_all(&sent).await?;
        let mut length = 0;
        while length < bytes {
            let read = timeout(PATIENCE, stream.read(got.get_mut(length..).unwrap_or_default())).await;
            match read.map_err(|_| Error::NoAnswer)?? {
                0 => return Err(Error::NoAnswer),
                more => length += more,
            }
        }
    }
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in
            [Mode::Null, Mode::Yield, Mode::Udp, Mode::Tcp, Mode::Enter, Mode::Miss, Mode::WriteOne, Mode::WriteMany]
        {
            assert_eq!(format!("{mode}").parse(), Ok(mode));
        }
        assert_eq!("sctp".parse::<Mode>(), Err(()));
    }

    #[test]
    fn datagrams_are_counted_there_and_back() {
        libos::block_on(async {
            let other = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
            let address = other.local_addr().unwrap();
            libos::task::spawn(echo::serve_udp(other)).detach();
            let socket = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
            assert!(round_trips(&socket, address, 1472, 50).await.unwrap() > Duration::ZERO);
        });
    }

    #[test]
    fn streams_come_back_whole() {
        libos::block_on(async {
            let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
            let address = listener.local_addr().unwrap();
            libos::task::spawn(async { echo::serve_tcp(listener).await.unwrap() }).detach();
            assert!(stream(address, 1400, 50).await.unwrap() > Duration::ZERO);
        });
    }

    #[test]
    fn an_other_side_that_is_not_there_is_noticed() {
        libos::block_on(async {
            let silent = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
            let socket = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
            let result = round_trips(&socket, silent.local_addr().unwrap(), 100, 1).await;
            assert!(matches!(result, Err(Error::NoAnswer)), "{result:?}");
        });
    }
}
