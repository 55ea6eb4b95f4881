//! What the supervisor wants of single VMs, on whichever core they are.
//!
//! Core 0 has the supervisor and knows each VM's home. What is not for one of its own VMs it sends there as an order;
//! the answer comes back as a message. Every core carries orders out in the same way.

use crate::core::Core;
use crate::cores::{Done, FIRST, Gone, Message, Order};
use crate::gate::{Outcome, PendingCreate};
use crate::lifecycle::Birth;
use crate::park::NotNow;
use crate::status::{add, stub_status};
use crate::vm::{Sleeper, State, Vm};
use alloc::boxed::Box;
use hal::{Hardware, NoMemory};
use virtual_isa::exception::Cause;
use virtual_isa::gate::{Answer, GateError, MachineStatus, Operation, Tier};

/// Orders that other cores have at a time; the next waits in the supervisor's ring.
const MAX_ORDERS: u32 = 256;

/// Questions for the machine's status that are under way at a time.
const MAX_GATHERINGS: usize = 16;

/// What an order comes to, and the VM that is no more because of it.
type Upshot = (Result<Answer<'static>, GateError>, Option<Gone>);

/// A status of the machine to which cores have still to add their parts.
pub struct Gathering {
    ticket: u64,
    missing: usize,
    sum: Box<MachineStatus>,
}

impl<H: Hardware> Core<'_, H> {
    /// Sends an order to another core, if it has not too many.
    fn order(&mut self, core: u32, ticket: u64, order: Order) -> Outcome<'static> {
        self.orders += 1;
        self.seat.send(&mut self.hw, core, Message::Order { ticket, order });
        Outcome::Later
    }

    /// Has something done with a VM by the core that is its home.
    pub(crate) fn direct(&mut self, ticket: u64, vm: u32, operation: &Operation<'_>) -> Outcome<'static> {
        let Some(operation) = without_text(operation) else { return Outcome::Done(Err(GateError::BadArgument)) };
        if self.orders >= MAX_ORDERS {
            self.is_gate_stalled = true;
            return Outcome::NotNow;
        }
        let home = self.whereabouts(vm);
        if home != self.seat.core() {
            return self.order(home, ticket, Order::Vm { vm, operation });
        }
        let (result, gone) = self.carry_out(operation);
        if let Some(gone) = gone {
            self.forget(home, gone);
        }
        Outcome::Done(result)
    }

    /// The core that has a VM, or had it last of what is known here.
    pub(crate) fn whereabouts(&self, vm: u32) -> u32 {
        if self.seat.is_alone() {
            return self.seat.core();
        }
        let home = self.seat.home(vm);
        if home == self.seat.core() { self.vms.gone_to(vm).unwrap_or(home) } else { home }
    }

    /// Creates a VM that was checked, on the core that has the least to do.
    pub(crate) fn place(&mut self, ticket: u64, birth: &Birth<'_>) -> Outcome<'static> {
        let core = self.seat.place(birth.shares);
        self.classes.join(birth.class);
        self.seat.set_home(birth.number, Some(core));
        if core != self.seat.core() {
            let pending = Box::new(PendingCreate::new(ticket, birth));
            return self.order(core, ticket, Order::Create(pending));
        }
        let result = self.create_and_settle(birth);
        if result.is_err() {
            self.forget(core, gone(birth));
        }
        Outcome::Done(result)
    }

    /// A VM is no more, or never came to be: its number is free.
    fn forget(&mut self, core: u32, gone: Gone) {
        self.classes.leave(gone.class);
        self.seat.displace(core, gone.shares);
        self.seat.set_home(gone.vm, None);
    }

    fn create_and_settle(&mut self, birth: &Birth<'_>) -> Result<Answer<'static>, GateError> {
        let vm = self.create(birth).map_err(|NoMemory| GateError::NoMemory)?;
        self.settle(vm);
        Ok(Answer::Done)
    }

    /// An order has come from the first core, perhaps by way of another.
    pub(crate) fn obey(&mut self, ticket: u64, order: Order) {
        let (result, gone) = match order {
            Order::Create(pending) => {
                let birth = pending.birth();
                let result = self.create_and_settle(&birth);
                let gone = result.is_err().then(|| gone(&birth));
                (result, gone)
            }
            Order::Vm { vm, operation } => {
                let home = self.whereabouts(vm);
                if home != self.seat.core() {
                    let order = Order::Vm { vm, operation };
                    return self.seat.send(&mut self.hw, home, Message::Order { ticket, order });
                }
                self.carry_out(operation)
            }
            Order::Figures => {
                let figures = Box::new(self.machine_status());
                return self.seat.send(&mut self.hw, FIRST, Message::Figures { ticket, figures });
            }
        };
        self.report(ticket, result, gone);
    }

    /// Tells the first core how an order ended.
    fn report(&mut self, ticket: u64, result: Result<Answer<'static>, GateError>, gone: Option<Gone>) {
        let done = Box::new(Done { ticket, result, gone });
        if self.seat.core() == FIRST {
            // It came back here, with its VM.
            return self.hear(FIRST, *done);
        }
        self.seat.send(&mut self.hw, FIRST, Message::Done(done));
    }

    /// A core has carried out an order.
    pub(crate) fn hear(&mut self, core: u32, done: Done) {
        self.orders = self.orders.saturating_sub(1);
        if let Some(gone) = done.gone {
            self.forget(core, gone);
        }
        self.complete(done.ticket, done.result);
    }

    /// Asks all cores for their part of the machine's status.
    pub(crate) fn ask_figures(&mut self, ticket: u64) -> Outcome<'static> {
        let missing = self.seat.others().count();
        if missing == 0 {
            return Outcome::Done(Ok(Answer::Machine(self.machine_status())));
        }
        if self.gatherings.len() >= MAX_GATHERINGS {
            self.is_gate_stalled = true;
            return Outcome::NotNow;
        }
        self.gatherings.push(Gathering { ticket, missing, sum: Box::new(self.machine_status()) });
        self.tell_all(|| Message::Order { ticket, order: Order::Figures });
        Outcome::Later
    }

    /// A core's part of the machine's status has come.
    pub(crate) fn add_figures(&mut self, ticket: u64, figures: &MachineStatus) {
        let Some(at) = self.gatherings.iter().position(|gathering| gathering.ticket == ticket) else { return };
        let is_done = self.gatherings.get_mut(at).is_some_and(|gathering| {
            add(&mut gathering.sum, figures);
            gathering.missing = gathering.missing.saturating_sub(1);
            gathering.missing == 0
        });
        if is_done {
            let gathering = self.gatherings.swap_remove(at);
            self.complete(ticket, Ok(Answer::Machine(*gathering.sum)));
        }
    }

    /// Does something with a VM of this core's.
    fn carry_out(&mut self, operation: Operation<'static>) -> Upshot {
        if let Operation::Destroy { vm } = operation {
            return match self.destroy(vm) {
                Ok(gone) => (Ok(Answer::Done), Some(gone)),
                Err(e) => (Err(e), None),
            };
        }
        (self.handle_vm(operation), None)
    }

    fn handle_vm(&mut self, operation: Operation<'static>) -> Result<Answer<'static>, GateError> {
        match operation {
            Operation::Inspect { vm } => match self.vms.get(vm) {
                Some(vm) => Ok(Answer::Vm(self.vm_status(vm))),
                None => self
                    .vms
                    .stub(vm)
                    .map(|stub| Answer::Vm(stub_status(stub, self.seat.core())))
                    .ok_or(GateError::NoSuchVm),
            },
            Operation::Start { vm } | Operation::Pause { vm } | Operation::Stop { vm }
                if self.vms.stub(vm).is_some() =>
            {
                self.change_parked(vm, operation)
            }
            Operation::Park { vm, tier } => self.park_for(vm, tier),
            Operation::Start { vm } => self.change(vm, |core, vm| match vm.state {
                State::Created => {
                    core.start(vm);
                    Ok(())
                }
                State::Paused => {
                    core.make_runnable(vm);
                    Ok(())
                }
                _ => Err(GateError::BadState),
            }),
            Operation::Pause { vm } => self.change(vm, |core, vm| match vm.state {
                State::Runnable | State::Idle | State::Paging | State::Starved => {
                    if let Some(deadline) = vm.deadline.take() {
                        core.timers.clear(deadline, vm.number);
                    }
                    vm.state = State::Paused;
                    Ok(())
                }
                _ => Err(GateError::BadState),
            }),
            Operation::Stop { vm } => self.change(vm, |core, vm| match vm.state {
                State::Ended => Err(GateError::BadState),
                _ => {
                    core.end(vm, Cause::Stopped);
                    Ok(())
                }
            }),
            _ => Err(GateError::BadArgument),
        }
    }

    /// Parks a VM because the supervisor wants it.
    fn park_for(&mut self, number: u32, tier: Tier) -> Result<Answer<'static>, GateError> {
        let result = match self.vms.stub(number).map(|stub| stub.state) {
            Some(Sleeper::Ended) => Err(NotNow::Unfit),
            Some(_) => {
                if tier == Tier::Disk {
                    self.swap.hurry();
                }
                Ok(())
            }
            None if !self.vms.exists(number) => return Err(GateError::NoSuchVm),
            None => self.park(number, tier),
        };
        match result {
            Ok(()) | Err(NotNow::Later) => Ok(Answer::Done),
            Err(NotNow::NoMemory) => Err(GateError::NoMemory),
            Err(NotNow::Unfit) => Err(GateError::BadState),
        }
    }

    /// Starts, pauses or stops a VM that is parked.
    fn change_parked(&mut self, number: u32, operation: Operation<'_>) -> Result<Answer<'static>, GateError> {
        let stub = self.vms.stub_mut(number).ok_or(GateError::NoSuchVm)?;
        match (operation, stub.state) {
            (Operation::Start { .. }, Sleeper::Paused) => {
                stub.state = Sleeper::Idle;
                stub.is_waking = false;
                self.wake_parked(number);
            }
            (Operation::Pause { .. }, Sleeper::Idle) => {
                stub.state = Sleeper::Paused;
                if let Some(deadline) = stub.deadline.take() {
                    self.timers.clear(deadline, number);
                }
            }
            (Operation::Stop { .. }, Sleeper::Idle | Sleeper::Paused) => self.end_parked(number, Cause::Stopped),
            _ => return Err(GateError::BadState),
        }
        Ok(Answer::Done)
    }

    fn change(
        &mut self,
        number: u32,
        change: impl FnOnce(&mut Self, &mut Vm<H>) -> Result<(), GateError>,
    ) -> Result<Answer<'static>, GateError> {
        let mut vm = self.vms.take(number).ok_or(GateError::NoSuchVm)?;
        let result = change(self, &mut vm);
        self.vms.put(vm);
        result.map(|()| Answer::Done)
    }

    fn destroy(&mut self, number: u32) -> Result<Gone, GateError> {
        if let Some(stub) = self.vms.stub(number) {
            if stub.state != Sleeper::Ended {
                return Err(GateError::BadState);
            }
            let stub = self.vms.remove_stub(number).ok_or(GateError::NoSuchVm)?;
            return Ok(Gone { vm: number, class: stub.class, shares: stub.shares });
        }
        let mut vm = self.vms.remove(number).ok_or(GateError::NoSuchVm)?;
        // Queues may still hold its number. That is harmless: they look at the VM's state, whoever it is by then.
        match vm.state {
            State::Created | State::Waiting => self.end(&mut vm, Cause::Stopped),
            State::Ended => {}
            _ => {
                self.vms.insert(vm);
                return Err(GateError::BadState);
            }
        }
        Ok(Gone { vm: number, class: vm.class, shares: vm.shares })
    }
}

/// The same operation, without anything that the request holds.
const fn without_text(operation: &Operation<'_>) -> Option<Operation<'static>> {
    match *operation {
        Operation::Start { vm } => Some(Operation::Start { vm }),
        Operation::Pause { vm } => Some(Operation::Pause { vm }),
        Operation::Stop { vm } => Some(Operation::Stop { vm }),
        Operation::Destroy { vm } => Some(Operation::Destroy { vm }),
        Operation::Park { vm, tier } => Some(Operation::Park { vm, tier }),
        Operation::Inspect { vm } => Some(Operation::Inspect { vm }),
        _ => None,
    }
}

/// What is to be forgotten of a VM that was not created.
const fn gone(birth: &Birth<'_>) -> Gone {
    Gone { vm: birth.number, class: birth.class, shares: birth.shares }
}
