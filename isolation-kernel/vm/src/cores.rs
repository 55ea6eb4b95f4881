//! The other cores: what goes to them, what comes from them, and what all of them may look at.
//!
//! Every core is a kernel of its own and owns its VMs outright. Between each two there is a bounded ring in either
//! direction (`heapless::spsc`: one producer, one consumer, no lock), and what cannot be lost waits in an outbox while
//! its ring is full. A core is woken only when it halts.
//!
//! Beside the rings there is one small table that anybody reads and only one core writes each word of: which core is a
//! VM's home, and what each core has to do. What is read there may be a moment old. It decides where a message goes
//! and nothing else: whoever gets a message for a VM that has gone on passes it on.

use crate::gate::PendingCreate;
use crate::images::LoadedImage;
use crate::network::lanes::LANE;
use crate::template::Shape;
use crate::vm::Vm;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use hal::{Frame, Hardware};
use heapless::spsc::{Consumer, Producer, Queue};
use policy::gatekeeper::Gatekeeper;
use virtual_isa::gate::{Answer, ClassTerms, Event, GateError, MachineStatus, Operation, ProcessorTerms};
use virtual_isa::limits::MAX_VMS;

/// Messages that fit a ring.
const RING: usize = 512;

/// Most cores there can be.
pub const MAX_CORES: u32 = 64;

/// The core that has the devices and the supervisor.
pub const FIRST: u32 = 0;

/// What a core tells another.
pub enum Message<H: Hardware> {
    /// The core runs, and may be given VMs.
    Hello,
    /// A frame for a VM.
    Frame {
        /// Which VM.
        to: u32,
        frame: Frame,
    },
    /// A frame for the wire, to the core that has it.
    ToWire {
        frame: Frame,
        /// Shares of all who send from that core.
        shares: u64,
    },
    /// A buffer comes home.
    Buffer(Frame),
    /// An image: the next in order.
    Image(Arc<LoadedImage>),
    /// A template.
    Template { index: u32, shape: Arc<Shape> },
    /// How a group competes.
    Group { group: u32, processor: ProcessorTerms },
    /// What a class is.
    Class { class: u32, terms: ClassTerms },
    /// VMs whose frames go through another, or no longer.
    Gateway { first: u32, count: u32, through: Option<u32> },
    /// A request of the supervisor's.
    Order { ticket: u64, order: Order },
    /// How one ended.
    Done(Box<Done>),
    /// What a core adds to the machine's status.
    Figures { ticket: u64, figures: Box<MachineStatus> },
    /// Something happened.
    Event(Box<Event>),
    /// The core has nothing to do, and would take a VM that waits.
    Idle,
    /// There is none to spare.
    Nothing,
    /// A VM changes its home.
    Vm(Box<Vm<H>>),
}

/// What the supervisor wants of a core.
pub enum Order {
    /// A VM, about which everything was checked.
    Create(Box<PendingCreate>),
    /// Something with a VM.
    Vm { vm: u32, operation: Operation<'static> },
    /// Its part of the machine's status.
    Figures,
}

/// How an order ended.
pub struct Done {
    pub ticket: u64,
    pub result: Result<Answer<'static>, GateError>,
    /// The VM that there is not, after all or any more.
    pub gone: Option<Gone>,
}

/// What was a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    pub vm: u32,
    pub class: u16,
    pub shares: u32,
}

/// What one core shows the others.
#[repr(align(64))]
#[derive(Debug, Default)]
struct Window {
    is_halted: AtomicBool,
    /// VMs that wait for the processor.
    waiting: AtomicU32,
    /// Shares of all its VMs.
    shares: AtomicU64,
    /// Pages that its VMs do not have of their minimums.
    owed_pages: AtomicU64,
    /// Whether a parked VM of this core waits for pages to be awake again.
    has_waker: AtomicBool,
    /// The place in the queue for admission of the first VM of this core that waits; 0 if none does.
    first_waiting: AtomicU64,
    /// Frames of this core's that the first core has put on the wire, or dropped; it alone writes that.
    taken: AtomicU32,
    /// What that took and nobody was charged for, in nanoseconds.
    forward_ns: AtomicU64,
    /// Whether this core's VMs wait until more are taken.
    is_held: AtomicBool,
}

