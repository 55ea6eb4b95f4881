//! Limits, and the arguments that change them.

use libos::arguments::{BadArgument, parse_or};
use libos::time::Duration;

/// What the program itself is left of the VM's memory: image, stack, rings.
const PROGRAM_BYTES: usize = 1 << 20;

/// What a connection may take that sends and receives nothing large: its socket's buffers, its task, its packets.
const CONNECTION_BYTES: usize = 14 << 10;

/// How the service behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes that messages, subscriptions and sessions may take, and packets that are large and under way.
    pub memory: usize,
    /// Most connections. Twice as many sessions may be kept.
    pub max_clients: usize,
    /// Most bytes of a packet.
    pub max_packet: usize,
    /// Most messages that wait for one client.
    pub max_queue: usize,
    /// Most subscriptions of one client.
    pub max_subscriptions: usize,
    /// Most topics with a message that is kept.
    pub max_retained: usize,
    /// Time for a client to say who it is, for a packet to be complete, and for a client to take some of what is sent.
    pub packet_timeout: Duration,
}

impl Settings {
    /// What suits a VM of that much memory: three eighths of it for what is kept, half for connections.
    #[must_use]
    pub fn for_memory(bytes: usize) -> Self {
        let usable = bytes.saturating_sub(PROGRAM_BYTES).max(bytes / 2);
        Self {
            memory: usable / 8 * 3,
            max_clients: (usable / 2 / CONNECTION_BYTES).max(1),
            max_packet: (usable / 16).min(256 << 10),
            max_queue: 64,
            max_subscriptions: 64,
            max_retained: 256,
            packet_timeout: Duration::from_secs(30),
        }
    }

    /// What the arguments say, and for the rest what suits this VM.
    ///
    /// # Errors
    /// The argument that is not a number.
    pub fn from_arguments() -> Result<Self, BadArgument> {
        let pages = usize::try_from(libos::registers().memory_pages).unwrap_or(usize::MAX);
        let default = Self::for_memory(pages.saturating_mul(libos::virtual_isa::PAGE_SIZE));
        Ok(Self {
            memory: parse_or("memory", default.memory)?,
            max_clients: parse_or("clients", default.max_clients)?,
            max_packet: parse_or("packet", default.max_packet)?,
            max_queue: parse_or("queue", default.max_queue)?,
            max_retained: parse_or("retained", default.max_retained)?,
            ..default
        })
    }
}
