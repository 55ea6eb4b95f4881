//! Creating, running, ending and destroying VMs, and what each of the guest's mistakes comes to.

use simulator::bundle::{CONSTANTS, DATA, END, TEXT, fill_of};
use simulator::{Cpu, Fault, Lab, LabPlan, Op};
use virtual_isa::exception::{Access, Cause, Exception, Ring};
use virtual_isa::gate::{Answer, ClassTerms, GateError, Operation, ProcessorTerms, VmState};
use virtual_isa::instruction::{Instruction, InstructionError, NO_DEADLINE};
use virtual_isa::limits::MAX_GROUPS;
use virtual_isa::{control, layout};

fn address(page: u32) -> u64 {
    u64::from(page) * 4096
}

fn idle_for_ever() -> Op {
    Op::call(Instruction::Idle, &[NO_DEADLINE])
}

/// Runs one VM whose only step is `step`, and returns why it ended. A bystander must live on.
fn ends_with(step: impl FnMut(&mut Cpu<'_>) -> Result<Op, Fault> + Clone + 'static) -> Cause {
    ends_on(LabPlan::new(512), step)
}

/// The same on a machine of another plan.
fn ends_on(plan: LabPlan, step: impl FnMut(&mut Cpu<'_>) -> Result<Op, Fault> + Clone + 'static) -> Cause {
    let mut lab = plan.boot(move |vm| match vm {
        1 => Box::new(step.clone()),
        _ => Box::new(|_: &mut Cpu<'_>| Ok(idle_for_ever())),
    });
    lab.start(2);
    lab.start(1);
    let report = lab.report(1);
    assert_eq!(lab.inspect(1).state, VmState::Ended);
    assert_eq!(lab.inspect(2).state, VmState::Idle);
    report.cause
}

#[test]
fn memory_violations_end_the_vm_and_name_the_address() {
    let reads = [0, 0xfff, 1024 * 4096, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, u64::MAX];
    for at in reads {
        let cause = ends_with(move |cpu| cpu.read(at, &mut [0]).map(|()| idle_for_ever()));
        assert_eq!(cause, Cause::Memory { address: at, access: Access::Read });
    }
    for at in [address(TEXT), address(CONSTANTS) + 7, layout::REGISTER_PAGE, 0, layout::REQUEST_RING] {
        let cause = ends_with(move |cpu| cpu.write(at, &[1]).map(|()| idle_for_ever()));
        assert_eq!(cause, Cause::Memory { address: at, access: Access::Write });
    }
    for at in [address(DATA), address(CONSTANTS), layout::STACK_BOTTOM, layout::TRANSMIT_RING, address(END)] {
        let cause = ends_with(move |cpu| cpu.fetch(at).map(|()| idle_for_ever()));
        assert_eq!(cause, Cause::Memory { address: at, access: Access::Execute });
    }
}

#[test]
fn exceptions_end_the_vm_and_are_named() {
    for (vector, exception) in
        [(0, Exception::Divide), (6, Exception::IllegalInstruction), (13, Exception::GeneralProtection)]
    {
        assert_eq!(ends_with(move |_| Ok(Op::Raise(vector))), Cause::Exception(exception));
    }
    let status = ends_with(|_| Ok(Op::call(Instruction::Terminate, &[42])));
    assert_eq!(status, Cause::Terminated { status: 42 });
}

#[test]
fn corrupt_indices_end_the_vm() {
    for head in [4, 4097, 4104, u32::MAX - 7] {
        let cause = ends_with(move |cpu| {
            cpu.set_control(control::TRANSMIT_HEAD, head)?;
            Ok(Op::call(Instruction::Notify, &[1]))
        });
        assert_eq!(cause, Cause::RingCorrupt { ring: Ring::Transmit, head, tail: 0 });
    }
}

#[test]
fn a_fault_that_mapping_does_not_mend_ends_the_vm() {
    // As a processor does that faults on a page which is mapped.
    let at = address(END) + 8;
    let fault = Fault(hal::Exit::PageFault { address: at, access: hal::Access::Read });
    let cause = ends_with(move |_| Err(fault));
    assert_eq!(cause, Cause::Memory { address: at, access: Access::Read });
}

/// Calls an instruction, notes its result in the status with which it terminates.
fn result_of(number: u64, arguments: [u64; 3]) -> Result<u64, InstructionError> {
    let mut called = false;
    let cause = ends_with(move |cpu| {
        if called {
            return Ok(Op::call(Instruction::Terminate, &[cpu.registers().rax]));
        }
        called = true;
        let registers = cpu.registers();
        [registers.rdi, registers.rsi, registers.rdx] = arguments;
        Ok(Op::RawCall(number))
    });
    match cause {
        Cause::Terminated { status } => InstructionError::read(status),
        other => panic!("{other}"),
    }
}

#[test]
fn bad_arguments_are_answered_with_errors_and_change_nothing() {
    use InstructionError as E;
    for number in [0, 12, 16, 17, u64::MAX] {
        assert_eq!(result_of(number, [0; 3]), Err(E::UndefinedInstruction));
    }
    let (entropy, console) = (Instruction::Entropy as u64, Instruction::Console as u64);
    let end = 1024 * 4096;
    for at in [0, 8, end, end - 1, u64::MAX - 1, 0x8000_0000_0000, 0xffff_8000_0000_0000] {
        assert_eq!(result_of(entropy, [at, 16, 0]), Err(E::BadAddress), "entropy at {at:#x}");
        assert_eq!(result_of(console, [at, 16, 0]), Err(E::BadAddress), "console at {at:#x}");
    }
    for at in [layout::REGISTER_PAGE, address(TEXT), address(CONSTANTS) - 8, layout::REQUEST_RING] {
        assert_eq!(result_of(entropy, [at, 16, 0]), Err(E::BadAddress), "entropy at {at:#x}");
    }
    assert_eq!(result_of(entropy, [address(DATA) - 4, 16, 0]), Err(E::BadAddress), "half in constants");
    assert_eq!(result_of(entropy, [address(DATA), 1000, 0]), Ok(256));
    assert_eq!(result_of(console, [address(TEXT), 5000, 0]), Ok(1024));
    assert_eq!(result_of(Instruction::Notify as u64, [4, 0, 0]), Err(E::BadArgument));
    assert_eq!(result_of(Instruction::Gate as u64, [0; 3]), Err(E::NotPermitted));
    assert_eq!(result_of(Instruction::Ready as u64, [0; 3]), Ok(0));
    let discard = Instruction::Discard as u64;
    for (at, length) in [
        (0, 4096),
        (end - 4096, 8192),
        (layout::CONTROL_PAGE, 4096),
        (4096, u64::MAX),
        (layout::STACK_BOTTOM, 0x1_8000),
    ] {
        assert_eq!(result_of(discard, [at, length, 0]), Err(E::BadAddress), "discard {at:#x}+{length:#x}");
    }
    assert_eq!(result_of(discard, [address(END), 900 * 4096, 0]), Ok(0));
}

#[test]
fn ready_is_refused_while_a_ring_holds_something() {
    let mut called = false;
    let cause = ends_on(LabPlan::new(512).no_template(), move |cpu| {
        if called {
            return Ok(Op::call(Instruction::Terminate, &[cpu.registers().rax]));
        }
        cpu.set_control(control::TRANSMIT_HEAD, 8)?;
        called = true;
        Ok(Op::call(Instruction::Ready, &[]))
    });
    assert_eq!(cause, Cause::Terminated { status: InstructionError::Busy.to_word() });
}

#[test]
fn a_vm_sees_its_registers_image_and_zeros() {
    let cause = ends_with(|cpu| {
        let mut word = [0; 8];
        cpu.read(layout::REGISTER_PAGE, &mut word)?;
        assert_eq!(u64::from_le_bytes(word), virtual_isa::register::REGISTER_MAGIC);
        let mut ip = [0; 4];
        cpu.read(layout::REGISTER_PAGE + 84, &mut ip)?;
        assert_eq!(ip, [10, 65, 0, 1]);
        for page in [TEXT, TEXT + 1, CONSTANTS, DATA] {
            let mut bytes = [0; 2];
            cpu.read(address(page) + 4094, &mut bytes)?;
            assert_eq!(bytes, [fill_of(page); 2]);
        }
        cpu.fetch(address(TEXT))?;
        for page in [DATA + 1, DATA + 2, END, 1023, 1] {
            let mut bytes = [1; 4];
            cpu.read(address(page), &mut bytes)?;
            assert_eq!(bytes, [0; 4]);
        }
        cpu.write(address(DATA) + 1, &[9])?;
        cpu.write(address(END), &[9])?;
        let mut bytes = [0; 3];
        cpu.read(address(DATA), &mut bytes)?;
        assert_eq!(bytes, [fill_of(DATA), 9, fill_of(DATA)]);
        Ok(Op::call(Instruction::Terminate, &[0]))
    });
    assert_eq!(cause, Cause::Terminated { status: 0 });
}

#[test]
fn what_one_vm_writes_no_other_sees() {
    let mut lab = Lab::new(512, |vm| {
        Box::new(move |cpu: &mut Cpu<'_>| {
            let mut byte = [0];
            cpu.read(address(DATA), &mut byte)?;
            let mine = u8::try_from(vm).unwrap();
            if byte[0] != mine {
                assert_eq!(byte[0], fill_of(DATA));
                cpu.write(address(DATA), &[mine])?;
            }
            Ok(Op::call(Instruction::Idle, &[0]))
        })
    });
    for vm in 1..5 {
        lab.start(vm);
    }
    lab.turns(500);
    for vm in 1..5 {
        assert_eq!(lab.inspect(vm).state, VmState::Runnable);
    }
}

#[test]
fn the_gate_refuses_what_cannot_be() {
    let mut lab = Lab::new(512, |_| Box::new(|_: &mut Cpu<'_>| Ok(idle_for_ever())));
    let image = lab.image();
    let create = |lab: &mut Lab, vm, image, memory_pages, shares| {
        let minimum_pages = 0;
        lab.ask(Operation::Create { vm, image, memory_pages, minimum_pages, shares, class: 0, arguments: "" })
    };
    assert_eq!(create(&mut lab, 1, image + 1, 1024, 1), Err(GateError::NoSuchImage));
    assert_eq!(create(&mut lab, 1, image, 255, 1), Err(GateError::BadArgument));
    assert_eq!(create(&mut lab, 1, image, u32::MAX, 1), Err(GateError::BadArgument));
    assert_eq!(create(&mut lab, 1, image, 1024, 0), Err(GateError::BadArgument));
    assert_eq!(create(&mut lab, 1 << 20, image, 1024, 1), Err(GateError::BadArgument));
    assert_eq!(create(&mut lab, 0, image, 1024, 1), Err(GateError::VmExists));
    let (memory_pages, minimum_pages) = (1024, 0);
    let classed = Operation::Create { vm: 1, image, memory_pages, minimum_pages, shares: 1, class: 3, arguments: "" };
    assert_eq!(lab.ask(classed), Err(GateError::NoSuchClass));
    let terms = ClassTerms { group: 2, reservation_ppm: 0, limit_ppm: 500_000, frames_per_s: 0, bytes_per_s: 0 };
    assert_eq!(lab.ask(Operation::Class { class: 0, terms }), Err(GateError::BadArgument));
    assert!(lab.ask(Operation::Class { class: 3, terms }).is_ok());
    assert!(lab.ask(classed).is_ok());
    assert_eq!(lab.inspect(1).class, 3);
    assert_eq!(lab.ask(Operation::Class { class: 3, terms }), Err(GateError::BadState));
    assert!(lab.ask(Operation::Destroy { vm: 1 }).is_ok());
    assert!(lab.ask(Operation::Class { class: 3, terms }).is_ok());
    let processor = ProcessorTerms { shares: 0, reservation_ppm: 0, limit_ppm: 0 };
    assert_eq!(lab.ask(Operation::Group { group: 2, processor }), Err(GateError::BadArgument));
    assert_eq!(lab.ask(Operation::Group { group: MAX_GROUPS, processor }), Err(GateError::BadArgument));
    let processor = ProcessorTerms { shares: 1, ..processor };
    assert!(lab.ask(Operation::Group { group: 2, processor }).is_ok());
    assert!(lab.create(1).is_ok());
    assert_eq!(lab.create(1), Err(GateError::VmExists));
    assert_eq!(lab.ask(Operation::Pause { vm: 1 }), Err(GateError::BadState));
    assert!(lab.ask(Operation::Start { vm: 1 }).is_ok());
    assert_eq!(lab.ask(Operation::Start { vm: 1 }), Err(GateError::BadState));
    assert_eq!(lab.ask(Operation::Destroy { vm: 1 }), Err(GateError::BadState));
    assert!(lab.ask(Operation::Pause { vm: 1 }).is_ok());
    assert_eq!(lab.inspect(1).state, VmState::Paused);
    assert!(lab.ask(Operation::Start { vm: 1 }).is_ok());
    assert!(lab.ask(Operation::Stop { vm: 1 }).is_ok());
    assert_eq!(lab.ask(Operation::Stop { vm: 1 }), Err(GateError::BadState));
    assert!(lab.ask(Operation::Destroy { vm: 1 }).is_ok());
    for operation in [Operation::Start { vm: 1 }, Operation::Inspect { vm: 7 }, Operation::Destroy { vm: u32::MAX }] {
        assert_eq!(lab.ask(operation), Err(GateError::NoSuchVm));
    }
    for operation in [Operation::Stop { vm: 0 }, Operation::Pause { vm: 0 }, Operation::PowerOff { status: 63 }] {
        assert_eq!(lab.ask(operation), Err(GateError::BadArgument));
    }
    assert_eq!(lab.ask(Operation::LoadImage { entry: 0 }), Err(GateError::NoSuchEntry));
    assert_eq!(lab.ask(Operation::LoadImage { entry: 99 }), Err(GateError::NoSuchEntry));
    assert_eq!(lab.ask(Operation::ReadEntry { entry: 0, offset: 1 << 30, length: 1 }), Err(GateError::BadArgument));
    assert_eq!(lab.ask(Operation::ReadEntry { entry: 0, offset: 0, length: 4000 }), Err(GateError::BadArgument));
    let entry = lab.ask(Operation::Entry { entry: 1 });
    assert_eq!(entry, Ok(simulator::supervisor::Reply::Plain(Answer::Entry { kind: 1, bytes: 5 * 4096 })));
    lab.desk().requests.push_back(vec![0xff; 40]);
    lab.until("the complaint", |lab| lab.desk().completions.iter().any(|(ticket, _)| ticket.is_none()));
    lab.desk().ask(0, Operation::PowerOff { status: 3 });
    lab.until("the power-off", |lab| lab.outside().power_off == Some(3));
}

#[test]
fn everything_a_vm_had_comes_back() {
    let mut lab = Lab::new(2048, |vm| {
        let mut page = 1;
        Box::new(move |cpu: &mut Cpu<'_>| {
            if page == 200 {
                return Ok(Op::call(Instruction::Terminate, &[u64::from(vm)]));
            }
            if !(0x10..0x20).contains(&page) && !(TEXT..DATA).contains(&page) {
                cpu.write(address(page), &[1])?;
            }
            page += 1;
            Ok(Op::Compute)
        })
    });
    let before = lab.status();
    for round in 0..3 {
        for vm in 1..8 {
            lab.start(vm);
        }
        for vm in 1..8 {
            assert_eq!(lab.report(vm).cause, Cause::Terminated { status: u64::from(vm) }, "round {round}");
            lab.ask(Operation::Destroy { vm }).unwrap();
        }
        lab.desk().events.clear();
        lab.turns(100);
        let after = lab.status();
        assert_eq!(after.free_pages + after.template_pages, before.free_pages + before.template_pages);
        assert_eq!(after.vms, 1);
    }
}

#[test]
fn memory_that_runs_out_lets_one_vm_wait_and_no_other() {
    let mut lab = LabPlan::new(300).boot(|vm| {
        let mut page = END;
        Box::new(move |cpu: &mut Cpu<'_>| {
            if vm != 2 {
                return Ok(idle_for_ever());
            }
            // Nothing that a few bytes could stand for.
            cpu.write(address(page), &simulator::errands::noise(u64::from(page)))?;
            page += 1;
            Ok(Op::Compute)
        })
    });
    lab.start(1);
    lab.start(2);
    lab.until_state(2, VmState::Starved);
    assert!(lab.status().free_pages > 0, "the kernel keeps its own");
    let mut started = 0;
    while started < 100 && lab.create(10 + started).is_ok() {
        lab.ask(Operation::Start { vm: 10 + started }).unwrap();
        started += 1;
    }
    lab.turns(200);
    let waiting = lab.status().waiting;
    assert!(waiting > 0, "nobody is let in while memory is short");
    assert_eq!(lab.inspect(2).state, VmState::Starved);
    lab.destroy(2);
    lab.until("all to be let in", |lab| {
        lab.turns(2);
        lab.status().waiting == 0
    });
    for vm in [1, 10, 9 + started] {
        lab.until(&format!("VM {vm} to sleep"), |lab| {
            lab.turns(2);
            matches!(lab.inspect(vm).state, VmState::Idle | VmState::Parked)
        });
    }
}

#[test]
fn a_failed_allocation_at_any_point_loses_nothing() {
    for allowed in 0..12 {
        let mut lab = Lab::new(512, |_| {
            Box::new(|cpu: &mut Cpu<'_>| {
                cpu.write(address(END), &[1])?;
                Ok(idle_for_ever())
            })
        });
        // What becomes the template stays.
        let nr_pages = |lab: &mut Lab| lab.status().free_pages + lab.status().template_pages;
        let before = nr_pages(&mut lab);
        lab.outside_mut().allocation.left = Some(allowed);
        let created = lab.create(1);
        if created.is_ok() {
            lab.ask(Operation::Start { vm: 1 }).unwrap();
            lab.turns(20);
        } else {
            assert_eq!(created, Err(GateError::NoMemory));
        }
        lab.outside_mut().allocation.left = None;
        lab.turns(5);
        if created.is_ok() {
            let _ = lab.ask(Operation::Stop { vm: 1 });
            lab.ask(Operation::Destroy { vm: 1 }).unwrap();
        }
        lab.turns(5);
        assert_eq!(nr_pages(&mut lab), before, "{allowed} allocations allowed");
    }
}

#[test]
fn typed_bytes_reach_the_supervisor() {
    let mut lab = Lab::new(512, |_| Box::new(|_: &mut Cpu<'_>| Ok(idle_for_ever())));
    let text: Vec<u8> = (0..200).map(|i| b'a' + i % 26).collect();
    lab.outside_mut().typed.extend(&text);
    lab.until("the text", |lab| lab.desk().typed.len() == text.len());
    assert_eq!(lab.desk().typed, text);
}

#[test]
fn bytes_typed_while_the_supervisor_runs_reach_it() {
    let mut lab = Lab::new(512, |_| Box::new(|_: &mut Cpu<'_>| Ok(idle_for_ever())));
    let text: Vec<u8> = (0..200).map(|i| b'a' + i % 26).collect();
    lab.outside_mut().typed_later.extend(text.iter().map(|&byte| (u32::from(byte) % 3, byte)));
    lab.until("the text", |lab| lab.outside().typed_later.is_empty());
    lab.turns(20);
    assert_eq!(lab.desk().typed, text);
}

#[test]
fn a_guest_that_floods_its_console_is_cut_off() {
    let mut lab = Lab::new(512, |_| {
        Box::new(|cpu: &mut Cpu<'_>| {
            cpu.write(address(DATA), b"0123456789abcde\n")?;
            Ok(Op::call(Instruction::Console, &[address(DATA), 16]))
        })
    });
    lab.start(1);
    lab.turns(2000);
    let status = lab.inspect(1);
    assert!(status.counters.console_dropped > 0);
    let lines = lab.outside().serial.matches("vm 1| 0123456789abcde\n").count() as u64;
    let seconds = lab.outside().now / 1_000_000_000 + 1;
    assert!(lines * 47 <= 16 * 1024 + 4096 * seconds, "{lines} lines in {seconds} s");
    assert!(lines >= 340, "{lines}");
}

/// Prints the same text for ever.
fn talker(byte: u8, length: u64) -> impl FnMut(&mut Cpu<'_>) -> Result<Op, Fault> {
    let mut is_written = false;
    move |cpu| {
        if !is_written {
            cpu.write(address(DATA), &vec![byte; usize::try_from(length).unwrap()])?;
            is_written = true;
        }
        Ok(Op::call(Instruction::Console, &[address(DATA), length]))
    }
}

#[test]
fn empty_lines_cost_as_well() {
    let mut lab = Lab::new(512, |_| Box::new(talker(b'\n', 1024)));
    lab.start(1);
    lab.turns(10);
    let lines = lab.outside().serial.matches("vm 1| \n").count();
    assert!((512..600).contains(&lines), "{lines}");
}

#[test]
fn many_talkers_leave_the_serial_line_to_the_others() {
    let mut lab = Lab::new(4096, |_| Box::new(talker(b'x', 1000)));
    for vm in 1..30 {
        lab.create(vm).unwrap();
    }
    for vm in 1..30 {
        lab.ask(Operation::Start { vm }).unwrap();
    }
    let seconds = lab.outside().now / 1_000_000_000 + 1;
    let printed = lab.outside().serial.len() as u64;
    assert!(printed < (256 + 64 * seconds + 16) * 1024, "{printed} bytes");
    assert!(lab.status().vms == 30, "and the supervisor is not among those cut off");
}
