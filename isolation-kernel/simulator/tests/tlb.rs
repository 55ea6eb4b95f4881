//! Address spaces that a VM makes: what a context sees, and how it comes back.

use simulator::bundle::{DATA, TEXT, fill_of};
use simulator::errands::noise;
use simulator::script::*;
use simulator::{Cpu, Fault, LabPlan, Op};
use std::cell::Cell;
use std::rc::Rc;
use virtual_isa::context::{Context, Exit, FLAGS};
use virtual_isa::control::{self, Pending};
use virtual_isa::exception::{Access, Exception};
use virtual_isa::gate::{Operation, Tier, VmState};
use virtual_isa::instruction::{Instruction, InstructionError as E, NO_DEADLINE};
use virtual_isa::limits::{MAX_TLB_WRITE, TLB_ENTRIES};
use virtual_isa::tlb::{Key, Right, Rights, VIRTUAL_PAGES};

#[test]
fn a_context_sees_what_was_loaded_and_comes_back_with_its_system_call() {
    let token = Context { rbx: 0x1234, r12: 0x5678, rdi: 9, rsp: 0x7777, ..Context::at(CODE, 0) };
    let own = vec![
        write(PAGE, 0x11),
        load(&[entry(1, AT, PAGE, RW), entry(1, AT + 1, PAGE + 1, RW), entry(1, 1, TEXT, RX)]),
        answers(Ok(0)),
        step(|cpu| {
            cpu.registers().rbx = 0xaaaa;
            cpu.registers().rbp = 0xbbbb;
            Ok(Op::Compute)
        }),
        enter_at(1, Right::User, NO_DEADLINE, token),
        comes_back(Exit::Instruction),
        step(move |cpu| {
            let (context, _) = cpu.exit()?;
            assert_eq!((context.rax, context.rbx, context.r12, context.rdi), (77, 0x4321, 0x5678, 9));
            assert_eq!((context.rsp, context.rip, context.rflags), (0x7777, CODE + 2, FLAGS));
            assert_eq!((cpu.registers().rbx, cpu.registers().rbp), (0xaaaa, 0xbbbb));
            Ok(Op::Compute)
        }),
        holds(PAGE, 0x22),
        holds(PAGE + 1, 0x33),
        // What the own context writes, the other sees: also where it is the first to write.
        write(PAGE, 0x44),
        enter_again(1),
        comes_back(Exit::Instruction),
    ];
    let contexts = vec![
        holds(AT, 0x11),
        holds(AT + 1, 0),
        holds(1, fill_of(TEXT)),
        step(|cpu| cpu.fetch(4096 + 5).map(|()| Op::Compute)),
        write(AT, 0x22),
        write(AT + 1, 0x33),
        step(|cpu| {
            cpu.registers().rbx = 0x4321;
            Ok(Op::Compute)
        }),
        leave(),
        holds(AT, 0x44),
        leave(),
    ];
    run(own, contexts);
}

#[test]
fn what_no_entry_maps_is_a_miss_and_what_none_allows_is_protection() {
    use Access::{Execute, Read, Write};
    let cases = [
        // Nothing of the VM's own is there.
        (0, Read, miss(0, Read)),
        (0x10, Read, miss(0x10, Read)),
        (0x11, Write, miss(0x11, Write)),
        (TEXT, Execute, miss(TEXT, Execute)),
        (PAGE, Read, miss(PAGE, Read)),
        // Another space's, beyond all spaces.
        (AT + 9, Read, miss(AT + 9, Read)),
        (u32::MAX, Write, miss(u32::MAX, Write)),
        // Only read, only executed, not for execution, not for user right.
        (AT, Write, protection(AT, Write)),
        (AT, Execute, protection(AT, Execute)),
        (AT + 1, Execute, protection(AT + 1, Execute)),
        (AT + 2, Write, protection(AT + 2, Write)),
        (AT + 3, Read, protection(AT + 3, Read)),
        (AT + 3, Write, protection(AT + 3, Write)),
    ];
    for (page, access, exit) in cases {
        let own = vec![
            load(&[
                entry(1, AT, PAGE, R),
                entry(1, AT + 1, PAGE, RW),
                entry(1, AT + 2, PAGE, RX),
                entry(1, AT + 3, PAGE, RW.difference(Rights::USER)),
                entry(2, AT + 9, PAGE, RW),
            ]),
            answers(Ok(0)),
            enter(1),
            comes_back(exit),
            holds(PAGE, 0),
        ];
        run(own, vec![cannot(page, access)]);
    }
}

