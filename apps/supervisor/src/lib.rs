//! The supervisor's logic, over any machine: the real one through the gate, or a test's.
//!
//! [`plan`] reads the launch plan, [`fleet`] keeps the books, [`launch`] creates and starts, [`commands`] answers
//! the console, [`crowd`] asks the same of many VMs, [`churn`] and [`race`] measure, [`storm`] disturbs. An HTTP interface has its place beside
//! [`commands`], over the same books.
//!
//! A VM of the fleet costs this program two bits ([`bits`]); what else it tells of a VM it asks the kernel for.
#![cfg_attr(firn_guest, no_std)]
#![warn(missing_docs)]

extern crate alloc;

pub mod bits;
pub mod churn;
pub mod commands;
pub mod crowd;
pub mod fleet;
pub mod json;
pub mod launch;
pub mod plan;
pub mod race;
pub mod show;
pub mod storm;

use alloc::rc::Rc;
use alloc::string::String;
use core::cell::{Cell, RefCell};
use core::future::Future;
use fleet::Fleet;
use libos::gate::{self, Answer, Error, Event, Operation};
use libos::log;

/// Status of a power-off after a fleet that ended well.
pub const STATUS_CLEAN: u8 = 0;

/// Status of a power-off after a fleet of which something failed.
pub const STATUS_FAILED: u8 = 1;

/// Status of a power-off because of a bad plan.
pub const STATUS_BAD_PLAN: u8 = 2;

/// The machine as the supervisor sees it.
pub trait Machine: 'static {
    /// Asks the kernel for an operation and waits for its end.
    fn call(&self, operation: Operation<'_>) -> impl Future<Output = Result<Answer, Error>>;

    /// The next event.
    fn next_event(&self) -> impl Future<Output = Event>;

    /// The next line of console input.
    fn read_line(&self) -> impl Future<Output = String>;

    /// Prints a line.
    fn say(&self, line: &str);
}

/// The machine this program runs on.
#[derive(Clone, Copy, Debug)]
pub struct Gate;

impl Machine for Gate {
    async fn call(&self, operation: Operation<'_>) -> Result<Answer, Error> {
        gate::call(operation).await
    }

    async fn next_event(&self) -> Event {
        gate::next_event().await
    }

    async fn read_line(&self) -> String {
        libos::console::read_line().await
    }

    fn say(&self, line: &str) {
        let mut text = String::with_capacity(line.len() + 1);
        text.push_str(line);
        text.push('\n');
        libos::console::print(text.as_bytes());
    }
}

/// What all tasks of the supervisor share.
pub struct Office<M> {
    /// The machine.
    pub machine: M,
    /// The books.
    pub fleet: RefCell<Fleet>,
    /// What spare VMs are made of, once an image has been loaded.
    pub spare: Cell<Option<launch::Spare>>,
    /// Whether a command works in the background: one at a time.
    pub is_busy: Cell<bool>,
}

/// Starts the plan's fleet and looks after it for as long as the machine runs.
///
/// # Errors
/// If this program has no gate. Everything else is said on the console.
pub async fn run<M: Machine>(machine: M) -> Result<(), Error> {
    let plan = match launch::read_plan(&machine).await {
        Ok(plan) => plan,
        Err(launch::NoPlan::Gate(e)) => return Err(e),
        Err(launch::NoPlan::Bad(problem)) => {
            machine.say(&alloc::format!("error: the launch plan cannot be used: {problem}"));
            return power_off(&machine, STATUS_BAD_PLAN).await;
        }
    };
    let fleet = RefCell::new(Fleet::new(plan));
    let office = Rc::new(Office { machine, fleet, spare: Cell::new(None), is_busy: Cell::new(false) });
    let events = libos::task::spawn(watch(office.clone()));
    let commands = libos::task::spawn(commands::serve(office.clone()));
    office.machine.say(&office.fleet.borrow().opening());
    launch::start_all(&office).await;
    office.machine.say(&office.fleet.borrow().summary());
    end_if_done(&office).await?;
    events.await;
    commands.await;
    Ok(())
}

/// Ends the machine.
///
/// # Errors
/// Only if there is no gate: the machine does not answer this.
pub async fn power_off<M: Machine>(machine: &M, status: u8) -> Result<(), Error> {
    machine.call(Operation::PowerOff { status }).await.map(|_| ())
}

/// Enters events into the books, for ever.
async fn watch<M: Machine>(office: Rc<Office<M>>) {
    loop {
        match office.machine.next_event().await {
            Event::Ended { vm, report } => {
                office.fleet.borrow_mut().note_end(vm, report.cause);
                if let Err(e) = end_if_done(&office).await {
                    log::error!("cannot power off: {e}");
                }
            }
            Event::SwapFailed { block, is_write } => {
                let what = if is_write { "written to" } else { "read from" };
                log::warn!("block {block} of the swap disk could not be {what}");
            }
            Event::Spoofed { vm } => {
                log::warn!("vm {vm} sent a frame with a source address that is not its own");
            }
        }
    }
}

/// Powers off if the plan asks for that and its last VM has ended.
async fn end_if_done<M: Machine>(office: &Office<M>) -> Result<(), Error> {
    let verdict = office.fleet.borrow().verdict();
    match verdict {
        Some(is_clean) => power_off(&office.machine, if is_clean { STATUS_CLEAN } else { STATUS_FAILED }).await,
        None => Ok(()),
    }
}
