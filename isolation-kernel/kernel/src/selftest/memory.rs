//! Pages and mappings.

use super::sandbox::{CODE, CONSTANT, DATA, Sandbox, enter, page_at};
use super::{Outcome, check};
use alloc::string::ToString;
use alloc::vec::Vec;
use hal::{Exit, Mpn, PAGE_SIZE, Page, Pages, Ppn, Processor, Registers, Rights, Spaces};
use log::info;
use machine::Machine;

/// Pages are zero when they are given out, are what was written, and come back.
pub fn pages(machine: &mut Machine) -> Outcome {
    let free = machine.free_pages();
    let heap = machine.heap_bytes();
    let mut bytes = [0xaa; PAGE_SIZE];
    let mut held = Vec::new();
    for _ in 0..20 {
        let page = machine.allocate().ok_or("no page".to_string())?;
        machine.read(page.mpn(), 0, &mut bytes);
        check!(bytes.iter().all(|b| *b == 0), "page {:#x} is not zero", page.mpn().0);
        bytes.fill(0x5a);
        machine.write(page.mpn(), 0, &bytes);
        held.push(page);
    }
    check!(machine.heap_bytes() > heap, "the heap's bytes do not count");
    let (a, b) = (held[0].mpn(), held[1].mpn());
    machine.write(a, 17, b"some bytes at an odd place");
    machine.copy(a, b);
    let mut back = [0; 26];
    machine.read(b, 17, &mut back);
    check!(&back == b"some bytes at an odd place", "a copied page has other bytes");
    machine.store(a, 8, 0x0f0f_0001);
    check!(machine.set_bits(a, 8, 0x10) == 0x0f0f_0001, "set_bits answers something else");
    check!(machine.load(a, 8) == 0x0f0f_0011, "a word is not what was stored");
    for page in held.drain(..) {
        machine.release(page);
    }
    check!(machine.free_pages() == free, "{} pages free, were {free}", machine.free_pages());
    Ok(())
}

/// Most pages the test of exhaustion takes: all of a small machine, and no second of a large one's time.
const MOST_PAGES: u64 = 8 << 10;

/// Says how fast pages are copied and zeroed.
pub fn measure(machine: &mut Machine) {
    const ROUNDS: u64 = 256;
    let (Some(from), Some(to)) = (machine.allocate(), machine.allocate()) else { return };
    let start = machine.now();
    for _ in 0..ROUNDS {
        machine.copy(from.mpn(), to.mpn());
    }
    let copied = machine.now();
    machine.release(from);
    machine.release(to);
    for _ in 0..ROUNDS {
        if let Some(page) = machine.allocate() {
            machine.release(page);
        }
    }
    let zeroed = machine.now();
    let speed = |ns: u64| ROUNDS * PAGE_SIZE as u64 * 1000 / 1024 * 1000 / 1024 * 1000 / ns.max(1);
    info!(
        "selftest: copies {} MiB/s, takes zero pages at {} MiB/s",
        speed(copied.since(start)),
        speed(zeroed.since(copied))
    );
}

