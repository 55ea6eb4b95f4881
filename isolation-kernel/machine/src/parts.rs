//! One disk for many cores: all reach all of it, and see to it themselves that they do not meet.
//!
//! The driver is core 0's. Another core's requests go to it through a bounded ring, and come back through another;
//! core 0 looks at the rings whenever it looks at the disk. The rings are those of `heapless`, for one sender and one
//! receiver: what was written before a request is sent is seen by the core that takes it.
//!
//! *Who gets the disk's queue.* Its room is counted in descriptors. Alone, a core may fill it. When others wait a core
//! may have an equal share of it, but always one request; the cores but the first are served by turns, and leave room
//! for the largest request of the first. So each core that has requests has one under way or the next one that is
//! begun, and a core that is refused always has one of its own that will end.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use hal::{Completion, DiskError, DiskRequest, MAX_TRANSFER_PAGES};
use heapless::spsc::{Consumer, Producer, Queue};

/// Descriptors of the disk's queue: what QEMU offers by default, and enough for seven of the largest requests.
pub const QUEUE_DESCRIPTORS: usize = 256;

/// Of a request, beside its pages: header and status.
pub const ENVELOPE_DESCRIPTORS: usize = 2;

/// Requests under way at once: as many of the smallest as the queue holds, so that its descriptors are the one limit.
pub const MAX_REQUESTS: usize = QUEUE_DESCRIPTORS / (1 + ENVELOPE_DESCRIPTORS);

/// The disk as its driver has it: one queue, and requests that are told apart by whose they are.
pub trait Driver {
    /// Blocks there are.
    fn nr_blocks(&self) -> u64;

    /// Descriptors of the queue that nothing takes.
    fn free_room(&self) -> usize;

    /// Begins a transfer for a core.
    ///
    /// # Errors
    /// With the request, if it cannot begin.
    fn submit(&mut self, owner: u32, ticket: u64, request: DiskRequest) -> Result<(), (DiskError, DiskRequest)>;

    /// The next transfer that has ended, and whose it was. After `None`, and only then, the end of another raises an
    /// interrupt.
    fn complete(&mut self) -> Option<(u32, Completion)>;

    /// Whether a transfer has ended. If not, an interrupt will say when one has.
    fn has_work(&mut self) -> bool;

    /// Tells the device that its interrupt was seen.
    fn acknowledge(&mut self);
}

/// Requests of one core that are under way at once, those in its ring included.
pub const MAX_OPEN: usize = 32;

/// Room of a ring: one place is always empty.
const RING: usize = MAX_OPEN + 1;

/// Descriptors of the largest request.
const LARGEST: usize = MAX_TRANSFER_PAGES + ENVELOPE_DESCRIPTORS;

/// A request on its way to core 0.
type Letter = (u64, DiskRequest);

/// How much of the queue a request takes.
const fn room_for(request: &DiskRequest) -> usize {
    request.pages.len() + ENVELOPE_DESCRIPTORS
}

/// Whether a request is for blocks that there are, and as many as can be asked for.
fn is_possible(request: &DiskRequest, nr_blocks: u64) -> bool {
    let nr_pages = request.pages.len();
    (1..=MAX_TRANSFER_PAGES).contains(&nr_pages)
        && request.block.checked_add(nr_pages as u64).is_some_and(|end| end <= nr_blocks)
}

/// A core's way to the disk, for a core that is not the first.
pub struct Part {
    nr_blocks: u64,
    requests: Producer<'static, Letter>,
    answers: Consumer<'static, Completion>,
    nr_open: usize,
}

impl Part {
    /// Blocks there are.
    pub const fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    /// Sends a request to core 0, which is to be woken then.
    pub fn submit(&mut self, ticket: u64, request: DiskRequest) -> Result<(), (DiskError, DiskRequest)> {
        if !is_possible(&request, self.nr_blocks) {
            return Err((DiskError::OutOfRange, request));
        }
        if self.nr_open == MAX_OPEN {
            return Err((DiskError::QueueFull, request));
        }
        if let Err((_, request)) = self.requests.enqueue((ticket, request)) {
            return Err((DiskError::QueueFull, request));
        }
        self.nr_open += 1;
        Ok(())
    }

