//! Disk and network card, if there are.

use super::{Outcome, check};
use alloc::string::{String, ToString};
use hal::{Disk, DiskError, DiskRequest, Ethernet, Frame, PAGE_SIZE, Page, Pages, Processor};
use log::info;
use machine::Machine;

/// Reads the last block, writes it back as it was, and reads it again; a block beyond the end is refused.
pub fn disk(machine: &mut Machine) -> Outcome {
    let mut page = machine.allocate().ok_or("no page".to_string())?;
    let nr_blocks = machine.nr_blocks();
    let Err((error, DiskRequest::Read { page: back, .. })) =
        machine.submit(1, DiskRequest::Read { block: nr_blocks, page })
    else {
        return Err("a block beyond the end was accepted".to_string());
    };
    page = back;
    let expected = if nr_blocks == 0 { DiskError::NoDisk } else { DiskError::OutOfRange };
    check!(error == expected, "a block beyond the end: {error:?}");
    if nr_blocks > 0 {
        let block = nr_blocks - 1;
        let mut first = [0; PAGE_SIZE];
        let mut again = [0; PAGE_SIZE];
        machine.write(page.mpn(), 0, &[0xa5; PAGE_SIZE]);
        page = transfer(machine, DiskRequest::Read { block, page })?;
        machine.read(page.mpn(), 0, &mut first);
        check!(first.iter().any(|b| *b != 0xa5), "nothing was read");
        page = transfer(machine, DiskRequest::Write { block, page })?;
        machine.write(page.mpn(), 0, &[0xa5; PAGE_SIZE]);
        page = transfer(machine, DiskRequest::Read { block, page })?;
        machine.read(page.mpn(), 0, &mut again);
        check!(first == again, "a block is not what was written");
        page = many(machine, page)?;
    }
    machine.release(page);
    Ok(())
}

fn transfer(machine: &mut Machine, request: DiskRequest) -> Result<Page, String> {
    machine.submit(7, request).map_err(|(e, _)| alloc::format!("submit: {e:?}"))?;
    let (ticket, page) = wait(machine)?;
    check!(ticket == 7, "ticket {ticket} came back");
    Ok(page)
}

fn wait(machine: &mut Machine) -> Result<(u64, Page), String> {
    let end = machine.now().after(2_000_000_000);
    loop {
        if let Some((ticket, page, result)) = machine.complete() {
            result.map_err(|e| alloc::format!("transfer: {e:?}"))?;
            return Ok((ticket, page));
        }
        check!(machine.now() < end, "no completion");
        machine.set_alarm(end);
        machine.halt();
    }
}

/// Fills the queue until it refuses, and gets everything back.
fn many(machine: &mut Machine, last: Page) -> Result<Page, String> {
    let mut nr_under_way = 0_u64;
    let mut next = Some(last);
    let refused = loop {
        let Some(page) = next.take().or_else(|| machine.allocate()) else { return Err("no page".to_string()) };
        let block = nr_under_way % machine.nr_blocks();
        match machine.submit(nr_under_way, DiskRequest::Read { block, page }) {
            Ok(()) => nr_under_way += 1,
            Err((DiskError::QueueFull, DiskRequest::Read { page, .. })) => break page,
            Err((e, _)) => return Err(alloc::format!("submit: {e:?}")),
        }
        check!(nr_under_way < 10_000, "the queue never fills");
    };
    let mut seen = 0_u64;
    for _ in 0..nr_under_way {
        let (ticket, page) = wait(machine)?;
        check!(ticket < nr_under_way && seen >> ticket & 1 == 0, "ticket {ticket} came back twice");
        seen |= 1 << ticket;
        machine.release(page);
    }
    check!(machine.complete().is_none(), "one completion too many");
    Ok(refused)
}

/// Sends a question to every station and says whether somebody answered: who is on the wire is not known here.
pub fn network(machine: &mut Machine) -> Outcome {
    if !machine.has_network() {
        return Ok(());
    }
    // ARP: who has 10.0.2.2? tell 10.0.2.15. QEMU's user network answers.
    let mut question = [0; 60];
    question[..6].fill(0xff);
    question[6..12].copy_from_slice(&[0x02, 0, 0, 0, 0, 1]);
    question[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question[22..28].copy_from_slice(&[0x02, 0, 0, 0, 0, 1]);
    question[28..32].copy_from_slice(&[10, 0, 2, 15]);
    question[38..42].copy_from_slice(&[10, 0, 2, 2]);
    let mut sent = 0;
    let mut answered = 0;
    let end = machine.now().after(30_000_000);
    while machine.now() < end && (answered < 1000 || sent < 1000) {
        if sent < 1000
            && let Some(mut frame) = machine.take_frame()
        {
            frame.set_length(question.len());
            frame.bytes_mut().copy_from_slice(&question);
            match machine.transmit(frame) {
                Ok(()) => sent += 1,
                Err(frame) => machine.give_frame(frame),
            }
            // More than the card's queue holds, so that it is full now and then.
            if sent % 300 != 0 {
                continue;
            }
        }
        machine.flush();
        while let Some(frame) = machine.receive() {
            check!(frame.bytes().len() >= 14, "a frame of {} bytes", frame.bytes().len());
            answered += u32::from(is_answer(&frame));
            machine.give_frame(frame);
        }
        if sent == 1000 {
            machine.set_alarm(end);
            machine.halt();
        }
    }
    info!("selftest: {sent} questions to the network, {answered} answers");
    Ok(())
}

fn is_answer(frame: &Frame) -> bool {
    frame.bytes().get(12..14) == Some(&[8, 6]) && frame.bytes().get(20..22) == Some(&[0, 2])
}
