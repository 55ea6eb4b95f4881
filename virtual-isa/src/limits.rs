//! Limits of the ISA. Every queue, count and length that a guest can name is bounded by one of these.

/// Smallest memory a VM can have, in pages (1 MiB).
pub const MIN_MEMORY_PAGES: u32 = 256;

/// Largest memory a VM can have, in pages (64 GiB).
pub const MAX_MEMORY_PAGES: u32 = 16 << 20;

/// Highest number of virtual machines in one machine, and one more than the highest VM number.
pub const MAX_VMS: u32 = 1 << 20;

/// Most bytes one `console` instruction prints. Longer texts take several.
pub const MAX_CONSOLE_BYTES: usize = 1024;

/// Most bytes one `entropy` instruction fills. Longer buffers take several.
pub const MAX_ENTROPY_BYTES: usize = 256;

/// Most pages one execution of a virtual instruction works on before it lets the VM be preempted.
pub const MAX_PAGES_PER_STEP: u32 = 64;

/// Most bytes of arguments a VM can be created with.
pub const MAX_ARGUMENT_BYTES: usize = 1024;

/// Most bytes in the name of a service or a bundle entry.
pub const MAX_NAME_BYTES: usize = 32;

/// Most page runs in an image.
pub const MAX_RUNS: usize = 16;

/// Most frames of a guest's stack that a report lists.
pub const MAX_BACKTRACE: usize = 16;

/// Most bytes in one request to the supervisor gate, encoded.
pub const MAX_REQUEST_BYTES: usize = 1536;

/// Most bytes in one completion of the supervisor gate, encoded.
pub const MAX_COMPLETION_BYTES: usize = 2048;

/// Most bytes of a bundle entry that one request reads.
pub const MAX_READ_BYTES: usize = 1536;

/// Most bytes of frames that wait in the kernel for one VM to receive them. At least the windows its connections
/// advertise, or a burst turns into time-outs.
pub const MAX_RECEIVE_QUEUE_BYTES: usize = 256 * 1024;

/// Most frames that wait there, however short: each holds a buffer of the kernel's.
pub const MAX_RECEIVE_QUEUE_FRAMES: usize = 1024;

/// Groups of VMs, the supervisor's among them.
pub const MAX_GROUPS: u32 = 256;

/// Classes of VMs, class 0 among them.
pub const MAX_CLASSES: u32 = 1024;

/// Ranges of VMs that are behind a gateway.
pub const MAX_GATEWAYS: u32 = 64;

/// Millionths of one processor in one processor: the unit of reservations and limits.
pub const PROCESSOR_PPM: u32 = 1_000_000;

/// Address spaces of its own that a VM can name: asids from 1 to this.
pub const MAX_ASIDS: u16 = 255;

/// Entries that a VM's software-loaded TLB holds. With more, any of those before may be gone.
pub const TLB_ENTRIES: usize = 2048;

/// Most entries that one `tlb_write` loads.
pub const MAX_TLB_WRITE: usize = 64;
