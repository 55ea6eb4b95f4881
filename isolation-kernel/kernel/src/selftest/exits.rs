//! Each way out of a guest, and what the guest's state is then.

use super::sandbox::{CODE, CONSTANT, DATA, STACK, Sandbox, each, enter, patterned};
use super::switches::each_of;
use super::{Outcome, check};
use hal::{Access, Exit, Pages, Processor, Registers};
use log::info;
use machine::Machine;

const CARRY: u64 = 1;
const INTERRUPTS: u64 = 1 << 9;
const DIRECTION: u64 = 1 << 10;
const NESTED: u64 = 1 << 14;
const TRAP: u64 = 1 << 8;
const PORT_LEVEL: u64 = 3 << 12;
const ALIGNMENT: u64 = 1 << 18;
/// What must be clear in the kernel, whatever a guest has set.
const HARMFUL: u64 = TRAP | INTERRUPTS | DIRECTION | PORT_LEVEL | NESTED | ALIGNMENT;

/// A virtual instruction keeps all registers but rcx and r11, and comes back where it should.
pub fn instructions(machine: &mut Machine) -> Outcome {
    // loop: inc rbx; syscall; jmp loop
    let sandbox = Sandbox::new(machine, &[0x48, 0xff, 0xc3, 0x0f, 0x05, 0xeb, 0xf9])?;
    let mut registers = patterned();
    let mut expected = registers;
    for _ in 0..1000 {
        let exit = enter(machine, &mut registers);
        check!(exit == Exit::Instruction, "{exit:?} instead of a virtual instruction");
        expected.rbx += 1;
        expected.rip = CODE + 5;
        (expected.rcx, expected.r11, expected.rflags) = (registers.rcx, registers.r11, registers.rflags);
        check!(registers == expected, "{registers:x?} instead of {expected:x?}");
        // What the kernel answers must arrive, too: rax is changed each time.
        registers.rax += 3;
        expected.rax += 3;
    }
    sandbox.end(machine);
    Ok(())
}

/// A forbidden or missing page is reported with address and kind of access, with all registers as they were.
pub fn page_faults(machine: &mut Machine) -> Outcome {
    const KERNEL: u64 = 0xffff_ffff_8020_9000;
    // mov [rdi], rax    mov rax, [rdi]    jmp rdi
    let (store, load, jump): (&[u8], &[u8], &[u8]) = (&[0x48, 0x89, 0x07], &[0x48, 0x8b, 0x07], &[0xff, 0xe7]);
    let cases = [
        (store, CONSTANT, Access::Write),
        (store, CODE, Access::Write),
        (store, 0, Access::Write),
        (store, KERNEL, Access::Write),
        (load, 0, Access::Read),
        (load, 0x1000_0000, Access::Read),
        (load, KERNEL, Access::Read),
        (load, 0xffff_8000_0000_0000, Access::Read),
        (jump, DATA, Access::Execute),
        (jump, CONSTANT, Access::Execute),
        (jump, 0x5000, Access::Execute),
    ];
    let sandbox = Sandbox::new(machine, &[])?;
    for (code, address, access) in cases {
        sandbox.load(machine, code);
        let mut registers = patterned();
        registers.rdi = address;
        let before = registers;
        let exit = enter(machine, &mut registers);
        check!(exit == Exit::PageFault { address, access }, "{exit:?} instead of {access:?} at {address:#x}");
        let rip = if access == Access::Execute { address } else { CODE };
        let expected = Registers { rip, rflags: registers.rflags, ..before };
        check!(registers == expected, "{registers:x?} instead of {expected:x?}");
    }
    sandbox.end(machine);
    Ok(())
}

