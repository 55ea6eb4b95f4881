//! The disk: virtio-blk over the queues of `virtio-drivers`, in blocks of 4 KiB.
//!
//! The driver of that crate has 16 requests under way at most, each with an allocation and one buffer. Here a
//! request carries up to [`MAX_TRANSFER_PAGES`] pages wherever they lie in memory, and none allocates.

use crate::frames::address;
use crate::parts::{Driver, ENVELOPE_DESCRIPTORS, MAX_REQUESTS, QUEUE_DESCRIPTORS};
use crate::virtio::{Ring, VERSION_1, negotiate};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::array;
use hal::{Completion, DiskError, DiskRequest, MAX_TRANSFER_PAGES, PAGE_SIZE, Page, Transfer};
use virtio_drivers::Error;
use virtio_drivers::transport::{SomeTransport, Transport};

const QUEUE: u16 = 0;
/// Most buffers that go one way: the pages, and header or status.
const MAX_BUFFERS: usize = MAX_TRANSFER_PAGES + 1;
const SECTORS_IN_BLOCK: u64 = PAGE_SIZE as u64 / 512;
const READ_ONLY: u64 = 1 << 5;

/// What the device reads and writes beside the pages.
#[repr(C, align(64))]
struct Envelope {
    header: [u8; 16],
    status: [u8; 1],
}

impl Envelope {
    fn address(&mut self, transfer: Transfer, block: u64) {
        let kind = match transfer {
            Transfer::Read => 0_u32,
            Transfer::Write => 1,
        };
        self.header[0..4].copy_from_slice(&kind.to_le_bytes());
        self.header[8..16].copy_from_slice(&(block * SECTORS_IN_BLOCK).to_le_bytes());
        self.status = [0xff];
    }
}

/// A request that is under way.
struct Request {
    /// The core whose it is.
    owner: u32,
    ticket: u64,
    transfer: Transfer,
    pages: Vec<Page>,
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

    /// Why a request cannot begin now, if it cannot.
    fn refusal(&self, request: &DiskRequest) -> Option<DiskError> {
        let nr_pages = request.pages.len();
        let is_inside = request.block.checked_add(nr_pages as u64).is_some_and(|end| end <= self.nr_blocks);
        if !(1..=MAX_TRANSFER_PAGES).contains(&nr_pages) || !is_inside {
            Some(DiskError::OutOfRange)
        } else if self.is_read_only && request.transfer == Transfer::Write {
            Some(DiskError::Io)
        } else if self.ring.queue.available_desc() < nr_pages + ENVELOPE_DESCRIPTORS {
            Some(DiskError::QueueFull)
        } else {
            None
        }
    }
}

impl Driver for DiskDriver {
    fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    fn free_room(&self) -> usize {
        self.ring.queue.available_desc()
    }

    fn submit(&mut self, owner: u32, ticket: u64, request: DiskRequest) -> Result<(), (DiskError, DiskRequest)> {
        if let Some(error) = self.refusal(&request) {
            return Err((error, request));
        }
        let Some(mut envelope) = self.envelopes.pop() else { return Err((DiskError::QueueFull, request)) };
        envelope.address(request.transfer, request.block);
        let added = with_buffers(request.transfer, &request.pages, &mut envelope, |inputs, outputs| {
            // SAFETY: pages and envelope stay with the request until the device is done; all of them are in the
            // direct map.
            unsafe { self.ring.queue.add(inputs, outputs) }
        });
        let Ok(token) = added else {
            self.envelopes.push(envelope);
            return Err((DiskError::QueueFull, request));
        };
        let DiskRequest { transfer, pages, .. } = request;
        self.requests[usize::from(token)] = Some(Request { owner, ticket, transfer, pages, envelope });
        self.ring.note_added();
        self.ring.kick(&mut self.transport);
        Ok(())
    }

    fn complete(&mut self) -> Option<(u32, Completion)> {
        let token = self.ring.poll()?;
        // A descriptor that is not with the device: it is broken, and gets no more from us.
        let Request { owner, ticket, transfer, pages, mut envelope } =
            self.requests.get_mut(usize::from(token))?.take()?;
        let popped = with_buffers(transfer, &pages, &mut envelope, |inputs, outputs| {
            // SAFETY: the buffers that were added under this token, in the same order.
            unsafe { self.ring.queue.pop_used(token, inputs, outputs) }
        });
        // SAFETY: the device is done with it; read as it is in memory, not as the compiler last saw it.
        let status = unsafe { (&raw const envelope.status[0]).read_volatile() };
        self.envelopes.push(envelope);
        let result = if popped.is_ok() && status == 0 { Ok(()) } else { Err(DiskError::Io) };
        Some((owner, Completion { ticket, pages, result }))
    }

    fn has_work(&mut self) -> bool {
        self.ring.poll().is_some()
    }

    fn acknowledge(&mut self) {
        self.transport.ack_interrupt();
    }
}

/// Calls with the buffers of a request as the device wants them: what it reads, header first, and what it writes,
/// status last.
fn with_buffers<T>(
    transfer: Transfer,
    pages: &[Page],
    envelope: &mut Envelope,
    call: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> T,
) -> T {
    let Envelope { header, status } = envelope;
    let nr_pages = pages.len();
    let bytes = pages.iter().map(page_bytes);
    match transfer {
        Transfer::Read => {
            let mut outputs: [&mut [u8]; MAX_BUFFERS] = array::from_fn(|_| <&mut [u8]>::default());
            outputs.iter_mut().zip(bytes).for_each(|(slot, page)| *slot = page);
            outputs[nr_pages] = status;
            call(&[header], &mut outputs[..=nr_pages])
        }
        Transfer::Write => {
            let mut inputs: [&[u8]; MAX_BUFFERS] = [&[]; MAX_BUFFERS];
            inputs[0] = header;
            inputs[1..].iter_mut().zip(bytes).for_each(|(slot, page)| *slot = page);
            call(&inputs[..=nr_pages], &mut [status])
        }
    }
}

/// The bytes of a page that is the disk's for the time being.
fn page_bytes<'a>(page: &Page) -> &'a mut [u8] {
    // SAFETY: whoever submitted the page gave its token away, so nobody else uses it until it comes back; the
    // slice only carries the address into the queue.
    unsafe { core::slice::from_raw_parts_mut(address(page.mpn()), PAGE_SIZE) }
}
