//! The serial line: what the kernel prints, and what is typed to it.

use crate::bytes::ByteRing;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::IER;
use uart_16550::{Config, Uart16550};

/// The first serial port of a PC.
const PORT: u16 = 0x3f8;

/// Times to look whether a port has room before its output is dropped: a reader that stops must not stop the
/// machine. About a second under emulation.
const PATIENCE: u32 = 1_000_000;

struct Line {
    uart: Uart16550<PioBackend>,
    input: ByteRing<1024>,
}

/// `None` until it is started, or if there is no port.
static LINE: Mutex<Option<Line>> = Mutex::new(None);

/// Whether a byte may wait in the line's input. Changed by whoever holds the line.
static HAS_TYPED: AtomicBool = AtomicBool::new(false);

/// Starts the port, if there is one. Bytes that arrive raise its interrupt.
pub fn start() {
    // SAFETY: the port's registers are nobody else's.
    let Ok(mut uart) = (unsafe { Uart16550::new_port(PORT) }) else { return };
    if uart.init(Config { interrupts: IER::DATA_READY, ..Config::default() }).is_ok() {
        *LINE.lock() = Some(Line { uart, input: ByteRing::new() });
    }
}

impl Line {
    fn send(&mut self, mut bytes: &[u8]) {
        let mut looks = 0;
        while !bytes.is_empty() && looks < PATIENCE {
            let sent = self.uart.send_bytes(bytes);
            bytes = &bytes[sent..];
            looks = if sent == 0 { looks + 1 } else { 0 };
        }
    }

    fn receive(&mut self) {
        while !self.input.is_full() {
            let Ok(byte) = self.uart.try_receive_byte() else { return };
            self.input.push(byte);
            HAS_TYPED.store(true, Ordering::Relaxed);
        }
        // The rest waits in the port, silently, until there is room.
        self.uart.disable_interrupts(IER::DATA_READY);
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.send(text.as_bytes());
        Ok(())
    }
}

/// Prints text as it is.
pub fn print(text: fmt::Arguments<'_>) {
    if let Some(line) = LINE.lock().as_mut() {
        // Printing to the line itself never fails; a `Display` that fails has printed what it could.
        let _ = line.write_fmt(text);
    }
}

/// Takes the bytes that have arrived out of the port, so that its interrupt ends.
pub fn receive() {
    if let Some(line) = LINE.lock().as_mut() {
        line.receive();
    }
}

/// Whether there may be a byte that was typed, without taking the line.
#[inline]
pub fn has_typed() -> bool {
    HAS_TYPED.load(Ordering::Relaxed)
}

/// The next byte that was typed.
pub fn read_byte() -> Option<u8> {
    let mut line = LINE.lock();
    let line = line.as_mut()?;
    let was_full = line.input.is_full();
    let byte = line.input.pop();
    // Whoever puts one in holds the line then, and says so afterwards.
    HAS_TYPED.store(byte.is_some(), Ordering::Relaxed);
    if was_full {
        line.uart.enable_interrupts(IER::DATA_READY);
        line.receive();
    }
    byte
}

/// Whether nothing typed is waiting.
pub fn is_empty() -> bool {
    LINE.lock().as_ref().is_none_or(|line| line.input.is_empty())
}

/// Frees the line from whoever holds it: for a panic, after which nobody goes on.
///
/// # Safety
/// Only if the holder never runs again.
pub unsafe fn seize() {
    // SAFETY: as promised by the caller.
    unsafe { LINE.force_unlock() };
}
