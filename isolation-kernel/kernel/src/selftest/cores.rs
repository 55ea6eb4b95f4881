//! Many cores, each with a machine of its own: what they have apart, what they share, and how they wake each other.

use super::sandbox::{Sandbox, patterned};
use super::team::{LATE, Shared, Team};
use super::{EVERYWHERE, Outcome, check, disk};
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use hal::{Cores, Disk, DiskRequest, Exit, PAGE_SIZE, Page, Pages, Processor, Transfer};
use log::{debug, info};
use machine::Machine;

/// All of it.
pub fn all(machine: &mut Machine) -> Outcome {
    check!(machine.core() == 0, "the first core is number {}", machine.core());
    let nr_cores = machine.nr_cores();
    check!(nr_cores == machine.nr_running(), "{nr_cores} cores, {} processors run", machine.nr_running());
    let team = Team::start(machine)?;
    for core in team.cores() {
        team.run(machine, core, Box::new(move |machine| identity(machine, core, nr_cores)))?;
        for (name, check) in EVERYWHERE {
            debug!("selftest: {name} on core {core}");
            team.run(machine, core, Box::new(check)).map_err(|what| alloc::format!("{name} {what}"))?;
        }
        travelling_pages(machine, &team, core)?;
        turns(machine, &team, core)?;
        woken_guests(machine, &team, core)?;
        clocks(machine, &team, core)?;
        disk_beside_a_guest(machine, &team, core)?;
    }
    team.run_all(machine, heap)?;
    team.run_all(machine, allocation)?;
    if machine.nr_blocks() > 0 {
        team.run_all(machine, parts)?;
    }
    Ok(())
}

fn identity(machine: &mut Machine, core: u32, nr_cores: u32) -> Outcome {
    check!(machine.core() == core, "its number is {}", machine.core());
    check!(machine.nr_cores() == nr_cores, "it knows of {} cores", machine.nr_cores());
    check!(!machine.has_network() && machine.receive_is_empty(), "it has a network card");
    let frame = hal::Ethernet::take_frame(machine).ok_or("no frame".to_string())?;
    check!(frame.home() == core, "its frames are core {}'s", frame.home());
    hal::Ethernet::give_frame(machine, frame);
    Ok(())
}

/// A way to ask for a frame that cannot be there.
trait ReceiveIsEmpty {
    fn receive_is_empty(&mut self) -> bool;
}

impl ReceiveIsEmpty for Machine {
    fn receive_is_empty(&mut self) -> bool {
        hal::Ethernet::receive(self).is_none()
    }
}

/// More pages than caches hold.
const NR_TRAVELLING: u32 = 3000;

/// Pages are given back by another core than took them, and neither keeps more than its bound.
fn travelling_pages(machine: &mut Machine, team: &Team, core: u32) -> Outcome {
    let free = machine.free_pages();
    let kept = Arc::new(AtomicU64::new(0));
    let cached = |machine: &mut Machine| {
        let kept = kept.clone();
        let note = move |machine: &mut Machine| {
            let (here, most) = machine.cached_pages();
            kept.store(here, Ordering::Relaxed);
            check!(here <= most && most <= 512, "{here} pages in a cache of {most}");
            Ok(())
        };
        note.clone()(machine)?;
        team.run(machine, core, Box::new(note))
    };
    cached(machine)?;
    let before = machine.free_pages() + kept.load(Ordering::Relaxed);
    // There.
    let pages = take_marked(machine)?;
    team.run(machine, core, Box::new(move |machine| give_marked(machine, pages)))?;
    cached(machine)?;
    let missing = free.saturating_sub(machine.free_pages());
    check!(missing <= 512, "core {core} keeps {missing} of {NR_TRAVELLING} pages to itself");
    // And back.
    let box_of_pages = Arc::new(spin::Mutex::new(Vec::new()));
    let filled = box_of_pages.clone();
    team.run(
        machine,
        core,
        Box::new(move |machine| {
            *filled.lock() = take_marked(machine)?;
            Ok(())
        }),
    )?;
    let pages = core::mem::take(&mut *box_of_pages.lock());
    check!(pages.len() == NR_TRAVELLING as usize, "{} pages came", pages.len());
    give_marked(machine, pages)?;
    cached(machine)?;
    let after = machine.free_pages() + kept.load(Ordering::Relaxed);
    check!(after == before, "{after} pages free, were {before}");
    Ok(())
}

