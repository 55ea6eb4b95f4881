//! Sockets: TCP and UDP over IPv4.
//!
//! In a VM there is a TCP/IP stack of this VM's own behind them; on the host, the host's.
//!
//! All methods take `&self`, so that one task can read while another writes. Streams implement
//! [`embedded_io_async::Read`] and [`embedded_io_async::Write`]. A read or write that must not take for ever is
//! wrapped into [`crate::time::timeout`]; a peer that no longer answers is given up after a minute.

#[cfg(any(firn_guest, test))]
mod backlog;
#[cfg(any(firn_guest, test))]
mod device;
#[cfg(any(firn_guest, test))]
mod program;
#[cfg(any(firn_guest, test))]
mod stack;
#[cfg(any(firn_guest, test))]
mod time_wait;

#[cfg(firn_guest)]
mod guest;
#[cfg(firn_guest)]
pub use guest::{TcpListener, TcpStream, UdpSocket, counters};
#[cfg(not(firn_guest))]
mod host;
#[cfg(not(firn_guest))]
pub use host::{TcpListener, TcpStream, UdpSocket};

#[cfg(all(test, not(firn_guest)))]
mod tests;

use core::fmt;
pub use core::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

/// What went wrong with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The peer reset the connection, or it was given up.
    ConnectionReset,
    /// Nobody listens there.
    ConnectionRefused,
    /// The peer did not answer.
    TimedOut,
    /// The port is in use.
    AddressInUse,
    /// The address is not one that can be used here: not IPv4, not ours, or port 0.
    BadAddress,
    /// This side was closed before.
    Closed,
    /// The datagram is larger than the socket's buffer.
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
            Self::TooLarge => "datagram too large",
            Self::NoMemory => "out of memory for sockets",
            Self::Other => "network error",
        })
    }
}

impl core::error::Error for Error {}

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
            Self::Other => Kind::Other,
        }
    }
}

/// What a listener's connections are made of. On the host only the backlog counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Most connections that are not accepted yet, half-open ones included.
    pub backlog: usize,
    /// Bytes that a connection's peer may have on its way to us.
    pub receive_bytes: usize,
    /// Bytes of a connection that may wait to be sent or acknowledged.
    pub transmit_bytes: usize,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 128, receive_bytes: 2048, transmit_bytes: 4096 }
    }
}

/// The IPv4 address in `address`.
fn only_v4(address: SocketAddr) -> Result<SocketAddrV4, Error> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(Error::BadAddress),
    }
}

/// Gives a stream type the rest of its interface, which needs only `poll`-free `read` and `write` of `&self`.
macro_rules! implement_io {
    ($stream:ty) => {
        impl $stream {
            /// Writes all of `bytes`.
            ///
            /// # Errors
            /// If the connection is no more, or was closed on this side.
            pub async fn write_all(&self, bytes: &[u8]) -> Result<(), Error> {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let written = self.write(rest).await?;
                    rest = &rest[written..];
                }
                Ok(())
            }

            /// Does nothing: what was written goes out on its own.
            ///
            /// # Errors
            /// None.
            pub async fn flush(&self) -> Result<(), Error> {
                Ok(())
            }
        }

        impl embedded_io_async::ErrorType for $stream {
            type Error = Error;
        }

        impl embedded_io_async::Read for $stream {
            async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
                Self::read(self, bytes).await
            }
        }

        impl embedded_io_async::Write for $stream {
            async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
                Self::write(self, bytes).await
            }

            async fn flush(&mut self) -> Result<(), Error> {
                Ok(())
            }
        }

        impl embedded_io_async::ErrorType for &$stream {
            type Error = Error;
        }

        impl embedded_io_async::Read for &$stream {
            async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
                <$stream>::read(self, bytes).await
            }
        }

        impl embedded_io_async::Write for &$stream {
            async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
                <$stream>::write(self, bytes).await
            }

            async fn flush(&mut self) -> Result<(), Error> {
                Ok(())
            }
        }
    };
}
use implement_io;