    /// The next transfer that has ended.
    pub fn complete(&mut self) -> Option<Completion> {
        let completion = self.answers.dequeue()?;
        self.nr_open = self.nr_open.saturating_sub(1);
        Some(completion)
    }

    /// Whether a transfer has ended.
    pub fn has_work(&self) -> bool {
        self.answers.ready()
    }
}

/// The other end of a part.
struct Link {
    requests: Consumer<'static, Letter>,
    answers: Producer<'static, Completion>,
    /// Descriptors that its requests have.
    in_use: usize,
}

/// The disk as core 0 has it.
pub struct SharedDisk<D> {
    driver: D,
    nr_blocks: u64,
    /// Descriptors that core 0's own requests have.
    in_use: usize,
    /// Whether core 0 was refused a request since it last began one.
    is_refused: bool,
    /// Descriptors that each may have when others wait.
    share: usize,
    /// Core 0's transfers that have ended: at most as many as the driver has places for, and those that were under way
    /// when it was told so.
    own: VecDeque<Completion>,
    /// Whether the disk had nothing more when it was last looked at, so that it will raise an interrupt.
    is_drained: bool,
    /// Of core 1, core 2, and so on.
    links: Vec<Link>,
    /// Whose turn it is.
    turn: usize,
}

impl<D: Driver> SharedDisk<D> {
    /// Opens a disk to so many cores. Answers core 0's end and those of the others, in their order.
    pub fn new(driver: D, nr_cores: u32) -> (Self, Vec<Part>) {
        let nr_cores = nr_cores.max(1);
        let nr_blocks = driver.nr_blocks();
        let mut links = Vec::new();
        let mut parts = Vec::new();
        for _ in 1..nr_cores {
            let requests: &'static mut Queue<Letter, RING> = Box::leak(Box::new(Queue::new()));
            let answers: &'static mut Queue<Completion, RING> = Box::leak(Box::new(Queue::new()));
            let (send_request, take_request) = requests.split();
            let (send_answer, take_answer) = answers.split();
            links.push(Link { requests: take_request, answers: send_answer, in_use: 0 });
            parts.push(Part { nr_blocks, requests: send_request, answers: take_answer, nr_open: 0 });
        }
        let share = (QUEUE_DESCRIPTORS / nr_cores as usize).max(LARGEST);
        (
            Self {
                driver,
                nr_blocks,
                in_use: 0,
                is_refused: false,
                share,
                own: VecDeque::with_capacity(2 * MAX_REQUESTS),
                is_drained: false,
                links,
                turn: 0,
            },
            parts,
        )
    }

    /// Blocks there are.
    pub const fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    /// Begins a transfer of core 0's.
    pub fn submit(&mut self, ticket: u64, request: DiskRequest) -> Result<(), (DiskError, DiskRequest)> {
        if !is_possible(&request, self.nr_blocks) {
            return Err((DiskError::OutOfRange, request));
        }
        let room = room_for(&request);
        if self.own.len() >= MAX_REQUESTS {
            return Err((DiskError::QueueFull, request));
        }
        if self.in_use + room > self.share && self.links.iter().any(|link| link.requests.ready()) {
            self.is_refused = true;
            return Err((DiskError::QueueFull, request));
        }
        let outcome = self.driver.submit(0, ticket, request);
        match &outcome {
            Ok(()) => {
                self.in_use += room;
                self.is_refused = false;
            }
            Err((error, _)) => self.is_refused = *error == DiskError::QueueFull,
        }
        outcome
    }

    /// The next transfer of core 0's that has ended.
    pub fn complete(&mut self, wake: impl FnMut(u32)) -> Option<Completion> {
        if self.own.is_empty() {
            self.serve(wake);
        }
        self.own.pop_front()
    }

