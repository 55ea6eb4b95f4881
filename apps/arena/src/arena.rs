//! Who plays, and what becomes of each datagram: no sockets, no clock of its own, nothing that grows.

use crate::token::Tokens;
use crate::world::World;
use arena_protocol::{
    ClientMessage, Counter, Counters, Datagram, Direction, Gone, MAX_PLAYERS, Refusal, ServerMessage, Snapshot, TICK_MS,
};
use core::net::SocketAddr;
use libos::time::{Duration, Instant};

/// Time from one tick to the next.
pub const TICK: Duration = Duration::from_millis(TICK_MS as u64);

/// Inputs of one player that are taken between two ticks. The last one counts: more of them are of no use.
const INPUTS_PER_TICK: u8 = 4;

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most players: 1 to 32.
    pub players: usize,
    /// Most players from one IP address.
    pub per_address: usize,
    /// How long a player may be silent.
    pub silence: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { players: MAX_PLAYERS, per_address: MAX_PLAYERS, silence: Duration::from_secs(5) }
    }
}

/// A player's place among the others.
#[derive(Clone, Copy, Debug)]
struct Seat {
    address: SocketAddr,
    nonce: u64,
    key: u64,
    heard: Instant,
    /// Sequence of the last input, once there was one.
    sequence: Option<u32>,
    inputs: u8,
}

/// A game server without its socket.
#[derive(Debug)]
pub struct Arena {
    settings: Settings,
    started: Instant,
    tokens: Tokens,
    seats: [Option<Seat>; MAX_PLAYERS],
    world: World,
    tick: u32,
    late_us: u32,
    counters: Counters,
}

