//! Templates and clones, and giving memory back: a test for each promise.

use simulator::bundle::{CONSTANTS, DATA, END, fill_of};
use simulator::errands::{Errand, Runner, noise};
use simulator::{Cpu, Fault, Lab, LabPlan, Op};
use virtual_isa::exception::Cause;
use virtual_isa::gate::{Operation, Tier, VmState};
use virtual_isa::instruction::{Instruction, InstructionError};

/// Pages that the templates here write before `ready()`.
const WRITTEN: [u32; 3] = [DATA, END + 3, END + 40];

fn at(page: u32) -> u64 {
    u64::from(page) * 4096
}

fn prologue(cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
    for page in WRITTEN {
        cpu.write(at(page), &noise(u64::from(page)))?;
    }
    Ok(Op::call(Instruction::Ready, &[]))
}

fn as_written() -> impl Iterator<Item = Errand> {
    WRITTEN.into_iter().map(|page| Errand::Expect(page, u64::from(page)))
}

/// A machine with VMs 1 and up that run errands.
fn lab(plan: LabPlan, nr_vms: u32) -> (Lab, Vec<Runner>) {
    let runners: Vec<Runner> = (0..20).map(|_| Runner::default()).collect();
    let theirs = runners.clone();
    let mut lab = plan.boot(move |vm| theirs[vm as usize].program());
    for vm in 1..=nr_vms {
        lab.start(vm);
    }
    lab.turns(20);
    (lab, runners)
}

fn discard(first: u32, pages: u32) -> Errand {
    Errand::Call(Instruction::Discard, [at(first), at(pages)])
}

#[test]
fn a_clone_starts_from_the_template_with_nothing_private() {
    let (mut lab, runners) = lab(LabPlan::new(1000).template(prologue), 3);
    let status = lab.inspect(1);
    assert!(status.template_pages >= 3, "{status:?}");
    assert!(status.private_pages <= 5, "{status:?}");
    assert!(lab.status().template_pages >= 3);
    for vm in 1..=3 {
        runners[vm as usize].run(&mut lab, vm, as_written());
        // What the image has is there as well, and the rest is zero.
        let rest = [Errand::ExpectByte(CONSTANTS, fill_of(CONSTANTS)), Errand::ExpectByte(END + 41, 0)];
        runners[vm as usize].run(&mut lab, vm, rest);
    }
    assert!(lab.inspect(1).private_pages <= 5, "reading makes nothing private");
}

#[test]
fn clones_never_share_what_they_write() {
    let (mut lab, runners) = lab(LabPlan::new(1000).template(prologue), 2);
    let pages = WRITTEN.into_iter().chain([DATA + 1, END + 100]);
    for vm in [1, 2] {
        let fill = pages.clone().map(|page| Errand::Fill(page, u64::from(vm * 1000 + page)));
        runners[vm as usize].run(&mut lab, vm, fill);
    }
    for vm in [1, 2] {
        let expect = pages.clone().map(|page| Errand::Expect(page, u64::from(vm * 1000 + page)));
        runners[vm as usize].run(&mut lab, vm, expect);
    }
    let counters = lab.inspect(1).counters;
    assert_eq!(counters.faults_copied, 3, "one for each page of the template");
    lab.start(3);
    runners[3].run(&mut lab, 3, as_written());
}

#[test]
fn clones_draw_different_random_bytes() {
    let (mut lab, runners) = lab(LabPlan::new(1000).template(prologue), 8);
    let mut drawn = Vec::new();
    for vm in 1..=8 {
        let draw = [Errand::Call(Instruction::Entropy, [at(DATA), 32]), Errand::Read(DATA, 32)];
        runners[vm as usize].run(&mut lab, vm, draw);
        drawn.push(runners[vm as usize].basket().read[0].clone());
    }
    drawn.sort();
    drawn.dedup();
    assert_eq!(drawn.len(), 8, "{drawn:?}");
}

#[test]
fn every_clone_has_a_generation_and_a_name_of_its_own() {
    let (mut lab, runners) = lab(LabPlan::new(1000).template(prologue), 3);
    let mut names = Vec::new();
    for vm in 1..=3 {
        let page = u32::try_from(virtual_isa::layout::REGISTER_PAGE / 4096).unwrap();
        runners[vm as usize].run(&mut lab, vm, [Errand::Read(page, 24)]);
        let read = runners[vm as usize].basket().read[0].clone();
        assert_eq!(read[12..16], vm.to_le_bytes());
        assert_eq!(read[16..24], lab.inspect(vm).generation.to_le_bytes());
        names.push(read);
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3);
}

