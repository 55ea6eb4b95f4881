//! A whole machine on the bench: kernel, supervisor, programs, and the means to look at them.

use crate::bundle;
use crate::guest::Program;
use crate::machine::{Machine, Outside};
use crate::supervisor::{Clerk, Desk, Reply};
use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;
use virtual_isa::gate::{Answer, Event, GateError, MachineStatus, Operation, VmStatus};
use vm::Core;

/// A machine with a supervisor that does what the test tells it, and programs of the test.
pub struct Lab {
    core: Core<'static, Machine>,
    outside: Rc<RefCell<Outside>>,
    desk: Rc<RefCell<Desk>>,
    image: u32,
    next_ticket: u64,
}

/// Turns after which something that was waited for is taken to have failed.
const PATIENCE: usize = 100_000;

impl Lab {
    /// Boots a machine of so many pages. VM `n` of those created later runs `programs(n)`.
    ///
    /// # Panics
    /// If it does not boot.
    #[must_use]
    pub fn new(nr_pages: u32, mut programs: impl FnMut(u32) -> Box<dyn Program> + 'static) -> Self {
        let desk = Rc::new(RefCell::new(Desk::default()));
        let clerk = Rc::clone(&desk);
        let loader = move |vm| match vm {
            0 => Box::new(Clerk(Rc::clone(&clerk))) as Box<dyn Program>,
            vm => programs(vm),
        };
        let (machine, outside) = Machine::new(nr_pages, Box::new(loader));
        let image = bundle::test_image();
        let bundle = Box::leak(bundle::bundle(&[image.clone(), image]).into_boxed_slice());
        let core = Core::new(machine, bundle).expect("the machine boots");
        let mut lab = Self { core, outside, desk, image: 0, next_ticket: 1 };
        match lab.ask(Operation::LoadImage { entry: 2 }) {
            Ok(Reply::Plain(Answer::Image { image })) => lab.image = image,
            other => panic!("the test image is not loaded: {other:?}"),
        }
        lab
    }

    /// One turn of the kernel's loop.
    pub fn turn(&mut self) {
        self.core.turn();
    }

    /// So many turns.
    pub fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    /// Turns until `done` says so.
    ///
    /// # Panics
    /// If it never does.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..PATIENCE {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("waited for {what} in vain. The log:\n{}", self.outside().serial);
    }

    /// Puts a request to the gate and waits for its completion.
    ///
    /// # Errors
    /// What the gate answers.
    ///
    /// # Panics
    /// If no completion comes.
    pub fn ask(&mut self, operation: Operation<'_>) -> Result<Reply, GateError> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.desk.borrow_mut().ask(ticket, operation);
        let what = format!("the completion of {operation:?}");
        self.until(&what, |lab| lab.desk.borrow().result(ticket).is_some());
        let desk = self.desk.borrow();
        desk.result(ticket).cloned().expect("it was there just now")
    }

    /// Creates a VM of 4 MiB of the test image and starts it.
    ///
    /// # Panics
    /// If the gate refuses.
    pub fn start(&mut self, vm: u32) {
        self.create(vm).expect("the VM is created");
        self.ask(Operation::Start { vm }).expect("the VM starts");
    }

    /// Creates a VM of 4 MiB of the test image.
    ///
    /// # Errors
    /// What the gate answers.
    pub fn create(&mut self, vm: u32) -> Result<Reply, GateError> {
        let image = self.image;
        self.ask(Operation::Create { vm, image, memory_pages: 1024, shares: 100, arguments: "a=1" })
    }

    /// A VM's status.
    ///
    /// # Panics
    /// If there is no such VM.
    pub fn inspect(&mut self, vm: u32) -> VmStatus {
        match self.ask(Operation::Inspect { vm }) {
            Ok(Reply::Plain(Answer::Vm(status))) => status,
            other => panic!("no status: {other:?}"),
        }
    }

    /// The machine's status.
    ///
    /// # Panics
    /// Never: there is one.
    pub fn status(&mut self) -> MachineStatus {
        match self.ask(Operation::Machine) {
            Ok(Reply::Plain(Answer::Machine(status))) => status,
            other => panic!("no status: {other:?}"),
        }
    }

    /// Waits until a VM has ended and returns its report.
    pub fn report(&mut self, vm: u32) -> virtual_isa::exception::Report {
        let mut found = None;
        self.until("a VM's end", |lab| {
            found = lab.desk.borrow().events.iter().find_map(|event| match event {
                Event::Ended { vm: ended, report } if *ended == vm => Some(*report),
                _ => None,
            });
            found.is_some()
        });
        found.expect("it was there just now")
    }

    /// The number of the test image.
    #[must_use]
    pub const fn image(&self) -> u32 {
        self.image
    }

    /// The supervisor's desk.
    #[must_use]
    pub fn desk(&self) -> RefMut<'_, Desk> {
        self.desk.borrow_mut()
    }

    /// The outside, to look at.
    #[must_use]
    pub fn outside(&self) -> Ref<'_, Outside> {
        self.outside.borrow()
    }

    /// The outside, to change.
    #[must_use]
    pub fn outside_mut(&self) -> RefMut<'_, Outside> {
        self.outside.borrow_mut()
    }

    /// Frames of the kernel's pool that are in use.
    #[must_use]
    pub fn frames_in_use(&mut self) -> usize {
        self.core.hardware().frames_in_use()
    }
}
