//! Requests on their way: which completion is whose. Over any ring memory, so that tests play the kernel.

use super::{Answer, Error, Event, GateError, Operation};
use crate::rings::{Consumer, Producer};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::task::{Poll, Waker};
use virtual_isa::gate::{Message, Request};
use virtual_isa::limits::MAX_REQUEST_BYTES;

/// Events that wait to be read. More are dropped, and counted.
const MAX_EVENTS: usize = 1024;

enum Slot {
    Waiting(Option<Waker>),
    Done(Result<Answer, GateError>),
}

/// The supervisor's side of the gate.
pub(crate) struct Tickets {
    next_ticket: u64,
    slots: BTreeMap<u64, Slot>,
    events: VecDeque<Event>,
    event_waker: Option<Waker>,
    room_wakers: Vec<Waker>,
    /// Events that nobody read in time.
    pub events_lost: u64,
    /// Messages that could not be read, and requests that the kernel could not.
    pub unreadable: u64,
}

impl Tickets {
    pub const fn new() -> Self {
        Self {
            next_ticket: 1,
            slots: BTreeMap::new(),
            events: VecDeque::new(),
            event_waker: None,
            room_wakers: Vec::new(),
            events_lost: 0,
            unreadable: 0,
        }
    }

    /// Puts a request into the ring, or waits for room in it. Returns its ticket.
    pub fn poll_send(
        &mut self,
        ring: &mut Producer<'_>,
        operation: Operation<'_>,
        waker: &Waker,
    ) -> Poll<Result<u64, Error>> {
        let ticket = self.next_ticket;
        let mut space = [0; MAX_REQUEST_BYTES];
        let Ok(bytes) = postcard::to_slice(&Request { ticket, operation }, &mut space) else {
            return Poll::Ready(Err(Error::TooLong));
        };
        if ring.write(bytes.len(), |record| record.copy_from_slice(bytes)).is_err() {
            self.room_wakers.push(waker.clone());
            return Poll::Pending;
        }
        self.next_ticket += 1;
        self.slots.insert(ticket, Slot::Waiting(None));
        Poll::Ready(Ok(ticket))
    }

    /// The end of a request.
    pub fn poll_answer(&mut self, ticket: u64, waker: &Waker) -> Poll<Result<Answer, Error>> {
        match self.slots.get_mut(&ticket) {
            Some(Slot::Waiting(known)) => {
                *known = Some(waker.clone());
                Poll::Pending
            }
            _ => match self.slots.remove(&ticket) {
                Some(Slot::Done(result)) => Poll::Ready(result.map_err(Error::Refused)),
                _ => Poll::Ready(Err(Error::NotPermitted)),
            },
        }
    }

    /// Nobody waits for a request's end any more. Its effect is not undone.
    pub fn forget(&mut self, ticket: u64) {
        self.slots.remove(&ticket);
    }

    /// The next event.
    pub fn poll_event(&mut self, waker: &Waker) -> Poll<Event> {
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                self.event_waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    /// Takes everything out of the completion ring.
    pub fn take_messages(&mut self, ring: &Consumer<'_>) {
        while let Some((record, next_tail)) = ring.peek() {
            match postcard::from_bytes(record) {
                Ok(Message::Completion { ticket, result }) => self.complete(ticket, result.map(Answer::from)),
                Ok(Message::Event(event)) => {
                    if self.events.len() < MAX_EVENTS {
                        self.events.push_back(event);
                    } else {
                        self.events_lost += 1;
                    }
                    if let Some(waker) = self.event_waker.take() {
                        waker.wake();
                    }
                }
                Ok(Message::Unreadable) | Err(_) => self.unreadable += 1,
            }
            ring.take(next_tail);
        }
        // The kernel has taken requests, or this would not have been called.
        for waker in self.room_wakers.drain(..) {
            waker.wake();
        }
    }

    fn complete(&mut self, ticket: u64, result: Result<Answer, GateError>) {
        // A ticket that was forgotten has no slot.
        let Some(slot) = self.slots.get_mut(&ticket) else { return };
        if let Slot::Waiting(waker) = core::mem::replace(slot, Slot::Done(result))
            && let Some(waker) = waker
        {
            waker.wake();
        }
    }

    /// Requests that were sent and not yet answered to their senders.
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rings::fake::Memory;
    use virtual_isa::gate;

    fn noop() -> &'static Waker {
        Waker::noop()
    }

