//! A program in ring 0 that has the machine to itself: the limit that guests are compared with.
//!
//! There is one address space, and the program's pages in it are the kernel's kind. `syscall` leads to [`entry`], which
//! calls [`Answer::answer`] on the kernel's stack and goes back with a jump. Interrupts are off while the program runs,
//! as they are in the kernel, so that nothing is ever pushed on its stack, below which it keeps values; they arrive
//! where the answer halts. What the program does wrong is an exception in ring 0, and ends the machine.

use crate::entry_bits::{ACCESSED, USER, guest_bits};
use crate::layout::DIRECT_BASE;
use crate::per_cpu::Cpu;
use crate::space::Space;
use crate::{Machine, guest, paging};
use alloc::boxed::Box;
use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};
use hal::{Mpn, NoMemory, Ppn, Rights, Spaces, VectorState};
use x86_64::VirtAddr;
use x86_64::registers::model_specific::LStar;

/// What answers a program's virtual instructions.
pub trait Answer: 'static {
    /// Performs the instruction of that number with its first two arguments. Returns what goes into `rax`.
    fn answer(&mut self, number: u64, first: u64, second: u64) -> u64;
}

/// The address space of a program that is to run alone.
pub struct Alone {
    space: Space,
}

/// Who answers, and the function by which: set once, before the program's first instruction.
static ANSWERER: AtomicPtr<()> = AtomicPtr::new(null_mut());
static FUNCTION: AtomicPtr<()> = AtomicPtr::new(null_mut());

impl Alone {
    /// With nothing of the program's in it.
    ///
    /// # Errors
    /// If there is no page for its table.
    pub fn new(machine: &mut Machine) -> Result<Self, NoMemory> {
        Ok(Self { space: machine.create_space()? })
    }

    /// Maps a page of the program's.
    ///
    /// # Errors
    /// If there is no page for a table.
    pub fn map(&mut self, machine: &mut Machine, at: Ppn, to: Mpn, rights: Rights) -> Result<(), NoMemory> {
        machine.map_with(&mut self.space, at, to, guest_bits(rights) & !USER | ACCESSED)
    }

    /// Runs the program from `start` on, with its stack pointer at `stack` and all other registers 0. It never comes
    /// back.
    ///
    /// # Safety
    /// On the first processor, once. The program can do whatever it likes from here on: it is part of the kernel, and
    /// must change nothing but its own pages and the registers that the virtual ISA gives it.
    pub unsafe fn run<A: Answer>(self, answerer: A, start: u64, stack: u64) -> ! {
        ANSWERER.store(Box::into_raw(Box::new(answerer)).cast(), Ordering::Relaxed);
        FUNCTION.store(answer::<A> as extern "C" fn(_, _, _, _) -> _ as *mut (), Ordering::Relaxed);
        LStar::write(VirtAddr::from_ptr(entry as *const ()));
        // SAFETY: every space has the kernel's half, and XSAVE is on since the machine's start.
        unsafe {
            paging::load_root(self.space.root());
            guest::load_vector(&VectorState::new());
        }
        // The stack in use becomes the one of the answers: nobody comes back to what is on it.
        // SAFETY: as the caller promises. GS is the kernel's, and stays so.
        unsafe {
            asm!(
                "and rsp, -16",
                "mov gs:[{kernel_stack}], rsp",
                "push 2",
                "popfq",
                "mov rsp, rsi",
                "push rdi",
                "xor eax, eax",
                "xor ebx, ebx",
                "xor ecx, ecx",
                "xor edx, edx",
                "xor esi, esi",
                "xor edi, edi",
                "xor ebp, ebp",
                "xor r8d, r8d",
                "xor r9d, r9d",
                "xor r10d, r10d",
                "xor r11d, r11d",
                "xor r12d, r12d",
                "xor r13d, r13d",
                "xor r14d, r14d",
                "xor r15d, r15d",
                "ret",
                kernel_stack = const offset_of!(Cpu, kernel_stack),
                in("rdi") start, in("rsi") stack, options(noreturn),
            );
        }
    }
}

/// Calls who answers.
extern "C" fn answer<A: Answer>(answerer: *mut A, number: u64, first: u64, second: u64) -> u64 {
    // SAFETY: leaked in `run` for this; the program waits until it is answered, so that there is one call at a time.
    unsafe { (*answerer).answer(number, first, second) }
}

/// Where `syscall` leads, with interrupts off: rcx has where it came from. All registers but rax, rcx and r11 survive.
#[unsafe(naked)]
extern "C" fn entry() {
    naked_asm!(
        "mov r11, rsp",
        "mov rsp, gs:[{kernel_stack}]",
        "push rcx",
        "push r11",
        "push rdi",
        "push rsi",
        "push rdx",
        "push r8",
        "push r9",
        "push r10",
        "mov rcx, rsi",
        "mov rdx, rdi",
        "mov rsi, rax",
        "mov rdi, [rip + {answerer}]",
        "call [rip + {function}]",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "pop r11",
        "pop rcx",
        "mov rsp, r11",
        "jmp rcx",
        kernel_stack = const offset_of!(Cpu, kernel_stack),
        answerer = sym ANSWERER,
        function = sym FUNCTION,
    )
}

/// Whose an instruction in ring 0 is, by its address.
pub fn whose(rip: u64) -> &'static str {
    let is_running = !FUNCTION.load(Ordering::Relaxed).is_null();
    if is_running && rip < DIRECT_BASE { "the program" } else { "the kernel" }
}