fn take_marked(machine: &mut Machine) -> Result<Vec<Page>, alloc::string::String> {
    let mut pages = Vec::with_capacity(NR_TRAVELLING as usize);
    for n in 0..NR_TRAVELLING {
        let page = machine.allocate().ok_or("no page".to_string())?;
        check!(machine.load(page.mpn(), 0) == 0 && machine.load(page.mpn(), 4) == 0, "a page is not zero");
        machine.store(page.mpn(), 8, n ^ page.mpn().0);
        pages.push(page);
    }
    Ok(pages)
}

fn give_marked(machine: &mut Machine, pages: Vec<Page>) -> Outcome {
    for (n, page) in (0..NR_TRAVELLING).zip(&pages) {
        check!(machine.load(page.mpn(), 8) == n ^ page.mpn().0, "page {n} is not what the other core wrote");
    }
    pages.into_iter().for_each(|page| machine.release(page));
    Ok(())
}

/// Turns that two cores take, and in a long run.
const NR_TURNS: u32 = 2000;
const NR_TURNS_LONG: u32 = 40_000;

/// How many they take here.
fn nr_turns() -> u32 {
    if super::terms().is_long { NR_TURNS_LONG } else { NR_TURNS }
}

/// Two cores wait for each other by turns, halted, at times that differ by some instructions: a wake-up that was lost
/// would leave both halted.
fn turns(machine: &mut Machine, team: &Team, core: u32) -> Outcome {
    let turn = Arc::new(AtomicU32::new(0));
    let theirs = turn.clone();
    let start = machine.now();
    team.ask(machine, core, Box::new(move |machine| take_turns(machine, &theirs, 1, 0)));
    take_turns(machine, &turn, 0, core)?;
    team.join(machine, core)?;
    let ns = machine.now().since(start);
    info!("selftest: {} ns for a wake-up of core {core} and the way back", ns / u64::from(nr_turns() / 2));
    Ok(())
}

fn take_turns(machine: &mut Machine, turn: &AtomicU32, parity: u32, other: u32) -> Outcome {
    let end = machine.now().after(LATE);
    machine.set_alarm(end);
    let mut random = 0x2545_f491_u32 ^ parity;
    for mine in (parity..nr_turns()).step_by(2) {
        while turn.load(Ordering::Acquire) != mine {
            check!(machine.now() < end, "the wake-up of turn {mine} is lost");
            machine.halt();
        }
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        for _ in 0..random % 256 {
            core::hint::spin_loop();
        }
        turn.store(mine + 1, Ordering::Release);
        machine.wake(other);
    }
    Ok(())
}