/// Every instruction that is not a guest's raises its exception.
pub fn exceptions(machine: &mut Machine) -> Outcome {
    let cases: [(&str, &[u8], u8); 23] = [
        ("ud2", &[0x0f, 0x0b], 6),
        ("hlt", &[0xf4], 13),
        ("cli", &[0xfa], 13),
        ("sti", &[0xfb], 13),
        ("in al, dx", &[0xec], 13),
        ("out dx, al", &[0xee], 13),
        ("int3", &[0xcc], 3),
        ("int 0x0e", &[0xcd, 0x0e], 13),
        ("int 0x40", &[0xcd, 0x40], 13),
        ("int 0x80", &[0xcd, 0x80], 13),
        ("rdmsr", &[0x0f, 0x32], 13),
        ("wrmsr", &[0x0f, 0x30], 13),
        ("rdpmc", &[0x0f, 0x33], 13),
        ("mov rax, cr3", &[0x0f, 0x20, 0xd8], 13),
        ("mov rax, dr7", &[0x0f, 0x21, 0xf8], 13),
        ("invlpg [rax]", &[0x0f, 0x01, 0x38], 13),
        ("lgdt [rsp]", &[0x0f, 0x01, 0x14, 0x24], 13),
        ("swapgs", &[0x0f, 0x01, 0xf8], 13),
        ("xsetbv", &[0x0f, 0x01, 0xd1], 13),
        ("wrgsbase rax", &[0xf3, 0x48, 0x0f, 0xae, 0xd8], 6),
        ("mov gs, 0x28", &[0xb8, 0x28, 0, 0, 0, 0x8e, 0xe8], 13),
        ("div by 0", &[0x31, 0xc9, 0xf7, 0xf1], 0),
        ("far jump to the kernel's code segment", &[0x48, 0xb8, 0, 0, 0, 0, 8, 0, 0, 0, 0x50, 0xff, 0x2c, 0x24], 13),
    ];
    let sandbox = Sandbox::new(machine, &[])?;
    for (name, code, vector) in cases {
        sandbox.load(machine, code);
        let mut registers = patterned();
        let exit = enter(machine, &mut registers);
        check!(matches!(exit, Exit::Exception { vector: v, .. } if v == vector), "{name}: {exit:?}");
    }
    // sgdt [rsp - 16]: only where the processor can forbid it.
    sandbox.load(machine, &[0x0f, 0x01, 0x44, 0x24, 0xf0, 0x0f, 0x05]);
    let exit = enter(machine, &mut patterned());
    let expected = if machine.features().umip { Exit::Exception { vector: 13, code: 0 } } else { Exit::Instruction };
    check!(exit == expected, "sgdt: {exit:?}");
    // ud2 behind a store, to see that exceptions keep all registers.
    sandbox.load(machine, &[0x0f, 0x0b]);
    let mut registers = patterned();
    let before = registers;
    let exit = enter(machine, &mut registers);
    check!(exit == Exit::Exception { vector: 6, code: 0 }, "ud2: {exit:?}");
    check!(registers == Registers { rflags: registers.rflags, ..before }, "{registers:x?} instead of {before:x?}");
    sandbox.end(machine);
    Ok(())
}

/// A guest's flags are its own, and none of them reaches the kernel.
pub fn flags(machine: &mut Machine) -> Outcome {
    // pushfq; or [rsp], flags; popfq; then one of three ways out.
    const FLAGS: [u8; 9] = [0x9c, 0x81, 0x0c, 0x24, 0, 0, 0, 0, 0x9d];
    let wanted = ALIGNMENT | DIRECTION | NESTED | CARRY;
    let sandbox = Sandbox::new(machine, &[])?;
    let ways: [(&[u8], bool); 3] = [(&[0x0f, 0x05], false), (&[0x0f, 0x0b], false), (&[0xeb, 0xfe], true)];
    for (way_out, by_alarm) in ways {
        let mut code = [0; 16];
        code[..9].copy_from_slice(&FLAGS);
        code[4..8].copy_from_slice(&u32::try_from(wanted).unwrap_or(0).to_le_bytes());
        code[9..9 + way_out.len()].copy_from_slice(way_out);
        sandbox.load(machine, &code);
        let mut registers = patterned();
        loop {
            // Again before each turn: an alarm may ring before the flags are set.
            let at = machine.now().after(1_000_000);
            machine.set_alarm(at);
            let exit = machine.enter(&mut registers);
            let flags = machine::kernel_flags();
            check!(flags & HARMFUL == 0, "the kernel runs with flags {flags:#x} after {exit:?}");
            if exit != Exit::Interrupt || registers.rip == CODE + 9 {
                break;
            }
        }
        check!(registers.rflags & wanted == wanted, "the guest's flags are {:#x}", registers.rflags);
        // And back in with them, by either way: carry must still be set. setc al; syscall
        if !by_alarm {
            machine.write(sandbox.code.mpn(), 11, &[0x0f, 0x92, 0xc0, 0x0f, 0x05]);
            registers.rip = CODE + 11;
            registers.rax = 0;
            let exit = enter(machine, &mut registers);
            check!(exit == Exit::Instruction && registers.rax == 1, "{exit:?}, carry {}", registers.rax);
        }
    }
    // Single steps are the guest's own debug exceptions.
    let mut code = [0; 16];
    code[..9].copy_from_slice(&FLAGS);
    code[4..8].copy_from_slice(&u32::try_from(TRAP).unwrap_or(0).to_le_bytes());
    code[9..].copy_from_slice(&[0x90, 0x0f, 0x05, 0x90, 0x90, 0x90, 0x90]);
    sandbox.load(machine, &code);
    let exit = enter(machine, &mut patterned());
    check!(matches!(exit, Exit::Exception { vector: 1, .. }), "a single step: {exit:?}");
    sandbox.end(machine);
    Ok(())
}

