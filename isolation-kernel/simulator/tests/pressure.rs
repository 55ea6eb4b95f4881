//! Memory that is short: minimums, hogs, a full disk. Each hurts only who asks for too much.

use simulator::bundle::END;
use simulator::errands::{Errand, Runner, noise};
use simulator::{Cpu, Lab, LabPlan, Op, Program};
use std::ops::Range;
use virtual_isa::gate::{GateError, Operation, Tier, VmState};
use virtual_isa::instruction::{Instruction, NO_DEADLINE};

fn runners() -> Vec<Runner> {
    (0..60).map(|_| Runner::default()).collect()
}

fn lab(plan: LabPlan, runners: &[Runner], nr_vms: u32) -> Lab {
    let theirs = runners.to_vec();
    let mut lab = plan.boot(move |vm| theirs[vm as usize].program());
    for vm in 1..=nr_vms {
        lab.start(vm);
    }
    lab.turns(20);
    lab
}

fn fill(vm: u32, pages: u32) -> impl Iterator<Item = Errand> {
    (0..pages).map(move |n| Errand::Fill(END + n, u64::from(vm * 1000 + n)))
}

fn expect(vm: u32, pages: u32) -> impl Iterator<Item = Errand> {
    (0..pages).map(move |n| Errand::Expect(END + n, u64::from(vm * 1000 + n)))
}

/// Writes all its pages for ever.
fn hog() -> Box<dyn Program> {
    let mut page = END;
    Box::new(move |cpu: &mut Cpu<'_>| {
        cpu.write(u64::from(page) * 4096 + 8, &u64::from(page).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())?;
        page = if page == 1023 { END } else { page + 1 };
        Ok(Op::Compute)
    })
}

/// Writes these pages for ever, with what cannot be compressed.
fn noisy(pages: Range<u32>) -> Box<dyn Program> {
    let mut page = pages.start;
    Box::new(move |cpu: &mut Cpu<'_>| {
        cpu.write(u64::from(page) * 4096, &noise(u64::from(page)))?;
        page = if page + 1 == pages.end { pages.start } else { page + 1 };
        Ok(Op::Compute)
    })
}

/// Creates a VM with so many shares, and pages that are kept for it, and starts it.
fn start(lab: &mut Lab, vm: u32, shares: u32, minimum_pages: u32) {
    let image = lab.image();
    let create = Operation::Create { vm, image, memory_pages: 1024, minimum_pages, shares, class: 0, arguments: "" };
    lab.ask(create).expect("there is room for it");
    lab.ask(Operation::Start { vm }).expect("it is there");
}

#[test]
fn a_vm_that_has_nothing_to_give_does_not_keep_others_from_giving() {
    // The first has no page more than its minimum, and pays least for each: it is asked first.
    let mut lab = LabPlan::new(400).disk(4000).boot(|vm| if vm == 1 { noisy(END..END + 30) } else { noisy(END..1024) });
    start(&mut lab, 1, 1, 30);
    lab.turns(100);
    assert!(lab.inspect(1).private_pages > 30, "tables and rings come on top of what is kept for it");
    start(&mut lab, 2, 100, 0);
    let dispatches = |lab: &mut Lab| lab.inspect(2).counters.guest_ns;
    lab.turns(2000);
    let before = dispatches(&mut lab);
    lab.turns(2000);
    assert!(dispatches(&mut lab) > before, "it works on: {:?}", lab.inspect(2));
    assert!(lab.inspect(2).disk_pages > 100, "with what it gave itself: {:?}", lab.inspect(2));
}

#[test]
fn a_vm_whose_minimum_does_not_fit_waits_until_another_is_gone() {
    let runners = runners();
    let mut lab = lab(LabPlan::new(1000).minimum(600), &runners, 0);
    for vm in 1..=3 {
        lab.create(vm).unwrap();
        lab.ask(Operation::Start { vm }).unwrap();
    }
    lab.until_state(1, VmState::Idle);
    lab.turns(100);
    for vm in [2, 3] {
        assert_eq!(lab.inspect(vm).state, VmState::Waiting);
    }
    assert_eq!(lab.status().waiting, 2);
    assert_eq!(lab.inspect(2).minimum_pages, 600);
    lab.destroy(1);
    lab.until_state(2, VmState::Idle);
    assert_eq!(lab.inspect(3).state, VmState::Waiting, "first come, first served");
    // One that waits can go without having run.
    lab.destroy(3);
    assert_eq!(lab.status().waiting, 0);
    lab.destroy(2);
    lab.start(1);
    lab.until_state(1, VmState::Idle);
}

