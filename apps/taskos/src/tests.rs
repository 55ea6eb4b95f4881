//! The kernel over the fake processor. Programs are ELF files whose text is a list of steps that the processor
//! interprets: everything but the instructions themselves is as in a VM.

use crate::elf::tests::{file, load};
use crate::fate::Tally;
use crate::kernel::{Kernel, MAX_FAMILY, MAX_PRINTED};
use crate::{Image, Say, Settings};
use libos::mmu::{Context, Mmu, Pool, fake};
use libos::virtual_isa::context::Exit;
use libos::virtual_isa::exception::Exception;
use object::elf::{ET_EXEC, PF_R, PF_W, PF_X};
use programs::abi::{CONSOLE, Error, HEAP_BASE, INHERITED, KILLED, NO_HANDLE, Number, PROGRAM_BASE};
use std::cell::RefCell;
use std::rc::Rc;

/// Bytes of a step: six words.
const STEP: u64 = 48;

/// Where a program's data is.
const DATA: u64 = PROGRAM_BASE + 0x10_0000;

/// A word that stands for the result that was kept under this number, 0 to 3.
const fn kept(n: u64) -> u64 {
    u64::MAX - 100 - n
}

/// A step of a program.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A system call, by its number.
    Call(u64, [u64; 4]),
    /// Keeps the result.
    Keep(u64),
    /// Ends the program with this status unless the result is this word.
    Check(u64, u64),
    /// Makes the byte at an address the result.
    Read(u64),
    /// Writes a byte.
    Write(u64, u64),
    /// Never ends.
    Spin,
    /// Raises an exception.
    Break,
    /// Goes back to the step of this number; its turn is over.
    Go(u64),
}

use Step::{Break, Call, Check, Go, Keep, Read, Spin, Write};

impl Step {
    fn to_words(self) -> [u64; 6] {
        match self {
            Call(number, [a, b, c, d]) => [0, number, a, b, c, d],
            Keep(n) => [1, n, 0, 0, 0, 0],
            Check(word, status) => [2, word, status, 0, 0, 0],
            Read(address) => [3, address, 0, 0, 0, 0],
            Write(address, byte) => [4, address, byte, 0, 0, 0],
            Spin => [5, 0, 0, 0, 0, 0],
            Break => [6, 0, 0, 0, 0, 0],
            Go(step) => [7, step, 0, 0, 0, 0],
        }
    }
}

fn call(number: Number, arguments: [u64; 4]) -> Step {
    Call(number as u64, arguments)
}

fn exit(status: u64) -> Step {
    call(Number::Exit, [status, 0, 0, 0])
}

/// What the processor does with steps, until something ends it.
fn interpret(processor: &fake::Processor, registers: &mut Context) -> Exit {
    loop {
        match step(processor, registers) {
            Ok(None) => {}
            Ok(Some(exit)) | Err(exit) => return exit,
        }
    }
}

fn word(processor: &fake::Processor, address: u64) -> Result<u64, Exit> {
    let mut bytes = [0; 8];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = processor.read(address + n as u64)?;
    }
    Ok(u64::from_le_bytes(bytes))
}

fn step(processor: &fake::Processor, registers: &mut Context) -> Result<Option<Exit>, Exit> {
    processor.execute(registers.rip)?;
    let mut words = [0; 6];
    for (n, place) in words.iter_mut().enumerate() {
        let found = word(processor, registers.rip + 8 * n as u64)?;
        let saved = [registers.r12, registers.r13, registers.r14, registers.r15];
        *place = (0..4).find(|&n| kept(n) == found).map_or(found, |n| saved[usize::try_from(n).unwrap()]);
    }
    let [kind, first, second, rest @ ..] = words;
    let next = registers.rip + STEP;
    let mut ended = None;
    match kind {
        0 => {
            (registers.rax, registers.rdi) = (first, second);
            (registers.rsi, registers.rdx, registers.r10) = (rest[0], rest[1], rest[2]);
            ended = Some(Exit::Instruction);
        }
        1 => match first {
            0 => registers.r12 = registers.rax,
            1 => registers.r13 = registers.rax,
            2 => registers.r14 = registers.rax,
            _ => registers.r15 = registers.rax,
        },
        2 if registers.rax != first => {
            (registers.rax, registers.rdi) = (Number::Exit as u64, second);
            ended = Some(Exit::Instruction);
        }
        2 => {}
        3 => registers.rax = processor.read(first)?.into(),
        4 => processor.write(first, second.to_le_bytes()[0])?,
        5 => return Ok(Some(Exit::Interrupt)),
        7 => {
            registers.rip = PROGRAM_BASE + first * STEP;
            return Ok(Some(Exit::Interrupt));
        }
        _ => return Err(Exit::Exception { exception: Exception::Breakpoint, code: 0 }),
    }
    registers.rip = next;
    Ok(ended)
}

