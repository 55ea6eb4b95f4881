//! The loop of a VM: run what is ready, look at what has happened, sleep.

use super::{Single, control, heap, instruction, registers};
use crate::ready_queue::ReadyQueue;
use crate::rings::index;
use crate::timers::Timers;
use core::future::Future;
use core::sync::atomic::Ordering;
use virtual_isa::control::{ENABLED, PENDING, Pending};
use virtual_isa::instruction::NO_DEADLINE;

/// Tasks that run before the devices are looked at again.
const BATCH: usize = 256;

/// Most kinds of devices.
const MAX_DEVICES: usize = 4;

/// What a device driver gives the loop. Drivers are added when they are first used, so that a program without a
/// network has none.
#[derive(Clone, Copy)]
pub(crate) struct Driver {
    /// The interrupts it wants.
    pub interests: Pending,
    /// Serves the device, if what is pending or what the program did asks for it.
    pub poll: fn(Pending, u64),
    /// When to poll next, if nothing happens.
    pub poll_at: fn(u64) -> Option<u64>,
}

struct Queue(ReadyQueue);

// SAFETY: there is one thread.
unsafe impl Sync for Queue {}

static READY: Queue = Queue(ReadyQueue::new());
static TIMERS: Single<Timers> = Single::new(Timers::new());
static DRIVERS: Single<[Option<Driver>; MAX_DEVICES]> = Single::new([None; MAX_DEVICES]);

/// Starts a task.
pub(crate) fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> async_task::Task<T> {
    // SAFETY: there is one thread, which the wakers cannot leave; the queue is static.
    unsafe { READY.0.spawn(future) }
}

/// Whether a task can run.
pub(crate) fn has_ready() -> bool {
    !READY.0.is_empty()
}

/// Works on the timers.
pub(crate) fn with_timers<R>(work: impl FnOnce(&mut Timers) -> R) -> R {
    TIMERS.with(work)
}

/// Adds a driver to the loop, and enables its interrupts.
pub(crate) fn add_driver(driver: Driver) {
    DRIVERS.with(|drivers| {
        if let Some(free) = drivers.iter_mut().find(|d| d.is_none()) {
            *free = Some(driver);
        }
    });
    enable(driver.interests);
}

/// The drivers so far. None is borrowed while it is at work.
fn drivers() -> impl Iterator<Item = Driver> {
    (0..MAX_DEVICES).map_while(|at| DRIVERS.with(|drivers| drivers[at]))
}

/// Lets these interrupts end an `idle`.
pub(crate) fn enable(interrupts: Pending) {
    index(control(), ENABLED).fetch_or(interrupts.bits(), Ordering::Relaxed);
}

/// Keeps these interrupts from ending an `idle`.
pub(crate) fn disable(interrupts: Pending) {
    index(control(), ENABLED).fetch_and(!interrupts.bits(), Ordering::Relaxed);
}

/// Runs the VM. `main` ends it.
pub(crate) fn run() -> ! {
    enable(Pending::TIMER);
    loop {
        READY.0.run(BATCH);
        let pending = Pending::from_bits_truncate(index(control(), PENDING).swap(0, Ordering::Acquire));
        let now = registers::now_ns();
        for driver in drivers() {
            (driver.poll)(pending, now);
        }
        while let Some(waker) = with_timers(|timers| timers.pop_due(now)) {
            waker.wake();
        }
        if READY.0.is_empty() {
            READY.0.trim();
            let timer = with_timers(|timers| timers.next_deadline());
            let devices = drivers().filter_map(|driver| (driver.poll_at)(now));
            // No wake-up is lost: what has become pending since the swap ends the `idle` at once.
            instruction::idle(devices.chain(timer).chain(heap().tend(now)).min().unwrap_or(NO_DEADLINE));
        }
    }
}
