//! Parking and waking, from memory and from disk, and what becomes of a VM whose pages cannot be read back.

use simulator::bundle::END;
use simulator::errands::{Errand, Runner};
use simulator::{Lab, LabPlan};
use virtual_isa::exception::{Cause, SwapError};
use virtual_isa::gate::{Event, GateError, Operation, Tier, VmState};
use virtual_isa::instruction::Instruction;

const TIERS: [Tier; 2] = [Tier::Memory, Tier::Disk];

/// Few enough pages to come back with the record, and so many that most of them do not.
const SIZES: [u32; 2] = [10, 100];

fn lab(plan: LabPlan, nr_vms: u32) -> (Lab, Vec<Runner>) {
    let runners: Vec<Runner> = (0..40).map(|_| Runner::default()).collect();
    let theirs = runners.clone();
    let mut lab = plan.boot(move |vm| theirs[vm as usize].program());
    for vm in 1..=nr_vms {
        lab.start(vm);
    }
    lab.turns(20);
    (lab, runners)
}

fn fill(vm: u32, pages: u32) -> impl Iterator<Item = Errand> {
    (0..pages).map(move |n| Errand::Fill(END + n, u64::from(vm * 1000 + n)))
}

fn expect(vm: u32, pages: u32) -> impl Iterator<Item = Errand> {
    (0..pages).map(move |n| Errand::Expect(END + n, u64::from(vm * 1000 + n)))
}

/// VMs with so many pages each, all of them parked, and the blocks that the last parking wrote.
fn parked(plan: LabPlan, nr_vms: u32, pages: u32, tier: Tier) -> (Lab, Vec<Runner>) {
    let (mut lab, runners) = lab(plan, nr_vms);
    for vm in 1..=nr_vms {
        runners[vm as usize].run(&mut lab, vm, fill(vm, pages));
        lab.park_fully(vm, tier);
    }
    (lab, runners)
}

#[test]
fn a_frame_wakes_a_parked_vm_and_is_delivered_and_its_memory_is_intact() {
    for (tier, pages) in TIERS.into_iter().flat_map(|tier| SIZES.map(|pages| (tier, pages))) {
        let (mut lab, runners) = parked(LabPlan::new(2000).disk(1000), 2, pages, tier);
        let before = runners[1].basket().frames.len();
        lab.frame_to(1, 333, 77);
        lab.until("the frame", |_| runners[1].basket().frames.len() > before);
        let frame = runners[1].basket().frames[before].clone();
        assert!(frame.len() == 333 && frame[34..].iter().all(|&byte| byte == 77));
        runners[1].run(&mut lab, 1, expect(1, pages));
        assert!(lab.is_parked(2), "{tier:?}: nobody else is woken");
        let status = lab.status();
        let wakes = (status.wakes_memory, status.wakes_disk);
        assert_eq!(wakes, if tier == Tier::Disk { (0, 1) } else { (1, 0) }, "{tier:?}, {pages} pages");
        runners[2].run(&mut lab, 2, expect(2, pages));
    }
}

#[test]
fn frames_that_come_while_a_vm_wakes_are_all_delivered() {
    for tier in TIERS {
        let (mut lab, runners) = parked(LabPlan::new(2000).disk(1000), 1, 10, tier);
        lab.outside_mut().disk.faults.delay_ns = 5_000_000..5_000_001;
        let before = runners[1].basket().frames.len();
        for n in 0..20 {
            lab.frame_to(1, 100 + n, 3);
            lab.turn();
        }
        lab.until("the frames", |_| runners[1].basket().frames.len() == before + 20);
        let lengths: Vec<usize> = runners[1].basket().frames[before..].iter().map(Vec::len).collect();
        assert_eq!(lengths, (100..120).collect::<Vec<_>>());
    }
}

#[test]
fn a_timer_wakes_a_parked_vm() {
    for tier in TIERS {
        let (mut lab, runners) = lab(LabPlan::new(2000).disk(1000), 1);
        runners[1].run(&mut lab, 1, fill(1, 10).chain([Errand::SleepFor(300_000_000)]));
        let (slept_at, sleeps) = (runners[1].basket().woke_at, runners[1].basket().sleeps);
        lab.park_fully(1, tier);
        runners[1].ask(expect(1, 10));
        lab.until("the timer", |_| runners[1].basket().sleeps > sleeps);
        let slept = runners[1].basket().woke_at - slept_at;
        assert!((300_000_000..310_000_000).contains(&slept), "{tier:?}: slept {slept} ns");
        assert!(runners[1].is_done());
    }
}

