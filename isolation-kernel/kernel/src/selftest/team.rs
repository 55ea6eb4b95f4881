//! Cores that do what a self-test asks of them, each with its own machine.

use super::{Outcome, check};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hal::{Cores, Processor};
use machine::Machine;
use spin::Mutex;

/// Far longer than anything here takes, on a busy host and under emulation.
pub const LATE: u64 = 40_000_000_000;

/// Something to do on a core.
pub type Task = Box<dyn FnOnce(&mut Machine) -> Outcome + Send>;

/// A core's letter box.
#[derive(Default)]
struct Post {
    task: Mutex<Option<Task>>,
    outcome: Mutex<Option<Outcome>>,
}

/// The cores but the first.
pub struct Team(Vec<Arc<Post>>);

/// A core's life: does what it is asked, and tells core 0.
fn live(mut machine: Machine, post: Arc<Post>) -> ! {
    loop {
        let task = post.task.lock().take();
        match task {
            Some(task) => {
                let outcome = task(&mut machine);
                *post.outcome.lock() = Some(outcome);
                machine.wake(0);
            }
            None => machine.halt(),
        }
    }
}

impl Team {
    /// Gives all other cores their machines.
    pub fn start(machine: &mut Machine) -> Result<Self, alloc::string::String> {
        let mut posts = Vec::new();
        for core in 1..machine.nr_cores() {
            let post = Arc::new(Post::default());
            check!(!machine.is_started(core), "core {core} is started before it is");
            check!(machine.start_core(core, post.clone(), live).is_ok(), "core {core} cannot be started");
            check!(machine.is_started(core), "core {core} is not started");
            check!(machine.start_core(core, post.clone(), live).is_err(), "core {core} is started twice");
            posts.push(post);
        }
        for core in [0, machine.nr_cores(), u32::MAX] {
            let is_refused = machine.start_core(core, Arc::new(Post::default()), live).is_err();
            check!(is_refused, "core {core} of {} is started", machine.nr_cores());
        }
        Ok(Self(posts))
    }

    /// The cores' numbers.
    pub fn cores(&self) -> core::ops::RangeInclusive<u32> {
        1..=u32::try_from(self.0.len()).unwrap_or(0)
    }

    /// Has a core do something.
    pub fn ask(&self, machine: &mut Machine, core: u32, task: Task) {
        *self.0[core as usize - 1].task.lock() = Some(task);
        machine.wake(core);
    }

    /// Takes what came of it, if it is done.
    pub fn poll(&self, core: u32) -> Option<Outcome> {
        self.0[core as usize - 1].outcome.lock().take()
    }

    /// Waits for it, halted.
    pub fn join(&self, machine: &mut Machine, core: u32) -> Outcome {
        let end = machine.now().after(LATE);
        loop {
            if let Some(outcome) = self.poll(core) {
                return outcome.map_err(|what| alloc::format!("on core {core}: {what}"));
            }
            check!(machine.now() < end, "core {core} does not come to an end");
            machine.set_alarm(end);
            machine.halt();
        }
    }

    /// Both: one core does it, this one waits.
    pub fn run(&self, machine: &mut Machine, core: u32, task: Task) -> Outcome {
        self.ask(machine, core, task);
        self.join(machine, core)
    }

    /// All do it at once, this one too.
    pub fn run_all(&self, machine: &mut Machine, task: fn(&mut Machine, &Shared) -> Outcome) -> Outcome {
        let shared = Arc::new(Shared::default());
        for core in self.cores() {
            let shared = shared.clone();
            self.ask(machine, core, Box::new(move |machine| task(machine, &shared)));
        }
        let own = task(machine, &shared).map_err(|what| alloc::format!("on core 0: {what}"));
        let others = self.cores().map(|core| self.join(machine, core)).collect::<Vec<_>>();
        own.and_then(|()| others.into_iter().collect())
    }
}

/// What cores that do the same at once share.
#[derive(Default)]
pub struct Shared {
    /// How many have come to a place.
    pub arrived: core::sync::atomic::AtomicU32,
    /// Blocks of the heap that any may free.
    pub blocks: Mutex<Vec<Vec<u8>>>,
}