impl Arena {
    /// An empty field, at a time.
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            started: now,
            tokens: Tokens::default(),
            seats: [None; MAX_PLAYERS],
            world: World::default(),
            tick: 0,
            late_us: 0,
            counters: Counters::default(),
        }
    }

    /// How many players there are.
    #[must_use]
    pub fn players(&self) -> usize {
        self.seats.iter().flatten().count()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.set(Counter::Players, self.players() as u64);
        counters
    }

    /// A datagram could not be sent.
    pub const fn count_unsent(&mut self) {
        self.counters.add(Counter::Unsent, 1);
    }

    /// Takes a datagram. Returns the answer, if there is to be one: never longer than the datagram, unless it is to a
    /// player.
    pub fn receive(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) -> Option<Datagram> {
        let Some(message) = ClientMessage::decode(bytes) else {
            self.counters.add(Counter::Malformed, 1);
            return None;
        };
        let elapsed_s = (now - self.started).as_secs();
        let answer = match message {
            ClientMessage::Join { nonce } => {
                ServerMessage::Challenge { nonce, token: self.tokens.make(from, nonce, elapsed_s) }
            }
            ClientMessage::Enter { nonce, token } => {
                if self.tokens.is_good(token, from, nonce, elapsed_s) {
                    self.enter(from, nonce, now)
                } else {
                    self.counters.add(Counter::BadTokens, 1);
                    ServerMessage::Refused { nonce, reason: Refusal::Token }
                }
            }
            ClientMessage::Input { player, key, sequence, direction } => {
                self.input(from, (player, key), sequence, direction, now);
                return None;
            }
            ClientMessage::Leave { player, key } => {
                let number = self.seat_of(from, (player, key))?;
                self.remove(number);
                self.counters.add(Counter::Left, 1);
                ServerMessage::Gone(Gone::Left)
            }
            ClientMessage::Status => ServerMessage::Status(self.counters()),
        };
        Some(answer.encode())
    }

    /// Lets a client in that has shown its address.
    fn enter(&mut self, from: SocketAddr, nonce: u64, now: Instant) -> ServerMessage {
        // One address has one seat: whoever asks again has lost the answer, or has begun anew.
        let known = self.seats.iter().position(|seat| seat.is_some_and(|seat| seat.address == from));
        if let Some((number, seat)) = known.and_then(|number| Some((number, self.seats[number]?))) {
            if seat.nonce == nonce {
                return self.welcome(number, &seat);
            }
            self.remove(number);
            self.counters.add(Counter::Left, 1);
        }
        let free = self.seats.iter().take(self.settings.players).position(Option::is_none);
        let Some(number) = free else {
            self.counters.add(Counter::RefusedFull, 1);
            return ServerMessage::Refused { nonce, reason: Refusal::Full };
        };
        let of_address = self.seats.iter().flatten().filter(|seat| seat.address.ip() == from.ip()).count();
        if of_address >= self.settings.per_address {
            self.counters.add(Counter::RefusedAddress, 1);
            return ServerMessage::Refused { nonce, reason: Refusal::Address };
        }
        let key = u64::from_le_bytes(libos::rand::bytes());
        let seat = Seat { address: from, nonce, key, heard: now, sequence: None, inputs: 0 };
        self.seats[number] = Some(seat);
        self.world.enter(number, u64::from_le_bytes(libos::rand::bytes()));
        self.counters.add(Counter::Joined, 1);
        self.welcome(number, &seat)
    }

    fn welcome(&self, number: usize, seat: &Seat) -> ServerMessage {
        let player = u8::try_from(number).unwrap_or(u8::MAX);
        ServerMessage::Welcome { nonce: seat.nonce, key: seat.key, tick: self.tick, player }
    }

    /// The number of the seat, if it is the sender's.
    fn seat_of(&mut self, from: SocketAddr, (player, key): (u8, u64)) -> Option<usize> {
        let number = usize::from(player);
        let seat = self.seats.get(number).copied().flatten();
        if seat.is_some_and(|seat| seat.key == key && seat.address == from) {
            return Some(number);
        }
        self.counters.add(Counter::BadKeys, 1);
        None
    }

    fn input(&mut self, from: SocketAddr, player: (u8, u64), sequence: u32, direction: Direction, now: Instant) {
        let Some(number) = self.seat_of(from, player) else { return };
        let Some(seat) = &mut self.seats[number] else { return };
        seat.heard = now;
        // Of two numbers, the later one is less than half of all numbers ahead.
        if seat.sequence.is_some_and(|last| sequence.wrapping_sub(last).wrapping_sub(1) >= u32::MAX / 2) {
            return self.counters.add(Counter::Stale, 1);
        }
        if seat.inputs >= INPUTS_PER_TICK {
            return self.counters.add(Counter::Throttled, 1);
        }
        seat.inputs += 1;
        seat.sequence = Some(sequence);
        self.world.turn(number, direction);
        self.counters.add(Counter::Inputs, 1);
    }

    fn remove(&mut self, number: usize) {
        self.seats[number] = None;
        self.world.leave(number);
    }

    /// The tick that was due then, `missed` after the one before.
    pub fn tick(&mut self, due: Instant, now: Instant, missed: u64) {
        self.tick = self.tick.wrapping_add(1).wrapping_add(u32::try_from(missed).unwrap_or(u32::MAX));
        self.late_us = u32::try_from((now - due).as_micros()).unwrap_or(u32::MAX);
        self.counters.add(Counter::Ticks, 1);
        self.counters.add(Counter::Missed, missed);
        self.counters.set(Counter::LatestUs, self.counters.get(Counter::LatestUs).max(u64::from(self.late_us)));
        self.world.tick(|| u64::from_le_bytes(libos::rand::bytes()));
        self.seats.iter_mut().flatten().for_each(|seat| seat.inputs = 0);
    }

    /// What the player at a seat gets after a tick, and where: the field, or that it was silent for too long.
    pub fn update(&mut self, number: usize, now: Instant) -> Option<(SocketAddr, Datagram)> {
        let seat = (*self.seats.get(number)?)?;
        let message = if now - seat.heard > self.settings.silence {
            self.remove(number);
            self.counters.add(Counter::TimedOut, 1);
            ServerMessage::Gone(Gone::Silent)
        } else {
            self.counters.add(Counter::Snapshots, 1);
            ServerMessage::Snapshot(Snapshot {
                tick: self.tick,
                late_us: self.late_us,
                acknowledged: seat.sequence.unwrap_or(0),
                coin: self.world.coin(),
                you: u8::try_from(number).unwrap_or(u8::MAX),
                players: self.world.players(),
            })
        };
        Some((seat.address, message.encode()))
    }
}

#[cfg(test)]
#[path = "arena_tests.rs"]
mod tests;
