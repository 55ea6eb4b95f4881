//! The gate in the supervisor VM.

use super::tickets::Tickets;
use super::{Answer, Error, Event, Operation};
use crate::guest::runtime::{self, Driver};
use crate::guest::{Single, completion_ring, control, registers, request_ring};
use crate::rings::{Consumer, Producer};
use core::future::poll_fn;
use virtual_isa::control::{COMPLETION_HEAD, COMPLETION_TAIL, Pending, REQUEST_HEAD, REQUEST_TAIL};
use virtual_isa::register::Features;

struct Gate {
    is_started: bool,
    tickets: Tickets,
}

static GATE: Single<Gate> = Single::new(Gate { is_started: false, tickets: Tickets::new() });

/// Works on the gate, if there is one. Requests go out when the VM idles.
fn with<R>(work: impl FnOnce(&mut Tickets) -> R) -> Result<R, Error> {
    GATE.with(|gate| {
        if !gate.is_started {
            if !Features::from_bits_truncate(registers::registers().features).contains(Features::SUPERVISOR) {
                return Err(Error::NotPermitted);
            }
            gate.is_started = true;
            runtime::add_driver(Driver { interests: Pending::GATE, poll, poll_at: |_| None });
        }
        Ok(work(&mut gate.tickets))
    })
}

fn requests<'a>() -> Producer<'a> {
    // SAFETY: called only while the gate is borrowed, for one write.
    let bytes = unsafe { request_ring() };
    Producer { control: control(), head_at: REQUEST_HEAD, tail_at: REQUEST_TAIL, bytes }
}

fn poll(pending: Pending, _now_ns: u64) {
    if pending.contains(Pending::GATE) {
        GATE.with(|gate| {
            // SAFETY: no trap happens while the messages are taken.
            let bytes = unsafe { completion_ring() };
            let ring = Consumer { control: control(), head_at: COMPLETION_HEAD, tail_at: COMPLETION_TAIL, bytes };
            gate.tickets.take_messages(&ring);
        });
    }
}

/// Nobody waits for the ticket any more when this is dropped.
struct Ticket(u64);

impl Drop for Ticket {
    fn drop(&mut self) {
        // Its slot may be gone, which is as well.
        let _ = with(|tickets| tickets.forget(self.0));
    }
}

/// Asks the kernel for an operation and waits for its end.
///
/// # Errors
/// What the kernel says, or that this VM has no gate.
pub async fn call(operation: Operation<'_>) -> Result<Answer, Error> {
    let ticket =
        poll_fn(|context| match with(|tickets| tickets.poll_send(&mut requests(), operation, context.waker())) {
            Ok(poll) => poll,
            Err(e) => core::task::Poll::Ready(Err(e)),
        });
    let ticket = Ticket(ticket.await?);
    poll_fn(|context| match with(|tickets| tickets.poll_answer(ticket.0, context.waker())) {
        Ok(poll) => poll,
        Err(e) => core::task::Poll::Ready(Err(e)),
    })
    .await
}

/// Waits for the next event. In a VM without the gate none ever comes.
pub async fn next_event() -> Event {
    let event = poll_fn(|context| match with(|tickets| tickets.poll_event(context.waker())) {
        Ok(poll) => poll,
        Err(_) => core::task::Poll::Pending,
    });
    event.await
}