/// A wake-up brings a guest back that does nothing but loop: on that core, and on this.
fn woken_guests(machine: &mut Machine, team: &Team, core: u32) -> Outcome {
    const ROUNDS: u32 = 20;
    for _ in 0..ROUNDS {
        let (is_running, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let theirs = (is_running.clone(), is_over.clone());
        team.ask(machine, core, Box::new(move |machine| loops(machine, &theirs.0, &theirs.1)));
        let end = machine.now().after(LATE);
        while !is_running.load(Ordering::Acquire) {
            check!(machine.now() < end, "the guest does not begin");
        }
        pause(machine, 50_000);
        is_over.store(true, Ordering::Release);
        machine.wake(core);
        team.join(machine, core)?;
    }
    let (is_running, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let theirs = (is_running.clone(), is_over.clone());
    let wakes = move |machine: &mut Machine| {
        while !theirs.0.load(Ordering::Acquire) {}
        pause(machine, 1_000_000);
        theirs.1.store(true, Ordering::Release);
        machine.wake(0);
        Ok(())
    };
    team.ask(machine, core, Box::new(wakes));
    loops(machine, &is_running, &is_over)?;
    team.join(machine, core)
}

fn pause(machine: &Machine, ns: u64) {
    let end = machine.now().after(ns);
    while machine.now() < end {}
}

/// Runs a guest that loops until it is over. Only interrupts bring it back.
fn loops(machine: &mut Machine, is_running: &AtomicBool, is_over: &AtomicBool) -> Outcome {
    // jmp $
    let sandbox = Sandbox::new(machine, &[0xeb, 0xfe])?;
    let end = machine.now().after(LATE);
    machine.set_alarm(end);
    is_running.store(true, Ordering::Release);
    let mut registers = patterned();
    while !is_over.load(Ordering::Acquire) {
        let exit = machine.enter(&mut registers);
        check!(exit == Exit::Interrupt, "{exit:?} instead of an interrupt");
        check!(machine.now() < end, "the wake-up does not come to a guest");
    }
    sandbox.end(machine);
    Ok(())
}

/// Comparisons there are at least, after how long no more are made, and what ends them.
const LEAST_TURNS: u32 = 20;
const ENOUGH_NS: u64 = 100_000_000;
const OVER: u32 = u32::MAX;

/// Most by which a core may see its clock behind what another has read before, in nanoseconds.
const MOST_BEHIND: u64 = 1000;

/// What one core has read of the clock is not later than what the other reads after it.
fn clocks(machine: &mut Machine, team: &Team, core: u32) -> Outcome {
    let (turn, told) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
    let theirs = (turn.clone(), told.clone());
    team.ask(machine, core, Box::new(move |machine| compare(machine, &theirs.0, &theirs.1, 1)));
    compare(machine, &turn, &told, 0)?;
    team.join(machine, core)
}

fn compare(machine: &mut Machine, turn: &AtomicU32, told: &AtomicU64, parity: u32) -> Outcome {
    let end = machine.now().after(LATE);
    // Two that are one processor of the host's by turns need long for each.
    let enough = machine.now().after(ENOUGH_NS);
    for mine in (parity..nr_turns()).step_by(2) {
        loop {
            match turn.load(Ordering::Acquire) {
                OVER => return Ok(()),
                turn if turn == mine => break,
                _ => check!(machine.now() < end, "the other core does not answer"),
            }
        }
        if mine >= LEAST_TURNS && machine.now() > enough {
            turn.store(OVER, Ordering::Release);
            return Ok(());
        }
        let (now, before) = (machine.now().0, told.load(Ordering::Relaxed));
        check!(now + MOST_BEHIND >= before, "core {} reads {now} after {before} on another", machine.core());
        told.store(machine.now().0, Ordering::Relaxed);
        turn.store(mine + 1, Ordering::Release);
    }
    Ok(())
}

/// A core reaches the disk while the first, which has the disk, does nothing but run a guest.
fn disk_beside_a_guest(machine: &mut Machine, team: &Team, core: u32) -> Outcome {
    if machine.nr_blocks() == 0 {
        return Ok(());
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let theirs = is_over.clone();
    let transfers = move |machine: &mut Machine| {
        let outcome = disk::transfers(machine);
        theirs.store(true, Ordering::Release);
        machine.wake(0);
        outcome
    };
    team.ask(machine, core, Box::new(transfers));
    loops(machine, &AtomicBool::new(false), &is_over)?;
    team.join(machine, core)
}

/// Waits until all cores are here.
fn meet(machine: &mut Machine, shared: &Shared, time: u32) -> Outcome {
    shared.arrived.fetch_add(1, Ordering::AcqRel);
    let end = machine.now().after(LATE);
    while shared.arrived.load(Ordering::Acquire) < machine.nr_cores() * time {
        check!(machine.now() < end, "the others do not come");
        // Core 0 has the others' disk to see to.
        let _ = machine.complete();
    }
    Ok(())
}

/// The heap under all cores at once, each freeing what others took too.
fn heap(machine: &mut Machine, shared: &Shared) -> Outcome {
    const ROUNDS: u32 = 3000;
    meet(machine, shared, 1)?;
    let mut random = 0x9e37_79b9_u32 ^ machine.core();
    for round in 0..ROUNDS {
        random = random.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        let length = 16 + (random >> 8) as usize % if round % 64 == 0 { 40_000 } else { 600 };
        let mark = random.to_le_bytes()[3];
        let mut block = Vec::new();
        check!(block.try_reserve_exact(length).is_ok(), "no memory for {length} bytes");
        block.resize(length, mark);
        // Grown, so that blocks move.
        block.resize(length * 3 / 2, mark);
        shared.blocks.lock().push(block);
        let other = {
            let mut blocks = shared.blocks.lock();
            let place = random as usize % blocks.len();
            if blocks.len() > 40 { Some(blocks.swap_remove(place)) } else { None }
        };
        if let Some(block) = other {
            let is_whole = block.iter().all(|byte| *byte == block[0]);
            check!(is_whole, "a block of {} bytes has changed", block.len());
        }
    }
    Ok(())
}

/// Pages under all cores at once: none is given to two.
fn allocation(machine: &mut Machine, shared: &Shared) -> Outcome {
    const ROUNDS: u32 = 6;
    const PAGES: usize = 700;
    meet(machine, shared, 1)?;
    let mark = 0xc0de_0000 | machine.core();
    for _ in 0..ROUNDS {
        let mut pages = Vec::with_capacity(PAGES);
        for _ in 0..PAGES {
            let page = machine.allocate().ok_or("no page".to_string())?;
            let before = machine.set_bits(page.mpn(), 64, mark);
            check!(before == 0, "page {:#x} has {before:#x} in it", page.mpn().0);
            pages.push(page);
        }
        for page in pages {
            let now = machine.load(page.mpn(), 64);
            check!(now == mark, "page {:#x} has {now:#x} in it", page.mpn().0);
            machine.release(page);
        }
    }
    Ok(())
}

/// All cores write blocks of their own at once, and read what they wrote.
fn parts(machine: &mut Machine, shared: &Shared) -> Outcome {
    let nr_blocks = machine.nr_blocks() / u64::from(machine.nr_cores());
    check!(nr_blocks > 8, "{nr_blocks} blocks for each core");
    let first = nr_blocks * u64::from(machine.core());
    let blocks = [0, 1, nr_blocks / 2, nr_blocks - 1].map(|block| first + block);
    let mut saved = Vec::new();
    meet(machine, shared, 1)?;
    for block in blocks {
        let page = machine.allocate().ok_or("no page".to_string())?;
        saved.push((block, disk::transfer(machine, Transfer::Read, block, alloc::vec![page])?));
    }
    meet(machine, shared, 2)?;
    let fill = |machine: &Machine, block: u64| [machine.core().to_le_bytes()[0] ^ block.to_le_bytes()[0]; PAGE_SIZE];
    for block in blocks {
        let page = machine.allocate().ok_or("no page".to_string())?;
        let bytes = fill(machine, block);
        machine.write(page.mpn(), 0, &bytes);
        let pages = disk::transfer(machine, Transfer::Write, block, alloc::vec![page])?;
        disk::give(machine, pages);
    }
    meet(machine, shared, 3)?;
    for block in blocks {
        let page = machine.allocate().ok_or("no page".to_string())?;
        let pages = disk::transfer(machine, Transfer::Read, block, alloc::vec![page])?;
        let mut bytes = [0; PAGE_SIZE];
        machine.read(pages[0].mpn(), 0, &mut bytes);
        check!(bytes == fill(machine, block), "block {block} is {:#x}, another core's", bytes[0]);
        disk::give(machine, pages);
    }
    flood(machine, shared)?;
    meet(machine, shared, 5)?;
    for (block, pages) in saved {
        let pages = disk::transfer(machine, Transfer::Write, block, pages)?;
        disk::give(machine, pages);
    }
    meet(machine, shared, 6)
}

/// All cores ask for more than the disk's queue holds, at once: each gets its transfers done, and not long after the
/// others.
fn flood(machine: &mut Machine, shared: &Shared) -> Outcome {
    const REQUESTS: u64 = 96;
    const PAGES: usize = 16;
    meet(machine, shared, 4)?;
    let end = machine.now().after(LATE);
    let (mut nr_begun, mut nr_ended) = (0, 0);
    let mut spare = None;
    while nr_ended < REQUESTS {
        check!(machine.now() < end, "{nr_ended} of {REQUESTS} transfers have ended");
        if nr_begun < REQUESTS && spare.is_none() {
            let pages = disk::take(machine, PAGES)?;
            spare = Some(DiskRequest { transfer: Transfer::Read, block: nr_begun % 8, pages });
        }
        if let Some(request) = spare.take() {
            match machine.submit(nr_begun, request) {
                Ok(()) => nr_begun += 1,
                Err((hal::DiskError::QueueFull, request)) => spare = Some(request),
                Err((error, _)) => return Err(alloc::format!("{error:?}")),
            }
        }
        while let Some(completion) = machine.complete() {
            check!(completion.result.is_ok() && completion.pages.len() == PAGES, "{:?}", completion.result);
            disk::give(machine, completion.pages);
            nr_ended += 1;
        }
    }
    Ok(())
}