/// A program: its steps, and a page of data that begins with these bytes.
fn image(name: &'static str, steps: &[Step], data: &[u8]) -> Image {
    let text: Vec<u8> = steps.iter().flat_map(|step| step.to_words()).flat_map(u64::to_le_bytes).collect();
    let loads = [load(PF_R | PF_X, PROGRAM_BASE, &text, text.len() as u64), load(PF_R | PF_W, DATA, data, 4096)];
    Image { name, bytes: file(ET_EXEC, PROGRAM_BASE, &loads) }
}

/// Runs programs until all have ended: how they did, and what was printed.
fn run(images: &[Image], start: &[&str]) -> (Tally, String) {
    fake::set_program(interpret);
    let (mmu, pool) = (Mmu::new().unwrap(), Pool::new(200));
    let printed = Rc::new(RefCell::new(String::new()));
    let sink = printed.clone();
    let settings = Settings { nr_programs: 0, say: Say::All, quantum_ns: 0, turns: 10, task_pages: 8 };
    let images: &'static [Image] = images.to_vec().leak();
    let mut kernel = Kernel::new(mmu, pool.clone(), images, settings, move |line| sink.borrow_mut().push_str(line));
    for name in start {
        kernel.start(name, name, 0).unwrap();
    }
    let counts = libos::block_on(kernel.run());
    assert_eq!((pool.used(), fake::nr_entries()), (0, 0), "nothing stays behind");
    let printed = printed.borrow().clone();
    (counts.ends, printed)
}

#[test]
fn each_crime_ends_its_program_with_its_cause_and_no_other() {
    let good = [
        call(Number::Grow, [1, 0, 0, 0]),
        Keep(0),
        call(Number::Sleep, [1000, 0, 0, 0]),
        Write(kept(0), 7),
        Read(HEAP_BASE),
        Check(7, 1),
        exit(0),
    ];
    let stuck = [call(Number::Pipe, [0; 4]), call(Number::Read, [1, DATA, 8, 0]), exit(0)];
    let eat = [call(Number::Grow, [100, 0, 0, 0])];
    let eat: Vec<_> = eat.into_iter().chain((0..20).map(|n| Write(HEAP_BASE + n * 4096, 1))).chain([exit(0)]).collect();
    let images = [
        image("good", &good, &[]),
        image("read", &[Read(HEAP_BASE), exit(0)], &[]),
        image("text", &[Write(PROGRAM_BASE, 0), exit(0)], &[]),
        image("null", &[Read(0), exit(0)], &[]),
        image("data", &[Go((DATA - PROGRAM_BASE) / STEP + 1), exit(0)], &[]),
        image("call", &[Call(2, [0; 4]), exit(0)], &[]),
        image("break", &[Break], &[]),
        image("spin", &[Spin], &[]),
        image("stuck", &stuck, &[]),
        image("eat", &eat, &[]),
        image("status", &[exit(256), Check(Error::BadArgument.to_word(), 1), exit(255)], &[]),
    ];
    let names: Vec<_> = images.iter().map(|image| image.name).collect();
    let (tally, printed) = run(&images, &names);
    let expected = Tally { succeeded: 1, failed: 1, memory: 4, limit: 1, exception: 1, call: 1, time: 1, stuck: 1 };
    assert_eq!(tally, expected, "{printed}");
    for line in [
        "good: exited with 0",
        "read: killed: read of 0x10000000: nothing is there",
        "text: killed: write to 0x400000: not allowed there",
        "null: killed: read of 0x0: nothing is there",
        "call: killed: virtual instruction Terminate",
        "break: killed: exception: breakpoint",
        "spin: killed: it has had all its turns",
        "stuck: killed: it waits for what nobody can send",
        "eat: killed: write to 0x10008000: it has all the memory it may have",
        "status: exited with 255",
    ] {
        assert!(printed.contains(line), "{line}\n{printed}");
    }
    assert!(printed.contains("data: killed: execution of 0x5000"), "{printed}");
}