#[test]
fn a_parked_vm_takes_next_to_no_memory() {
    let (mut lab, runners) = lab(LabPlan::new(2000).disk(1000), 1);
    runners[1].run(&mut lab, 1, fill(1, 100));
    let before = lab.inspect(1);
    assert!(before.private_pages > 100 && before.table_pages > 0);
    lab.park_fully(1, Tier::Disk);
    let status = lab.inspect(1);
    assert_eq!((status.private_pages, status.table_pages, status.packed_pages), (0, 0, 0));
    assert!(status.disk_pages >= 100, "{status:?}");
    assert!(status.counters.parks >= 1);
    let machine = lab.status();
    assert_eq!((machine.parked, machine.parked_on_disk, machine.packed_pages), (1, 1, 0));
}

#[test]
fn all_packs_of_a_vm_stay_in_line_for_the_disk_while_it_gets_more() {
    let (mut lab, runners) = lab(LabPlan::new(2000).disk(1000), 1);
    runners[1].run(&mut lab, 1, fill(1, 200));
    // More packs than the line for the disk has room for at first, all of the VM that is being worked on.
    lab.park_fully(1, Tier::Memory);
    assert!(lab.status().packed_pages >= 200, "nothing is written yet");
    lab.park_fully(1, Tier::Disk);
    lab.until("all packs to be written", |lab| {
        lab.turns(2);
        lab.status().packed_pages == 0
    });
    runners[1].run(&mut lab, 1, expect(1, 200));
}

#[test]
fn pages_that_can_be_compressed_are() {
    let (mut lab, runners) = lab(LabPlan::new(2000), 1);
    let pages = (0..10).map(|n| Errand::FillByte(END + n, 1 + u8::try_from(n).unwrap()));
    runners[1].run(&mut lab, 1, pages.clone());
    lab.park_fully(1, Tier::Memory);
    assert!(lab.status().packed_pages <= 2, "{:?}", lab.status());
    let expect = (0..10).map(|n| Errand::ExpectByte(END + n, 1 + u8::try_from(n).unwrap()));
    runners[1].run(&mut lab, 1, expect);
}

#[test]
fn inspecting_a_parked_vm_does_not_wake_it() {
    for tier in TIERS {
        let (mut lab, _) = parked(LabPlan::new(2000).disk(1000), 1, 30, tier);
        for _ in 0..5 {
            assert_eq!(lab.inspect(1).state, VmState::Parked);
        }
        let status = lab.status();
        assert_eq!(status.wakes_memory + status.wakes_disk, 0);
    }
}

#[test]
fn the_gate_works_on_parked_vms() {
    for tier in TIERS {
        let plan = LabPlan::new(2000).disk(1000);
        let (mut lab, runners) = parked(plan, 3, 30, tier);
        lab.ask(Operation::Pause { vm: 1 }).unwrap();
        let sleeps = runners[1].basket().sleeps;
        lab.frame_to(1, 60, 1);
        lab.turns(100);
        assert_eq!(runners[1].basket().sleeps, sleeps, "a paused VM does not run");
        assert_eq!(lab.ask(Operation::Destroy { vm: 1 }), Err(GateError::BadState));
        lab.ask(Operation::Start { vm: 1 }).unwrap();
        runners[1].run(&mut lab, 1, expect(1, 30));

        assert_eq!(lab.ask(Operation::Start { vm: 2 }), Err(GateError::BadState), "it is not paused");
        lab.ask(Operation::Stop { vm: 2 }).unwrap();
        assert_eq!(lab.report(2).cause, Cause::Stopped);
        assert_eq!(lab.inspect(2).state, VmState::Ended);
        for vm in [1, 2, 3] {
            lab.destroy(vm);
        }
        lab.turns(100);
        let status = lab.status();
        assert_eq!((status.swap_used_blocks, status.packed_pages, status.parked), (0, 0, 0));
    }
}

#[test]
fn what_cannot_be_parked_is_refused() {
    let (mut lab, _) = lab(LabPlan::new(2000).disk(1000), 1);
    assert_eq!(lab.park(77, Tier::Disk), Err(GateError::NoSuchVm));
    assert_eq!(lab.park(0, Tier::Disk), Err(GateError::BadArgument));
    lab.create(2).unwrap();
    assert_eq!(lab.park(2, Tier::Disk), Err(GateError::BadState));
    lab.ask(Operation::Stop { vm: 1 }).unwrap();
    assert_eq!(lab.park(1, Tier::Disk), Err(GateError::BadState));
}