#[test]
fn a_minimum_that_can_never_be_is_refused() {
    let runners = runners();
    let mut lab = lab(LabPlan::new(1000), &runners, 0);
    let image = lab.image();
    let create = |memory_pages, minimum_pages| Operation::Create {
        vm: 1,
        image,
        memory_pages,
        minimum_pages,
        shares: 1,
        class: 0,
        arguments: "",
    };
    assert_eq!(lab.ask(create(1024, 1025)), Err(GateError::BadArgument), "more than its memory");
    let refused = lab.ask(create(10_000, 5000));
    assert!(matches!(refused, Err(GateError::NoMemory | GateError::BadArgument)), "{refused:?}");
    assert!(lab.ask(create(10_000, 100)).is_ok(), "memory is a limit and not a promise");
}

#[test]
fn a_memory_hog_hurts_only_itself() {
    bear_a_hog(LabPlan::new(600));
}

#[test]
fn a_memory_hog_on_another_core_hurts_only_itself() {
    // Some of the others are parked, and their cores have nothing that they could reclaim for them.
    bear_a_hog(LabPlan::new(600).cores(3, 0));
}

fn bear_a_hog(plan: LabPlan) {
    let runners = runners();
    let theirs = runners.clone();
    let mut lab =
        plan.disk(4000).minimum(40).boot(move |vm| if vm == 9 { hog() } else { theirs[vm as usize].program() });
    for vm in 1..=4 {
        lab.start(vm);
        runners[vm as usize].run(&mut lab, vm, fill(vm, 20));
    }
    lab.start(9);
    for _ in 0..30 {
        lab.turns(10);
        for vm in 1..=4 {
            runners[vm as usize].run(&mut lab, vm, expect(vm, 20));
        }
    }
    let hog = lab.inspect(9);
    assert!(hog.counters.faults_disk > 0 || hog.counters.faults_packed > 0, "it works on: {hog:?}");
    for vm in 1..=4 {
        let status = lab.inspect(vm);
        assert!(status.private_pages >= 20, "within its minimum a VM keeps its pages: {status:?}");
        assert_eq!(status.counters.faults_disk + status.counters.faults_packed, 0, "{status:?}");
    }
}

#[test]
fn a_hog_without_a_disk_starves_alone() {
    let runners = runners();
    let theirs = runners.clone();
    let mut lab = LabPlan::new(400).minimum(30).boot(move |vm| match vm {
        9 => noisy(END..1024),
        _ => theirs[vm as usize].program(),
    });
    for vm in 1..=3 {
        lab.start(vm);
        runners[vm as usize].run(&mut lab, vm, fill(vm, 15));
    }
    lab.start(9);
    lab.until_state(9, VmState::Starved);
    for vm in 1..=3 {
        runners[vm as usize].run(&mut lab, vm, expect(vm, 15).chain(fill(vm, 20)));
    }
    assert_eq!(lab.inspect(9).state, VmState::Starved);
    assert!(lab.status().free_pages > 0, "the kernel keeps its own");
    lab.destroy(9);
    for vm in 1..=3 {
        runners[vm as usize].run(&mut lab, vm, expect(vm, 20));
    }
}

#[test]
fn a_full_disk_loses_nothing_and_what_is_destroyed_lets_the_others_go_on() {
    let runners = runners();
    // The disk is too small to be divided.
    let mut lab = lab(LabPlan::new(300).cores(1, 0).disk(128), &runners, 10);
    for vm in 1..=10 {
        runners[vm as usize].ask(fill(vm, 60));
        lab.frame_to(vm, 60, 1);
    }
    lab.turns(3000);
    let done = |runners: &[Runner]| (1..=10).filter(|&vm| runners[vm].is_done()).count();
    let before = done(&runners);
    assert!(before < 10, "600 pages that cannot be compressed do not fit 300 and 128");
    let starved = (1..=10).filter(|&vm| lab.inspect(vm).state == VmState::Starved).count();
    assert!(starved > 0);
    assert!(lab.status().free_pages > 0);
    for vm in 5..=10 {
        lab.destroy(vm);
    }
    for vm in 1..=4 {
        lab.until("the rest", |_| runners[vm as usize].is_done());
        runners[vm as usize].run(&mut lab, vm, expect(vm, 60));
    }
}

#[test]
fn many_vms_on_little_memory_all_answer() {
    let runners = runners();
    let mut lab = lab(LabPlan::new(400).disk(4000), &runners, 0);
    for vm in 1..=50 {
        lab.start(vm);
        runners[vm as usize].run(&mut lab, vm, fill(vm, 20));
    }
    assert!(lab.status().parked > 10, "{:?}", lab.status());
    for _ in 0..2 {
        for vm in 1..=50 {
            runners[vm as usize].run(&mut lab, vm, expect(vm, 20));
        }
    }
    let status = lab.status();
    assert!(status.wakes_disk > 50, "{status:?}");
    assert!(status.swap_writes * 4 < status.swap_written_blocks, "writes are large: {status:?}");
}