#[test]
fn addresses_beyond_every_space_miss() {
    for at in [1 << 44, (1 << 47) - 4096, 0xffff_8000_0000_0000, u64::MAX] {
        let own = vec![enter(1), comes_back(Exit::Miss { address: at, access: Access::Read })];
        run(own, vec![step(move |cpu| cpu.read(at, &mut [0]).map(|()| panic!("{at:#x} can be read")))]);
    }
}

#[test]
fn a_miss_is_restarted_once_the_entry_is_there() {
    let own = vec![
        enter(7),
        comes_back(Exit::Miss { address: address(AT), access: Access::Write }),
        load(&[entry(7, AT, PAGE, RW)]),
        enter_again(7),
        comes_back(Exit::Instruction),
        holds(PAGE, 0x66),
    ];
    run(own, vec![write(AT, 0x66), leave()]);
}

#[test]
fn kernel_right_sees_all_of_its_space_and_performs_virtual_instructions() {
    let own = vec![
        load(&[entry(1, AT, PAGE, RW.difference(Rights::USER)), entry(1, AT + 1, PAGE, R)]),
        enter_at(1, Right::Kernel, NO_DEADLINE, Context::at(CODE, 0)),
        // At user right the same space has less, and its tables are others.
        comes_back(Exit::Miss { address: address(1), access: Access::Read }),
        enter(1),
        comes_back(Exit::Protection { address: address(AT), access: Access::Read }),
        holds(PAGE, 0x77),
    ];
    let contexts = vec![
        write(AT, 0x77),
        holds(AT + 1, 0x77),
        call(Instruction::Notify, [0, 0, 0]),
        answers(Ok(0)),
        call(Instruction::Console, [0, 1, 0]),
        answers(Err(E::BadAddress)),
        call(Instruction::TlbInvalidate, [2, VIRTUAL_PAGES, 0]),
        answers(Ok(0)),
        call(Instruction::EnterContext, [1, 0, NO_DEADLINE]),
        answers(Err(E::NotPermitted)),
        // The page of the own context that this missed on is none of this space's. It ends in the step after.
        step({
            let mut is_again = false;
            move |cpu| {
                if std::mem::replace(&mut is_again, true) {
                    return Ok(Op::Compute);
                }
                cpu.read(address(1), &mut [0]).map(|()| Op::Compute)
            }
        }),
        holds(AT, 0x77),
    ];
    run(own, contexts);
}

#[test]
fn exceptions_of_a_context_come_back_to_the_vm() {
    for (vector, exception) in [
        (0, Exception::Divide),
        (1, Exception::Debug),
        (3, Exception::Breakpoint),
        (6, Exception::IllegalInstruction),
        (13, Exception::GeneralProtection),
        (17, Exception::AlignmentCheck),
        (19, Exception::Simd),
        // None of a guest's: the nearest that is.
        (21, Exception::GeneralProtection),
    ] {
        let own = vec![enter(1), comes_back(Exit::Exception { exception, code: 0 })];
        run(own, vec![step(move |_| Ok(Op::Raise(vector)))]);
    }
}

#[test]
fn a_fault_that_mapping_does_not_mend_is_protection() {
    let own = vec![
        load(&[entry(1, AT, PAGE, R)]),
        enter(1),
        comes_back(Exit::Protection { address: address(AT), access: Access::Read }),
    ];
    let fault = Fault(hal::Exit::PageFault { address: address(AT), access: hal::Access::Read });
    run(own, vec![step(move |_| Err(fault))]);
}