#[test]
fn a_child_gets_a_pipe_and_its_parent_is_told_how_it_ended() {
    // The name of the child is in the parent's data.
    let parent = [
        call(Number::Pipe, [0; 4]),
        Check(0x201, 1),
        call(Number::Spawn, [DATA, 5, 0, 2]),
        Keep(0),
        call(Number::Close, [2, 0, 0, 0]),
        Check(0, 2),
        // It waits for the byte, then for the end of the pipe.
        call(Number::Read, [1, DATA + 100, 8, 0]),
        Check(1, 3),
        Read(DATA + 100),
        Check(u64::from(b'c'), 4),
        call(Number::Read, [1, DATA + 100, 8, 0]),
        Check(0, 5),
        call(Number::Wait, [kept(0), 0, 0, 0]),
        Check(KILLED, 6),
        call(Number::Wait, [kept(0), 0, 0, 0]),
        Check(Error::NoChild.to_word(), 7),
        exit(0),
    ];
    let child = [
        call(Number::Sleep, [1_000_000, 0, 0, 0]),
        call(Number::Write, [INHERITED, DATA, 1, 0]),
        call(Number::Yield, [0; 4]),
        Break,
    ];
    let images = [image("parent", &parent, b"child"), image("child", &child, b"c")];
    let (tally, printed) = run(&images, &["parent"]);
    assert_eq!((tally.succeeded, tally.exception, tally.total()), (1, 1, 2), "{printed}");
}

#[test]
fn shared_memory_is_reached_by_who_was_given_it() {
    let parent = [
        call(Number::Memory, [1, 0, 0, 0]),
        Check(1, 1),
        call(Number::Attach, [1, 0, 0, 0]),
        Keep(0),
        Write(kept(0), 42),
        call(Number::Spawn, [DATA, 5, 0, 1]),
        Keep(1),
        call(Number::Wait, [kept(1), 0, 0, 0]),
        Check(0, 2),
        Read(kept(0)),
        Check(43, 3),
        exit(0),
    ];
    let child = [
        call(Number::Attach, [INHERITED, 0, 0, 0]),
        Keep(0),
        Read(kept(0)),
        Check(42, 1),
        Write(kept(0), 43),
        call(Number::Attach, [2, 0, 0, 0]),
        Check(Error::BadHandle.to_word(), 2),
        exit(0),
    ];
    let images = [image("parent", &parent, b"child"), image("child", &child, &[])];
    let (tally, printed) = run(&images, &["parent"]);
    assert_eq!((tally.succeeded, tally.total()), (2, 2), "{printed}");
}

#[test]
fn a_family_has_no_more_members_than_it_may() {
    let spawn = call(Number::Spawn, [DATA, 4, 0, NO_HANDLE]);
    let mut parent = vec![spawn; MAX_FAMILY - 1];
    parent.extend([spawn, Check(Error::Limit.to_word(), 1), exit(0)]);
    let images = [image("parent", &parent, b"idle"), image("idle", &[exit(0)], &[])];
    // Two families: one has nothing to do with the other.
    let (tally, printed) = run(&images, &["parent", "parent"]);
    let expected = u32::try_from(2 * MAX_FAMILY).unwrap();
    assert_eq!((tally.succeeded, tally.total()), (expected, expected), "{printed}");
}

#[test]
fn what_is_printed_has_its_programs_name_before_it_and_an_end() {
    let text = b"fine\nvm 7 ended\x1b[2J\r\n";
    let print = [call(Number::Write, [CONSOLE, DATA, text.len() as u64, 0]), exit(0)];
    let flood = [call(Number::Write, [CONSOLE, DATA, 1000, 0]), Go(0)];
    let images = [image("print", &print, text), image("flood", &flood, &[b'x'; 1000])];
    let (_, printed) = run(&images, &["print"]);
    assert_eq!(printed, "1 print| fine\n1 print| vm 7 ended?[2J?\n1 print: exited with 0\n");
    let (tally, printed) = run(&images, &["flood"]);
    assert_eq!((tally.time, printed.matches('x').count()), (1, MAX_PRINTED), "{printed}");
}
