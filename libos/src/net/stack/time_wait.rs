//! Connections that this side closed first, after their end: remembered for a while, in a few bytes each, so that
//! a repeated FIN is still acknowledged and stray segments are not taken for a new connection's.
//!
//! What RFC 9293 asks of TIME-WAIT can be done with the segment at hand: the acknowledgement of a repeated FIN
//! follows from its own numbers.

use super::segment::Segment;
use alloc::collections::VecDeque;
use core::net::IpAddr;

/// How long one is remembered.
const TIME_WAIT_NS: u64 = 10_000_000_000;

/// How many are remembered. The oldest goes when there are more: that has only the effect that its peer, should it
/// have missed our last acknowledgement, is told that the connection is no more.
const MOST: usize = 32;

struct Record {
    peer: (IpAddr, u16),
    port: u16,
    expires_ns: u64,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is not one of ours.
    Unknown,
    /// It is to be dropped.
    Drop,
    /// It is to be acknowledged and dropped.
    Acknowledge,
}

/// The connections remembered, oldest first.
pub(super) struct TimeWait {
    records: VecDeque<Record>,
}

impl TimeWait {
    pub const fn new() -> Self {
        Self { records: VecDeque::new() }
    }

    /// Remembers a connection. Returns whether another had to be forgotten early for it.
    pub fn remember(&mut self, peer: (IpAddr, u16), port: u16, now_ns: u64) -> bool {
        while self.records.front().is_some_and(|oldest| oldest.expires_ns <= now_ns) {
            self.records.pop_front();
        }
        let is_full = self.records.len() >= MOST;
        if is_full {
            self.records.pop_front();
        }
        self.records.push_back(Record { peer, port, expires_ns: now_ns.saturating_add(TIME_WAIT_NS) });
        is_full
    }

    /// Says what to do with a segment. One that opens a connection anew ends the remembering.
    pub fn judge(&mut self, segment: &Segment, now_ns: u64) -> Verdict {
        let is_it = |r: &Record| r.peer == segment.from && r.port == segment.to.1 && r.expires_ns > now_ns;
        let Some(index) = self.records.iter().position(is_it) else { return Verdict::Unknown };
        if segment.opens() {
            self.records.remove(index);
            return Verdict::Unknown;
        }
        // A reset is ignored too: RFC 1337.
        if segment.is_fin && segment.is_ack && !segment.is_rst { Verdict::Acknowledge } else { Verdict::Drop }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.records.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use smoltcp::wire::TcpSeqNumber;

    const PEER: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(10, 64, 0, 1)), 40_000);
    const SECOND: u64 = 1_000_000_000;

    fn segment(port: u16) -> Segment {
        Segment {
            from: (PEER.0, port),
            to: (IpAddr::V4(Ipv4Addr::new(10, 65, 0, 1)), 80),
            is_syn: false,
            is_ack: true,
            is_fin: false,
            is_rst: false,
            sequence: TcpSeqNumber(1),
            acknowledged: TcpSeqNumber(2),
            length: 0,
            data_bytes: 0,
        }
    }

    #[test]
    fn a_repeated_fin_is_acknowledged_and_strays_are_dropped() {
        let mut waiting = TimeWait::new();
        waiting.remember(PEER, 80, 0);
        let stray = segment(PEER.1);
        assert_eq!(waiting.judge(&Segment { is_fin: true, ..stray }, SECOND), Verdict::Acknowledge);
        assert_eq!(waiting.judge(&stray, SECOND), Verdict::Drop);
        assert_eq!(waiting.judge(&Segment { is_rst: true, ..stray }, SECOND), Verdict::Drop);
        assert_eq!(waiting.judge(&segment(1), SECOND), Verdict::Unknown);
        assert_eq!(waiting.judge(&stray, 11 * SECOND), Verdict::Unknown);
    }

    #[test]
    fn a_new_connection_ends_it() {
        let mut waiting = TimeWait::new();
        waiting.remember(PEER, 80, 0);
        let syn = Segment { is_syn: true, is_ack: false, ..segment(PEER.1) };
        assert_eq!(waiting.judge(&syn, SECOND), Verdict::Unknown);
        assert_eq!(waiting.judge(&segment(PEER.1), SECOND), Verdict::Unknown);
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many_and_the_expired_go_first() {
        let mut waiting = TimeWait::new();
        for port in 1..=32 {
            assert!(!waiting.remember((PEER.0, port), 80, u64::from(port)));
        }
        assert!(waiting.remember((PEER.0, 33), 80, 40));
        assert_eq!(waiting.len(), MOST);
        assert_eq!(waiting.judge(&segment(1), 50), Verdict::Unknown);
        assert_eq!(waiting.judge(&segment(2), 50), Verdict::Drop);
        assert!(!waiting.remember((PEER.0, 34), 80, 20 * SECOND));
        assert_eq!(waiting.len(), 1);
    }
}