#[test]
fn a_deadline_ends_a_context_and_sets_the_timer_bit() {
    let own = vec![
        step(|cpu| {
            cpu.set_context(Context::at(CODE, 0))?;
            Ok(Op::call(Instruction::EnterContext, &[1, 0, cpu.now() + 1_000_000]))
        }),
        comes_back(Exit::Interrupt),
        step(|cpu| {
            assert_eq!(cpu.control(control::PENDING)?, Pending::TIMER.bits());
            assert!(cpu.exit()?.0.rax >= 500, "it ran");
            cpu.set_control(control::PENDING, 0)?;
            Ok(Op::Compute)
        }),
        // One that is past: nothing runs.
        step(|cpu| {
            cpu.set_context(Context { rcx: 5, ..Context::at(CODE + 0x1000, 0) })?;
            Ok(Op::call(Instruction::EnterContext, &[1, 0, 1]))
        }),
        comes_back(Exit::Interrupt),
        step(|cpu| {
            let context = Context { rcx: 5, r15: cpu.registers().r15, ..Context::at(CODE + 0x1000, 0) };
            assert_eq!(cpu.exit()?.0, context);
            Ok(Op::Compute)
        }),
    ];
    let spin = (0..20_000).map(|_| {
        step(|cpu| {
            cpu.registers().rax += 1;
            Ok(Op::Compute)
        })
    });
    run(own, spin.collect());
}

#[test]
fn what_is_pending_and_enabled_ends_a_context_and_what_is_not_enabled_does_not() {
    let is_here = Rc::new(Cell::new(false));
    let flag = Rc::clone(&is_here);
    let own = vec![
        step(|cpu| {
            cpu.set_control(control::PENDING, Pending::TRANSMIT.bits())?;
            cpu.set_control(control::ENABLED, Pending::RECEIVE.bits())?;
            Ok(Op::Compute)
        }),
        enter(1),
        comes_back(Exit::Interrupt),
        step(|cpu| {
            assert_eq!(cpu.control(control::PENDING)?, (Pending::RECEIVE | Pending::TRANSMIT).bits());
            Ok(Op::Compute)
        }),
        // Still pending: at once.
        enter(1),
        comes_back(Exit::Interrupt),
    ];
    let spin = (0..20_000).map(move |n| {
        let flag = Rc::clone(&flag);
        step(move |_| {
            flag.set(n > 100);
            Ok(Op::Compute)
        })
    });
    let (mut lab, is_done) = start(LabPlan::new(1024), own, spin.collect());
    lab.until("the context to run", |_| is_here.get());
    lab.frame_to(1, 60, 1);
    finish(&mut lab, &is_done);
}

#[test]
fn a_page_that_is_discarded_is_new_in_every_space() {
    let own = vec![
        write(DATA, 0x55),
        write(PAGE, 0x55),
        load(&[entry(1, AT, DATA, RW), entry(1, AT + 1, PAGE, RW), entry(2, AT, PAGE, R)]),
        enter(1),
        comes_back(Exit::Instruction),
        enter(2),
        comes_back(Exit::Instruction),
        call(Instruction::Discard, [address(DATA), 4096, 0]),
        answers(Ok(0)),
        call(Instruction::Discard, [address(PAGE), 4096, 0]),
        enter(1),
        comes_back(Exit::Instruction),
        enter(2),
        comes_back(Exit::Instruction),
        holds(PAGE, 0x99),
    ];
    let contexts = vec![
        holds(AT, 0x55),
        holds(AT + 1, 0x55),
        leave(),
        holds(AT, 0x55),
        leave(),
        holds(AT, fill_of(DATA)),
        holds(AT + 1, 0),
        write(AT + 1, 0x99),
        leave(),
        holds(AT, 0x99),
        leave(),
    ];
    run(own, contexts);
}

