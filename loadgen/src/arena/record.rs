//! What a run of bots records.

use crate::http::record::Latencies;

/// What all bots of a run have seen.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// From one snapshot of a bot to its next one.
    pub between: Latencies,
    /// How far that was from as many ticks as there were from the one to the other.
    pub jitter: Latencies,
    /// From an input to the first snapshot that was made with it.
    pub response: Latencies,
    /// How late ticks were, as the servers say.
    pub late: Latencies,
    /// Snapshots that came.
    pub snapshots: u64,
    /// Snapshots that there should have been, from the first to the last tick that each bot has seen.
    pub expected: u64,
    /// Snapshots that came twice, or after a later one.
    pub out_of_order: u64,
    /// Inputs sent.
    pub inputs: u64,
    /// Datagrams that were no message.
    pub malformed: u64,
    /// Sends that the system refused, and receives that failed.
    pub errors: u64,
}
