//! The traits of `hal` for running guests, time and devices.

use crate::cpu::random_word;
use crate::net::Net;
use crate::parts::DiskAccess;
use crate::scale::to_ns;
use crate::space::Space;
use crate::trap::{DEVICE_VECTOR, EDGE_VECTOR, SYSCALL, TIMER_VECTOR, WAKE_VECTOR, name_of};
use crate::{Machine, guest, panic, per_cpu, serial, smp, time};
use core::arch::asm;
use core::fmt;
use hal::{
    Access, Clock, Completion, Cores, Disk, DiskError, DiskRequest, Ethernet, Exit, Frame, Nanos, Processor, Registers,
    Serial, VectorState,
};
use x86_64::registers::control::Cr2;

const PAGE_FAULT: u64 = 14;
const FIRST_INTERRUPT: u64 = 32;

impl Machine {
    /// What an exit that is no virtual instruction means.
    #[cold]
    fn classify(&mut self, vector: u64, code: u64) -> Exit {
        match vector {
            PAGE_FAULT => {
                let access = match (code >> 1 & 1, code >> 4 & 1) {
                    (_, 1) => Access::Execute,
                    (1, _) => Access::Write,
                    _ => Access::Read,
                };
                Exit::PageFault { address: Cr2::read_raw(), access }
            }
            // The machine itself is broken, or the kernel's tables are: whose turn it was means nothing.
            8 | 18 => panic!("{} while a guest ran, code {code:#x}", name_of(vector)),
            FIRST_INTERRUPT.. => {
                self.see_to(vector);
                Exit::Interrupt
            }
            _ => Exit::Exception { vector: vector as u8, code },
        }
    }

    /// Sees to an interrupt that has arrived.
    fn see_to(&mut self, vector: u64) {
        if vector == u64::from(TIMER_VECTOR) {
            self.apic.end_interrupt();
            if let Some(counts) = self.alarm.rang(self.now()) {
                self.apic.start_timer(counts);
            }
        } else if vector == u64::from(DEVICE_VECTOR) || vector == u64::from(EDGE_VECTOR) {
            if let Some(net) = &mut self.net {
                net.acknowledge();
            }
            if let DiskAccess::Whole(disk) = &mut self.disk {
                disk.acknowledge();
            }
            // On whichever vector: firmware may say that its line has a level too.
            serial::receive();
            self.apic.end_interrupt();
            self.serve_parts();
        } else if vector == u64::from(WAKE_VECTOR) {
            smp::note_woken(self.core);
            self.apic.end_interrupt();
            self.serve_parts();
        }
        // Any other went away before it was delivered, and wants no end.
        let nmis = per_cpu::nmis();
        if nmis != self.seen_nmis {
            log::warn!("{} non-maskable interrupts", nmis - self.seen_nmis);
            self.seen_nmis = nmis;
        }
    }

    /// Sees to the disk for the other cores, which must not wait until this one has a use for it.
    fn serve_parts(&mut self) {
        let apic = &self.apic;
        if let DiskAccess::Whole(disk) = &mut self.disk
            && disk.is_shared()
        {
            disk.serve(|core| smp::wake(apic, core));
        }
    }

    fn has_work(&mut self) -> bool {
        let pool = &mut self.pool;
        let apic = &self.apic;
        self.net.as_mut().is_some_and(|net| net.has_work(pool))
            || match &mut self.disk {
                DiskAccess::None => false,
                DiskAccess::Whole(disk) => disk.has_work(|core| smp::wake(apic, core)),
                DiskAccess::Part(part) => part.has_work(),
            }
            || (self.core == 0 && !serial::is_empty())
    }
}

impl Processor for Machine {
    #[inline]
    fn switch_to(&mut self, space: &Space, vector: &VectorState) {
        guest::clear_segments();
        if self.load_space(space.root()) && self.has_barrier {
            guest::predictor_barrier();
        }
        if self.features.x87_pointers_stay {
            guest::overwrite_x87_pointers();
        }
        // SAFETY: XSAVE is on since the start, and a state is what was saved, or the initial one.
        unsafe { guest::load_vector(vector) };
    }

    fn change_space(&mut self, space: &Space) {
        if self.load_space(space.root()) {
            guest::clear_segments();
        }
    }

    #[inline]
    fn switch_from(&mut self, vector: &mut VectorState) {
        // SAFETY: XSAVE is on since the start.
        unsafe { guest::save_vector(vector, self.features.xsaveopt) };
    }

    #[inline(always)]
    fn enter(&mut self, registers: &mut Registers) -> Exit {
        // SAFETY: the tables in use are the kernel's or a space's, which all map the kernel.
        let (vector, code) = unsafe { guest::run(registers) };
        if vector == SYSCALL {
            return Exit::Instruction;
        }
        self.classify(vector, code)
    }

    #[inline]
    fn now(&self) -> Nanos {
        Nanos(to_ns(time::counter().wrapping_sub(self.clock.base), self.clock.scale))
    }

