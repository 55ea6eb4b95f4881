//! The supervisor gate: requests, completions and events, in postcard.
//!
//! The supervisor VM writes [`Request`]s, each with a ticket of its choice, into its request ring and executes
//! `gate`. Completions come back in its completion ring, in any order and at any time, with the ticket; events
//! come the same way, unasked. Nothing completes synchronously: creation takes time, admission may take longer.

use crate::exception::Report;
use serde::{Deserialize, Serialize};

/// What the supervisor asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request<'a> {
    /// Comes back in the completion.
    pub ticket: u64,
    /// What to do.
    #[serde(borrow)]
    pub operation: Operation<'a>,
}

/// An operation of the supervisor gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation<'a> {
    /// The machine's counters. Answer: [`Answer::Machine`].
    Machine,
    /// What a bundle entry is. Answer: [`Answer::Entry`].
    Entry {
        /// Its index.
        entry: u32,
    },
    /// Bytes of a bundle entry, at most [`crate::limits::MAX_READ_BYTES`]. Answer: [`Answer::Bytes`].
    ReadEntry {
        /// Its index.
        entry: u32,
        /// Where to begin.
        offset: u32,
        /// How many.
        length: u32,
    },
    /// Checks an image of the bundle and makes it ready to create VMs of. Answer: [`Answer::Image`].
    LoadImage {
        /// Its index in the bundle.
        entry: u32,
    },
    /// Creates a VM, not yet started. Answer: [`Answer::Done`].
    Create {
        /// A number that no VM has now; fixes its addresses.
        vm: u32,
        /// An image from `LoadImage`.
        image: u32,
        /// Its memory.
        memory_pages: u32,
        /// Memory that is kept for it whatever the others need; it is admitted only while that is there.
        minimum_pages: u32,
        /// Its weight when it competes for the machine.
        shares: u32,
        /// Its class: on what terms it shares the machine. Class 0 is always there.
        class: u32,
        /// Its argument string.
        arguments: &'a str,
    },
    /// Says how a group competes for the processors. A group that nobody has said anything of weighs 100, with
    /// neither reservation nor limit. Group 0 is the supervisor's own. Answer: [`Answer::Done`].
    Group {
        /// Which group, below [`crate::limits::MAX_GROUPS`].
        group: u32,
        /// Its part of the processors.
        processor: ProcessorTerms,
    },
    /// Defines a class, or changes one that no VM has. Answer: [`Answer::Done`].
    Class {
        /// Which class, 1 or more, below [`crate::limits::MAX_CLASSES`].
        class: u32,
        /// Its terms.
        terms: ClassTerms,
    },
    /// Starts a created VM, or one that was paused. A new VM whose minimum does not fit waits, first come first
    /// served ([`VmState::Waiting`]). Answer: [`Answer::Done`].
    Start {
        /// Which VM.
        vm: u32,
    },
    /// Keeps a VM from running until it is started again. Answer: [`Answer::Done`].
    Pause {
        /// Which VM.
        vm: u32,
    },
    /// Ends a VM. Its number stays taken until it is destroyed. Answer: [`Answer::Done`].
    Stop {
        /// Which VM.
        vm: u32,
    },
    /// Removes a VM that has ended or never ran, and frees its number. Answer: [`Answer::Done`].
    Destroy {
        /// Which VM.
        vm: u32,
    },
    /// Parks a VM that sleeps, as the kernel does by itself when memory is short. Answer: [`Answer::Done`], before
    /// anything is on disk.
    Park {
        /// Which VM.
        vm: u32,
        /// Where to.
        tier: Tier,
    },
    /// A VM's state and counters. Answer: [`Answer::Vm`].
    Inspect {
        /// Which VM.
        vm: u32,
    },
    /// Ends the machine. No answer.
    PowerOff {
        /// Exit status for whoever started the machine; 0 means success, at most 62.
        status: u8,
    },
    /// Leads all frames of some VMs through another one, their gateway, or no longer: what they send goes to it whoever it
    /// is for, and so does what is sent to them, but for what it sends itself. It may send frames with their addresses
    /// as the source, and frames from anywhere to them. The VMs need not be there yet. Answer: [`Answer::Done`].
    Gateway {
        /// The first of these VMs.
        first: u32,
        /// How many, by their numbers. A range is changed and removed as a whole, and overlaps no other; there are at
        /// most [`crate::limits::MAX_GATEWAYS`].
        count: u32,
        /// Their gateway, which is behind none itself; `None` removes the range.
        through: Option<u32>,
    },
}