/// What all cores see.
#[derive(Debug)]
struct Board {
    windows: Vec<Window>,
    /// The home of each VM, plus one; 0 for a number that is free. The top bit says that it has ended.
    homes: Vec<AtomicU8>,
    /// Pages promised to VMs, on all cores.
    promised_pages: AtomicU64,
    /// Frame buffers of the first core that are free: those that frames from the wire come in.
    free_frames: AtomicU32,
    /// Cores with a parked VM that waits for pages to be awake again.
    wakers: AtomicU32,
    /// The place in the queue for admission that the next VM gets.
    next_place: AtomicU64,
}

/// The bit of a home that says that the VM has ended.
const ENDED: u8 = 0x80;

/// A core's end of the rings to another.
struct Line<H: Hardware> {
    to: Producer<'static, Message<H>>,
    from: Consumer<'static, Message<H>>,
    /// What is to go when there is room.
    outbox: VecDeque<Message<H>>,
    /// Whether the other has said that it runs.
    is_there: bool,
    /// Shares of the VMs that were sent there.
    placed: u64,
}

/// A core's place among the others.
pub struct Seat<H: Hardware> {
    core: u32,
    /// By number; none for the core itself.
    lines: Vec<Option<Line<H>>>,
    board: Arc<Board>,
    /// Shares of VMs that this core gave itself.
    placed: u64,
    /// Frames that it has sent to the core with the card.
    passed: u32,
}

/// Makes the places of so many cores, at least 1 and at most [`MAX_CORES`].
#[must_use]
pub fn seats<H: Hardware>(nr_cores: u32) -> Vec<Seat<H>> {
    let nr_cores = nr_cores.clamp(1, MAX_CORES);
    // A core alone keeps no account of homes.
    let nr_homes = if nr_cores > 1 { MAX_VMS as usize } else { 0 };
    let board = Arc::new(Board {
        windows: (0..nr_cores).map(|_| Window::default()).collect(),
        homes: (0..nr_homes).map(|_| AtomicU8::new(0)).collect(),
        promised_pages: AtomicU64::new(0),
        free_frames: AtomicU32::new(u32::MAX),
        wakers: AtomicU32::new(0),
        next_place: AtomicU64::new(1),
    });
    let mut lines: Vec<Vec<Option<Line<H>>>> = (0..nr_cores).map(|_| (0..nr_cores).map(|_| None).collect()).collect();
    for one in 0..nr_cores as usize {
        for other in one.saturating_add(1)..nr_cores as usize {
            // For as long as the machine runs.
            let (to_other, from_one) = Box::leak(Box::new(Queue::<Message<H>, RING>::new())).split();
            let (to_one, from_other) = Box::leak(Box::new(Queue::<Message<H>, RING>::new())).split();
            put(&mut lines, one, other, Line::new(to_other, from_other));
            put(&mut lines, other, one, Line::new(to_one, from_one));
        }
    }
    (0..nr_cores)
        .zip(lines)
        .map(|(core, lines)| Seat { core, lines, board: Arc::clone(&board), placed: 0, passed: 0 })
        .collect()
}

fn put<H: Hardware>(lines: &mut [Vec<Option<Line<H>>>], of: usize, to: usize, line: Line<H>) {
    if let Some(place) = lines.get_mut(of).and_then(|lines| lines.get_mut(to)) {
        *place = Some(line);
    }
}

impl<H: Hardware> Line<H> {
    const fn new(to: Producer<'static, Message<H>>, from: Consumer<'static, Message<H>>) -> Self {
        Self { to, from, outbox: VecDeque::new(), is_there: false, placed: 0 }
    }

    /// Moves what waits into the ring. Returns whether anything went.
    fn flush(&mut self) -> bool {
        let mut any = false;
        while let Some(message) = self.outbox.pop_front() {
            match self.to.enqueue(message) {
                Ok(()) => any = true,
                Err(message) => {
                    self.outbox.push_front(message);
                    break;
                }
            }
        }
        any
    }
}

