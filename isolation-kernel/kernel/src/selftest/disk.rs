//! The disk, if there is one. What the checks write they put back as it was.

use super::sandbox::{Sandbox, patterned};
use super::{Outcome, check};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use hal::{
    Completion, Disk, DiskError, DiskRequest, Exit, MAX_TRANSFER_PAGES, Mpn, Nanos, PAGE_SIZE, Page, Pages, Processor,
    Registers, Transfer,
};
use machine::Machine;

/// Far longer than any transfer takes.
const LATE: u64 = 5_000_000_000;

/// Requests that cannot be are refused and handed back whole.
pub fn refusals(machine: &mut Machine) -> Outcome {
    let nr_blocks = machine.nr_blocks();
    let cases = [
        ("no pages", 0, 0),
        ("too many pages", 0, MAX_TRANSFER_PAGES + 1),
        ("a block beyond the end", nr_blocks, 1),
        ("the last block and one beyond", nr_blocks.saturating_sub(1), 2),
        ("the last of all numbers", u64::MAX, 2),
    ];
    for (what, block, nr_pages) in cases {
        for transfer in [Transfer::Read, Transfer::Write] {
            let pages = take(machine, nr_pages)?;
            let numbers = numbers(&pages);
            let Err((error, back)) = machine.submit(1, DiskRequest { transfer, block, pages }) else {
                return Err(alloc::format!("{what}: accepted"));
            };
            let expected = if nr_blocks == 0 { DiskError::NoDisk } else { DiskError::OutOfRange };
            check!(error == expected, "{what}: {error:?}");
            check!((back.transfer, back.block) == (transfer, block), "{what}: another request came back");
            check!(self::numbers(&back.pages) == numbers, "{what}: other pages came back");
            give(machine, back.pages);
        }
    }
    check!(machine.complete().is_none(), "what was refused has ended");
    Ok(())
}

/// Blocks are what was written, in their order, however many a transfer has.
pub fn transfers(machine: &mut Machine) -> Outcome {
    let nr_blocks = machine.nr_blocks();
    if nr_blocks == 0 {
        return Ok(());
    }
    let free = machine.free_pages();
    let most = usize::try_from(nr_blocks).unwrap_or(MAX_TRANSFER_PAGES).min(MAX_TRANSFER_PAGES);
    for nr_pages in [1, 2, 5, MAX_TRANSFER_PAGES - 1, MAX_TRANSFER_PAGES].map(|n| n.min(most)) {
        for block in [0, nr_blocks - nr_pages as u64] {
            written_and_read(machine, block, nr_pages)?;
        }
    }
    check!(machine.free_pages() == free, "{} pages free, were {free}", machine.free_pages());
    Ok(())
}

fn written_and_read(machine: &mut Machine, block: u64, nr_pages: usize) -> Outcome {
    let seed = |n: usize| block << 16 | (nr_pages as u64) << 8 | n as u64;
    let pages = take(machine, nr_pages)?;
    let before = transfer(machine, Transfer::Read, block, pages)?;
    let pages = take(machine, nr_pages)?;
    pages.iter().enumerate().for_each(|(n, page)| machine.write(page.mpn(), 0, &pattern(seed(n))));
    let pages = transfer(machine, Transfer::Write, block, pages)?;
    for page in &pages {
        machine.write(page.mpn(), 0, &[0xa5; PAGE_SIZE]);
    }
    let pages = transfer(machine, Transfer::Read, block, pages)?;
    for (n, page) in pages.iter().enumerate() {
        check!(holds(machine, page, seed(n)), "page {n} of {nr_pages} from block {block} is not what was written");
    }
    give(machine, pages);
    // One by one: each page went to its own block, and not only came back from the same wrong one.
    for n in (0..nr_pages).rev() {
        let page = take(machine, 1)?;
        let page = transfer(machine, Transfer::Read, block + n as u64, page)?;
        check!(holds(machine, &page[0], seed(n)), "block {n} of {nr_pages} after {block} is not what was written");
        give(machine, page);
    }
    let before = transfer(machine, Transfer::Write, block, before)?;
    give(machine, before);
    Ok(())
}

/// The queue refuses when it is full, and is as good as new when all is back.
pub fn full_queue(machine: &mut Machine) -> Outcome {
    if machine.nr_blocks() == 0 {
        return Ok(());
    }
    let free = machine.free_pages();
    let most = usize::try_from(machine.nr_blocks()).unwrap_or(MAX_TRANSFER_PAGES).min(MAX_TRANSFER_PAGES);
    for nr_pages in [1, most] {
        let first = fill_and_empty(machine, nr_pages)?;
        let again = fill_and_empty(machine, nr_pages)?;
        check!(first == again, "{first} requests of {nr_pages} pages fit the queue, then {again}");
        check!(first > 1, "{first} requests of {nr_pages} pages fit the queue");
    }
    check!(machine.free_pages() == free, "{} pages free, were {free}", machine.free_pages());
    Ok(())
}