/// How a group competes for the processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessorTerms {
    /// Its weight among the groups, at least 1.
    pub shares: u32,
    /// Time that is kept for it, in millionths of one processor.
    pub reservation_ppm: u32,
    /// Time it has at most, in millionths of one processor; 0 for no limit.
    pub limit_ppm: u32,
}

impl ProcessorTerms {
    /// Whether the reservation fits the limit.
    #[must_use]
    pub const fn is_possible(&self) -> bool {
        fits_limit(self.reservation_ppm, self.limit_ppm)
    }
}

const fn fits_limit(reservation_ppm: u32, limit_ppm: u32) -> bool {
    limit_ppm == 0 || reservation_ppm <= limit_ppm
}

/// On what terms VMs share the machine; all VMs of a class have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassTerms {
    /// The group its VMs are in.
    pub group: u32,
    /// Processor time that is kept for each, in millionths of one processor.
    pub reservation_ppm: u32,
    /// Processor time each has at most, in millionths of one processor; 0 for no limit.
    pub limit_ppm: u32,
    /// Frames each may send in a second; 0 for no limit.
    pub frames_per_s: u32,
    /// Bytes of frames each may send in a second; 0 for no limit.
    pub bytes_per_s: u32,
}

impl ClassTerms {
    /// Whether the reservation fits the limit.
    #[must_use]
    pub const fn is_possible(&self) -> bool {
        fits_limit(self.reservation_ppm, self.limit_ppm)
    }

    /// The terms of class 0: in the group of VMs of which nothing is said, with neither reservation nor limits.
    pub const DEFAULT: Self = Self { group: 1, reservation_ppm: 0, limit_ppm: 0, frames_per_s: 0, bytes_per_s: 0 };
}

/// What the kernel tells the supervisor: one record of the completion ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message<'a> {
    /// The end of a request.
    Completion {
        /// The request's ticket.
        ticket: u64,
        /// How it ended.
        #[serde(borrow)]
        result: Result<Answer<'a>, GateError>,
    },
    /// A request could not be read; it had no effect.
    Unreadable,
    /// Something happened.
    Event(Event),
}

/// How a request ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer<'a> {
    /// Done, nothing to tell.
    Done,
    /// To `LoadImage`.
    Image {
        /// Names the image in `Create`.
        image: u32,
    },
    /// To `Entry`.
    Entry {
        /// [`crate::bundle::EntryKind`], as a number.
        kind: u32,
        /// Its length.
        bytes: u32,
    },
    /// To `ReadEntry`.
    #[serde(borrow)]
    Bytes(&'a [u8]),
    /// To `Inspect`.
    Vm(VmStatus),
    /// To `Machine`.
    Machine(MachineStatus),
}

/// Why a request was refused. It had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GateError {
    /// The bundle has no such entry, or not of the kind needed.
    NoSuchEntry,
    /// No image has that number.
    NoSuchImage,
    /// No VM has that number.
    NoSuchVm,
    /// A VM with that number exists.
    VmExists,
    /// The number, size, length or status is outside what is allowed.
    BadArgument,
    /// The VM is not in a state in which this can be done.
    BadState,
    /// The image failed its checks.
    BadImage,
    /// The machine has no memory left for it.
    NoMemory,
    /// The processors have less time left to promise than its reservation.
    NoProcessor,
    /// No class has that number.
    NoSuchClass,
}

/// Where the memory of a parked VM goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tier {
    /// Compressed, in memory; on disk only when that is short.
    Memory,
    /// On disk as soon as it is written.
    Disk,
}

/// The life of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// Created, never started.
    Created,
    /// Could run, or is running.
    Runnable,
    /// Sleeps until something is pending.
    Idle,
    /// Kept from running by the supervisor.
    Paused,
    /// Ended; its report was sent as an event.
    Ended,
    /// Started, but not admitted yet: its minimum does not fit.
    Waiting,
    /// Sleeps with nothing in memory, or nothing but its compressed record.
    Parked,
    /// Waits for pages of its own from disk.
    Paging,
    /// Waits for a free page.
    Starved,
}

/// Numbers in a histogram of times from waking to running. The first counts those of less than 1024 ns, each further
/// one those of less than twice as much, the last all others.
pub const LATENCY_BUCKETS: usize = 16;

