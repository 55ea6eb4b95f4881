//! The console: bytes out, lines in.

use super::{Single, control, instruction, runtime};
use crate::line::LineBuffer;
use crate::rings::index;
use alloc::collections::VecDeque;
use alloc::string::String;
use core::future::poll_fn;
use core::sync::atomic::{AtomicU8, Ordering};
use core::task::{Poll, Waker};
use virtual_isa::control::{CONSOLE_HEAD, CONSOLE_INPUT, CONSOLE_INPUT_BYTES, CONSOLE_TAIL, Pending};
use virtual_isa::layout::CONTROL_PAGE;

/// Lines that wait to be read. Input stays in the ring, and is dropped by the kernel, when there are more.
const MAX_LINES: usize = 16;

struct Input {
    is_started: bool,
    line: LineBuffer,
    lines: VecDeque<String>,
    waker: Option<Waker>,
}

static INPUT: Single<Input> =
    Single::new(Input { is_started: false, line: LineBuffer::new(), lines: VecDeque::new(), waker: None });

/// Prints bytes.
pub fn print(bytes: &[u8]) {
    instruction::console(bytes);
}

/// Waits for the next line of input.
pub async fn read_line() -> String {
    poll_fn(|context| {
        INPUT.with(|input| {
            if !input.is_started {
                input.is_started = true;
                let driver = runtime::Driver { interests: Pending::CONSOLE, poll, poll_at: |_| None };
                runtime::add_driver(driver);
            }
            // Room for more, and what came before anybody asked.
            take_input(input);
            match input.lines.pop_front() {
                Some(line) => Poll::Ready(line),
                None => {
                    input.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
    })
    .await
}

fn poll(pending: Pending, _now_ns: u64) {
    if pending.contains(Pending::CONSOLE) {
        let waker = INPUT.with(|input| {
            take_input(input);
            if input.lines.is_empty() { None } else { input.waker.take() }
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

fn take_input(input: &mut Input) {
    let (head, tail) = (index(control(), CONSOLE_HEAD), index(control(), CONSOLE_TAIL));
    let mut at = tail.load(Ordering::Relaxed);
    while at != head.load(Ordering::Acquire) && input.lines.len() < MAX_LINES {
        let offset = CONSOLE_INPUT + (at % CONSOLE_INPUT_BYTES) as usize;
        // SAFETY: a byte of the control page, which is there for as long as the VM is.
        let byte = unsafe { &*(CONTROL_PAGE as *const AtomicU8).add(offset) }.load(Ordering::Relaxed);
        at = at.wrapping_add(1);
        if let Some(line) = input.line.push(byte) {
            input.lines.push_back(line);
        }
    }
    tail.store(at, Ordering::Release);
}
