//! What changes when parts of the kernel are switched off for measurements.

use simulator::guest::rings;
use simulator::{Cpu, Fault, Lab, LabPlan, Op, Program};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use virtual_isa::control::{self, Pending};
use virtual_isa::gate::{Tier, VmState};
use virtual_isa::instruction::{Instruction, NO_DEADLINE};
use virtual_isa::network::Network;
use vm::Switches;

/// Which VM got how many frames when it was dispatched, and at what time.
type Diary = Rc<RefCell<Vec<(u32, usize, u64)>>>;

/// Notes what it gets, and sleeps.
struct Receiver(u32, Diary);

impl Program for Receiver {
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        cpu.set_control(control::PENDING, 0)?;
        cpu.set_control(control::ENABLED, Pending::RECEIVE.bits())?;
        let mut frames = 0;
        while cpu.pop(&rings::RECEIVE)?.is_some() {
            frames += 1;
        }
        if frames > 0 {
            self.1.borrow_mut().push((self.0, frames, cpu.now()));
        }
        Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
    }
}

/// Frames for VMs 1 and 2 by turns, while VM 3 computes: what these two notice, and when they came.
fn arrivals(switches: Switches) -> (Vec<(u32, usize, u64)>, u64) {
    let diary = Diary::default();
    let theirs = Rc::clone(&diary);
    let mut lab = LabPlan::new(4096).cores(1, 0).switches(switches).boot(move |vm| match vm {
        3 => Box::new(|_: &mut Cpu<'_>| Ok(Op::Compute)) as Box<dyn Program>,
        vm => Box::new(Receiver(vm, Rc::clone(&theirs))),
    });
    (1..=3).for_each(|vm| lab.start(vm));
    // So that they wait for frames, and take them in a few steps, without a fault.
    (1..=2).for_each(|vm| lab.frame_to(vm, 60, 7));
    lab.until("the first frames are there", |_| diary.borrow().len() == 2);
    (1..=2).for_each(|vm| lab.until_state(vm, VmState::Idle));
    diary.borrow_mut().clear();
    let sent = lab.status().uptime_ns;
    (0..4).for_each(|n| lab.frame_to(1 + n % 2, 60, 7));
    lab.until("all frames are there", |_| diary.borrow().iter().map(|(_, frames, _)| frames).sum::<usize>() == 4);
    let diary = diary.borrow().clone();
    (diary, sent)
}

#[test]
fn without_batching_each_frame_has_its_vm_dispatched_at_once() {
    let who = |diary: &[(u32, usize, u64)]| diary.iter().map(|&(vm, frames, _)| (vm, frames)).collect::<Vec<_>>();
    let (batched, _) = arrivals(Switches::default());
    let mut batched = who(&batched);
    batched.sort_unstable();
    assert_eq!(batched, [(1, 2), (2, 2)]);
    let (switched, sent) = arrivals(Switches { batching: false, ..Switches::default() });
    // One may be switched away from by the next frame before it has looked at its own.
    assert!(switched.len() >= 3, "{:?}", who(&switched));
    // Whoever computes has a quantum of milliseconds, and does not keep it.
    let (_, _, last) = switched[switched.len() - 1];
    assert!(last < sent + 1_000_000, "{last} after {sent}");
}

/// How often a VM that sleeps until a time is dispatched before, while another one sleeps for good, and that one.
fn dispatches(switches: Switches) -> (u64, u64) {
    let is_over = Rc::new(Cell::new(false));
    let noted = Rc::clone(&is_over);
    let mut lab: Lab = LabPlan::new(4096).cores(1, 0).switches(switches).boot(move |vm| {
        let noted = Rc::clone(&noted);
        let mut deadline = 0;
        Box::new(move |cpu: &mut Cpu<'_>| {
            cpu.set_control(control::PENDING, 0)?;
            cpu.set_control(control::ENABLED, Pending::TIMER.bits())?;
            if deadline == 0 {
                deadline = cpu.now() + 20_000_000;
            }
            let is_over = vm == 1 && cpu.now() >= deadline;
            noted.set(noted.get() || is_over);
            Ok(Op::call(Instruction::Idle, &[if vm == 2 || is_over { NO_DEADLINE } else { deadline }]))
        }) as Box<dyn Program>
    });
    (1..=2).for_each(|vm| lab.start(vm));
    lab.until("the time has come", |_| is_over.get());
    (lab.inspect(1).counters.dispatches, lab.inspect(2).counters.dispatches)
}

#[test]
fn without_idle_with_timeout_a_vm_asks_again_and_again_until_its_time() {
    let (sleeper, other) = dispatches(Switches::default());
    assert!(sleeper <= 3, "{sleeper}");
    let (asks, still) = dispatches(Switches { idle_timeout: false, ..Switches::default() });
    assert!(asks > 10 * sleeper, "{asks} after {sleeper}");
    assert_eq!(still, other, "who sleeps for good does so");
}

/// A frame of VM 1 to the host.
fn frame() -> Vec<u8> {
    let network = Network::default();
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&Network::SWITCH_MAC);
    frame[6..12].copy_from_slice(&Network::mac_of(1));
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[26..30].copy_from_slice(&network.ipv4_of(1));
    frame[30..34].copy_from_slice(&network.host_ipv4);
    frame
}

#[test]
fn frames_are_sent_although_somebody_wants_to_run_all_the_time() {
    let switches = Switches { idle_timeout: false, ..Switches::default() };
    let mut lab = LabPlan::new(4096).cores(1, 0).switches(switches).boot(|vm| {
        let mut is_sent = vm != 1;
        Box::new(move |cpu: &mut Cpu<'_>| {
            cpu.set_control(control::PENDING, 0)?;
            cpu.set_control(control::ENABLED, Pending::TIMER.bits())?;
            if !is_sent {
                is_sent = cpu.push(&rings::TRANSMIT, &frame())?;
            }
            // VM 2 takes one short turn after the other.
            let until = if vm == 2 { cpu.now() + 1_000_000_000 } else { NO_DEADLINE };
            Ok(Op::call(Instruction::Idle, &[until]))
        }) as Box<dyn Program>
    });
    lab.start(2);
    lab.outside_mut().outgoing.clear();
    lab.start(1);
    lab.turns(400);
    let sent = lab.outside().outgoing.len();
    assert_eq!(sent, 1, "the frame waits for a moment in which nobody wants to run");
}

/// Writes of the swap disk, and their blocks, when VMs are parked on it.
fn writes(switches: Switches) -> (u64, u64) {
    let mut lab = LabPlan::new(4096)
        .disk(1000)
        .cores(1, 0)
        .switches(switches)
        .boot(|_| Box::new(Receiver(0, Diary::default())) as Box<dyn Program>);
    (1..=20).for_each(|vm| lab.start(vm));
    (1..=20).for_each(|vm| lab.until_state(vm, VmState::Idle));
    (1..=20).for_each(|vm| drop(lab.park(vm, Tier::Memory)));
    (1..=20).for_each(|vm| drop(lab.park(vm, Tier::Disk)));
    lab.until("all are on disk", |lab| lab.status().parked_on_disk == 20);
    let status = lab.status();
    (status.swap_writes, status.swap_written_blocks)
}

#[test]
fn packs_are_written_together_up_to_so_many_blocks() {
    let (together, blocks) = writes(Switches::default());
    let (alone, same) = writes(Switches { write_blocks: 1, ..Switches::default() });
    assert_eq!(blocks, same, "what is written is the same");
    assert_eq!(alone, 20, "each by itself");
    assert!(together <= 10, "{together} writes");
}
