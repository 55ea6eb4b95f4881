//! The machine as one value: found, switched on, and kept together.

use crate::alarm::Alarm;
use crate::apic::{Apic, IoApic, Line, silence_legacy};
use crate::boot::BootInfo;
use crate::cores::frame_bytes;
use crate::cpu::{Features, Missing};
use crate::disk::DiskDriver;
use crate::firmware::{Firmware, SleepControl};
use crate::frames::Frames;
use crate::net::Net;
use crate::parts::{DiskAccess, Part, SharedDisk};
use crate::pool::FramePool;
use crate::space::KernelHalf;
use crate::time::{self, Measured};
use crate::{paging, ram, smp, virtio};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use hal::NoMemory;
use spin::Mutex;
use virtio_drivers::transport::{DeviceType, SomeTransport, Transport};

/// What the kernel decides about the machine.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The value of the debug-exit device for a status of a power-off.
    pub exit_value: fn(u8) -> u8,
    /// Whether the branch predictors forget one VM before another runs, if the processor can do that.
    pub predictor_barrier: bool,
    /// Most processors that are used.
    pub most_cpus: u32,
    /// What goes wrong on purpose when the others are started.
    pub start_fault: Option<StartFault>,
}

/// What can go wrong when the other processors are started, to show that the machine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFault {
    /// The firmware names a processor that is not there.
    MissingProcessor,
    /// There is no page below 1 MiB for them to start in.
    NoLowPage,
}

/// A number that no processor of an emulated machine has.
const MISSING_PROCESSOR: u32 = 254;

/// Why there is no machine to run on.
#[derive(Debug)]
pub enum StartError {
    /// The processor lacks what the kernel cannot do without.
    Processor(Missing),
    /// Not enough memory for the kernel's own tables.
    NoMemory,
    /// No usable ACPI tables.
    Firmware(acpi::AcpiError),
    /// Nothing to measure the clock against.
    NoClock,
    /// More memory, or devices further up, than the kernel's tables have room for.
    TooLarge,
}

impl From<NoMemory> for StartError {
    fn from(_: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processor(missing) => write!(f, "this processor lacks {missing} (QEMU: start it with -cpu max)"),
            Self::NoMemory => f.write_str("not enough memory for the kernel's own tables"),
            Self::Firmware(e) => write!(f, "no usable ACPI tables: {e:?}"),
            Self::NoClock => f.write_str("nothing to measure the clock against (QEMU: start microvm with pit=on)"),
            Self::TooLarge => f.write_str("more than 3 TiB of address space in use"),
        }
    }
}

/// The machine as one of its processors has it: see `cores` for what is its own.
pub struct Machine {
    pub(crate) core: u32,
    pub(crate) nr_cores: u32,
    pub(crate) config: Config,
    pub(crate) features: Features,
    pub(crate) frames: Frames,
    pub(crate) kernel_half: KernelHalf,
    pub(crate) current_root: u64,
    pub(crate) apic: Apic,
    pub(crate) clock: Measured,
    pub(crate) alarm: Alarm,
    pub(crate) seen_nmis: u64,
    pub(crate) has_barrier: bool,
    pub(crate) pool: FramePool,
    pub(crate) net: Option<Net>,
    pub(crate) disk: DiskAccess<DiskDriver>,
    /// The parts of the disk of cores that have not been started; of core 1 first.
    pub(crate) parts: Vec<Option<Part>>,
    pub(crate) nr_cpus: u32,
    pub(crate) bundle: Option<&'static [u8]>,
    pub(crate) command_line: &'static str,
}

/// How the machine is switched off, by whichever processor.
static SLEEP_CONTROL: Mutex<Option<SleepControl>> = Mutex::new(None);

/// The first line that is a device's own, and not one of the old PC's.
const FIRST_DEVICE_LINE: u32 = 16;

