//! The console on the host: standard input and output.
//!
//! ```no_run
//! # async fn converse() {
//! use libos::console::{print, read_line};
//!
//! print(b"who is there? ");
//! let name = read_line().await;
//! print(format!("hello {name}\n").as_bytes());
//! # }
//! ```

use crate::line::LineBuffer;
use core::task::{Poll, Waker};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::string::String;
use std::sync::{Mutex, Once};

/// Prints bytes to standard output. What cannot be printed is lost, as on a VM's console.
pub fn print(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Lines that were read and not yet asked for, and who waits for one.
static LINES: Mutex<(VecDeque<String>, Option<Waker>)> = Mutex::new((VecDeque::new(), None));

/// Waits for the next line of input. Never returns once the input has ended.
pub async fn read_line() -> String {
    static READER: Once = Once::new();
    // Standard input may be a file, which no poller takes: a thread that blocks reads anything.
    READER.call_once(|| {
        std::thread::spawn(read_all);
    });
    core::future::poll_fn(|context| {
        let mut lines = LINES.lock().expect("no holder panics");
        match lines.0.pop_front() {
            Some(line) => Poll::Ready(line),
            None => {
                lines.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}

fn read_all() {
    let mut buffer = LineBuffer::new();
    for byte in std::io::stdin().lock().bytes() {
        let Ok(byte) = byte else { return };
        let Some(line) = buffer.push(byte) else { continue };
        let mut lines = LINES.lock().expect("no holder panics");
        lines.0.push_back(line);
        if let Some(waker) = lines.1.take() {
            waker.wake();
        }
    }
}
