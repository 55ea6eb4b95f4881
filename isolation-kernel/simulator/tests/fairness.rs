//! CPU time by shares, and promptness for one that sleeps much, through the whole kernel.

use simulator::{Cpu, Fault, LabPlan, Op};
use std::cell::RefCell;
use std::rc::Rc;
use virtual_isa::control::{self, Pending};
use virtual_isa::gate::Operation;
use virtual_isa::instruction::{Instruction, NO_DEADLINE};

#[test]
fn spinners_get_cpu_time_by_shares() {
    let mut lab = LabPlan::new(4096).cores(1, 0).boot(|_| Box::new(|_: &mut Cpu<'_>| Ok(Op::Compute)));
    for vm in 1..=60 {
        let Operation::Create { image, memory_pages, minimum_pages, arguments, .. } = lab.creation(vm) else {
            unreachable!()
        };
        let shares = 100 << (vm % 3);
        lab.ask(Operation::Create { vm, image, memory_pages, minimum_pages, shares, class: 0, arguments }).unwrap();
    }
    for vm in 1..=60 {
        lab.ask(Operation::Start { vm }).unwrap();
    }
    let before: Vec<u64> = (1..=60).map(|vm| lab.inspect(vm).counters.guest_ns).collect();
    lab.turns(12_000);
    let mut got = [0_u64; 3];
    for (vm, before) in (1..=60).zip(before) {
        got[vm as usize % 3] += lab.inspect(vm).counters.guest_ns - before;
    }
    let unit = got.iter().sum::<u64>() / 7;
    for (class, got) in got.iter().enumerate() {
        let due = unit << class;
        assert!(got.abs_diff(due) * 50 <= due, "class {class} got {got} of {due}");
    }
}

#[test]
fn an_echo_among_spinners_is_dispatched_within_two_quanta() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let theirs = Rc::clone(&seen);
    let mut lab = LabPlan::new(4096).cores(1, 0).boot(move |vm| {
        let seen = Rc::clone(&theirs);
        if vm != 1 {
            return Box::new(|_: &mut Cpu<'_>| Ok(Op::Compute));
        }
        Box::new(move |cpu: &mut Cpu<'_>| -> Result<Op, Fault> {
            cpu.set_control(control::PENDING, 0)?;
            cpu.set_control(control::ENABLED, Pending::RECEIVE.bits())?;
            while cpu.pop(&simulator::guest::rings::RECEIVE)?.is_some() {
                seen.borrow_mut().push(cpu.now());
            }
            Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
        })
    });
    for vm in 1..=101 {
        lab.start(vm);
    }
    for round in 1..=20 {
        lab.turns(150);
        let sent = lab.outside().now;
        lab.frame_to(1, 100, 7);
        lab.turns(30);
        let seen = seen.borrow();
        assert_eq!(seen.len(), round, "the frame has not been read in 30 turns");
        let waited = seen[round - 1] - sent;
        assert!(waited <= 2_000_000, "frame {round} waited {waited} ns");
    }
}
