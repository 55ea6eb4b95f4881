//! What the virtio drivers share: memory for devices, queues that are polled while there is work, finding devices.

use crate::layout::{PAGE, direct, physical_of};
use crate::paging::map_device;
use crate::{copy, ram};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::pci::bus::{Cam, Command, ConfigurationAccess, DeviceFunction, MmioCam, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::transport::{DeviceStatus, DeviceType, SomeTransport, Transport};
use virtio_drivers::{BufferDirection, Error, Hal, PhysAddr};

/// The device follows version 1 of the standard.
pub const VERSION_1: u64 = 1 << 32;

/// Gives devices the kernel's memory as it is: there is no address translation between them.
pub struct Dma;

// SAFETY: pages come from the pool, are zeroed and never given back; the addresses are those of the direct map.
unsafe impl Hal for Dma {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let Some(range) = ram::take_high(pages as u64) else { return (0, NonNull::dangling()) };
        for page in 0..pages as u64 {
            // SAFETY: the page has just left the pool.
            unsafe { copy::zero_page(direct(range.start + page * PAGE)) };
        }
        (range.start, NonNull::new(direct(range.start)).expect("the direct map is not at 0"))
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        // Queues live as long as the machine; those of a device that could not be set up are lost.
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        let at = map_device(paddr, size as u64).expect("memory for page tables at boot");
        NonNull::new(at).expect("the direct map is not at 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        physical_of(buffer.as_ptr().cast())
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// Resets a device and agrees on features: those of `wanted` that it offers.
pub fn negotiate(transport: &mut SomeTransport<'static>, wanted: u64) -> Result<u64, Error> {
    transport.set_status(DeviceStatus::empty());
    transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
    let agreed = transport.read_device_features() & wanted;
    transport.write_driver_features(agreed);
    let status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK;
    transport.set_status(status);
    if agreed & VERSION_1 != 0 && !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
        transport.set_status(DeviceStatus::FAILED);
        return Err(Error::Unsupported);
    }
    transport.set_guest_page_size(4096);
    Ok(agreed)
}

/// A queue whose interrupt is off while it has something, and on while it is empty.
pub struct Ring<const N: usize> {
    /// The queue itself.
    pub queue: Box<VirtQueue<Dma, N>>,
    index: u16,
    is_armed: bool,
    is_kick_due: bool,
}

impl<const N: usize> Ring<N> {
    /// Sets a queue of a device up, with its interrupt off.
    pub fn new(transport: &mut SomeTransport<'static>, index: u16) -> Result<Self, Error> {
        // Without event indices: the flags of the plain queue say all that is needed, and can be changed at will.
        let mut queue = Box::new(VirtQueue::new(transport, index, false, false)?);
        queue.set_dev_notify(false);
        Ok(Self { queue, index, is_armed: false, is_kick_due: false })
    }

    /// The first buffer that the device has used. If there is none its interrupt is on afterwards, and nothing
    /// has slipped through in between.
    #[inline]
    pub fn poll(&mut self) -> Option<u16> {
        let mut used = self.queue.peek_used();
        if used.is_none() && !self.is_armed {
            self.queue.set_dev_notify(true);
            self.is_armed = true;
            // The device must see the flag before the last look at its ring.
            fence(Ordering::SeqCst);
            used = self.queue.peek_used();
        }
        if used.is_some() && self.is_armed {
            self.queue.set_dev_notify(false);
            self.is_armed = false;
        }
        used
    }

    /// Whether [`Self::poll`] has something to do: a buffer that was used, or to switch the interrupt on.
    #[inline]
    pub fn is_used(&self) -> bool {
        !self.is_armed || self.queue.can_pop()
    }

    /// Notes that buffers were added.
    #[inline]
    pub fn note_added(&mut self) {
        self.is_kick_due = true;
    }

    /// Tells the device of all buffers added since the last time, if it wants to be told.
    #[inline]
    pub fn kick(&mut self, transport: &mut SomeTransport<'static>) {
        if self.is_kick_due {
            self.is_kick_due = false;
            // The device must have seen the new buffers before it says that it needs no telling.
            fence(Ordering::SeqCst);
            if self.queue.should_notify() {
                transport.notify(self.index);
            }
        }
    }
}

/// Where QEMU's microvm has its virtio transports: 24 of them with a second interrupt controller, else 8.
const MMIO_FIRST: u64 = 0xfeb0_0000;
const MMIO_STRIDE: u64 = 0x200;
const MMIO_SLOTS: u64 = 24;

/// Finds the devices of a machine without PCI, by looking at each place where one can be.
pub fn find_on_board() -> Vec<SomeTransport<'static>> {
    let mut found = Vec::new();
    let Ok(base) = map_device(MMIO_FIRST, MMIO_STRIDE * MMIO_SLOTS) else { return found };
    for slot in (0..MMIO_SLOTS).rev() {
        // SAFETY: mapped just now. An empty place answers with device number 0, no place with all zeros or ones.
        unsafe {
            let header = base.add((slot * MMIO_STRIDE) as usize).cast::<u32>();
            if header.read_volatile() != u32::from_le_bytes(*b"virt") || header.add(2).read_volatile() == 0 {
                continue;
            }
            let header = NonNull::new_unchecked(header).cast::<VirtIOHeader>();
            match MmioTransport::new(header, MMIO_STRIDE as usize) {
                Ok(transport) => found.push(SomeTransport::Mmio(transport)),
                Err(e) => log::warn!("virtio transport at {:#x}: {e}", MMIO_FIRST + slot * MMIO_STRIDE),
            }
        }
    }
    found
}

/// Finds the devices on PCI. All others are kept from raising interrupts.
pub fn find_on_pci(configuration: u64, nr_buses: u32) -> Vec<SomeTransport<'static>> {
    let mut found = Vec::new();
    let bytes = u64::from(Cam::Ecam.size());
    let Ok(base) = map_device(configuration, bytes) else { return found };
    // SAFETY: mapped just now, for ever, and used here alone.
    let access = unsafe { MmioCam::new(base, Cam::Ecam) };
    // SAFETY: used to read the bus numbers of bridges, which nobody changes.
    let bridges = unsafe { access.unsafe_clone() };
    let mut root = PciRoot::new(access);
    let mut buses = alloc::vec![0_u8];
    let mut next = 0;
    while let Some(&bus) = buses.get(next) {
        next += 1;
        for (function, info) in root.enumerate_bus(bus).collect::<Vec<_>>() {
            if let Some(secondary) = secondary_bus(&bridges, function)
                && u32::from(secondary) < nr_buses
                && !buses.contains(&secondary)
            {
                buses.push(secondary);
            }
            let (_, command) = root.get_status_command(function);
            match virtio_device_type(&info) {
                Some(DeviceType::Network | DeviceType::Block) => {
                    let wanted = (command | Command::MEMORY_SPACE | Command::BUS_MASTER) - Command::INTERRUPT_DISABLE;
                    root.set_command(function, wanted);
                    match PciTransport::new::<Dma, _>(&mut root, function) {
                        Ok(transport) => found.push(SomeTransport::Pci(transport)),
                        Err(e) => log::warn!("virtio device {function}: {e}"),
                    }
                }
                _ => root.set_command(function, command | Command::INTERRUPT_DISABLE),
            }
        }
    }
    found
}

/// The bus behind a bridge, if the function is one.
fn secondary_bus(access: &impl ConfigurationAccess, function: DeviceFunction) -> Option<u8> {
    let is_bridge = access.read_word(function, 0x0c) >> 16 & 0x7f == 1;
    let [_, secondary, ..] = access.read_word(function, 0x18).to_le_bytes();
    (is_bridge && secondary != 0).then_some(secondary)
}
