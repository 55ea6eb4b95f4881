//! Several cores: what goes between them, and that nobody can tell where a VM is. The other tests and the random runs
//! can be had on several cores too: `FIRN_CORES=3 cargo test -p simulator`.

use simulator::errands::{Errand, Runner};
use simulator::guest::rings;
use simulator::trial::{self, Guests};
use simulator::{Cpu, Fault, Lab, LabPlan, Op, Program};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use virtual_isa::control::{self, Pending};
use virtual_isa::gate::{GateError, Operation, Tier, VmState};
use virtual_isa::instruction::{Instruction, NO_DEADLINE};
use virtual_isa::network::Network;

const PAGE: u32 = simulator::bundle::END + 3;

fn runners(count: usize) -> Vec<Runner> {
    (0..count).map(|_| Runner::default()).collect()
}

/// A machine of so many cores whose VMs run errands.
fn lab(cores: u32, seed: u64, runners: &[Runner]) -> Lab {
    let theirs = runners.to_vec();
    LabPlan::new(4000).disk(3000).cores(cores, seed).boot(move |vm| theirs[vm as usize].program())
}

fn spinner() -> Box<dyn Program> {
    Box::new(|_: &mut Cpu<'_>| Ok(Op::Compute))
}

#[test]
fn vms_are_spread_over_the_cores_and_all_operations_reach_them() {
    for seed in 0..8 {
        let runners = runners(8);
        let mut lab = lab(3, seed, &runners);
        for vm in 1..8 {
            lab.start(vm);
            runners[vm as usize].run(&mut lab, vm, [Errand::Fill(PAGE, u64::from(vm))]);
        }
        let homes: BTreeSet<u32> = (1..8).map(|vm| lab.inspect(vm).core).collect();
        assert_eq!(homes, BTreeSet::from([0, 1, 2]));
        assert_eq!(lab.status().cpus, 3);
        for vm in 1..8 {
            lab.park_fully(vm, if vm % 2 == 0 { Tier::Memory } else { Tier::Disk });
        }
        assert_eq!(lab.status().parked, 7);
        for vm in 1..8 {
            runners[vm as usize].run(&mut lab, vm, [Errand::Expect(PAGE, u64::from(vm))]);
            assert!(lab.ask(Operation::Pause { vm }).is_ok());
            assert_eq!(lab.inspect(vm).state, VmState::Paused);
            assert!(lab.ask(Operation::Start { vm }).is_ok());
            assert_eq!(lab.create(vm), Err(GateError::VmExists));
            assert_eq!(lab.ask(Operation::Destroy { vm }), Err(GateError::BadState));
        }
        for vm in 1..8 {
            lab.destroy(vm);
            assert_eq!(lab.ask(Operation::Inspect { vm }), Err(GateError::NoSuchVm));
            assert_eq!(lab.ask(Operation::Destroy { vm }), Err(GateError::NoSuchVm));
        }
        lab.turns(100);
        assert_eq!((lab.status().vms, lab.frames_in_use()), (1, 0));
    }
}

#[derive(Default)]
struct Post {
    to_send: Vec<Vec<u8>>,
    received: Vec<Vec<u8>>,
}

/// Sends what it is given, keeps what it gets, sleeps.
struct Mailbox(Rc<RefCell<Post>>);

impl Program for Mailbox {
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        let mut post = self.0.borrow_mut();
        cpu.set_control(control::PENDING, 0)?;
        cpu.set_control(control::ENABLED, Pending::RECEIVE.bits())?;
        while let Some(frame) = cpu.pop(&rings::RECEIVE)? {
            post.received.push(frame);
        }
        while let Some(frame) = post.to_send.last() {
            if !cpu.push(&rings::TRANSMIT, frame)? {
                return Ok(Op::call(Instruction::Notify, &[1]));
            }
            post.to_send.pop();
        }
        Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
    }
}

/// A frame from a VM to an address.
fn frame(from: u32, to: [u8; 4], length: usize, mark: u8) -> Vec<u8> {
    let mut frame = vec![mark; length];
    frame[..6].copy_from_slice(&Network::SWITCH_MAC);
    frame[6..12].copy_from_slice(&Network::mac_of(from));
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[26..30].copy_from_slice(&Network::default().ipv4_of(from));
    frame[30..34].copy_from_slice(&to);
    frame
}

