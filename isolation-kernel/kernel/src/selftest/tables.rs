//! Page tables that spaces share.

use super::sandbox::{CODE, Sandbox, enter, page_at};
use super::{Outcome, check};
use alloc::string::{String, ToString};
use hal::{Access, Exit, LEAF_PAGES, NoMemory, Page, Pages, Processor, Registers, Rights, Spaces};
use machine::Machine;

/// A region in which a sandbox has nothing of its own.
const HERE: u64 = 4 * LEAF_PAGES as u64 * 4096;
/// Its second page.
const NEXT: u64 = HERE + 4096;

/// mov rax, [rdi]; syscall
const LOAD: &[u8] = &[0x48, 0x8b, 0x07, 0x0f, 0x05];
/// mov [rdi], rax; syscall
const STORE: &[u8] = &[0x48, 0x89, 0x07, 0x0f, 0x05];

fn page_of(machine: &mut Machine, word: u64) -> Result<Page, String> {
    let page = machine.allocate().ok_or("no page".to_string())?;
    machine.write(page.mpn(), 0, &word.to_le_bytes());
    Ok(page)
}

fn run(machine: &mut Machine, sandbox: &Sandbox, code: &[u8], at: u64) -> (Exit, u64) {
    sandbox.load(machine, code);
    machine.switch_to(&sandbox.space, &sandbox.vector);
    let mut registers = Registers { rax: 77, rdi: at, ..Registers::at(CODE, 0) };
    (enter(machine, &mut registers), registers.rax)
}

/// What a shared table maps is seen by all, written by none, and changed for one space alone.
pub fn shared(machine: &mut Machine) -> Outcome {
    let free = machine.free_pages();
    let no_table = |NoMemory| "no table".to_string();
    let (one, two, own) = (page_of(machine, 1)?, page_of(machine, 2)?, page_of(machine, 3)?);
    let mut leaf = machine.create_leaf(page_at(NEXT)).map_err(no_table)?;
    check!(leaf.first == page_at(HERE), "the table is for {:#x} and on", leaf.first.0);
    machine.fill_leaf(&mut leaf, page_at(HERE), one.mpn(), Rights::Read);
    machine.fill_leaf(&mut leaf, page_at(NEXT), two.mpn(), Rights::Read);
    let (mut a, mut b) = (Sandbox::new(machine, LOAD)?, Sandbox::new(machine, LOAD)?);
    for sandbox in [&mut a, &mut b] {
        let before = machine.table_pages(&sandbox.space);
        let shares = machine.share_leaf(&mut sandbox.space, &leaf).map_err(no_table)?;
        let again = machine.share_leaf(&mut sandbox.space, &leaf).map_err(no_table)?;
        check!(shares && !again, "shared: {shares}, and once more: {again}");
        check!(machine.table_pages(&sandbox.space) == before, "a shared table counts");
    }
    let loaded = Exit::Instruction;
    for sandbox in [&a, &b] {
        check!(run(machine, sandbox, LOAD, HERE) == (loaded, 1), "the first page is not the shared one");
        check!(run(machine, sandbox, LOAD, NEXT) == (loaded, 2), "the second page is not the shared one");
        let stored = run(machine, sandbox, STORE, HERE).0;
        check!(stored == Exit::PageFault { address: HERE, access: Access::Write }, "a store answers {stored:?}");
    }
    // The translations of `a` are cached when its mapping changes.
    check!(run(machine, &a, LOAD, HERE) == (loaded, 1), "after the store");
    machine.map(&mut a.space, page_at(HERE), own.mpn(), Rights::ReadWrite).map_err(no_table)?;
    check!(run(machine, &a, LOAD, HERE) == (loaded, 3), "its own page is not mapped");
    check!(run(machine, &a, LOAD, NEXT) == (loaded, 2), "the page beside it is gone");
    check!(run(machine, &a, STORE, HERE) == (loaded, 77), "its own page cannot be written");
    check!(run(machine, &b, LOAD, HERE) == (loaded, 1), "another space sees the change");
    check!(run(machine, &a, LOAD, HERE) == (loaded, 77), "what was written is not there");
    machine.unmap(&mut b.space, page_at(HERE));
    let gone = run(machine, &b, LOAD, HERE).0;
    check!(gone == Exit::PageFault { address: HERE, access: Access::Read }, "an unmapped page answers {gone:?}");
    check!(run(machine, &b, LOAD, NEXT) == (loaded, 2), "the page beside the unmapped one is gone");
    let found = machine::rights_at(&a.space, page_at(NEXT));
    check!(found == Some((two.mpn(), Rights::Read)), "the copied entry is {found:?}");
    a.end(machine);
    b.end(machine);
    for page in [one, two, own, leaf.table] {
        machine.release(page);
    }
    check!(machine.free_pages() == free, "{} pages free, were {free}", machine.free_pages());
    Ok(())
}