/// A VM's state and counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Time it ran.
    pub guest_ns: u64,
    /// Time the kernel worked for it.
    pub kernel_ns: u64,
    /// Virtual instructions it executed.
    pub instructions: u64,
    /// Page faults of all kinds.
    pub faults: u64,
    /// Faults that gave it a page of zeros.
    pub faults_zero: u64,
    /// Faults that gave it its own copy of a template's page.
    pub faults_copied: u64,
    /// Faults that decompressed a page.
    pub faults_packed: u64,
    /// Faults that had to wait for the disk.
    pub faults_disk: u64,
    /// Times it was parked.
    pub parks: u64,
    /// Times it was dispatched.
    pub dispatches: u64,
    /// Frames it sent that the switch took.
    pub frames_sent: u64,
    /// Frames copied into its receive ring.
    pub frames_received: u64,
    /// Frames for it dropped because its receive queue was full. This and the next counters stay at their end when they
    /// have come to it.
    pub drops_queue_full: u32,
    /// Frames for it dropped because buffers were short and it had its share of them.
    pub drops_no_buffer: u32,
    /// Frames of its own dropped because of a bad length.
    pub drops_bad_length: u32,
    /// Frames of its own dropped because of a foreign source address.
    pub drops_spoofed: u32,
    /// Frames of its own dropped for any other reason (no such destination, unknown protocol).
    pub drops_unroutable: u32,
    /// Times its frames began to wait for their turn to use the wire.
    pub waits_wire: u32,
    /// Times its frames began to wait because it had sent as fast as its class may.
    pub waits_rate: u32,
    /// Console bytes not printed.
    pub console_dropped: u64,
}

/// Answer to [`Operation::Inspect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Where it is in its life.
    pub state: VmState,
    /// Its weight when it competes for the machine.
    pub shares: u32,
    /// Its class.
    pub class: u32,
    /// The core that has it.
    pub core: u32,
    /// Its memory in pages.
    pub memory_pages: u32,
    /// Pages that are kept for it.
    pub minimum_pages: u32,
    /// Pages of memory that are its alone.
    pub private_pages: u32,
    /// Pages it sees of its template.
    pub template_pages: u32,
    /// Pages of its own that are compressed in memory.
    pub packed_pages: u32,
    /// Pages of its own that are on disk.
    pub disk_pages: u32,
    /// Pages of its page tables.
    pub table_pages: u32,
    /// Its generation.
    pub generation: u64,
    /// Its counters.
    pub counters: Counters,
    /// Time it could run and did not, since it was created or last woke from being parked.
    pub waited_ns: u64,
    /// Times it had to give way although it could go on, since then.
    pub preemptions: u64,
    /// How often it took so long from waking to running, since then.
    pub latency: [u32; LATENCY_BUCKETS],
}

/// Answer to [`Operation::Machine`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Nanoseconds since boot.
    pub uptime_ns: u64,
    /// Processors that run VMs.
    pub cpus: u32,
    /// Entries in the boot bundle.
    pub bundle_entries: u32,
    /// VMs that exist, the supervisor included.
    pub vms: u32,
    /// Pages of memory the kernel manages.
    pub total_pages: u64,
    /// Pages of these that are free.
    pub free_pages: u64,
    /// Pages that reclaim keeps free.
    pub reserve_pages: u64,
    /// Pages of memory that belong to one VM each.
    pub private_pages: u64,
    /// Pages of VMs' page tables.
    pub table_pages: u64,
    /// Pages of images and templates.
    pub template_pages: u64,
    /// Pages that hold compressed pages.
    pub packed_pages: u64,
    /// VMs that wait for admission.
    pub waiting: u32,
    /// VMs that are parked.
    pub parked: u32,
    /// Parked VMs of which nothing is in memory.
    pub parked_on_disk: u32,
    /// Times a VM was parked.
    pub parks: u64,
    /// Bytes of the records these wrote, all together.
    pub record_bytes: u64,
    /// Wakes from compressed memory.
    pub wakes_memory: u64,
    /// Wakes from disk.
    pub wakes_disk: u64,
    /// Blocks of 4 KiB on the swap disk; 0 without one.
    pub swap_blocks: u64,
    /// Blocks of these in use.
    pub swap_used_blocks: u64,
    /// Reads from the swap disk.
    pub swap_reads: u64,
    /// Blocks they read.
    pub swap_read_blocks: u64,
    /// Writes to the swap disk.
    pub swap_writes: u64,
    /// Blocks they wrote.
    pub swap_written_blocks: u64,
    /// Reads and writes that failed, checksums that were wrong.
    pub swap_errors: u64,
    /// Bytes in use on the kernel's own heap.
    pub heap_bytes: u64,
    /// Pages that heap has taken from memory.
    pub heap_pages: u64,
    /// Pages that nobody has and only that heap can take; they are not among the free ones.
    pub kept_pages: u64,
    /// Nanoseconds the processors had nothing to run.
    pub idle_ns: u64,
    /// Nanoseconds charged to VMs: their own, and the kernel's for them.
    pub charged_ns: u64,
    /// Nanoseconds of looking for work before a halt.
    pub overhead_loop_ns: u64,
    /// Nanoseconds spent on frames that are for nobody.
    pub overhead_wire_ns: u64,
    /// Nanoseconds spent on the machine's memory: reclaim, transfers to and from the swap disk.
    pub overhead_memory_ns: u64,
    /// Frames received from the wire.
    pub frames_in: u64,
    /// Frames sent to the wire.
    pub frames_out: u64,
    /// Frames from the wire that were for nobody: the sum of the next three.
    pub frames_dropped: u64,
    /// Those shorter than a header or longer than a full frame.
    pub drops_bad_length: u64,
    /// Those with a source address of this machine's.
    pub drops_spoofed: u64,
    /// Those for no VM, or of no known kind.
    pub drops_unroutable: u64,
    /// Frames for VMs, from the wire and from VMs, dropped because the VM's receive queue was full.
    pub drops_queue_full: u64,
    /// Those dropped because buffers were short and the VM had its share of them.
    pub drops_no_buffer: u64,
    /// Answers of the switch (ARP) for which there was no buffer, or no room on the card.
    pub answers_dropped: u64,
    /// VMs whose frames wait for their turn to use the wire.
    pub senders_waiting: u32,
    /// Events that found the completion ring full.
    pub events_lost: u64,
}

