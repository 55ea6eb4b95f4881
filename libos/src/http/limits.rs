//! What a client may take.

use core::time::Duration;

/// What a client may take, before it is told so and its connection is closed.
///
/// ```
/// use libos::http::Limits;
///
/// let limits = Limits { body_bytes: 1 << 20, connections: 100, ..Limits::default() };
/// assert_eq!(limits.head_bytes, 4096);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's head: 431 beyond them. There may be 32 header lines at most in any case.
    pub head_bytes: usize,
    /// Bytes of a request's body: 413 beyond them.
    pub body_bytes: usize,
    /// Time for a head, from its first byte to its last: 408 after it.
    pub head_timeout: Duration,
    /// Time for a body: 408 after it.
    pub body_timeout: Duration,
    /// Time for the first byte of the next request.
    pub idle_timeout: Duration,
    /// Time for the client to take some of an answer.
    pub write_timeout: Duration,
    /// Time for a handler that awaits something: 503 after it.
    pub answer_timeout: Duration,
    /// Connections at a time. Who comes when there are so many waits in the listener's backlog.
    pub connections: usize,
}

impl Limits {
    /// The usual ones.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            head_bytes: 4096,
            body_bytes: 64 * 1024,
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(30),
            connections: 4096,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}
