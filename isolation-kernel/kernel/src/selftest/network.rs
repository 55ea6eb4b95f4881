//! The network card, if there is one.

use super::{Outcome, check};
use hal::{Ethernet, Frame, Processor};
use log::info;
use machine::Machine;

/// Sends a question to every station and says whether somebody answered: who is on the wire is not known here.
pub fn questions(machine: &mut Machine) -> Outcome {
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
