//! Limits, and the arguments that change them.

use libos::arguments::{BadArgument, parse_or};
use libos::time::Duration;

/// What the program itself is left of the VM's memory: image, stack, rings.
const PROGRAM_BYTES: usize = 1 << 20;

/// What a connection may take that sends and receives nothing large: its socket's buffers, its task, its requests.
const CONNECTION_BYTES: usize = 12 << 10;

/// How the service behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes that keys and values may take, with their bookkeeping.
    pub max_memory: usize,
    /// Most connections.
    pub max_clients: usize,
    /// Bytes that large requests and replies of all connections may take while they are under way.
    pub buffer_bytes: usize,
    /// Time for the first byte of the next request.
    pub idle_timeout: Duration,
    /// Time for a request, from its first byte to its last, and for the client to take some of a reply.
    pub request_timeout: Duration,
}

impl Settings {
    /// What suits a VM of that much memory: three eighths of it for data, half for connections, a sixteenth for what
    /// is large and under way.
    #[must_use]
    pub fn for_memory(bytes: usize) -> Self {
        let usable = bytes.saturating_sub(PROGRAM_BYTES).max(bytes / 2);
        Self {
            max_memory: usable / 8 * 3,
            max_clients: (usable / 2 / CONNECTION_BYTES).max(1),
            buffer_bytes: usable / 16,
            idle_timeout: Duration::from_secs(300),
            request_timeout: Duration::from_secs(30),
        }
    }

    /// What the arguments say, and for the rest what suits this VM.
    ///
    /// # Errors
    /// The argument that is not a number.
    pub fn from_arguments() -> Result<Self, BadArgument> {
        let pages = usize::try_from(libos::registers().memory_pages).unwrap_or(usize::MAX);
        let default = Self::for_memory(pages.saturating_mul(libos::virtual_isa::PAGE_SIZE));
        let milliseconds = |name, default: Duration| {
            let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
            parse_or(name, default).map(Duration::from_millis)
        };
        Ok(Self {
            max_memory: parse_or("maxmemory", default.max_memory)?,
            max_clients: parse_or("clients", default.max_clients)?,
            buffer_bytes: parse_or("buffers", default.buffer_bytes)?,
            idle_timeout: milliseconds("idle_timeout_ms", default.idle_timeout)?,
            request_timeout: milliseconds("request_timeout_ms", default.request_timeout)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shares_together_fit_the_memory() {
        for megabytes in [1, 2, 4, 16, 1024] {
            let memory = megabytes << 20;
            let settings = Settings::for_memory(memory);
            let sum = settings.max_memory + settings.max_clients * CONNECTION_BYTES + settings.buffer_bytes;
            assert!(sum <= memory, "{megabytes}");
            assert!(settings.max_memory > memory / 8 && settings.max_clients > 20, "{settings:?}");
        }
    }
}
