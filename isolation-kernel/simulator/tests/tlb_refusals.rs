//! What the instructions for address spaces refuse, one by one: an error code, and nothing has changed.

use simulator::bundle::{CONSTANTS, END, TEXT};
use simulator::script::*;
use simulator::{Cpu, LabPlan, Op};
use virtual_isa::context::{ADDRESS_LIMIT, Context, Exit, FLAGS};
use virtual_isa::exception::Access;
use virtual_isa::instruction::{Instruction, InstructionError as E, NO_DEADLINE};
use virtual_isa::layout;
use virtual_isa::limits::{MAX_ASIDS, MAX_TLB_WRITE};
use virtual_isa::tlb::{Right, VIRTUAL_PAGES};

#[test]
fn entries_that_cannot_be_are_refused_one_by_one_and_change_nothing() {
    let good = entry(1, AT, PAGE, RW).to_words();
    let [key, target] = good;
    let cases: Vec<([u64; 2], E)> = vec![
        ([key, address(PAGES) | 11], E::BadAddress), // beyond the VM's memory
        ([key, address(u32::MAX) | 9], E::BadAddress),
        ([key, (1 << 44) + 9], E::BadAddress),
        ([key, !0xff6], E::BadAddress),
        ([key, 9], E::BadAddress), // page 0
        ([key, layout::CONTROL_PAGE | 9], E::BadAddress),
        ([key, layout::TRANSMIT_RING | 11], E::BadAddress),
        ([key, layout::RECEIVE_RING + 4096 + 9], E::BadAddress),
        ([key, layout::REQUEST_RING | 9], E::BadAddress),
        ([key, layout::REGISTER_PAGE | 11], E::BadAddress), // to be written
        ([key, layout::REGISTER_PAGE | 13], E::BadAddress), // to be executed
        ([key, address(TEXT) | 11], E::BadAddress),         // text, to be written
        ([key, address(CONSTANTS) | 11], E::BadAddress),
        ([address(AT), target], E::BadArgument), // asid 0
        ([address(AT) + u64::from(MAX_ASIDS) + 1, target], E::BadArgument),
        ([address(AT) + 0xfff, target], E::BadArgument),
        ([1, target], E::BadArgument), // virtual page 0
        ([(1 << 44) + 1, target], E::BadArgument),
        ([ADDRESS_LIMIT + 1, target], E::BadArgument), // not canonical
        ([0xffff_8000_0000_0001, target], E::BadArgument),
        ([key, address(PAGE) | 15], E::BadArgument), // write and execute
        ([key, address(PAGE) | 10], E::BadArgument), // no read
        ([key, address(PAGE)], E::BadArgument),
        ([key, address(PAGE) | 16 | 9], E::BadArgument),
        ([key, address(PAGE) | 0x800 | 9], E::BadArgument),
    ];
    for (bad, error) in cases {
        // Between two that are right: none of the three is loaded, and what was there stays.
        let first = entry(1, AT + 1, PAGE, R).to_words();
        let own = vec![
            load(&[entry(1, AT + 2, PAGE + 1, R)]),
            write(PAGE + 1, 0x12),
            load_words(&[first, bad, good]),
            answers(Err(error)),
            enter(1),
            comes_back(miss(AT, Access::Read)),
        ];
        run(own, vec![holds(AT + 2, 0x12), cannot(AT, Access::Read)]);
        let own = vec![
            load_words(&[first, bad, good]),
            answers(Err(error)),
            enter(1),
            comes_back(miss(AT + 1, Access::Read)),
        ];
        run(own, vec![cannot(AT + 1, Access::Read)]);
    }
}

#[test]
fn lists_that_cannot_be_are_refused() {
    let end = address(PAGES);
    let cases = [
        ([LIST, 0, 0], E::BadArgument),
        ([LIST, MAX_TLB_WRITE as u64 + 1, 0], E::BadArgument),
        ([LIST, u64::MAX, 0], E::BadArgument),
        ([LIST, 1 << 60, 0], E::BadArgument),
        ([0, 1, 0], E::BadAddress),
        ([end, 1, 0], E::BadAddress),
        ([end - 16, 2, 0], E::BadAddress), // spans the end of memory
        ([end - 8, 1, 0], E::BadAddress),
        ([u64::MAX - 7, 1, 0], E::BadAddress),
        ([1 << 44, 1, 0], E::BadAddress),
        ([ADDRESS_LIMIT, 1, 0], E::BadAddress),
        ([0xffff_8000_0000_0000, 64, 0], E::BadAddress),
        ([layout::REQUEST_RING, 1, 0], E::BadAddress),
        ([address(END), 1, 0], E::BadArgument), // zeros
    ];
    let mut own = Vec::new();
    for (arguments, error) in cases {
        own.push(call(Instruction::TlbWrite, arguments));
        own.push(answers(Err(error)));
    }
    run(own, Vec::new());
}