#[test]
fn frames_go_between_any_two_vms_and_the_wire_wherever_they_are() {
    const VMS: u32 = 6;
    for seed in 0..8 {
        let posts: Vec<_> = (0..=VMS).map(|_| Rc::new(RefCell::new(Post::default()))).collect();
        let theirs = posts.clone();
        let plan = LabPlan::new(4000).cores(3, seed);
        let mut lab = plan.boot(move |vm| Box::new(Mailbox(Rc::clone(&theirs[vm as usize]))));
        (1..=VMS).for_each(|vm| lab.start(vm));
        lab.turns(50);
        let network = Network::default();
        for from in 1..=VMS {
            let mut post = posts[from as usize].borrow_mut();
            let mark = from.to_le_bytes()[0];
            post.to_send.extend((1..=VMS).map(|to| frame(from, network.ipv4_of(to), 100 + from as usize, mark)));
            post.to_send.push(frame(from, network.host_ipv4, 300, mark));
        }
        (1..=VMS).for_each(|vm| lab.frame_to(vm, 60, 0xee));
        let lengths = |post: &Rc<RefCell<Post>>| post.borrow().received.iter().map(Vec::len).collect::<Vec<_>>();
        let what = "all frames to arrive";
        lab.until(what, |_| posts[1..].iter().all(|post| lengths(post).len() == VMS as usize + 1));
        for post in &posts[1..] {
            let mut lengths = lengths(post);
            lengths.sort_unstable();
            assert_eq!(lengths, [60, 101, 102, 103, 104, 105, 106]);
        }
        lab.until("the frames for the host to leave", |lab| lab.outside().outgoing.len() == VMS as usize);
        lab.turns(50);
        assert_eq!(lab.frames_in_use(), 0, "all buffers have come home");
        assert_eq!(lab.status().frames_dropped, 0);
    }
}

#[test]
fn a_core_without_work_takes_a_vm_that_waits_on_another() {
    for seed in 0..8 {
        let mut lab = LabPlan::new(2000).cores(2, seed).boot(|_| spinner());
        (1..=6).for_each(|vm| lab.start(vm));
        let home = |lab: &mut Lab, vm| lab.inspect(vm).core;
        let on_second: Vec<u32> = (1..=6).filter(|&vm| home(&mut lab, vm) == 1).collect();
        assert!((2..=4).contains(&on_second.len()), "they are spread at first: {on_second:?}");
        for &vm in &on_second {
            lab.destroy(vm);
        }
        let left: Vec<u32> = (1..=6).filter(|vm| !on_second.contains(vm)).collect();
        lab.until("a VM to move", |lab| left.iter().any(|&vm| lab.inspect(vm).core == 1));
        let before: Vec<u64> = left.iter().map(|&vm| lab.inspect(vm).counters.guest_ns).collect();
        lab.turns(400);
        for (&vm, before) in left.iter().zip(before) {
            let status = lab.inspect(vm);
            assert!(status.counters.guest_ns > before, "VM {vm} runs on: {status:?}");
        }
        for vm in left {
            lab.destroy(vm);
        }
        lab.turns(50);
        assert_eq!(lab.status().vms, 1);
    }
}

#[test]
fn a_vm_that_moves_keeps_its_memory_and_gets_its_frames() {
    for seed in 0..6 {
        let runners = runners(9);
        let theirs = runners.clone();
        // VMs 1 to 4 spin; the others run errands between them.
        let plan = LabPlan::new(3000).cores(2, seed);
        let mut lab = plan.boot(move |vm| if vm <= 4 { spinner() } else { theirs[vm as usize].program() });
        for vm in [5, 1, 6, 2, 7, 3, 8, 4] {
            lab.start(vm);
        }
        let mut homes = BTreeSet::new();
        for round in 0..30 {
            for vm in 5..=8 {
                let value = u64::from(vm) << 32 | round;
                let errands = [Errand::Fill(PAGE, value), Errand::Expect(PAGE, value)];
                runners[vm as usize].ask(errands);
                lab.frame_to(vm, 60, 1);
                homes.insert((vm, lab.inspect(vm).core));
            }
            lab.until("all errands to be done", |_| (5..=8).all(|vm| runners[vm].is_done()));
            // Whoever spins on one core alone leaves it to the others for a while.
            let vm = 1 + u32::try_from(round).expect("small") % 4;
            let _ = lab.ask(Operation::Pause { vm });
            lab.turns(60);
            let _ = lab.ask(Operation::Start { vm });
        }
        assert!(homes.len() >= 4);
        (1..=8).for_each(|vm| lab.destroy(vm));
        lab.turns(200);
        assert_eq!((lab.status().vms, lab.frames_in_use()), (1, 0));
    }
}

#[test]
fn random_runs_of_memory_hold_on_several_cores() {
    for seed in 0..60 {
        let cores = 2 + u32::try_from(seed % 3).expect("small");
        let _ = trial::run_on(seed, cores, Guests::Memory, None);
    }
}