#[test]
fn a_second_ready_changes_nothing() {
    let (mut lab, runners) = lab(LabPlan::new(1000).template(prologue), 1);
    let twice = [
        Errand::Fill(DATA, 7),
        Errand::Call(Instruction::Ready, [0, 0]),
        Errand::Call(Instruction::Ready, [0, 0]),
        Errand::Expect(DATA, 7),
        Errand::Expect(END + 3, u64::from(END + 3)),
    ];
    runners[1].run(&mut lab, 1, twice);
    let results = runners[1].basket().results.clone();
    assert!(results.iter().all(|r| matches!(r, Ok(0) | Err(InstructionError::Busy))), "{results:?}");
    lab.start(2);
    runners[2].run(&mut lab, 2, as_written());
}

#[test]
fn an_image_that_never_calls_ready_boots_plainly_with_one_warning() {
    let (mut lab, runners) = lab(LabPlan::new(1000).no_template(), 3);
    for vm in 1..=3 {
        runners[vm as usize].run(&mut lab, vm, [Errand::ExpectByte(DATA, fill_of(DATA)), Errand::Fill(DATA, 1)]);
    }
    assert_eq!(lab.outside().serial.matches("ready()").count(), 1, "{}", lab.outside().serial);
}

#[test]
fn an_image_that_computes_for_ever_before_ready_boots_plainly() {
    let (mut lab, _) = lab(LabPlan::new(1000).template(|_| Ok(Op::Compute)), 2);
    assert_eq!(lab.outside().serial.matches("ready()").count(), 1);
    assert_eq!(lab.inspect(2).state, VmState::Runnable);
}

#[test]
fn an_image_that_dies_before_ready_dies_in_each_of_its_vms() {
    let (mut lab, _) = lab(LabPlan::new(1000).template(|cpu| cpu.write(0, &[1]).map(|()| Op::Compute)), 0);
    for vm in 1..=2 {
        lab.start(vm);
        assert!(matches!(lab.report(vm).cause, Cause::Memory { address: 0, .. }));
    }
    assert!(lab.outside().serial.matches("ready()").count() <= 1);
}

#[test]
fn memory_sizes_have_templates_of_their_own() {
    let (mut lab, runners) = lab(LabPlan::new(1000).template(prologue), 1);
    let image = lab.image();
    let create = |vm, memory_pages| Operation::Create {
        vm,
        image,
        memory_pages,
        minimum_pages: 0,
        shares: 1,
        class: 0,
        arguments: "",
    };
    for (vm, pages) in [(2, 300), (3, 300), (4, 2000)] {
        lab.ask(create(vm, pages)).unwrap();
        lab.ask(Operation::Start { vm }).unwrap();
        runners[vm as usize].run(&mut lab, vm, as_written().chain([Errand::ExpectByte(pages - 1, 0)]));
        assert_eq!(lab.inspect(vm).memory_pages, pages);
    }
}

#[test]
fn a_discard_half_outside_memory_changes_nothing() {
    let (mut lab, runners) = lab(LabPlan::new(1000).memory(300), 1);
    let fill = (290..300).map(|page| Errand::Fill(page, u64::from(page)));
    runners[1].run(&mut lab, 1, fill);
    let before = lab.inspect(1);
    let bad = [discard(290, 11), discard(299, 100_000), discard(290, u32::MAX), discard(0xf, 3), discard(0, 2)];
    let bad_count = bad.len();
    let expect = (290..300).map(|page| Errand::Expect(page, u64::from(page)));
    runners[1].run(&mut lab, 1, bad.into_iter().chain(expect));
    assert_eq!(runners[1].basket().results, vec![Err(InstructionError::BadAddress); bad_count]);
    assert_eq!(lab.inspect(1).private_pages, before.private_pages);
    let expect = (290..300).map(|page| Errand::ExpectByte(page, 0));
    runners[1].run(&mut lab, 1, [discard(290, 10)].into_iter().chain(expect));
    assert_eq!(*runners[1].basket().results.last().unwrap(), Ok(0));
    assert_eq!(lab.inspect(1).private_pages, before.private_pages - 10);
}

#[test]
fn a_discarded_page_is_as_the_image_has_it_whatever_the_template_wrote() {
    let (mut lab, runners) = lab(LabPlan::new(1000).template(prologue), 2);
    let errands = [
        discard(END + 3, 1),
        Errand::ExpectByte(END + 3, 0),
        Errand::Fill(END + 40, 5),
        discard(END + 40, 1),
        Errand::ExpectByte(END + 40, 0),
        discard(DATA, 2),
        Errand::ExpectByte(DATA, fill_of(DATA)),
        Errand::ExpectByte(DATA + 1, 0),
    ];
    runners[1].run(&mut lab, 1, errands);
    runners[2].run(&mut lab, 2, as_written());
}