impl Machine {
    /// Finds out what there is and switches it on. Call it once.
    ///
    /// # Errors
    /// If the machine is not one the kernel can run on; nothing but the serial line works then.
    pub fn start(boot: BootInfo, config: Config) -> Result<Self, StartError> {
        let missing = Features::missing();
        if !missing.is_empty() {
            return Err(StartError::Processor(missing));
        }
        let features = Features::detect();
        if features.leaks_kernel_memory {
            log::warn!(
                "this processor may let guests read the kernel's memory (Meltdown): do not run strangers' guests"
            );
        }
        ram::start(boot.free.clone());
        // SAFETY: on the boot path's tables, as `boot` cannot be had otherwise, and they are left for good here;
        // then the processor's protections, with no page of the kernel open to user mode.
        unsafe {
            paging::start(boot.memory.ranges(), features.gigabyte_pages, features.global_pages)?;
            features.enable();
        }
        silence_legacy();
        let mut firmware = Firmware::read(boot.rsdp).map_err(StartError::Firmware)?;
        let apic = Apic::start(&features)?;
        let mut frames = Frames::new();
        let scratch = frames.allocate().ok_or(StartError::NoMemory)?;
        let clock = time::measure(&apic, &scratch);
        frames.release(scratch);
        let clock = clock.ok_or(StartError::NoClock)?;
        let epoch_ns = time::wall_clock().map_or(0, |s| (s * 1_000_000_000).saturating_sub(time::uptime_ns()));
        time::set_epoch_ns(epoch_ns);
        *SLEEP_CONTROL.lock() = firmware.sleep;
        if config.start_fault == Some(StartFault::MissingProcessor) {
            // The first of all, so that its place is another's afterwards.
            firmware.cpus.insert(0, MISSING_PROCESSOR);
        }
        let start_page = boot.start_page.filter(|_| config.start_fault != Some(StartFault::NoLowPage));
        smp::start(&apic, &features, &firmware.cpus, config.most_cpus, start_page);
        let nr_cores = smp::nr_running();
        let mut machine = Self {
            core: 0,
            nr_cores,
            config,
            features,
            frames,
            // Read once all is mapped, below.
            kernel_half: KernelHalf::read().ok_or(StartError::TooLarge)?,
            current_root: paging::kernel_root(),
            alarm: Alarm::new(clock.timer_hz),
            apic,
            clock,
            seen_nmis: 0,
            has_barrier: features.ibpb && config.predictor_barrier,
            pool: FramePool::new(frame_bytes(0, nr_cores), 0),
            net: None,
            disk: DiskAccess::None,
            parts: Vec::new(),
            nr_cpus: firmware.cpus.len().max(1) as u32 + firmware.nr_left_out,
            bundle: boot.bundle(),
            command_line: boot.command_line(),
        };
        machine.start_devices(match firmware.pci {
            Some((address, nr_buses)) => virtio::find_on_pci(address, nr_buses),
            None => virtio::find_on_board(),
        });
        machine.route_lines(&firmware)?;
        if firmware.nr_left_out > 0 {
            log::warn!("{} processor(s) have numbers above 254 and are left out", firmware.nr_left_out);
        }
        machine.kernel_half = KernelHalf::read().ok_or(StartError::TooLarge)?;
        Ok(machine)
    }

    fn start_devices(&mut self, transports: Vec<SomeTransport<'static>>) {
        for transport in transports {
            let kind = transport.device_type();
            let outcome = match kind {
                DeviceType::Network if self.net.is_none() => {
                    Net::new(transport, &mut self.pool).map(|net| self.net = Some(net))
                }
                DeviceType::Block if matches!(self.disk, DiskAccess::None) => {
                    DiskDriver::new(transport).map(|driver| {
                        let (disk, parts) = SharedDisk::new(driver, self.nr_cores);
                        self.disk = DiskAccess::Whole(Box::new(disk));
                        self.parts = parts.into_iter().map(Some).collect();
                    })
                }
                _ => {
                    log::info!("virtio device of kind {kind:?} is not used");
                    Ok(())
                }
            };
            if let Err(e) = outcome {
                log::warn!("virtio device of kind {kind:?} is not used: {e}");
            }
        }
    }

    /// Every line a device of ours may have leads to one vector; all devices are looked at when it arrives.
    fn route_lines(&mut self, firmware: &Firmware) -> Result<(), NoMemory> {
        let processor = self.apic.id();
        let is_low = firmware.pci.is_some();
        for &(address, first) in &firmware.io_apics {
            let io = IoApic::start(address, first)?;
            for gsi in io.lines().filter(|gsi| *gsi >= FIRST_DEVICE_LINE) {
                io.route(Line { gsi, is_level: true, is_low }, processor);
            }
            io.route(firmware.serial_line, processor);
        }
        Ok(())
    }

    /// The boot bundle, if the loader brought one.
    #[must_use]
    pub const fn bundle(&self) -> Option<&'static [u8]> {
        self.bundle
    }

    /// What was given on the kernel's command line.
    #[must_use]
    pub const fn command_line(&self) -> &'static str {
        self.command_line
    }

    /// Processors that run: each is a core.
    #[must_use]
    pub fn nr_running(&self) -> u32 {
        smp::nr_running()
    }

    /// Processors there are.
    #[must_use]
    pub const fn nr_cpus(&self) -> u32 {
        self.nr_cpus
    }

    /// What the processor can do.
    #[must_use]
    pub const fn features(&self) -> &Features {
        &self.features
    }

    /// Frequency of the time-stamp counter, and where it is known from.
    #[must_use]
    pub const fn tsc(&self) -> (u64, &'static str) {
        (self.clock.tsc_hz, self.clock.source)
    }

    /// Whether this core has a network card.
    #[must_use]
    pub const fn has_network(&self) -> bool {
        self.net.is_some()
    }

    /// Most frame buffers there can be at once.
    #[must_use]
    pub const fn frame_limit(&self) -> usize {
        self.pool.limit()
    }

    /// Says what UTC it is now, in nanoseconds since 1970, for a machine without a real-time clock or by somebody
    /// who knows better.
    pub fn set_utc_ns(&mut self, utc_ns: u64) {
        time::set_epoch_ns(utc_ns.saturating_sub(time::uptime_ns()));
    }

    /// Switches the machine off by ACPI.
    pub(crate) fn sleep() {
        use x86_64::instructions::port::Port;
        // Sleep type 5 ("soft off") with the enable bit, as QEMU's tables have it; the older register's type for
        // it is 0 there.
        const SLEEP: u8 = 5 << 2 | 1 << 5;
        // SAFETY: the registers are where the firmware says.
        unsafe {
            match *SLEEP_CONTROL.lock() {
                Some(SleepControl::Memory(at)) => at.write_volatile(SLEEP),
                Some(SleepControl::Port(port)) => Port::new(port).write(SLEEP),
                Some(SleepControl::Pm1(port)) => Port::<u16>::new(port).write(1 << 13),
                None => {}
            }
        }
    }
}
