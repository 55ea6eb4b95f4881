//! A supervisor that does what a test tells it.

use crate::guest::{Cpu, Fault, Op, Program, rings};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use virtual_isa::control::{self, Pending};
use virtual_isa::gate::{Answer, Event, GateError, Message, Operation, Request};
use virtual_isa::instruction::{Instruction, NO_DEADLINE};

/// What goes between a test and its supervisor.
#[derive(Debug, Default)]
pub struct Desk {
    /// Requests to send, encoded.
    pub requests: VecDeque<Vec<u8>>,
    /// Completions, by ticket: `None` for a request that was unreadable.
    pub completions: Vec<(Option<u64>, Result<Reply, GateError>)>,
    /// Events.
    pub events: Vec<Event>,
    /// Bytes that were typed.
    pub typed: Vec<u8>,
}

/// An [`Answer`] that owns its bytes.
#[expect(clippy::large_enum_variant, reason = "few exist at a time")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Any answer without bytes.
    Plain(Answer<'static>),
    /// [`Answer::Bytes`].
    Bytes(Vec<u8>),
}

impl Desk {
    /// Puts a request on the desk.
    ///
    /// # Panics
    /// If it cannot be encoded.
    pub fn ask(&mut self, ticket: u64, operation: Operation<'_>) {
        let request = postcard::to_stdvec(&Request { ticket, operation }).expect("a request can be encoded");
        self.requests.push_back(request);
    }

    /// How the request with that ticket ended, if it has.
    #[must_use]
    pub fn result(&self, ticket: u64) -> Option<&Result<Reply, GateError>> {
        self.completions.iter().find(|(t, _)| *t == Some(ticket)).map(|(_, result)| result)
    }
}

/// The program: sends what is on the desk, collects what comes back, sleeps.
pub struct Clerk(pub Rc<RefCell<Desk>>);

impl Program for Clerk {
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        let mut desk = self.0.borrow_mut();
        cpu.set_control(control::PENDING, 0)?;
        cpu.set_control(control::ENABLED, (Pending::GATE | Pending::CONSOLE | Pending::TIMER).bits())?;
        while let Some(record) = cpu.pop(&rings::COMPLETION)? {
            desk.note(&postcard::from_bytes(&record).expect("the kernel's messages can be read"));
        }
        let (head, mut tail) = (cpu.control(control::CONSOLE_HEAD)?, cpu.control(control::CONSOLE_TAIL)?);
        while tail != head {
            let at = u64::from(tail % control::CONSOLE_INPUT_BYTES);
            let mut byte = [0];
            cpu.read(virtual_isa::layout::CONTROL_PAGE + control::CONSOLE_INPUT as u64 + at, &mut byte)?;
            desk.typed.extend(byte);
            tail = tail.wrapping_add(1);
        }
        cpu.set_control(control::CONSOLE_TAIL, tail)?;
        while let Some(request) = desk.requests.front() {
            if !cpu.push(&rings::REQUEST, request)? {
                return Ok(Op::call(Instruction::Gate, &[]));
            }
            desk.requests.pop_front();
        }
        // Tests put new requests on the desk at any time: look again soon, as a person would.
        let mut deadline = [0; 8];
        cpu.read(virtual_isa::layout::CONTROL_PAGE + control::DEADLINE as u64, &mut deadline)?;
        let last = u64::from_le_bytes(deadline);
        let soon = if last == NO_DEADLINE { 0 } else { last } + 1_000_000;
        Ok(Op::call(Instruction::Idle, &[soon]))
    }
}

impl Desk {
    fn note(&mut self, message: &Message<'_>) {
        match *message {
            Message::Unreadable => self.completions.push((None, Err(GateError::BadArgument))),
            Message::Event(event) => self.events.push(event),
            Message::Completion { ticket, result } => {
                let reply = result.map(|answer| match answer {
                    Answer::Bytes(bytes) => Reply::Bytes(bytes.to_vec()),
                    Answer::Done => Reply::Plain(Answer::Done),
                    Answer::Image { image } => Reply::Plain(Answer::Image { image }),
                    Answer::Entry { kind, bytes } => Reply::Plain(Answer::Entry { kind, bytes }),
                    Answer::Vm(status) => Reply::Plain(Answer::Vm(status)),
                    Answer::Machine(status) => Reply::Plain(Answer::Machine(status)),
                });
                self.completions.push((Some(ticket), reply));
            }
        }
    }
}
