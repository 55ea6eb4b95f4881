//! What can go wrong with a socket.

use core::fmt;

/// What went wrong with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The peer reset the connection, or it was given up.
    ConnectionReset,
    /// Nobody listens there.
    ConnectionRefused,
    /// The peer did not answer, or not in the time that was set for it.
    TimedOut,
    /// The port is in use.
    AddressInUse,
    /// The address is not one that can be used here: not ours, or port 0.
    BadAddress,
    /// This side was closed before.
    Closed,
    /// The stream ended before all was there.
    UnexpectedEnd,
    /// The datagram is larger than the socket's buffer or than a packet.
    TooLarge,
    /// There is no memory for another socket.
    NoMemory,
    /// Anything else that the host says (never in a VM).
    Other,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectionReset => "connection reset",
            Self::ConnectionRefused => "connection refused",
            Self::TimedOut => "timed out",
            Self::AddressInUse => "address in use",
            Self::BadAddress => "address cannot be used",
            Self::Closed => "closed",
            Self::UnexpectedEnd => "the stream ended early",
            Self::TooLarge => "datagram too large",
            Self::NoMemory => "out of memory for sockets",
            Self::Other => "network error",
        })
    }
}

impl core::error::Error for Error {}

impl From<crate::time::Elapsed> for Error {
    fn from(_: crate::time::Elapsed) -> Self {
        Self::TimedOut
    }
}

impl embedded_io_async::Error for Error {
    fn kind(&self) -> embedded_io_async::ErrorKind {
        use embedded_io_async::ErrorKind as Kind;
        match self {
            Self::ConnectionReset => Kind::ConnectionReset,
            Self::ConnectionRefused => Kind::ConnectionRefused,
            Self::TimedOut => Kind::TimedOut,
            Self::AddressInUse => Kind::AddrInUse,
            Self::BadAddress => Kind::AddrNotAvailable,
            Self::Closed => Kind::BrokenPipe,
            Self::TooLarge => Kind::InvalidInput,
            Self::NoMemory => Kind::OutOfMemory,
            Self::UnexpectedEnd | Self::Other => Kind::Other,
        }
    }
}