#[test]
fn ranges_that_cannot_be_dropped_are_refused() {
    let cases = [
        ([1, 0, 0], E::BadArgument),
        ([1, VIRTUAL_PAGES + 1, 0], E::BadArgument),
        ([1, u64::MAX, 0], E::BadArgument),
        ([address(1) + 1, VIRTUAL_PAGES, 0], E::BadArgument),
        ([address(u32::MAX) + 1, 2, 0], E::BadArgument),
        ([(1 << 44) + 1, 1, 0], E::BadArgument),
        ([u64::from(MAX_ASIDS) + 1, 1, 0], E::BadArgument),
        ([0xffff_8000_0000_0001, 1, 0], E::BadArgument),
    ];
    let mut own = vec![load(&[entry(1, AT, PAGE, R)])];
    for (arguments, error) in cases {
        own.push(call(Instruction::TlbInvalidate, arguments));
        own.push(answers(Err(error)));
    }
    for key in [u64::from(MAX_ASIDS), address(u32::MAX) + 2, 2] {
        own.push(call(Instruction::TlbInvalidate, [key, 1, 0]));
        own.push(answers(Ok(0)));
    }
    own.extend([enter(1), comes_back(Exit::Instruction)]);
    run(own, vec![holds(AT, 0), leave()]);
}

#[test]
fn contexts_that_cannot_be_are_refused_and_nothing_is_entered() {
    let good = Context::at(CODE, 0);
    let contexts = [
        Context { rip: ADDRESS_LIMIT, ..good },
        Context { rip: 0xffff_8000_0000_0000, ..good },
        Context { rip: u64::MAX, ..good },
        Context { rflags: FLAGS | 0x3000, ..good },    // IOPL
        Context { rflags: FLAGS | 0x4000, ..good },    // NT
        Context { rflags: FLAGS | 0x2_0000, ..good },  // VM
        Context { rflags: FLAGS | 0x18_0000, ..good }, // VIF, VIP
        Context { rflags: FLAGS | 1 << 40, ..good },
        Context { rflags: 2, ..good }, // interrupts off
        Context { rflags: 0, ..good },
    ];
    let mut own = Vec::new();
    for context in contexts {
        own.push(enter_at(1, Right::User, NO_DEADLINE, context));
        own.push(answers(Err(E::BadArgument)));
        own.push(step(move |cpu| {
            let r15 = cpu.registers().r15;
            assert_eq!(cpu.exit()?, (Context { r15, ..context }, Exit::Interrupt), "the control page has changed");
            Ok(Op::Compute)
        }));
    }
    own.push(step(move |cpu| cpu.set_context(good).map(|()| Op::Compute)));
    for arguments in [
        [0, 0, NO_DEADLINE],
        [u64::from(MAX_ASIDS) + 1, 0, NO_DEADLINE],
        [u64::MAX, 0, NO_DEADLINE],
        [1, 2, NO_DEADLINE],
        [1, u64::MAX, NO_DEADLINE],
    ] {
        own.push(call(Instruction::EnterContext, arguments));
        own.push(answers(Err(E::BadArgument)));
    }
    run(own, Vec::new());
}

#[test]
fn before_ready_no_space_can_be_made() {
    // It becomes a plain boot, and finds its TLB empty then.
    let mut lab = LabPlan::new(1024)
        .template(|_| Ok(Op::call(Instruction::TlbInvalidate, &[0, VIRTUAL_PAGES])))
        .boot(|_| Box::new(|_: &mut Cpu<'_>| Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))));
    lab.start(1);
    assert!(lab.outside().serial.contains("does not begin with ready()"), "{}", lab.outside().serial);
}
