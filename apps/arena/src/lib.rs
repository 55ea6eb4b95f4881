//! A game server: 20 ticks a second over UDP, for up to 32 players.
//!
//! [`arena`] says what becomes of each datagram, [`world`] is the game, [`token`] keeps out who only claims an address.
//! What is said is in [`arena_protocol`]. [`serve`] puts a socket and the clock to it: ticks are due at multiples of
//! 50 ms from the first player's coming, however late one of them was, and there are none while nobody plays.
#![cfg_attr(firn_guest, no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod arena;
pub mod token;
pub mod world;

use alloc::rc::Rc;
use arena::{Arena, Settings, TICK};
use arena_protocol::{Datagram, MAX_BYTES, MAX_PLAYERS, PORT};
use core::cell::RefCell;
use core::net::SocketAddr;
use libos::Error;
use libos::arguments::{self, BadArgument, parse_or};
use libos::net::{Ipv6Addr, UdpOptions, UdpSocket};
use libos::sync::Notify;
use libos::task;
use libos::time::{Duration, Instant, MissedTicks, interval};

/// Datagrams that are taken before others have their turn.
const BATCH: u32 = 64;

/// Buffers of the socket: all players' inputs, and all their snapshots, of one tick.
const SOCKET: UdpOptions = UdpOptions { datagrams: 2 * MAX_PLAYERS, bytes: (MAX_PLAYERS + 4) * MAX_BYTES };

impl Settings {
    /// What the arguments say.
    ///
    /// # Errors
    /// The argument that is no number, or not a possible one.
    pub fn from_arguments() -> Result<Self, BadArgument> {
        let default = Self::default();
        let within = |name, default: usize, most: usize| match parse_or(name, default)? {
            value if (1..=most).contains(&value) => Ok(value),
            _ => Err(BadArgument { name, value: arguments::get(name).unwrap_or("") }),
        };
        let silence_ms = within("silence_ms", 5000, 600_000)?;
        Ok(Self {
            players: within("players", default.players, MAX_PLAYERS)?,
            per_address: within("per_address", default.per_address, MAX_PLAYERS)?,
            silence: Duration::from_millis(silence_ms as u64),
        })
    }
}

/// Serves as the arguments say, for ever.
///
/// # Errors
/// If an argument is bad, or the port is taken.
pub async fn run() -> Result<(), Error> {
    let settings = Settings::from_arguments()?;
    let port = parse_or("port", PORT)?;
    let socket = UdpSocket::bind_with((Ipv6Addr::UNSPECIFIED, port), SOCKET)?;
    libos::log::info!("{} players at port {port}", settings.players);
    serve(socket, settings).await;
    Ok(())
}

/// What the two tasks share.
struct Server {
    socket: UdpSocket,
    arena: RefCell<Arena>,
    /// Somebody has come.
    joined: Notify,
}

/// Serves players, for ever.
pub async fn serve(socket: UdpSocket, settings: Settings) {
    let arena = RefCell::new(Arena::new(settings, Instant::now()));
    let server = Rc::new(Server { socket, arena, joined: Notify::new() });
    // Dropped, and so ended, with this task.
    let _ticks = task::spawn(tick(Rc::clone(&server)));
    let mut bytes = [0; MAX_BYTES];
    let mut taken = 0u32;
    loop {
        let Ok((length, from)) = server.socket.recv_from(&mut bytes).await else {
            // On the host: what an earlier answer met with. In a VM there is no such error.
            task::yield_now().await;
            continue;
        };
        let answer = server.arena.borrow_mut().receive(from, bytes.get(..length).unwrap_or_default(), Instant::now());
        if let Some(answer) = answer {
            server.send(from, &answer).await;
            server.joined.notify_waiters();
        }
        taken = taken.wrapping_add(1);
        if taken.is_multiple_of(BATCH) {
            task::yield_now().await;
        }
    }
}

/// Ticks while somebody plays, for ever.
async fn tick(server: Rc<Server>) {
    loop {
        let joined = server.joined.notified();
        if server.arena.borrow().players() == 0 {
            joined.await;
            continue;
        }
        let mut ticks = interval(TICK).with_missed(MissedTicks::Skip);
        let mut last: Option<Instant> = None;
        while server.arena.borrow().players() > 0 {
            let due = ticks.tick().await;
            let missed = last.map_or(0, |last| ((due - last).as_nanos() / TICK.as_nanos()).saturating_sub(1));
            last = Some(due);
            server.arena.borrow_mut().tick(due, Instant::now(), u64::try_from(missed).unwrap_or(u64::MAX));
            for number in 0..MAX_PLAYERS {
                let update = server.arena.borrow_mut().update(number, Instant::now());
                if let Some((to, datagram)) = update {
                    server.send(to, &datagram).await;
                }
            }
        }
    }
}

impl Server {
    /// What cannot be sent is lost, as datagrams are, and counted.
    async fn send(&self, to: SocketAddr, datagram: &Datagram) {
        if self.socket.send_to(datagram.bytes(), to).await.is_err() {
            self.arena.borrow_mut().count_unsent();
        }
    }
}