#[test]
fn parking_again_and_again_keeps_everything() {
    let (mut lab, runners) = lab(LabPlan::new(1000).disk(600), 3);
    for round in 0..8u32 {
        for vm in 1..=3 {
            let own = vm * 100 + round;
            let again = (0..60).map(move |n| Errand::Fill(END + n, u64::from(own * 1000 + n)));
            runners[vm as usize].run(&mut lab, vm, again);
            lab.park_fully(vm, TIERS[(round + vm) as usize % 2]);
        }
        for vm in 1..=3 {
            let own = vm * 100 + round;
            let part = (0..60).step_by(1 + vm as usize);
            let expect = part.map(move |n| Errand::Expect(END + n, u64::from(own * 1000 + n)));
            runners[vm as usize].run(&mut lab, vm, expect);
        }
    }
}

#[test]
fn a_head_that_cannot_be_read_ends_its_vm_and_no_other() {
    let (mut lab, runners) = lab(LabPlan::new(2000).disk(1000), 3);
    let mut blocks = Vec::new();
    for vm in 1..=3 {
        runners[vm as usize].run(&mut lab, vm, fill(vm, 10));
        let before = lab.outside().disk.written();
        lab.park_fully(vm, Tier::Disk);
        let after = lab.outside().disk.written();
        blocks.push(after.into_iter().filter(|block| !before.contains(block)).collect::<Vec<_>>());
    }
    lab.outside_mut().disk.faults.unreadable.extend(&blocks[0]);
    lab.outside_mut().disk.corrupt(blocks[1][0], 123);
    for vm in [1, 2] {
        lab.frame_to(vm, 60, 1);
    }
    let cause = lab.report(1).cause;
    assert!(
        matches!(cause, Cause::PageLost { block, error: SwapError::Read } if blocks[0].contains(&block)),
        "{cause}"
    );
    let cause = lab.report(2).cause;
    assert!(matches!(cause, Cause::PageLost { error: SwapError::Checksum, .. }), "{cause}");
    lab.outside_mut().disk.faults.unreadable.clear();
    runners[3].run(&mut lab, 3, expect(3, 10));
    assert!(lab.status().swap_errors >= 2);
    let failed = lab.desk().events.iter().any(|e| matches!(e, Event::SwapFailed { is_write: false, .. }));
    assert!(failed, "the supervisor is told");
    for vm in 1..=3 {
        lab.destroy(vm);
    }
    lab.turns(100);
    assert_eq!(lab.status().swap_used_blocks, 0);
}

#[test]
fn a_write_that_was_lost_or_torn_is_noticed() {
    for is_torn in [false, true] {
        let (mut lab, runners) = lab(LabPlan::new(2000).disk(1000), 2);
        let set = |lab: &Lab, probability| {
            let mut outside = lab.outside_mut();
            let faults = &mut outside.disk.faults;
            *(if is_torn { &mut faults.torn_writes } else { &mut faults.lost_writes }) = probability;
        };
        runners[1].run(&mut lab, 1, fill(1, 10));
        runners[2].run(&mut lab, 2, fill(2, 10));
        set(&lab, 1.0);
        lab.park_fully(1, Tier::Disk);
        set(&lab, 0.0);
        lab.park_fully(2, Tier::Disk);
        lab.frame_to(1, 60, 1);
        let cause = lab.report(1).cause;
        assert!(matches!(cause, Cause::PageLost { error: SwapError::Checksum, .. }), "torn: {is_torn}: {cause}");
        runners[2].run(&mut lab, 2, expect(2, 10));
    }
}

#[test]
fn older_contents_of_the_same_blocks_are_not_taken_for_the_newer() {
    // The same VM is parked again and again with other contents, and the later writes are lost.
    let (mut lab, runners) = lab(LabPlan::new(2000).cores(1, 0).disk(64), 1);
    for round in 0..10 {
        runners[1].run(&mut lab, 1, fill(round, 10));
        lab.park_fully(1, Tier::Disk);
        runners[1].run(&mut lab, 1, expect(round, 10));
    }
    runners[1].run(&mut lab, 1, fill(77, 10));
    lab.outside_mut().disk.faults.lost_writes = 1.0;
    lab.park_fully(1, Tier::Disk);
    runners[1].ask(expect(77, 10));
    lab.frame_to(1, 60, 1);
    assert!(matches!(lab.report(1).cause, Cause::PageLost { error: SwapError::Checksum, .. }));
}

/// A VM of a hundred pages that was parked on disk, is awake again, and has most of its pages there.
fn half_awake() -> (Lab, Vec<Runner>) {
    let (mut lab, runners) = parked(LabPlan::new(2000).disk(1000), 2, 100, Tier::Disk);
    for vm in [1, 2] {
        runners[vm as usize].run(&mut lab, vm, []);
        assert!(lab.inspect(vm).disk_pages >= 50);
    }
    (lab, runners)
}

