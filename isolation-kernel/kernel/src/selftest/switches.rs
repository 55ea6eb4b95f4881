//! What a guest must not see of another.

use super::sandbox::{CODE, STACK, Sandbox, enter, patterned};
use super::{Outcome, check};
use alloc::string::String;
use hal::{Exit, Nanos, Processor, Registers};
use log::info;
use machine::Machine;

/// Vector registers follow their guest, and only it.
pub fn vector(machine: &mut Machine) -> Outcome {
    // movq xmm0, rax; movq xmm15, rax; syscall; movq rax, xmm0; movq rbx, xmm15; syscall
    const SSE: [u8; 24] = [
        0x66, 0x48, 0x0f, 0x6e, 0xc0, 0x66, 0x4c, 0x0f, 0x6e, 0xf8, 0x0f, 0x05, 0x66, 0x48, 0x0f, 0x7e, 0xc0, 0x66,
        0x4c, 0x0f, 0x7e, 0xfb, 0x0f, 0x05,
    ];
    exchange(machine, &SSE, 12)?;
    if !machine.has_avx() {
        return Ok(());
    }
    // movq xmm0, rax; vinsertf128 ymm0, ymm0, xmm0, 1; syscall;
    // vextractf128 xmm1, ymm0, 1; movq rax, xmm1; mov rbx, rax; syscall
    const AVX: [u8; 29] = [
        0x66, 0x48, 0x0f, 0x6e, 0xc0, 0xc4, 0xe3, 0x7d, 0x18, 0xc0, 0x01, 0x0f, 0x05, 0xc4, 0xe3, 0x7d, 0x19, 0xc1,
        0x01, 0x66, 0x48, 0x0f, 0x7e, 0xc8, 0x48, 0x89, 0xc3, 0x0f, 0x05,
    ];
    exchange(machine, &AVX, 13)
}

/// Two guests load a value, take turns, and read it back; `read_at` is the offset of the reading part, which a
/// third guest runs without having loaded anything.
fn exchange(machine: &mut Machine, code: &[u8], read_at: u64) -> Outcome {
    let mut first = Sandbox::new(machine, code)?;
    let mut a = Registers { rax: 0xaaaa_1111_aaaa_1111, ..Registers::at(CODE, STACK) };
    step(machine, &mut a)?;
    machine.switch_from(&mut first.vector);
    let mut second = Sandbox::new(machine, code)?;
    let mut fresh = Registers { rip: CODE + read_at, ..patterned() };
    step(machine, &mut fresh)?;
    check!((fresh.rax, fresh.rbx) == (0, 0), "a new guest finds {:#x}, {:#x}", fresh.rax, fresh.rbx);
    let mut b = Registers { rax: 0xbbbb_2222_bbbb_2222, ..Registers::at(CODE, STACK) };
    step(machine, &mut b)?;
    machine.switch_from(&mut second.vector);
    for _ in 0..3 {
        for (sandbox, mut registers, value) in
            [(&mut first, a, 0xaaaa_1111_aaaa_1111), (&mut second, b, 0xbbbb_2222_bbbb_2222)]
        {
            machine.switch_to(&sandbox.space, &sandbox.vector);
            step(machine, &mut registers)?;
            check!(registers.rax == value && registers.rbx == value, "{:#x} instead of {value:#x}", registers.rax);
            machine.switch_from(&mut sandbox.vector);
        }
    }
    first.end(machine);
    second.end(machine);
    Ok(())
}

/// Says what it costs to go from one guest to another, one virtual instruction included.
pub fn measure(machine: &mut Machine) {
    const ROUNDS: u64 = 2_000;
    // loop: syscall; jmp loop
    const CODE_BYTES: [u8; 4] = [0x0f, 0x05, 0xeb, 0xfc];
    let (Ok(mut a), Ok(mut b)) = (Sandbox::new(machine, &CODE_BYTES), Sandbox::new(machine, &CODE_BYTES)) else {
        return;
    };
    let (mut of_a, mut of_b) = (Registers::at(CODE, STACK), Registers::at(CODE, STACK));
    let start = machine.now();
    for _ in 0..ROUNDS / 2 {
        for (sandbox, registers) in [(&mut a, &mut of_a), (&mut b, &mut of_b)] {
            machine.switch_to(&sandbox.space, &sandbox.vector);
            if enter(machine, registers) != Exit::Instruction {
                return;
            }
            machine.switch_from(&mut sandbox.vector);
        }
    }
    let (ns, counts) = each_of(machine, start, ROUNDS);
    info!("selftest: {ns} ns or {counts} counts for a switch and a virtual instruction");
    a.end(machine);
    b.end(machine);
}

/// Nanoseconds and counts of the time-stamp counter for each of some rounds. Under an emulator that counts
/// instructions (QEMU: -icount shift=0) the latter are instructions.
pub fn each_of(machine: &Machine, start: Nanos, rounds: u64) -> (u64, u64) {
    let ns = machine.now().since(start);
    let counts = u128::from(ns) * u128::from(machine.tsc().0) / 1_000_000_000 / u128::from(rounds);
    (ns / rounds, u64::try_from(counts).unwrap_or(u64::MAX))
}

fn step(machine: &mut Machine, registers: &mut Registers) -> Result<(), String> {
    let exit = enter(machine, registers);
    check!(exit == Exit::Instruction, "{exit:?} instead of a virtual instruction");
    Ok(())
}

/// Segment registers of one guest are not another's.
pub fn segments(machine: &mut Machine) -> Outcome {
    // mov eax, 0x1b; mov ds, eax; mov es, eax; mov fs, eax; mov gs, eax; syscall
    const LOAD: [u8; 15] = [0xb8, 0x1b, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, 0x0f, 0x05];
    // xor eax, eax; mov ebx, ds; or eax, ebx; mov ebx, es; or; mov ebx, fs; or; mov ebx, gs; or; syscall
    const READ: [u8; 20] = [
        0x31, 0xc0, 0x8c, 0xdb, 0x09, 0xd8, 0x8c, 0xc3, 0x09, 0xd8, 0x8c, 0xe3, 0x09, 0xd8, 0x8c, 0xeb, 0x09, 0xd8,
        0x0f, 0x05,
    ];
    let first = Sandbox::new(machine, &LOAD)?;
    step(machine, &mut patterned())?;
    first.load(machine, &READ);
    let mut registers = patterned();
    step(machine, &mut registers)?;
    check!(registers.rax == 0x1b, "the guest that loaded segments has {:#x}", registers.rax);
    let second = Sandbox::new(machine, &READ)?;
    let mut registers = patterned();
    step(machine, &mut registers)?;
    check!(registers.rax == 0, "the next guest has {:#x}", registers.rax);
    // The kernel's own GS must have survived both: the next exits show it.
    step(machine, &mut patterned())?;
    first.end(machine);
    second.end(machine);
    Ok(())
}
