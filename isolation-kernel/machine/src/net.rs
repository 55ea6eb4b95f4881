//! The network card: virtio-net over the queues of `virtio-drivers`.
//!
//! The driver of that crate tells the device of each frame by itself, and its event indices cannot be switched off;
//! here one kick serves all frames of a turn. Frames are handed over whole: a received one is the buffer the
//! device wrote, a sent one goes back to the pool when the device is done with it.

use crate::pool::FramePool;
use crate::virtio::{Ring, VERSION_1, negotiate};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hal::Frame;
use virtio_drivers::Error;
use virtio_drivers::transport::{SomeTransport, Transport};

const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;
/// Frames in each queue: what QEMU offers by default.
const QUEUE_FRAMES: usize = 256;

/// The device's header before a frame, with version 1 and without it.
const HEADER_BYTES: usize = 12;
const LEGACY_HEADER_BYTES: usize = 10;

/// Frames that are with the device, by their descriptor.
type Slots = Box<[Option<Frame>]>;

/// The network card.
pub struct Net {
    transport: SomeTransport<'static>,
    receive: Ring<QUEUE_FRAMES>,
    transmit: Ring<QUEUE_FRAMES>,
    received: Slots,
    sent: Slots,
    nr_posted: usize,
    header_bytes: usize,
    /// Whether somebody waits for room in the transmit queue.
    is_transmit_awaited: bool,
}

fn slots() -> Slots {
    (0..QUEUE_FRAMES).map(|_| None).collect::<Vec<_>>().into_boxed_slice()
}

impl Net {
    /// Sets the card up and gives it buffers to receive into.
    pub fn new(mut transport: SomeTransport<'static>, pool: &mut FramePool) -> Result<Self, Error> {
        let agreed = negotiate(&mut transport, VERSION_1)?;
        let receive = Ring::new(&mut transport, RECEIVE_QUEUE)?;
        let transmit = Ring::new(&mut transport, TRANSMIT_QUEUE)?;
        transport.finish_init();
        let header_bytes = if agreed & VERSION_1 != 0 { HEADER_BYTES } else { LEGACY_HEADER_BYTES };
        let mut net = Self {
            transport,
            receive,
            transmit,
            received: slots(),
            sent: slots(),
            nr_posted: 0,
            header_bytes,
            is_transmit_awaited: false,
        };
        net.refill(pool);
        net.receive.poll();
        Ok(net)
    }

    /// Gives the device buffers until its queue is full, or the pool is empty: it then goes on with the fewer it
    /// has, and drops frames itself when it has none.
    fn refill(&mut self, pool: &mut FramePool) {
        while self.nr_posted < QUEUE_FRAMES {
            let Some(mut frame) = pool.take() else { break };
            let buffer = &mut frame.buffer_mut()[Frame::HEADROOM - self.header_bytes..];
            // SAFETY: the buffer is on the heap and stays in its slot until the device has used it.
            match unsafe { self.receive.queue.add(&[], &mut [buffer]) } {
                Ok(token) => {
                    self.received[usize::from(token)] = Some(frame);
                    self.nr_posted += 1;
                    self.receive.note_added();
                }
                Err(_) => {
                    pool.give(frame);
                    break;
                }
            }
        }
        self.receive.kick(&mut self.transport);
    }

    /// Whether a frame has come, the device has few buffers left, or it would not tell of the next frame.
    #[inline]
    pub fn has_received(&self) -> bool {
        self.receive.is_used() || self.nr_posted < QUEUE_FRAMES / 2
    }

    /// The next frame from the wire.
    pub fn receive(&mut self, pool: &mut FramePool) -> Option<Frame> {
        loop {
            let Some(token) = self.receive.poll() else {
                self.refill(pool);
                return None;
            };
            // A descriptor that is not with the device: it is broken, and gets no more from us.
            let mut frame = self.received.get_mut(usize::from(token))?.take()?;
            let buffer = &mut frame.buffer_mut()[Frame::HEADROOM - self.header_bytes..];
            // SAFETY: the buffer that was added under this token.
            let written = unsafe { self.receive.queue.pop_used(token, &[], &mut [buffer]) };
            self.nr_posted -= 1;
            // In bulk: looking whether the device wants to be told costs more than a buffer.
            if self.nr_posted <= QUEUE_FRAMES - 32 {
                self.refill(pool);
            }
            let length = written.map_or(0, |bytes| bytes as usize).saturating_sub(self.header_bytes);
            if length == 0 || length > Frame::MAX_LENGTH {
                pool.give(frame);
                continue;
            }
            frame.set_length(length);
            return Some(frame);
        }
    }

    /// Takes back the frames that have been sent.
    pub fn reclaim(&mut self, pool: &mut FramePool) {
        while let Some(token) = self.transmit.queue.peek_used() {
            let Some(frame) = self.sent.get_mut(usize::from(token)).and_then(Option::take) else { return };
            let buffer = self.header_and_bytes(&frame);
            // SAFETY: the buffer that was added under this token.
            let popped = unsafe { self.transmit.queue.pop_used(token, &[buffer], &mut []) };
            pool.give(frame);
            if popped.is_err() {
                return;
            }
            self.is_transmit_awaited = false;
        }
    }

    fn header_and_bytes<'a>(&self, frame: &'a Frame) -> &'a [u8] {
        let bytes = frame.bytes();
        // SAFETY: the header lies in the frame's headroom, right before its bytes, in the same buffer.
        unsafe { core::slice::from_raw_parts(bytes.as_ptr().sub(self.header_bytes), bytes.len() + self.header_bytes) }
    }

    /// Queues a frame for the wire.
    pub fn transmit(&mut self, mut frame: Frame, pool: &mut FramePool) -> Result<(), Frame> {
        if self.transmit.queue.available_desc() == 0 {
            self.reclaim(pool);
        }
        frame.buffer_mut()[Frame::HEADROOM - self.header_bytes..Frame::HEADROOM].fill(0);
        let buffer = self.header_and_bytes(&frame);
        // SAFETY: the buffer is on the heap and stays in its slot until the device has used it.
        match unsafe { self.transmit.queue.add(&[buffer], &mut []) } {
            Ok(token) => {
                self.sent[usize::from(token)] = Some(frame);
                self.transmit.note_added();
                Ok(())
            }
            Err(_) => {
                self.is_transmit_awaited = true;
                self.transmit.kick(&mut self.transport);
                Err(frame)
            }
        }
    }

    /// Sends what is queued.
    pub fn flush(&mut self, pool: &mut FramePool) {
        self.transmit.kick(&mut self.transport);
        self.reclaim(pool);
    }

    /// Whether there is something to do now. If not, an interrupt will say when there is.
    pub fn has_work(&mut self, pool: &mut FramePool) -> bool {
        self.transmit.kick(&mut self.transport);
        // Buffers may have come back since the device ran out of them.
        if self.nr_posted < QUEUE_FRAMES / 2 {
            self.refill(pool);
        }
        if self.is_transmit_awaited && self.transmit.poll().is_some() {
            self.reclaim(pool);
            return true;
        }
        self.receive.poll().is_some()
    }

    /// Tells the device that its interrupt was seen.
    pub fn acknowledge(&mut self) {
        self.transport.ack_interrupt();
    }
}