/// Mappings are as asked for, at once, and their tables come back.
pub fn mappings(machine: &mut Machine) -> Outcome {
    let free = machine.free_pages();
    // mov rax, [rdi]; syscall
    let mut sandbox = Sandbox::new(machine, &[0x48, 0x8b, 0x07, 0x0f, 0x05])?;
    check!(machine.table_pages(&sandbox.space) == 4, "{} table pages", machine.table_pages(&sandbox.space));
    for (at, rights) in [(CODE, Rights::ReadExecute), (DATA, Rights::ReadWrite), (CONSTANT, Rights::Read)] {
        let found = machine::rights_at(&sandbox.space, page_at(at)).map(|(_, rights)| rights);
        check!(found == Some(rights), "{at:#x} has {found:?}");
    }
    machine.write(sandbox.data.mpn(), 0, &1_u64.to_le_bytes());
    machine.write(sandbox.constant.mpn(), 0, &2_u64.to_le_bytes());
    let load = |machine: &mut Machine| {
        let mut registers = Registers { rdi: DATA, ..Registers::at(CODE, 0) };
        (enter(machine, &mut registers), registers.rax)
    };
    check!(load(machine) == (Exit::Instruction, 1), "a load from the first page");
    let no_table = |_| "no table".to_string();
    machine.map(&mut sandbox.space, page_at(DATA), sandbox.constant.mpn(), Rights::Read).map_err(no_table)?;
    check!(load(machine) == (Exit::Instruction, 2), "a replaced mapping is still the old one");
    machine.unmap(&mut sandbox.space, page_at(DATA));
    check!(matches!(load(machine).0, Exit::PageFault { address: DATA, .. }), "a removed mapping is still there");
    // Far apart, so that each takes tables of its own: more than are freed one by one.
    for n in 0..20 {
        let at = Ppn((n + 1) << 18);
        machine.map(&mut sandbox.space, at, sandbox.data.mpn(), Rights::Read).map_err(no_table)?;
    }
    check!(machine.table_pages(&sandbox.space) == 44, "{} table pages", machine.table_pages(&sandbox.space));
    sandbox.end(machine);
    check!(machine.free_pages() == free, "{} pages free, were {free}", machine.free_pages());
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(machine.allocate().ok_or("no page".to_string())?);
    }
    let mut numbers: Vec<u32> = held.iter().map(|page| page.mpn().0).collect();
    numbers.sort_unstable();
    numbers.dedup();
    check!(numbers.len() == held.len(), "a page was given out twice");
    for page in held {
        machine.release(page);
    }
    check!(machine.free_pages() == free, "{} pages free, were {free}", machine.free_pages());
    Ok(())
}

/// Which pages a guest has used is known, and can be asked again.
pub fn accesses(machine: &mut Machine) -> Outcome {
    // Far off: processors that look ahead may use a neighbour.
    const OTHER: u64 = CONSTANT + 0x80_0000;
    // mov rax, [rdi]; syscall    mov [rdi], rax; syscall
    let (load, store): (&[u8], &[u8]) = (&[0x48, 0x8b, 0x07, 0x0f, 0x05], &[0x48, 0x89, 0x07, 0x0f, 0x05]);
    let mut sandbox = Sandbox::new(machine, load)?;
    let other = machine.allocate().ok_or("no page".to_string())?;
    let to_other = machine.map(&mut sandbox.space, page_at(OTHER), other.mpn(), Rights::ReadWrite);
    to_other.map_err(|_| "no table".to_string())?;
    let seen = |machine: &mut Machine, sandbox: &mut Sandbox| {
        [CODE, DATA, OTHER].map(|at| machine.take_accessed(&mut sandbox.space, page_at(at)))
    };
    let run = |machine: &mut Machine, at| {
        let exit = enter(machine, &mut Registers { rdi: at, ..Registers::at(CODE, 0) });
        if exit == Exit::Instruction {
            Ok(())
        } else {
            Err(alloc::format!("{exit:?} instead of a virtual instruction"))
        }
    };
    let found = seen(machine, &mut sandbox);
    check!(found == [false; 3], "used before the guest ran: {found:?}");
    for (code, at, expected) in [
        (load, DATA, [true, true, false]),
        // Now that the translations are cached.
        (load, DATA, [true, true, false]),
        (store, OTHER, [true, false, true]),
        (store, DATA, [true, true, false]),
    ] {
        sandbox.load(machine, code);
        run(machine, at)?;
        let found = seen(machine, &mut sandbox);
        check!(found == expected, "after a use of {at:#x}: {found:?} instead of {expected:?}");
        let found = seen(machine, &mut sandbox);
        check!(found == [false; 3], "not forgotten: {found:?}");
    }
    // While another space is in use.
    sandbox.load(machine, load);
    run(machine, OTHER)?;
    let neighbour = Sandbox::new(machine, load)?;
    let found = seen(machine, &mut sandbox);
    check!(found == [true, false, true], "seen from another space: {found:?}");
    machine.switch_to(&sandbox.space, &sandbox.vector);
    run(machine, OTHER)?;
    let found = seen(machine, &mut sandbox);
    check!(found == [true, false, true], "back in the space: {found:?}");
    machine.unmap(&mut sandbox.space, page_at(OTHER));
    for at in [OTHER, 1 << 40] {
        check!(!machine.take_accessed(&mut sandbox.space, page_at(at)), "{at:#x} is used and not mapped");
    }
    neighbour.end(machine);
    sandbox.end(machine);
    machine.release(other);
    Ok(())
}