/// Fills the queue with reads until it refuses one, gets everything back, and says how many there were.
fn fill_and_empty(machine: &mut Machine, nr_pages: usize) -> Result<u64, String> {
    let nr_places = machine.nr_blocks() + 1 - nr_pages as u64;
    let mut under_way: Vec<Option<Vec<Mpn>>> = Vec::new();
    loop {
        let pages = take(machine, nr_pages)?;
        let numbers = numbers(&pages);
        let ticket = under_way.len() as u64;
        match machine.submit(ticket, DiskRequest { transfer: Transfer::Read, block: ticket % nr_places, pages }) {
            Ok(()) => under_way.push(Some(numbers)),
            Err((DiskError::QueueFull, back)) => {
                check!(self::numbers(&back.pages) == numbers, "other pages came back from a full queue");
                give(machine, back.pages);
                break;
            }
            Err((e, _)) => return Err(alloc::format!("submit: {e:?}")),
        }
        check!(ticket < 1000, "the queue never fills");
    }
    for _ in 0..under_way.len() {
        let (ticket, pages) = wait(machine)?;
        let expected = under_way.get_mut(usize::try_from(ticket).unwrap_or(usize::MAX)).and_then(Option::take);
        check!(expected == Some(numbers(&pages)), "ticket {ticket} came back twice, or with other pages");
        give(machine, pages);
    }
    check!(machine.complete().is_none(), "one completion too many");
    Ok(under_way.len() as u64)
}

/// The end of a transfer ends a halt, and a guest's turn.
pub fn interrupts(machine: &mut Machine) -> Outcome {
    const ROUNDS: usize = 8;
    const MANY: usize = 1000;
    let nr_blocks = machine.nr_blocks();
    if nr_blocks == 0 {
        return Ok(());
    }
    // jmp $
    let sandbox = Sandbox::new(machine, &[0xeb, 0xfe])?;
    let mut registers = patterned();
    for is_guest in [false, true] {
        for round in 0..ROUNDS {
            let pages = take(machine, 1)?;
            let block = round as u64 % nr_blocks;
            let request = DiskRequest { transfer: Transfer::Read, block, pages };
            // Nothing else but the alarm would end the wait: that rings when it is too late.
            let end = machine.now().after(LATE);
            machine.set_alarm(end);
            machine.submit(7, request).map_err(|(e, _)| alloc::format!("submit: {e:?}"))?;
            let (nr_waits, pages) = wait_by_interrupt(machine, end, is_guest.then_some(&mut registers))?;
            let what = if is_guest { "turns of a guest" } else { "halts" };
            check!(nr_waits < MANY, "{nr_waits} {what} until a transfer ended");
            give(machine, pages);
        }
    }
    sandbox.end(machine);
    Ok(())
}

/// Halts, or runs a guest that never comes back by itself, until a transfer has ended. Answers how often.
fn wait_by_interrupt(
    machine: &mut Machine,
    end: Nanos,
    mut guest: Option<&mut Registers>,
) -> Result<(usize, Vec<Page>), String> {
    let mut nr_waits = 0;
    loop {
        if let Some(Completion { pages, result, .. }) = machine.complete() {
            result.map_err(|e| alloc::format!("transfer: {e:?}"))?;
            return Ok((nr_waits, pages));
        }
        check!(machine.now() < end, "the end of a transfer raised no interrupt");
        match &mut guest {
            Some(registers) => {
                let exit = machine.enter(registers);
                check!(exit == Exit::Interrupt, "{exit:?} instead of an interrupt");
            }
            None => machine.halt(),
        }
        nr_waits += 1;
    }
}

/// Makes one transfer, and waits for it.
pub fn transfer(machine: &mut Machine, transfer: Transfer, block: u64, pages: Vec<Page>) -> Result<Vec<Page>, String> {
    let expected = numbers(&pages);
    let request = DiskRequest { transfer, block, pages };
    machine.submit(7, request).map_err(|(e, _)| alloc::format!("submit: {e:?}"))?;
    let (ticket, pages) = wait(machine)?;
    check!(ticket == 7, "ticket {ticket} came back");
    check!(numbers(&pages) == expected, "other pages came back");
    Ok(pages)
}

/// Waits for the next transfer that ends.
fn wait(machine: &mut Machine) -> Result<(u64, Vec<Page>), String> {
    let end = machine.now().after(LATE);
    loop {
        if let Some(Completion { ticket, pages, result }) = machine.complete() {
            result.map_err(|e| alloc::format!("transfer: {e:?}"))?;
            return Ok((ticket, pages));
        }
        check!(machine.now() < end, "no completion");
        machine.set_alarm(end);
        machine.halt();
    }
}

pub fn take(machine: &mut Machine, nr_pages: usize) -> Result<Vec<Page>, String> {
    (0..nr_pages).map(|_| machine.allocate().ok_or("no page".to_string())).collect()
}

pub fn give(machine: &mut Machine, pages: Vec<Page>) {
    pages.into_iter().for_each(|page| machine.release(page));
}

fn numbers(pages: &[Page]) -> Vec<Mpn> {
    pages.iter().map(Page::mpn).collect()
}

/// Bytes of which no eight are like any others, of this seed or another.
fn pattern(seed: u64) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    for (n, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(seed << 16 | n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    bytes
}

fn holds(machine: &Machine, page: &Page, seed: u64) -> bool {
    let mut bytes = [0; PAGE_SIZE];
    machine.read(page.mpn(), 0, &mut bytes);
    bytes == pattern(seed)
}