#[test]
fn dropped_entries_are_gone_in_both_rights_and_others_stay() {
    let kernel = |asid| enter_at(asid, Right::Kernel, NO_DEADLINE, Context::at(CODE, 0));
    for (key, pages, gone) in [
        (address(AT) + 1, 1, [true, false, false, false]),
        (address(AT) + 1, 2, [true, true, false, false]),
        (address(AT) + 1, 200, [true, true, true, false]),
        (1, VIRTUAL_PAGES, [true, true, true, false]),
        (0, VIRTUAL_PAGES, [true, true, true, true]),
        (address(AT), 1, [true, false, false, true]),
    ] {
        let entries =
            [entry(1, AT, PAGE, R), entry(1, AT + 1, PAGE, R), entry(1, AT + 100, PAGE, R), entry(2, AT, PAGE, R)];
        for (at, &is_gone) in gone.iter().enumerate() {
            let Key { asid, page } = entries[at].key;
            let leaves = || step(|cpu| cpu.read(1, &mut [0]).map(|()| Op::Compute));
            let miss = |page: u32, byte: u64| Exit::Miss { address: address(page) + byte, access: Access::Read };
            let mut own = vec![load(&entries)];
            own.extend([enter(asid), comes_back(Exit::Instruction), kernel(asid), comes_back(miss(0, 1))]);
            own.extend([call(Instruction::TlbInvalidate, [key, pages, 0]), answers(Ok(0)), enter(asid)]);
            own.push(comes_back(if is_gone { miss(page, 0) } else { Exit::Instruction }));
            let mut contexts = vec![holds(page, 0), leave(), holds(page, 0)];
            contexts.push(step({
                let mut calls = 0;
                move |cpu| {
                    calls += 1;
                    if calls == 1 { leaves()(cpu) } else { Ok(Op::Compute) }
                }
            }));
            contexts.push(step(move |cpu| cpu.read(address(page), &mut [0; 1]).map(|()| Op::RawCall(1))));
            run(own, contexts);
        }
    }
}

#[test]
fn a_tlb_that_is_full_forgets_and_never_lies() {
    // Twice as many entries as there is room for: of the last, all are there; of the first, at most as many as fit.
    let (capacity, batch) = (u32::try_from(TLB_ENTRIES).expect("few"), u32::try_from(MAX_TLB_WRITE).expect("few"));
    let count = 2 * capacity;
    let mut own = vec![write(PAGE, 0x31)];
    for first in (0..count).step_by(MAX_TLB_WRITE) {
        own.push(load(&(first..first + batch).map(|n| entry(3, 1 + n, PAGE, R)).collect::<Vec<_>>()));
    }
    let seen = Rc::new(Cell::new((0u32, 0u32)));
    let (hits, misses) = (Rc::clone(&seen), Rc::clone(&seen));
    own.push(enter(3));
    for _ in 0..count {
        let misses = Rc::clone(&misses);
        own.push(step(move |cpu| {
            let (context, exit) = cpu.exit()?;
            if exit == Exit::Instruction {
                return Ok(Op::Compute);
            }
            misses.set((misses.get().0, misses.get().1 + 1));
            cpu.set_context(Context { rbx: context.rbx + 1, ..context })?;
            Ok(Op::call(Instruction::EnterContext, &[3, 0, NO_DEADLINE]))
        }));
    }
    let scan = (0..4 * count).map(|_| {
        let hits = Rc::clone(&hits);
        step(move |cpu| {
            let n = cpu.registers().rbx;
            if n == u64::from(count) {
                return Ok(Op::RawCall(1));
            }
            let mut byte = [0];
            cpu.read((1 + n) * 4096, &mut byte)?;
            assert_eq!(byte, [0x31]);
            hits.set((hits.get().0 + 1, hits.get().1));
            cpu.registers().rbx += 1;
            Ok(Op::Compute)
        })
    });
    let (mut lab, is_done) = start(LabPlan::new(2048), own, scan.collect());
    finish(&mut lab, &is_done);
    let (hits, misses) = seen.get();
    assert_eq!((hits, misses), (capacity, capacity));
}