impl<H: Hardware> Seat<H> {
    /// The core's number.
    pub const fn core(&self) -> u32 {
        self.core
    }

    /// Whether there is no other.
    pub const fn is_alone(&self) -> bool {
        self.lines.len() == 1
    }

    /// How many cores there are.
    pub fn nr_cores(&self) -> u32 {
        u32::try_from(self.lines.len()).unwrap_or(u32::MAX)
    }

    fn line(&mut self, core: u32) -> Option<&mut Line<H>> {
        self.lines.get_mut(core as usize)?.as_mut()
    }

    fn window(&self) -> Option<&Window> {
        self.board.windows.get(self.core as usize)
    }

    /// Wakes a core if it halts. The caller has put something into its ring.
    fn rouse(&self, hw: &mut H, core: u32) {
        // What was put there is seen by a core that halts after this look, and a core that halted before is seen.
        fence(Ordering::SeqCst);
        if let Some(window) = self.board.windows.get(core as usize)
            && window.is_halted.load(Ordering::Relaxed)
            && window.is_halted.swap(false, Ordering::AcqRel)
        {
            hw.wake(core);
        }
    }

    /// Sends what may be lost: it comes back if the ring is full.
    ///
    /// # Errors
    /// With the message.
    pub fn offer(&mut self, hw: &mut H, core: u32, message: Message<H>) -> Result<(), Message<H>> {
        let Some(line) = self.line(core) else { return Err(message) };
        if !line.outbox.is_empty() {
            return Err(message);
        }
        line.to.enqueue(message)?;
        self.rouse(hw, core);
        Ok(())
    }

    /// Sends what must not be lost: it waits while the ring is full. Nothing happens if it is for the core itself.
    pub fn send(&mut self, hw: &mut H, core: u32, message: Message<H>) {
        let Some(line) = self.line(core) else { return };
        line.outbox.push_back(message);
        if line.flush() {
            self.rouse(hw, core);
        }
    }

    /// Sends what waits, as far as there is room now.
    pub fn flush(&mut self, hw: &mut H) {
        for core in 0..self.nr_cores() {
            if self.line(core).is_some_and(|line| !line.outbox.is_empty() && line.flush()) {
                self.rouse(hw, core);
            }
        }
    }

    /// How much waits to be sent to a core.
    pub fn backlog(&self, core: u32) -> usize {
        self.lines.get(core as usize).and_then(Option::as_ref).map_or(0, |line| line.outbox.len())
    }

    /// Takes the next message from a core.
    pub fn receive(&mut self, core: u32) -> Option<Message<H>> {
        self.line(core)?.from.dequeue()
    }

    /// The next message from a core, which stays where it is.
    pub fn peek(&self, core: u32) -> Option<&Message<H>> {
        self.lines.get(core as usize)?.as_ref()?.from.peek()
    }

    /// Whether any message has come.
    pub fn has_mail(&self) -> bool {
        self.lines.iter().flatten().any(|line| line.from.ready())
    }

    /// Whether one more frame may go to the core with the card. If not, this core is woken when it may.
    pub fn may_pass(&self) -> bool {
        let Some(window) = self.window() else { return false };
        let has_room = || self.passed.wrapping_sub(window.taken.load(Ordering::Acquire)) < LANE;
        if has_room() {
            return true;
        }
        window.is_held.store(true, Ordering::Relaxed);
        // Either this look sees what was taken meanwhile, or who takes the next one sees the flag.
        fence(Ordering::SeqCst);
        has_room()
    }

    /// A frame has gone to the core with the card. Returns the time there that frames took and nobody was charged for.
    pub fn note_passed(&mut self) -> u64 {
        self.passed = self.passed.wrapping_add(1);
        self.window().map_or(0, |window| window.forward_ns.swap(0, Ordering::Relaxed))
    }

    /// A frame of a core was put on the wire, for which so much time was needed. With few left it is told to go on.
    pub fn note_taken(&self, hw: &mut H, core: u32, ns: u64, is_low: bool) {
        let Some(window) = self.board.windows.get(core as usize) else { return };
        window.forward_ns.fetch_add(ns, Ordering::Relaxed);
        window.taken.fetch_add(1, Ordering::Release);
        if !is_low {
            return;
        }
        fence(Ordering::SeqCst);
        if window.is_held.load(Ordering::Relaxed) && window.is_held.swap(false, Ordering::Relaxed) {
            hw.wake(core);
        }
    }

