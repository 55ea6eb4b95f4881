//! What ACPI tables say: interrupt controllers, processors, PCI, and how to switch the machine off.

use crate::apic::Line;
use crate::paging::{map_device, map_firmware};
use acpi::address::AddressSpace;
use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::mcfg::Mcfg;
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use alloc::vec::Vec;
use core::ptr::NonNull;

/// Maps tables into the direct map, where they stay.
#[derive(Clone)]
struct Handler;

impl AcpiHandler for Handler {
    unsafe fn map_physical_region<T>(&self, physical_address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let at = map_firmware(physical_address as u64, size as u64).expect("memory for page tables at boot");
        let at = NonNull::new(at.cast()).expect("the direct map is not at 0");
        // SAFETY: `size` bytes are mapped there, readable.
        unsafe { PhysicalMapping::new(physical_address, at, size, size, Self) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// How the machine is switched off.
#[derive(Clone, Copy, Debug)]
pub enum SleepControl {
    /// A byte in memory (ACPI with reduced hardware), mapped here.
    Memory(*mut u8),
    /// A byte at a port, of the same form.
    Port(u16),
    /// The older register of 16 bits at a port.
    Pm1(u16),
}

// SAFETY: a device's register, which is mapped in all tables and never unmapped; a byte is written to it.
unsafe impl Send for SleepControl {}

/// What the tables say.
pub struct Firmware {
    /// Interrupt controllers of the processors that can be used, this one's among them.
    pub cpus: Vec<u32>,
    /// Processors whose numbers are too large to be sent interrupts.
    pub nr_left_out: u32,
    /// Interrupt controllers for devices: physical address and first line.
    pub io_apics: Vec<(u64, u32)>,
    /// The line of the first serial port.
    pub serial_line: Line,
    /// Configuration space of PCI: physical address and number of buses.
    pub pci: Option<(u64, u32)>,
    /// How the machine is switched off.
    pub sleep: Option<SleepControl>,
}

/// The legacy line of the first serial port.
const SERIAL_IRQ: u8 = 4;

impl Firmware {
    /// Reads the tables.
    ///
    /// # Errors
    /// A text if there is no usable table of interrupt controllers.
    pub fn read(rsdp: u64) -> Result<Self, acpi::AcpiError> {
        let rsdp = usize::try_from(rsdp).unwrap_or(usize::MAX);
        // SAFETY: the address is the loader's.
        let tables = unsafe { AcpiTables::from_rsdp(Handler, rsdp) }?;
        let mut found = Self {
            cpus: Vec::new(),
            nr_left_out: 0,
            io_apics: Vec::new(),
            serial_line: Line { gsi: u32::from(SERIAL_IRQ), is_level: false, is_low: false },
            pci: None,
            sleep: None,
        };
        let madt = tables.find_table::<Madt>()?;
        for entry in madt.get().entries() {
            found.note(&entry);
        }
        if let Ok(mcfg) = tables.find_table::<Mcfg>() {
            let first = mcfg.entries().iter().find(|e| e.pci_segment_group == 0 && e.bus_number_start == 0);
            found.pci = first.map(|e| (e.base_address, u32::from(e.bus_number_end) + 1));
        }
        if let Ok(fadt) = tables.find_table::<Fadt>() {
            found.sleep = sleep_control(&fadt);
        }
        Ok(found)
    }

    fn note(&mut self, entry: &MadtEntry<'_>) {
        match entry {
            // Enabled, or can be enabled.
            MadtEntry::LocalApic(cpu) if cpu.flags & 3 != 0 => self.cpus.push(u32::from(cpu.apic_id)),
            MadtEntry::LocalX2Apic(cpu) if cpu.flags & 3 != 0 && cpu.x2apic_id > 254 => self.nr_left_out += 1,
            MadtEntry::IoApic(io) => {
                self.io_apics.push((u64::from(io.io_apic_address), io.global_system_interrupt_base));
            }
            MadtEntry::InterruptSourceOverride(o) if o.bus == 0 && o.irq == SERIAL_IRQ => {
                let flags = o.flags;
                self.serial_line =
                    Line { gsi: o.global_system_interrupt, is_level: flags >> 2 & 3 == 3, is_low: flags & 3 == 3 };
            }
            _ => {}
        }
    }
}

fn sleep_control(fadt: &Fadt) -> Option<SleepControl> {
    if let Ok(Some(register)) = fadt.sleep_control_register() {
        return match register.address_space {
            AddressSpace::SystemMemory => map_device(register.address, 1).ok().map(SleepControl::Memory),
            AddressSpace::SystemIo => u16::try_from(register.address).ok().map(SleepControl::Port),
            _ => None,
        };
    }
    let control = fadt.pm1a_control_block().ok()?;
    match control.address_space {
        AddressSpace::SystemIo if control.address != 0 => u16::try_from(control.address).ok().map(SleepControl::Pm1),
        _ => None,
    }
}