#[test]
fn a_vm_that_is_paused_and_parked_in_a_context_goes_on_in_it() {
    let is_here = Rc::new(Cell::new(0u32));
    let count = Rc::clone(&is_here);
    let own = vec![
        write(PAGE, 0x21),
        load(&[entry(9, AT, PAGE, RW)]),
        step(|cpu| {
            cpu.registers().rbx = 0xabcd;
            Ok(Op::Compute)
        }),
        enter_at(9, Right::User, NO_DEADLINE, Context { r12: 0x1212, ..Context::at(CODE, 0x9999) }),
        // Its TLB is empty then: a miss, which is loaded again.
        comes_back(Exit::Miss { address: address(AT), access: Access::Read }),
        step(|cpu| {
            let (context, _) = cpu.exit()?;
            assert_eq!((context.r12, context.rsp, cpu.registers().rbx), (0x1212, 0x9999, 0xabcd));
            Ok(Op::Compute)
        }),
        load(&[entry(9, AT, PAGE, RW)]),
        enter_again(9),
        comes_back(Exit::Instruction),
    ];
    let mut contexts = vec![write(AT, 0x42)];
    contexts.push(step(|_| Ok(Op::Compute)));
    let spin = move |_: &mut Cpu<'_>| {
        count.set(count.get() + 1);
        Ok(Op::Compute)
    };
    contexts.extend((0..40_000).map(|_| step(spin.clone())));
    contexts.extend([holds(AT, 0x42), leave()]);
    let (mut lab, is_done) = start(LabPlan::new(1024).disk(1000), own, contexts);
    lab.start(2);
    lab.until("the context to run", |_| is_here.get() > 10);
    lab.ask(Operation::Pause { vm: 1 }).expect("it can be paused");
    lab.until_state(1, VmState::Paused);
    assert!(is_here.get() < 40_000, "it has not gone on");
    lab.park(1, Tier::Disk).expect("it can be parked");
    lab.until("it to be parked", |lab| lab.status().parked_on_disk == 1);
    lab.ask(Operation::Start { vm: 1 }).expect("it can be started");
    finish(&mut lab, &is_done);
}

#[test]
fn a_list_that_is_on_disk_is_waited_for() {
    let sleep = || {
        step(|cpu| {
            cpu.set_control(control::ENABLED, Pending::RECEIVE.bits())?;
            cpu.set_control(control::PENDING, 0)?;
            Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
        })
    };
    let rights = entry(1, AT, PAGE, RW);
    let fill = |n: u32| step(move |cpu| cpu.write(address(PAGE + n), &noise(n.into())).map(|()| Op::Compute));
    let mut own: Vec<Step> = (2..8).map(fill).collect();
    own.push(step(move |cpu| cpu.write(LIST, &rights.to_bytes()).map(|()| Op::Compute)));
    // What it has not used since it woke last goes to disk alone when it is parked again.
    own.extend([sleep(), sleep()]);
    own.extend([call(Instruction::TlbWrite, [LIST, 1, 0]), answers(Ok(0))]);
    // The frame that woke it ends no context.
    own.push(step(|cpu| cpu.set_control(control::ENABLED, 0).map(|()| Op::Compute)));
    own.extend([enter(1), comes_back(Exit::Instruction)]);
    let (mut lab, is_done) = start(LabPlan::new(1024).disk(1000), own, vec![write(AT, 0x61), leave()]);
    for _ in 0..2 {
        lab.until_state(1, VmState::Idle);
        lab.park_fully(1, Tier::Disk);
        lab.frame_to(1, 60, 1);
    }
    finish(&mut lab, &is_done);
    assert!(lab.inspect(1).counters.faults_disk > 0, "the list was not on disk");
}