#[test]
fn a_cold_page_that_cannot_be_read_ends_its_vm_and_no_other() {
    for is_error in [true, false] {
        let (mut lab, runners) = half_awake();
        let written = lab.outside().disk.written();
        {
            let disk = &mut lab.outside_mut().disk;
            if is_error {
                disk.faults.unreadable.extend(&written);
            } else {
                written.iter().for_each(|&block| disk.corrupt(block, 2000));
            }
        }
        runners[1].ask(expect(1, 100));
        lab.frame_to(1, 60, 1);
        let cause = lab.report(1).cause;
        let error = if is_error { SwapError::Read } else { SwapError::Checksum };
        assert!(matches!(cause, Cause::PageLost { error: e, .. } if e == error), "{cause}");
        lab.turns(50);
        assert_eq!(lab.inspect(2).state, VmState::Idle, "what it has in memory is enough");
        lab.destroy(1);
        lab.destroy(2);
        lab.turns(100);
        assert_eq!(lab.status().swap_used_blocks, 0);
    }
}

#[test]
fn the_kernel_itself_waits_for_pages_that_are_on_disk() {
    let (mut lab, runners) = half_awake();
    lab.outside_mut().disk.faults.delay_ns = 3_000_000..3_000_001;
    // Page 0 of the VM's own is its coldest: the kernel writes into it and prints from it.
    let at = u64::from(END) * 4096;
    let errands = [
        Errand::Call(Instruction::Console, [at + 4096 * 3, 100]),
        Errand::Call(Instruction::Entropy, [at + 4096 - 8, 16]),
        Errand::Expect(END + 2, 1002),
        Errand::Expect(END + 3, 1003),
    ];
    runners[1].run(&mut lab, 1, errands);
    assert_eq!(runners[1].basket().results, [Ok(100), Ok(16)]);
}

#[test]
fn what_cannot_be_written_is_kept_and_written_elsewhere() {
    let (mut lab, runners) = lab(LabPlan::new(2000).disk(1000), 2);
    for vm in [1, 2] {
        runners[vm as usize].run(&mut lab, vm, fill(vm, 10));
    }
    lab.outside_mut().disk.faults.unwritable.extend(0..40);
    lab.park(1, Tier::Disk).unwrap();
    lab.until("a failure to be reported", |lab| {
        lab.desk().events.iter().any(|e| matches!(e, Event::SwapFailed { is_write: true, .. }))
    });
    lab.turns(200);
    runners[1].run(&mut lab, 1, expect(1, 10));
    lab.park_fully(2, Tier::Disk);
    runners[2].run(&mut lab, 2, expect(2, 10));
    assert!(lab.status().swap_errors >= 1);
}

#[test]
fn a_disk_that_takes_no_writes_loses_nothing() {
    let (mut lab, runners) = lab(LabPlan::new(600).disk(1000), 6);
    lab.outside_mut().disk.faults.write_errors = 1.0;
    for vm in 1..=6 {
        runners[vm as usize].run(&mut lab, vm, fill(vm, 40));
        let _ = lab.park(vm, Tier::Disk);
        lab.turns(50);
    }
    for vm in 1..=6 {
        runners[vm as usize].run(&mut lab, vm, expect(vm, 40));
    }
}

#[test]
fn a_swap_disk_that_is_missing_or_too_small_is_named_and_the_machine_runs() {
    for (disk, planned, text) in
        [(0, 1000, "there is no disk"), (10, 10, "swap"), (10, 1000, "swap"), (200, 1000, "1000 blocks were planned")]
    {
        let (mut lab, runners) = lab(LabPlan::new(1000).cores(1, 0).disk(disk).swap(planned), 2);
        assert!(lab.outside().serial.contains(text), "{disk} of {planned} blocks: {}", lab.outside().serial);
        assert_eq!(lab.status().swap_blocks, if disk == 200 { 200 } else { 0 });
        runners[1].run(&mut lab, 1, fill(1, 10));
        let _ = lab.park(1, Tier::Disk);
        lab.turns(100);
        assert!(lab.is_parked(1), "in memory, if not on disk");
        runners[1].run(&mut lab, 1, expect(1, 10));
    }
}

#[test]
fn a_machine_that_was_planned_without_swap_leaves_the_disk_alone() {
    let (mut lab, runners) = lab(LabPlan::new(400).disk(1000).swap(0), 4);
    for vm in 1..=4 {
        runners[vm as usize].run(&mut lab, vm, fill(vm, 40));
        let _ = lab.park(vm, Tier::Disk);
        lab.turns(50);
    }
    assert!(lab.outside().disk.written().is_empty());
    assert!(!lab.outside().serial.contains("swap"), "{}", lab.outside().serial);
}