#[test]
fn packs_stay_in_memory_until_they_take_a_quarter_of_it() {
    let runners = runners();
    let mut lab = lab(LabPlan::new(2000).cores(1, 0).disk(4000), &runners, 0);
    let quarter = lab.status().total_pages / 4;
    for vm in 1..=45 {
        lab.start(vm);
        runners[vm as usize].run(&mut lab, vm, fill(vm, 20));
        lab.park_fully(vm, Tier::Memory);
        lab.turns(50);
        let status = lab.status();
        assert_eq!(status.swap_writes > 0, u64::from(vm) * 21 > quarter, "{vm} VMs: {status:?}");
        assert!(status.packed_pages <= quarter + 40, "{vm} VMs: {status:?}");
    }
    assert!(lab.status().parked_on_disk >= 15, "{:?}", lab.status());
}

#[test]
fn the_reserve_is_kept_while_there_is_anything_to_reclaim() {
    let runners = runners();
    let mut lab = lab(LabPlan::new(500).disk(4000), &runners, 0);
    for vm in 1..=30 {
        lab.start(vm);
        runners[vm as usize].run(&mut lab, vm, fill(vm, 30));
        lab.turns(30);
        let status = lab.status();
        assert!(status.reserve_pages > 0 && status.free_pages >= status.reserve_pages / 2, "{vm} VMs: {status:?}");
    }
}

#[test]
fn all_pages_and_blocks_come_back() {
    let runners = runners();
    let mut lab = lab(LabPlan::new(500).disk(600), &runners, 0);
    // The template stays.
    lab.start(1);
    lab.destroy(1);
    lab.turns(100);
    let before = lab.status();
    for round in 0..3 {
        for vm in 1..=15 {
            lab.start(vm);
            runners[vm as usize].run(&mut lab, vm, fill(vm, 40));
            let tier = if vm % 2 == 0 { Tier::Disk } else { Tier::Memory };
            let _ = lab.park(vm, tier);
            if vm % 3 == 0 {
                runners[vm as usize].run(&mut lab, vm, expect(vm, 40));
            }
        }
        for vm in 1..=15 {
            lab.destroy(vm);
        }
        lab.desk().events.clear();
        lab.turns(300);
        let after = lab.status();
        assert_eq!((after.free_pages, after.vms), (before.free_pages, 1), "round {round}: {after:?}");
        assert_eq!((after.swap_used_blocks, after.packed_pages), (0, 0), "round {round}");
    }
}

#[test]
fn an_allocation_that_fails_anywhere_loses_nothing() {
    for after in 0..120 {
        let runners = runners();
        let mut lab = lab(LabPlan::new(600).disk(600), &runners, 1);
        runners[1].run(&mut lab, 1, fill(1, 30));
        lab.outside_mut().allocation.fail_after = Some(after);
        let created = lab.create(2);
        if created.is_ok() {
            lab.ask(Operation::Start { vm: 2 }).unwrap();
            runners[2].run(&mut lab, 2, fill(2, 30));
        }
        let _ = lab.park(1, Tier::Disk);
        lab.turns(100);
        runners[1].run(&mut lab, 1, expect(1, 30));
        lab.outside_mut().allocation.fail_after = None;
        if created.is_ok() {
            runners[2].run(&mut lab, 2, expect(2, 30));
        } else {
            assert_eq!(created, Err(GateError::NoMemory), "after {after}");
        }
    }
}

/// Writes so many pages of its own, then sleeps.
fn settler(pages: u32) -> Box<dyn Program> {
    let mut next = 0;
    Box::new(move |cpu: &mut Cpu<'_>| {
        if next == pages {
            return Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]));
        }
        next += 1;
        cpu.write(u64::from(END + next) * 4096, &noise(u64::from(next)))?;
        Ok(Op::Compute)
    })
}

#[test]
fn more_vms_than_fit_come_to_rest_though_all_are_started_at_once() {
    const VMS: u32 = 800;
    let mut lab = LabPlan::new(900).disk(20_000).cores(1, 0).boot(|_| settler(12));
    lab.outside_mut().has_costs = true;
    // With a template creations take next to nothing.
    lab.start(1);
    for vm in 2..=VMS {
        let creation = lab.creation(vm);
        lab.send(creation);
        lab.send(Operation::Start { vm });
    }
    for _ in 0..400 {
        lab.turns(100);
        let is_at_rest = |lab: &mut Lab, vm| matches!(lab.inspect(vm).state, VmState::Idle | VmState::Parked);
        if lab.status().vms == VMS + 1 && (1..=VMS).rev().all(|vm| is_at_rest(&mut lab, vm)) {
            return;
        }
    }
    panic!("some never come to rest: {:?}", lab.status());
}