/// Guests can take every page there is for them; the kernel's heap still works then, and all come back.
pub fn exhaustion(machine: &mut Machine) -> Outcome {
    let free = machine.free_pages();
    // Linked through the pages themselves: the list must not need the heap that is being tested.
    let mut last: Option<Page> = None;
    let mut nr_taken = 0;
    let mut first_words = [0; 4];
    while nr_taken < MOST_PAGES
        && let Some(page) = machine.allocate()
    {
        let link = last.take().map_or(u32::MAX, |page| page.mpn().0);
        machine.write(page.mpn(), 0, &link.to_le_bytes());
        last = Some(page);
        nr_taken += 1;
    }
    check!(machine.free_pages() + nr_taken == free, "{nr_taken} of {free} pages taken, {} left", machine.free_pages());
    if machine.free_pages() == 0 {
        check!(machine.create_space().is_err(), "a space without memory for its table");
    }
    let mut block = Vec::<u8>::new();
    check!(block.try_reserve(256 * 1024).is_ok(), "the heap has nothing once guests have all");
    drop(block);
    let has_all = machine.free_pages() == 0;
    let mut nr_given = 0;
    while let Some(page) = last.take() {
        machine.read(page.mpn(), 0, &mut first_words);
        let next = u32::from_le_bytes(first_words);
        if has_all && nr_given < HEAP_PAGES {
            machine.give_to_heap(page);
            nr_given += 1;
        } else {
            machine.release(page);
        }
        nr_taken -= 1;
        if has_all && nr_given == HEAP_PAGES {
            scattered_heap()?;
            nr_given += 1;
        }
        last = (next != u32::MAX).then(|| Page::new(Mpn(next)));
    }
    let expected = free - nr_given.min(HEAP_PAGES);
    check!(nr_taken == 0 && machine.free_pages() == expected, "{} pages free, not {expected}", machine.free_pages());
    Ok(())
}

/// Pages that the heap gets of those that guests gave back.
const HEAP_PAGES: u64 = 128;

/// The heap uses what memory is left to it to the last, then pages that lie anywhere; it keeps what is in them.
fn scattered_heap() -> Outcome {
    const BLOCK: usize = 200 * 1024;
    let mark = |n: usize| n.to_le_bytes()[0];
    let mut blocks = Vec::<Vec<u8>>::new();
    let most = usize::try_from(machine::heap_room()).unwrap_or(0) / BLOCK + 64;
    check!(blocks.try_reserve(most).is_ok(), "no memory for a list of {most}");
    while blocks.len() < most {
        let mut block = Vec::new();
        if block.try_reserve_exact(BLOCK).is_err() {
            break;
        }
        block.resize(BLOCK, mark(blocks.len()));
        blocks.push(block);
    }
    let nr_scattered = blocks.iter().filter(|block| machine::is_in_heap_window(block.as_ptr())).count();
    check!(nr_scattered > 0, "none of {} blocks is made of single pages", blocks.len());
    for (n, block) in blocks.iter().enumerate() {
        check!(block.iter().all(|&byte| byte == mark(n)), "block {n} has changed");
    }
    Ok(())
}