    fn send(tickets: &mut Tickets, memory: &mut Memory, operation: Operation<'_>) -> Poll<Result<u64, Error>> {
        tickets.poll_send(&mut memory.producer(), operation, noop())
    }

    fn put(memory: &mut Memory, message: &Message<'_>) {
        assert!(memory.kernel_put(&postcard::to_allocvec(message).unwrap()));
    }

    #[test]
    fn answers_find_their_requests_in_any_order() {
        let (mut tickets, mut memory) = (Tickets::new(), Memory::gate());
        let first = send(&mut tickets, &mut memory, Operation::Machine);
        let second = send(&mut tickets, &mut memory, Operation::Start { vm: 7 });
        let (Poll::Ready(Ok(first)), Poll::Ready(Ok(second))) = (first, second) else { panic!("no room") };
        assert!(tickets.poll_answer(first, noop()).is_pending());
        let record = memory.kernel_take().unwrap();
        let request: Request<'_> = postcard::from_bytes(&record).unwrap();
        assert_eq!(request, Request { ticket: first, operation: Operation::Machine });

        put(&mut memory, &Message::Completion { ticket: second, result: Err(GateError::NoSuchVm) });
        put(&mut memory, &Message::Event(Event::Spoofed { vm: 3 }));
        put(&mut memory, &Message::Completion { ticket: first, result: Ok(gate::Answer::Bytes(b"bytes")) });
        put(&mut memory, &Message::Completion { ticket: 99, result: Ok(gate::Answer::Done) });
        put(&mut memory, &Message::Unreadable);
        assert!(memory.kernel_put(&[0xff; 3]));
        tickets.take_messages(&memory.consumer());

        assert_eq!(tickets.poll_answer(first, noop()), Poll::Ready(Ok(Answer::Bytes(b"bytes".to_vec()))));
        assert_eq!(tickets.poll_answer(second, noop()), Poll::Ready(Err(Error::Refused(GateError::NoSuchVm))));
        assert_eq!(tickets.poll_event(noop()), Poll::Ready(Event::Spoofed { vm: 3 }));
        assert!(tickets.poll_event(noop()).is_pending());
        assert_eq!(tickets.unreadable, 2);
        assert_eq!(tickets.in_flight(), 0);
    }

    #[test]
    fn a_full_ring_makes_senders_wait_and_forgotten_tickets_leave_nothing() {
        let (mut tickets, mut memory) = (Tickets::new(), Memory::gate());
        let mut sent = 0;
        while let Poll::Ready(ticket) = send(&mut tickets, &mut memory, Operation::Start { vm: 1 }) {
            tickets.forget(ticket.unwrap());
            sent += 1;
        }
        assert!(sent > 100, "{sent}");
        assert!(memory.kernel_take().is_some());
        assert!(send(&mut tickets, &mut memory, Operation::Start { vm: 1 }).is_ready());
        assert_eq!(tickets.in_flight(), 1);
    }

    #[test]
    fn a_request_that_is_too_long_is_refused_here() {
        let (mut tickets, mut memory) = (Tickets::new(), Memory::gate());
        let arguments = "x".repeat(2000);
        let operation = Operation::Create {
            vm: 1,
            image: 0,
            memory_pages: 256,
            minimum_pages: 0,
            shares: 1,
            class: 0,
            arguments: &arguments,
        };
        assert_eq!(send(&mut tickets, &mut memory, operation), Poll::Ready(Err(Error::TooLong)));
        assert!(memory.kernel_take().is_none());
    }

    #[test]
    fn events_nobody_reads_are_bounded_and_counted() {
        let (mut tickets, mut memory) = (Tickets::new(), Memory::gate());
        for vm in 0..1100 {
            put(&mut memory, &Message::Event(Event::Spoofed { vm }));
            tickets.take_messages(&memory.consumer());
        }
        assert_eq!(tickets.events_lost, 76);
    }
}