    /// Shows the others that this core halts; false if it must not, because a message has come.
    pub fn lie_down(&self) -> bool {
        if self.is_alone() {
            return true;
        }
        let Some(window) = self.window() else { return true };
        window.is_halted.store(true, Ordering::Relaxed);
        // Either a sender sees the flag, or this look sees what it has put into the ring.
        fence(Ordering::SeqCst);
        if self.has_mail() {
            self.get_up();
            return false;
        }
        true
    }

    /// Shows the others that this core runs.
    pub fn get_up(&self) {
        if let Some(window) = self.window().filter(|_| !self.is_alone()) {
            window.is_halted.store(false, Ordering::Relaxed);
        }
    }

    /// The other cores that have said that they run.
    pub fn others(&self) -> impl Iterator<Item = u32> {
        self.lines.iter().zip(0..).filter(|(line, _)| line.as_ref().is_some_and(|line| line.is_there)).map(|(_, n)| n)
    }

    /// Notes that a core runs.
    pub fn welcome(&mut self, core: u32) {
        if let Some(line) = self.line(core) {
            line.is_there = true;
        }
    }

    /// The core that a new VM is to be on, which is the one with the least shares. It has them from now on.
    pub fn place(&mut self, shares: u32) -> u32 {
        let (mut best, mut least) = (self.core, self.placed);
        for (line, core) in self.lines.iter().zip(0..) {
            if let Some(line) = line.as_ref().filter(|line| line.is_there && line.placed < least) {
                (best, least) = (core, line.placed);
            }
        }
        *self.placed_at(best) = least.saturating_add(u64::from(shares));
        best
    }

    /// A VM that was placed on a core is no more.
    pub fn displace(&mut self, core: u32, shares: u32) {
        let placed = self.placed_at(core);
        *placed = placed.saturating_sub(u64::from(shares));
    }

    fn placed_at(&mut self, core: u32) -> &mut u64 {
        match self.lines.get_mut(core as usize) {
            Some(Some(line)) => &mut line.placed,
            _ => &mut self.placed,
        }
    }

    /// The home of a VM; the core itself for a number that nobody has.
    pub fn home(&self, vm: u32) -> u32 {
        match self.board.homes.get(vm as usize).map_or(0, |home| home.load(Ordering::Acquire) & !ENDED) {
            0 => self.core,
            home => u32::from(home.saturating_sub(1)),
        }
    }

    /// Whether a number is taken by a VM on another core, and if so whether that VM has ended.
    pub fn is_elsewhere(&self, vm: u32) -> Option<bool> {
        let home = self.board.homes.get(vm as usize)?.load(Ordering::Acquire);
        let is_elsewhere = home != 0 && u32::from((home & !ENDED).saturating_sub(1)) != self.core;
        is_elsewhere.then_some(home & ENDED != 0)
    }

    /// Whether a number is taken on any core; false on a core that is alone, which has its table.
    pub fn has_home(&self, vm: u32) -> bool {
        self.board.homes.get(vm as usize).is_some_and(|home| home.load(Ordering::Acquire) != 0)
    }

    /// Says which core is a VM's home, or that the number is free.
    pub fn set_home(&self, vm: u32, core: Option<u32>) {
        if let Some(home) = self.board.homes.get(vm as usize) {
            let value = core.map_or(0, |core| u8::try_from(core.saturating_add(1)).unwrap_or(0));
            home.store(value, Ordering::Release);
        }
    }

    /// Says that a VM of this core has ended.
    pub fn note_ended(&self, vm: u32) {
        if let Some(home) = self.board.homes.get(vm as usize) {
            home.fetch_or(ENDED, Ordering::AcqRel);
        }
    }

    /// Shows the others what this core has to do.
    pub fn show(&self, waiting: usize, shares: u64, owed_pages: u64) {
        if let Some(window) = self.window() {
            window.waiting.store(u32::try_from(waiting).unwrap_or(u32::MAX), Ordering::Relaxed);
            window.shares.store(shares, Ordering::Relaxed);
            window.owed_pages.store(owed_pages, Ordering::Relaxed);
        }
    }