    fn clock(&self) -> Clock {
        Clock { base_tsc: self.clock.base, base_ns: 0, scale: self.clock.scale, epoch_ns: time::epoch_ns() }
    }

    #[inline]
    fn set_alarm(&mut self, at: Nanos) {
        let clock = self.clock;
        let now = || Nanos(to_ns(time::counter().wrapping_sub(clock.base), clock.scale));
        if let Some(counts) = self.alarm.set(at, now) {
            self.apic.start_timer(counts);
        }
    }

    fn halt(&mut self) {
        // The queues' interrupts are on once they were found empty, so what arrives after this look ends the halt:
        // an interrupt is only taken from the instruction after `sti` on. So it is with the wake-ups of other cores,
        // each of which is an interrupt that waits, or that ended something after which its reason was looked for.
        if self.has_work() {
            return;
        }
        // Also a core whose alarm is always due must hear of its devices.
        let is_due = self.alarm.take_due(self.now());
        // SAFETY: an interrupt comes back with interrupts off, and changes nothing but this processor's `pending`.
        unsafe {
            if is_due {
                asm!("sti", "nop", "cli", options(nostack));
            } else {
                asm!("sti", "hlt", "cli", options(nostack));
            }
        }
        let vector = per_cpu::take_pending();
        if vector != 0 {
            self.see_to(vector);
        }
    }

    fn hardware_entropy(&mut self, into: &mut [u8; 32]) -> bool {
        for bytes in into.chunks_exact_mut(8) {
            let Some(word) = random_word(&self.features) else { return false };
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        true
    }

    fn has_avx(&self) -> bool {
        self.features.avx
    }

    fn power_off(&mut self, status: u8) {
        panic::debug_exit((self.config.exit_value)(status));
        Self::sleep();
        // Neither is there: at least nobody goes on.
        panic::stop_others();
        panic::halt_for_ever();
    }
}

impl Cores for Machine {
    fn core(&self) -> u32 {
        self.core
    }

    fn nr_cores(&self) -> u32 {
        self.nr_cores
    }

    fn wake(&mut self, core: u32) {
        smp::wake(&self.apic, core);
    }
}

impl Ethernet for Machine {
    fn take_frame(&mut self) -> Option<Frame> {
        if let Some(frame) = self.pool.take() {
            return Some(frame);
        }
        self.net.as_mut()?.reclaim(&mut self.pool);
        self.pool.take()
    }

    fn free_frames(&self) -> usize {
        self.pool.free()
    }

    fn give_frame(&mut self, frame: Frame) {
        self.pool.give(frame);
    }

    #[inline]
    fn has_received(&self) -> bool {
        self.net.as_ref().is_some_and(Net::has_received)
    }

    fn receive(&mut self) -> Option<Frame> {
        self.net.as_mut()?.receive(&mut self.pool)
    }

    fn transmit(&mut self, frame: Frame) -> Result<(), Frame> {
        match &mut self.net {
            Some(net) => net.transmit(frame, &mut self.pool),
            // A machine without a card is a wire that leads nowhere.
            None => {
                self.pool.give(frame);
                Ok(())
            }
        }
    }

    fn flush(&mut self) {
        if let Some(net) = &mut self.net {
            net.flush(&mut self.pool);
        }
    }

    fn sent_frame(&mut self) -> Option<Frame> {
        self.pool.take_foreign()
    }
}

impl Disk for Machine {
    fn nr_blocks(&self) -> u64 {
        match &self.disk {
            DiskAccess::None => 0,
            DiskAccess::Whole(disk) => disk.nr_blocks(),
            DiskAccess::Part(part) => part.nr_blocks(),
        }
    }

    fn submit(&mut self, ticket: u64, request: DiskRequest) -> Result<(), (DiskError, DiskRequest)> {
        match &mut self.disk {
            DiskAccess::None => Err((DiskError::NoDisk, request)),
            DiskAccess::Whole(disk) => disk.submit(ticket, request),
            DiskAccess::Part(part) => {
                part.submit(ticket, request)?;
                smp::wake(&self.apic, 0);
                Ok(())
            }
        }
    }

    fn complete(&mut self) -> Option<Completion> {
        let apic = &self.apic;
        match &mut self.disk {
            DiskAccess::None => None,
            DiskAccess::Whole(disk) => disk.complete(|core| smp::wake(apic, core)),
            DiskAccess::Part(part) => part.complete(),
        }
    }
}

impl Serial for Machine {
    fn print(&mut self, text: fmt::Arguments<'_>) {
        serial::print(text);
    }

    #[inline]
    fn has_typed(&self) -> bool {
        serial::has_typed()
    }

    fn read_byte(&mut self) -> Option<u8> {
        // What is typed is for core 0, which has the line's interrupt.
        if self.core == 0 { serial::read_byte() } else { None }
    }
}