/// Registers that no guest could have made itself do no harm.
pub fn bad_state(machine: &mut Machine) -> Outcome {
    // in al, dx
    let sandbox = Sandbox::new(machine, &[0xec])?;
    for rip in [1 << 47, u64::MAX, 0xffff_8000_0000_0000, 0xdead_0000_0000_0000] {
        let mut registers = patterned();
        registers.rip = rip;
        // As after a virtual instruction, and not.
        for rcx in [rip, 0] {
            registers.rcx = rcx;
            registers.r11 = registers.rflags;
            let exit = enter(machine, &mut registers);
            check!(exit == Exit::Exception { vector: 13, code: 0 }, "rip {rip:#x}: {exit:?}");
            check!(registers.rip == rip, "rip is {:#x}", registers.rip);
        }
    }
    for is_short in [true, false] {
        let mut registers = patterned();
        registers.rflags = !TRAP;
        (registers.rcx, registers.r11) = if is_short { (registers.rip, registers.rflags) } else { (0, 0) };
        let exit = enter(machine, &mut registers);
        check!(matches!(exit, Exit::Exception { vector: 13, .. }), "a port with all flags set: {exit:?}");
        check!(registers.rflags & PORT_LEVEL == 0, "the guest got flags {:#x}", registers.rflags);
    }
    // A stack pointer that is not canonical is the guest's own problem (emulators name it differently). push rax
    sandbox.load(machine, &[0x50]);
    let mut registers = patterned();
    registers.rsp = 1 << 63;
    let exit = enter(machine, &mut registers);
    check!(matches!(exit, Exit::Exception { vector: 12 | 13, .. }), "a bad stack: {exit:?}");
    sandbox.end(machine);
    Ok(())
}

/// The alarm brings a guest back that does nothing but loop, with all registers as they were, and ends a halt.
pub fn alarm(machine: &mut Machine) -> Outcome {
    const WAIT: u64 = 2_000_000;
    const LATE: u64 = 2_000_000_000;
    // jmp $
    let sandbox = Sandbox::new(machine, &[0xeb, 0xfe])?;
    for _ in 0..3 {
        let mut registers = patterned();
        let before = registers;
        let start = machine.now();
        machine.set_alarm(start.after(WAIT));
        while machine.now() < start.after(WAIT) {
            let exit = machine.enter(&mut registers);
            check!(exit == Exit::Interrupt, "{exit:?} instead of an interrupt");
            check!(registers == Registers { rflags: registers.rflags, ..before }, "{registers:x?}");
        }
        let late = machine.now().since(start.after(WAIT));
        check!(late < LATE, "the alarm is {late} ns late");
    }
    let start = machine.now();
    // Further off first, then nearer: the nearer one must count.
    machine.set_alarm(start.after(100 * LATE));
    machine.set_alarm(start.after(WAIT));
    let mut nr_halts = 0_u64;
    while machine.now() < start.after(WAIT) {
        machine.halt();
        nr_halts += 1;
    }
    let late = machine.now().since(start.after(WAIT));
    check!(late < LATE, "the halt ended {late} ns late");
    check!(nr_halts < 1000, "{nr_halts} halts in {WAIT} ns");
    sandbox.end(machine);
    Ok(())
}

/// Says what a virtual instruction costs that does nothing.
pub fn measure(machine: &mut Machine) {
    const ROUNDS: u64 = 20_000;
    // loop: syscall; jmp loop
    let Ok(sandbox) = Sandbox::new(machine, &[0x0f, 0x05, 0xeb, 0xfc]) else { return };
    let mut registers = Registers::at(CODE, STACK);
    each(&mut registers).into_iter().for_each(|r| *r = 0);
    let start = machine.now();
    for _ in 0..ROUNDS {
        if enter(machine, &mut registers) != Exit::Instruction {
            return;
        }
    }
    let (ns, counts) = each_of(machine, start, ROUNDS);
    info!("selftest: {ns} ns or {counts} counts for a virtual instruction that does nothing");
    sandbox.end(machine);
}
