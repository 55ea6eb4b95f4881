//! What players and the game server say to each other: datagrams of fixed layout, numbers in little-endian order.
//!
//! Each begins with `AR`, the version and the kind. A client asks to [join](ClientMessage::Join) with a number of its
//! own choice, gets a [challenge](ServerMessage::Challenge) that only who receives at its address can see, and
//! [enters](ClientMessage::Enter) with the token in it. It is [welcomed](ServerMessage::Welcome) with a key, which goes
//! into all it sends from then on. What a stranger sends is never answered with more bytes than it had: the requests
//! are padded with zeros.
//!
//! Each message has exactly one encoding; whatever else comes is not decoded. [`client`] has the messages to the
//! server, [`server`] those from it, [`counter`] what the server counts.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod client;
pub mod counter;
mod datagram;
pub mod server;

pub use client::ClientMessage;
pub use counter::{Counter, Counters};
pub use datagram::{Datagram, MAX_BYTES};
pub use server::{Gone, Player, Players, Refusal, ServerMessage, Snapshot};

/// Version of the protocol, in every message.
pub const VERSION: u8 = 1;

/// UDP port of the server, unless it is told another one.
pub const PORT: u16 = 7777;

/// Milliseconds from one tick to the next.
pub const TICK_MS: u16 = 50;

/// Most players of one server.
pub const MAX_PLAYERS: usize = 32;

/// The field is a square: positions go from 0 to this, in both directions.
pub const SIDE: u16 = 10_000;

/// How a player wants to move: -1, 0 or 1 along each axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    dx: i8,
    dy: i8,
}

impl Direction {
    /// A direction; `None` if one of the numbers is not -1, 0 or 1.
    #[must_use]
    pub const fn new(dx: i8, dy: i8) -> Option<Self> {
        if dx < -1 || dx > 1 || dy < -1 || dy > 1 { None } else { Some(Self { dx, dy }) }
    }

    /// Along the first axis.
    #[must_use]
    pub const fn dx(self) -> i8 {
        self.dx
    }

    /// Along the second axis.
    #[must_use]
    pub const fn dy(self) -> i8 {
        self.dy
    }
}

/// A place on the field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// From 0 to [`SIDE`].
    pub x: u16,
    /// From 0 to [`SIDE`].
    pub y: u16,
}