#[test]
fn discarding_pages_that_are_on_disk_frees_their_blocks() {
    let (mut lab, runners) = lab(LabPlan::new(2000).disk(1000).template(prologue), 1);
    let pages = 300..400;
    runners[1].run(&mut lab, 1, pages.clone().map(|page| Errand::Fill(page, u64::from(page))));
    lab.park_fully(1, Tier::Disk);
    assert!(lab.status().swap_used_blocks >= 100);
    runners[1].run(&mut lab, 1, []);
    let status = lab.inspect(1);
    assert!(status.disk_pages >= 50, "most of them are still there: {status:?}");
    let used = lab.status().swap_used_blocks;
    assert!(used >= u64::from(status.disk_pages));
    let expect = pages.clone().map(|page| Errand::ExpectByte(page, 0));
    runners[1].run(&mut lab, 1, [discard(300, 100)].into_iter().chain(expect));
    lab.turns(50);
    let status = lab.inspect(1);
    assert_eq!((status.disk_pages, status.packed_pages), (0, 0));
    assert_eq!(lab.status().swap_used_blocks, 0);
    lab.destroy(1);
}

#[test]
fn the_accounts_say_what_a_vm_has() {
    let (mut lab, runners) = lab(LabPlan::new(2000).template(prologue), 1);
    let before = lab.inspect(1);
    let kernel = lab.status();
    let new = (500..520).map(|page| Errand::Fill(page, 1));
    runners[1].run(&mut lab, 1, new.chain([Errand::Fill(END + 3, 1), Errand::FillByte(END + 4, 9)]));
    let after = lab.inspect(1);
    assert_eq!(after.private_pages - before.private_pages, 22);
    assert_eq!(after.counters.faults_zero - before.counters.faults_zero, 21);
    assert_eq!(after.counters.faults_copied - before.counters.faults_copied, 1);
    assert_eq!(after.template_pages, before.template_pages - 1);
    let now = lab.status();
    assert_eq!(now.private_pages - kernel.private_pages, 22);
    let tables = u64::from(after.table_pages - before.table_pages);
    assert_eq!(now.table_pages - kernel.table_pages, tables);
    assert_eq!(now.table_pages, lab.machine().pages_in_tables() as u64);
    assert_eq!(kernel.free_pages - now.free_pages, 22 + tables);
}

#[test]
fn an_idle_vm_needs_nothing_to_be_inspected() {
    let (mut lab, _) = lab(LabPlan::new(1000).template(prologue), 1);
    let before = lab.inspect(1).counters.dispatches;
    for _ in 0..20 {
        assert_eq!(lab.inspect(1).state, VmState::Idle);
    }
    assert_eq!(lab.inspect(1).counters.dispatches, before);
}

#[test]
fn page_tables_are_shared_until_something_is_changed_under_them() {
    /// In a table of its own: 512 pages are in one.
    const FAR: u32 = 700;
    let prologue = |cpu: &mut Cpu<'_>| {
        cpu.write(at(FAR), &noise(u64::from(FAR)))?;
        Ok(Op::call(Instruction::Ready, &[]))
    };
    let (mut lab, runners) = lab(LabPlan::new(1000).template(prologue), 2);
    for vm in [1, 2] {
        let before = lab.inspect(vm).table_pages;
        runners[vm as usize].run(&mut lab, vm, [Errand::Expect(FAR, u64::from(FAR))]);
        assert_eq!(lab.inspect(vm).table_pages, before, "what VM {vm} only reads takes no table");
    }
    let before = lab.inspect(1).table_pages;
    let change = [Errand::Fill(FAR + 1, 1), Errand::Expect(FAR, u64::from(FAR)), Errand::Expect(FAR + 1, 1)];
    runners[1].run(&mut lab, 1, change);
    assert_eq!(lab.inspect(1).table_pages, before + 1);
    let others = [Errand::Expect(FAR, u64::from(FAR)), Errand::ExpectByte(FAR + 1, 0)];
    runners[2].run(&mut lab, 2, others);
    // A page that was given back is not the template's, though its table is shared.
    runners[2].run(&mut lab, 2, [discard(FAR, 1), Errand::ExpectByte(FAR, 0)]);
    runners[1].run(&mut lab, 1, [Errand::Expect(FAR, u64::from(FAR))]);
}

#[test]
fn an_image_that_looks_who_it_is_before_ready_has_no_template() {
    let prologue = |cpu: &mut Cpu<'_>| {
        cpu.read(virtual_isa::layout::REGISTER_PAGE, &mut [0; 8])?;
        Ok(Op::call(Instruction::Ready, &[]))
    };
    let (lab, _) = lab(LabPlan::new(1000).template(prologue), 2);
    let warnings = lab.outside().serial.matches("does not begin with ready()").count();
    assert_eq!(warnings, 1, "{}", lab.outside().serial);
}