    /// Shows the others how many buffers are left for frames from the wire.
    pub fn show_free_frames(&self, free: usize) {
        self.board.free_frames.store(u32::try_from(free).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// How many buffers are left for frames from the wire.
    pub fn free_frames(&self) -> usize {
        self.board.free_frames.load(Ordering::Relaxed) as usize
    }

    /// Sums what the other cores show: shares of their VMs, pages owed to them.
    pub fn sums(&self) -> (u64, u64) {
        if self.is_alone() {
            return (0, 0);
        }
        let others = self.board.windows.iter().zip(0..).filter(|&(_, core)| core != self.core);
        others.fold((0u64, 0u64), |(shares, owed), (window, _)| {
            let more = (window.shares.load(Ordering::Relaxed), window.owed_pages.load(Ordering::Relaxed));
            (shares.saturating_add(more.0), owed.saturating_add(more.1))
        })
    }

    /// Shows the others whether a parked VM of this core waits for pages, and wakes them if that is new.
    pub fn show_waker(&self, hw: &mut H, has_waker: bool) {
        let Some(window) = self.window() else { return };
        if window.has_waker.swap(has_waker, Ordering::Relaxed) == has_waker {
            return;
        }
        if has_waker {
            self.board.wakers.fetch_add(1, Ordering::Relaxed);
            self.others().for_each(|core| self.rouse(hw, core));
        } else {
            self.board.wakers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many other cores have a parked VM that waits for pages.
    pub fn wakers_elsewhere(&self) -> u32 {
        let own = self.window().is_some_and(|window| window.has_waker.load(Ordering::Relaxed));
        self.board.wakers.load(Ordering::Relaxed).saturating_sub(u32::from(own))
    }

    /// The core with the most VMs that wait, if it has at least so many.
    pub fn busiest(&self, at_least: u32) -> Option<u32> {
        let there = self.others().filter_map(|core| {
            let window = self.board.windows.get(core as usize)?;
            Some((window.waiting.load(Ordering::Relaxed), core))
        });
        there.max().filter(|&(waiting, _)| waiting >= at_least).map(|(_, core)| core)
    }

    /// Wakes one core that halts, if there is one.
    pub fn rouse_idle(&self, hw: &mut H) {
        let idle = self.others().find(|&core| {
            self.board.windows.get(core as usize).is_some_and(|window| window.is_halted.load(Ordering::Relaxed))
        });
        if let Some(core) = idle {
            self.rouse(hw, core);
        }
    }

    /// Takes a place in the queue for admission, which is one for all cores.
    pub fn draw_number(&self) -> u64 {
        self.board.next_place.fetch_add(1, Ordering::AcqRel)
    }

    /// Shows the others which place the first VM has that waits here.
    pub fn show_waiting(&self, place: Option<u64>) {
        if let Some(window) = self.window() {
            window.first_waiting.store(place.unwrap_or(0), Ordering::Release);
        }
    }

    /// Whether nobody on another core waits before that place.
    pub fn is_next(&self, place: u64) -> bool {
        let others = self.board.windows.iter().zip(0..).filter(|&(_, core)| core != self.core);
        let mut firsts = others.map(|(window, _)| window.first_waiting.load(Ordering::Acquire));
        firsts.all(|first| first == 0 || first > place)
    }

    /// Promises pages to a VM, if the gatekeeper admits it.
    pub fn promise(&self, gatekeeper: Gatekeeper, pages: u64) -> bool {
        let promise = |promised| gatekeeper.admit(promised, pages).ok();
        self.board.promised_pages.fetch_update(Ordering::AcqRel, Ordering::Acquire, promise).is_ok()
    }

    /// Takes a promise back.
    pub fn release(&self, pages: u64) {
        let release = |promised: u64| Some(promised.saturating_sub(pages));
        // The closure never refuses.
        let _ = self.board.promised_pages.fetch_update(Ordering::AcqRel, Ordering::Acquire, release);
    }
}
