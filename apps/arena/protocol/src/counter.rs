//! What a server counts, from its start.

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Players that are there.
    Players,
    /// Ticks that were done.
    Ticks,
    /// Ticks that were left out, for the server came too late for them.
    Missed,
    /// The most that a tick was late, in microseconds.
    LatestUs,
    /// Players that came.
    Joined,
    /// Players that left.
    Left,
    /// Players that were silent for too long.
    TimedOut,
    /// Players that were refused for want of a seat.
    RefusedFull,
    /// Players that were refused since too many had come from their address.
    RefusedAddress,
    /// Tokens that were not this server's, or too old, or another address's.
    BadTokens,
    /// Inputs and leaves that were nobody's.
    BadKeys,
    /// Datagrams that were no message.
    Malformed,
    /// Inputs that were taken.
    Inputs,
    /// Inputs that were older than one before.
    Stale,
    /// Inputs beyond those that a player has in one tick.
    Throttled,
    /// Snapshots that were sent.
    Snapshots,
    /// Datagrams that could not be sent.
    Unsent,
}

impl Counter {
    /// All of them, in their order in messages.
    pub const ALL: [Self; 17] = [
        Self::Players,
        Self::Ticks,
        Self::Missed,
        Self::LatestUs,
        Self::Joined,
        Self::Left,
        Self::TimedOut,
        Self::RefusedFull,
        Self::RefusedAddress,
        Self::BadTokens,
        Self::BadKeys,
        Self::Malformed,
        Self::Inputs,
        Self::Stale,
        Self::Throttled,
        Self::Snapshots,
        Self::Unsent,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Players => "players",
            Self::Ticks => "ticks",
            Self::Missed => "missed",
            Self::LatestUs => "latest_us",
            Self::Joined => "joined",
            Self::Left => "left",
            Self::TimedOut => "timed_out",
            Self::RefusedFull => "refused_full",
            Self::RefusedAddress => "refused_address",
            Self::BadTokens => "bad_tokens",
            Self::BadKeys => "bad_keys",
            Self::Malformed => "malformed",
            Self::Inputs => "inputs",
            Self::Stale => "stale",
            Self::Throttled => "throttled",
            Self::Snapshots => "snapshots",
            Self::Unsent => "unsent",
        }
    }
}

/// All counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub(crate) [u64; Counter::COUNT]);

impl Counters {
    /// What one of them says.
    #[must_use]
    pub const fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// It has happened so often more.
    pub const fn add(&mut self, counter: Counter, times: u64) {
        self.0[counter as usize] = self.0[counter as usize].saturating_add(times);
    }

    /// One that is no sum.
    pub const fn set(&mut self, counter: Counter, value: u64) {
        self.0[counter as usize] = value;
    }
}
