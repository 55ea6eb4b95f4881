//! Sockets: TCP and UDP over IPv4 and IPv6, and names.
//!
//! In a VM there is a TCP/IP stack of this VM's own behind them; on the host, the host's. A read or write that must not
//! take for ever has its limit by [`TcpStream::set_read_timeout`] or is wrapped into [`crate::time::timeout`]; a peer
//! that no longer acknowledges anything is given up after a minute.

#[cfg(any(firn_guest, test))]
mod checksum;
#[cfg(any(firn_guest, test))]
mod device;
mod error;
mod options;
mod resolver;
#[cfg(any(firn_guest, test))]
mod stack;
mod tcp;
mod udp;

#[cfg(firn_guest)]
#[path = "guest.rs"]
mod backend;
#[cfg(firn_guest)]
pub use backend::counters;
#[cfg(not(firn_guest))]
#[path = "host.rs"]
mod backend;

#[cfg(all(test, not(firn_guest)))]
mod tests;

#[cfg(feature = "parsers")]
#[doc(hidden)]
pub use resolver::parsers;

pub use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
pub use error::Error;
pub use options::{ConnectOptions, ListenOptions, UdpOptions};
pub use resolver::{ResolveError, Resolver, ResolverOptions};
#[cfg(firn_guest)]
pub use stack::Counters;
pub use tcp::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, TcpListener, TcpStream, WriteHalf};
pub use udp::UdpSocket;