impl MachineStatus {
    /// Nanoseconds that were neither charged to a VM nor idle.
    #[must_use]
    pub const fn overhead_ns(&self) -> u64 {
        let sum = self.overhead_loop_ns.saturating_add(self.overhead_wire_ns);
        sum.saturating_add(self.overhead_memory_ns)
    }
}

/// Something that happened, unasked.
#[expect(clippy::large_enum_variant, reason = "nothing is allocated on this path, and few exist at a time")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A VM ended. It takes no more memory but for its number and counters.
    Ended {
        /// Which VM.
        vm: u32,
        /// How.
        report: Report,
    },
    /// A transfer to or from the swap disk failed.
    SwapFailed {
        /// First block of the transfer.
        block: u64,
        /// Whether it was a write. The kernel keeps what could not be written, and tries elsewhere.
        is_write: bool,
    },
    /// A VM sent a frame with a source address that is not its own. At most one event per VM and second.
    Spoofed {
        /// Which VM.
        vm: u32,
    },
}

impl core::fmt::Display for GateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoSuchEntry => "no such bundle entry",
            Self::NoSuchImage => "no such image",
            Self::NoSuchVm => "no such VM",
            Self::VmExists => "a VM with that number exists",
            Self::BadArgument => "bad argument",
            Self::BadState => "the VM's state does not allow it",
            Self::BadImage => "the image failed its checks",
            Self::NoMemory => "out of memory",
            Self::NoProcessor => "the processors have less time left to promise than its reservation",
            Self::NoSuchClass => "no such class",
        })
    }
}

impl core::error::Error for GateError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exception::Cause;
    use crate::limits::{MAX_ARGUMENT_BYTES, MAX_COMPLETION_BYTES, MAX_READ_BYTES, MAX_REQUEST_BYTES};
    use std::string::String;

    #[test]
    fn the_largest_request_and_completion_fit_their_limits() {
        let arguments: String = core::iter::repeat_n('x', MAX_ARGUMENT_BYTES).collect();
        let request = Request {
            ticket: u64::MAX,
            operation: Operation::Create {
                vm: u32::MAX,
                image: u32::MAX,
                memory_pages: u32::MAX,
                minimum_pages: u32::MAX,
                shares: u32::MAX,
                class: u32::MAX,
                arguments: &arguments,
            },
        };
        let mut space = [0u8; MAX_REQUEST_BYTES];
        let bytes = postcard::to_slice(&request, &mut space).unwrap();
        assert_eq!(postcard::from_bytes::<Request>(bytes).unwrap(), request);

        let read = [0xffu8; MAX_READ_BYTES];
        let report = Report {
            cause: Cause::RingCorrupt { ring: crate::exception::Ring::Transmit, head: u32::MAX, tail: u32::MAX },
            instruction: u64::MAX,
            stack: u64::MAX,
            flags: u64::MAX,
            registers: [u64::MAX; 15],
            backtrace: [u64::MAX; crate::limits::MAX_BACKTRACE],
        };
        for message in [
            Message::Completion { ticket: u64::MAX, result: Ok(Answer::Bytes(&read)) },
            Message::Event(Event::Ended { vm: u32::MAX, report }),
        ] {
            let mut space = [0u8; MAX_COMPLETION_BYTES];
            let bytes = postcard::to_slice(&message, &mut space).unwrap();
            assert_eq!(postcard::from_bytes::<Message>(bytes).unwrap(), message);
        }
    }
}
