//! The disk: virtio-blk over the queues of `virtio-drivers`, in blocks of 4 KiB.
//!
//! The driver of that crate has 16 requests under way at most, each with an allocation; here there are as many as
//! three descriptors each fill a queue, and none allocates.

use crate::frames::address;
use crate::virtio::{Ring, VERSION_1, negotiate};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hal::{DiskError, DiskRequest, PAGE_SIZE, Page};
use virtio_drivers::Error;
use virtio_drivers::transport::{SomeTransport, Transport};

const QUEUE: u16 = 0;
const QUEUE_DESCRIPTORS: usize = 128;
/// Header, page, status.
const DESCRIPTORS_EACH: usize = 3;
const MAX_REQUESTS: usize = QUEUE_DESCRIPTORS / DESCRIPTORS_EACH;
const SECTORS_IN_BLOCK: u64 = PAGE_SIZE as u64 / 512;
const READ_ONLY: u64 = 1 << 5;

/// What the device reads and writes beside the page.
#[repr(C, align(64))]
struct Envelope {
    header: [u8; 16],
    status: [u8; 1],
}

/// A request that is under way.
struct Request {
    ticket: u64,
    page: Page,
    is_read: bool,
    envelope: Box<Envelope>,
}

/// The disk.
pub struct DiskDriver {
    transport: SomeTransport<'static>,
    ring: Ring<QUEUE_DESCRIPTORS>,
    nr_blocks: u64,
    is_read_only: bool,
    /// Requests under way, by their first descriptor.
    requests: Box<[Option<Request>]>,
    #[expect(clippy::vec_box, reason = "the device has the address: an envelope must not move with the list")]
    envelopes: Vec<Box<Envelope>>,
}

impl DiskDriver {
    /// Sets the disk up.
    pub fn new(mut transport: SomeTransport<'static>) -> Result<Self, Error> {
        let agreed = negotiate(&mut transport, VERSION_1 | READ_ONLY)?;
        let word = |offset| transport.read_config_space::<u32>(offset).map(u64::from);
        let sectors = transport.read_consistent(|| Ok(word(0)? | word(4)? << 32))?;
        let mut ring = Ring::new(&mut transport, QUEUE)?;
        transport.finish_init();
        ring.poll();
        let envelope = || Box::new(Envelope { header: [0; 16], status: [0] });
        Ok(Self {
            transport,
            ring,
            nr_blocks: sectors / SECTORS_IN_BLOCK,
            is_read_only: agreed & READ_ONLY != 0,
            requests: (0..QUEUE_DESCRIPTORS).map(|_| None).collect::<Vec<_>>().into_boxed_slice(),
            envelopes: (0..MAX_REQUESTS).map(|_| envelope()).collect(),
        })
    }

    /// Blocks there are.
    pub const fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    /// Begins a transfer.
    pub fn submit(&mut self, ticket: u64, request: DiskRequest) -> Result<(), (DiskError, DiskRequest)> {
        let (block, is_read) = match &request {
            DiskRequest::Read { block, .. } => (*block, true),
            DiskRequest::Write { block, .. } => (*block, false),
        };
        if block >= self.nr_blocks {
            return Err((DiskError::OutOfRange, request));
        }
        if self.is_read_only && !is_read {
            return Err((DiskError::Io, request));
        }
        let Some(mut envelope) = self.envelopes.pop() else { return Err((DiskError::QueueFull, request)) };
        let (DiskRequest::Read { page, .. } | DiskRequest::Write { page, .. }) = request;
        envelope.header[0..4].copy_from_slice(&u32::from(!is_read).to_le_bytes());
        envelope.header[8..16].copy_from_slice(&(block * SECTORS_IN_BLOCK).to_le_bytes());
        envelope.status = [0xff];
        let bytes = page_bytes(&page);
        // SAFETY: page and envelope stay with the request until the device is done; both are in the direct map.
        let added = unsafe {
            let Envelope { header, status } = &mut *envelope;
            if is_read {
                self.ring.queue.add(&[header], &mut [bytes, status])
            } else {
                self.ring.queue.add(&[header, bytes], &mut [status])
            }
        };
        match added {
            Ok(token) => {
                self.requests[usize::from(token)] = Some(Request { ticket, page, is_read, envelope });
                self.ring.note_added();
                self.ring.kick(&mut self.transport);
                Ok(())
            }
            Err(_) => {
                self.envelopes.push(envelope);
                let again =
                    if is_read { DiskRequest::Read { block, page } } else { DiskRequest::Write { block, page } };
                Err((DiskError::QueueFull, again))
            }
        }
    }

    /// The next transfer that has ended.
    pub fn complete(&mut self) -> Option<(u64, Page, Result<(), DiskError>)> {
        let token = self.ring.poll()?;
        // A descriptor that is not with the device: it is broken, and gets no more from us.
        let Request { ticket, page, is_read, mut envelope } = self.requests.get_mut(usize::from(token))?.take()?;
        let bytes = page_bytes(&page);
        // SAFETY: the buffers that were added under this token, in the same order.
        let popped = unsafe {
            let Envelope { header, status } = &mut *envelope;
            if is_read {
                self.ring.queue.pop_used(token, &[header], &mut [bytes, status])
            } else {
                self.ring.queue.pop_used(token, &[header, bytes], &mut [status])
            }
        };
        // SAFETY: the device is done with it; read as it is in memory, not as the compiler last saw it.
        let status = unsafe { (&raw const envelope.status[0]).read_volatile() };
        self.envelopes.push(envelope);
        let result = if popped.is_ok() && status == 0 { Ok(()) } else { Err(DiskError::Io) };
        Some((ticket, page, result))
    }

    /// Whether there is something to do now. If not, an interrupt will say when there is.
    pub fn has_work(&mut self) -> bool {
        self.ring.poll().is_some()
    }

    /// Tells the device that its interrupt was seen.
    pub fn acknowledge(&mut self) {
        self.transport.ack_interrupt();
    }
}

/// The bytes of a page that is the disk's for the time being.
fn page_bytes<'a>(page: &Page) -> &'a mut [u8] {
    // SAFETY: whoever submitted the page gave its token away, so nobody else uses it until it comes back; the
    // slice only carries the address into the queue.
    unsafe { core::slice::from_raw_parts_mut(address(page.mpn()), PAGE_SIZE) }
}
