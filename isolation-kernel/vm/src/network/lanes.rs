//! Frames that other cores have for the wire, on the core that has the card: a bounded lane for each core.
//!
//! A core has at most [`LANE`] frames on their way to the card or in its lane. With more it holds its VMs back, as with
//! a full card: so its own circle decides whose frames come next, and here it is decided from which core
//! ([`policy::split`]). The core that has the card is one of them, with its own circle for a lane.

use crate::core::Core;
use crate::cores::FIRST;
use crate::network::transmit::Stop;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use hal::{Frame, Hardware};
use policy::split::Split;

/// Frames of a core that are on their way to the card.
pub const LANE: u32 = 64;

/// A core that was held back is told that it may go on when no more than so many are left.
const LOW: usize = LANE as usize / 2;

/// A core's frames.
#[derive(Debug, Default)]
struct Lane {
    frames: VecDeque<Frame>,
    /// Shares of all who send from there.
    shares: u64,
}

/// All cores' frames.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Lane>,
    split: Split,
    queued: usize,
    /// Bytes that VMs of this core have sent in their visits since that was last paid for.
    pub own_bytes: u32,
}

impl Lanes {
    /// Empty lanes of so many cores.
    pub fn new(nr_cores: u32) -> Self {
        let lanes = (0..nr_cores).map(|_| Lane::default()).collect();
        Self { lanes, split: Split::new(nr_cores as usize), queued: 0, own_bytes: 0 }
    }

    /// Whether no core has frames here.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// A frame has come from a core whose senders have so many shares.
    pub fn push(&mut self, core: u32, frame: Frame, shares: u64) {
        let Some(lane) = self.lanes.get_mut(core as usize) else { return };
        lane.shares = shares;
        lane.frames.push_back(frame);
        self.queued = self.queued.saturating_add(1);
    }

    /// Which core's frames go next. `own` are the shares of those who wait on this core, if anybody does.
    pub fn next(&mut self, own: Option<u64>) -> Option<u32> {
        let Self { lanes, split, own_bytes, .. } = self;
        split.pay(FIRST as usize, core::mem::take(own_bytes));
        let shares = |core: usize| match lanes.get(core) {
            _ if core == FIRST as usize => own,
            Some(lane) => (!lane.frames.is_empty()).then_some(lane.shares),
            None => None,
        };
        split.next(shares).and_then(|core| u32::try_from(core).ok())
    }

    fn pop(&mut self, core: u32) -> Option<Frame> {
        let frame = self.lanes.get_mut(core as usize)?.frames.pop_front()?;
        self.queued = self.queued.saturating_sub(1);
        Some(frame)
    }

    fn put_back(&mut self, core: u32, frame: Frame) {
        if let Some(lane) = self.lanes.get_mut(core as usize) {
            lane.frames.push_front(frame);
            self.queued = self.queued.saturating_add(1);
        }
    }

    /// A core's frame has gone. Returns how many are left.
    fn pay(&mut self, core: u32, bytes: u32) -> usize {
        self.split.pay(core as usize, bytes);
        self.lanes.get(core as usize).map_or(0, |lane| lane.frames.len())
    }
}

impl<H: Hardware> Core<'_, H> {
    /// Puts the next frame of another core on the wire. What that costs is the wire's.
    pub(crate) fn serve_lane(&mut self, core: u32) -> Stop {
        let Some(frame) = self.senders.lanes.pop(core) else { return Stop::Empty };
        let bytes = u32::try_from(frame.bytes().len()).unwrap_or(u32::MAX);
        if let Err(frame) = self.put_on_wire(frame) {
            self.senders.lanes.put_back(core, frame);
            return Stop::Full;
        }
        let left = self.senders.lanes.pay(core, bytes);
        let began = self.ledger.mark;
        self.note_wire_work();
        self.seat.note_taken(&mut self.hw, core, self.ledger.mark.since(began), left <= LOW);
        Stop::Others
    }
}