    /// Looks at the disk and at the rings: sends to other cores what has ended for them, after which `wake` is called,
    /// and begins what they have asked for. It must be called for every interrupt and wake-up and before each halt,
    /// whether core 0 waits for the disk or not. The work is bounded by what the disk's queue holds.
    pub fn serve(&mut self, mut wake: impl FnMut(u32)) {
        self.is_drained = false;
        for _ in 0..QUEUE_DESCRIPTORS {
            // Alone, core 0 takes one at a time, when it asks for it.
            if self.links.is_empty() && !self.own.is_empty() {
                return;
            }
            let Some((owner, completion)) = self.driver.complete() else {
                self.is_drained = true;
                break;
            };
            let room = completion.pages.len() + ENVELOPE_DESCRIPTORS;
            let Some(index) = (owner as usize).checked_sub(1) else {
                self.in_use = self.in_use.saturating_sub(room);
                // With nothing under way it is not refused: it has lost interest.
                self.is_refused &= self.in_use > 0;
                self.own.push_back(completion);
                continue;
            };
            let Some(link) = self.links.get_mut(index) else { continue };
            link.in_use = link.in_use.saturating_sub(room);
            Self::answer(link, owner, completion, &mut wake);
        }
        self.begin(&mut wake);
    }

    fn answer(link: &mut Link, owner: u32, completion: Completion, wake: &mut impl FnMut(u32)) {
        // There is a place for each request that a core may have open.
        let sent = link.answers.enqueue(completion);
        debug_assert!(sent.is_ok(), "more answers than requests");
        wake(owner);
    }

    /// Begins what other cores have asked for, as far as there is room.
    fn begin(&mut self, wake: &mut impl FnMut(u32)) {
        // Each look either begins a request, of which the queue holds few, or is one of a round without success.
        let mut nr_passed = 0;
        while nr_passed < self.links.len() {
            let turn = self.turn % self.links.len();
            let nr_waiting = self.links.iter().filter(|link| link.requests.ready()).count();
            let link = &mut self.links[turn];
            let Some(room) = link.requests.peek().map(|(_, request)| room_for(request)) else {
                self.turn = turn + 1;
                nr_passed += 1;
                continue;
            };
            // The largest request of core 0 always finds room when it has none under way.
            let reserve = LARGEST.saturating_sub(self.in_use);
            if self.driver.free_room() < room + reserve {
                // Its turn stays: what fits must not overtake for ever what does not.
                return;
            }
            if (nr_waiting > 1 || self.is_refused) && link.in_use > 0 && link.in_use + room > self.share {
                self.turn = turn + 1;
                nr_passed += 1;
                continue;
            }
            let Some((ticket, request)) = link.requests.dequeue() else { return };
            self.turn = turn + 1;
            nr_passed = 0;
            let owner = u32::try_from(turn + 1).unwrap_or(u32::MAX);
            match self.driver.submit(owner, ticket, request) {
                Ok(()) => link.in_use += room,
                // Refused for good, as a write to a disk that can only be read: there was room.
                Err((error, DiskRequest { pages, .. })) => {
                    Self::answer(link, owner, Completion { ticket, pages, result: Err(error) }, wake);
                }
            }
        }
    }

    /// Whether there is something for core 0 to do now. If not, an interrupt or a wake-up will say when there is.
    pub fn has_work(&mut self, wake: impl FnMut(u32)) -> bool {
        if self.links.is_empty() {
            return !self.own.is_empty() || self.driver.has_work();
        }
        self.serve(wake);
        !self.own.is_empty() || !self.is_drained || self.driver.has_work()
    }

    /// Whether other cores use it.
    pub const fn is_shared(&self) -> bool {
        !self.links.is_empty()
    }

    /// Tells the device that its interrupt was seen.
    pub fn acknowledge(&mut self) {
        self.driver.acknowledge();
    }
}

/// What a core has of the disk.
pub enum DiskAccess<D> {
    /// There is none.
    None,
    /// The disk itself: core 0.
    Whole(Box<SharedDisk<D>>),
    /// The way to it, by core 0.
    Part(Part),
}

#[cfg(test)]
mod tests;
