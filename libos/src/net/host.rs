//! Sockets on the host.

use super::{Error, ListenOptions, SocketAddr, SocketAddrV4, only_v4};
use async_io::Async;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Self::ConnectionReset,
            ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::AddrInUse => Self::AddressInUse,
            ErrorKind::AddrNotAvailable | ErrorKind::InvalidInput => Self::BadAddress,
            ErrorKind::BrokenPipe | ErrorKind::NotConnected => Self::Closed,
            ErrorKind::OutOfMemory => Self::NoMemory,
            _ => Self::Other,
        }
    }
}

/// A TCP socket that waits for connections.
#[derive(Debug)]
pub struct TcpListener(Async<std::net::TcpListener>);

impl TcpListener {
    /// Listens on an address; port 0 chooses a free one.
    ///
    /// # Errors
    /// If the port is taken, or the address is not ours.
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        Self::bind_with(address, ListenOptions::default())
    }

    /// Listens, with other sizes than the usual ones. The host has its own.
    ///
    /// # Errors
    /// As [`TcpListener::bind`].
    pub fn bind_with(address: impl Into<SocketAddr>, _options: ListenOptions) -> Result<Self, Error> {
        Ok(Self(Async::<std::net::TcpListener>::bind(only_v4(address.into())?)?))
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// What the host says.
    pub async fn accept(&self) -> Result<(TcpStream, SocketAddrV4), Error> {
        let (stream, peer) = self.0.accept().await?;
        Ok((TcpStream(stream), only_v4(peer)?))
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// What the host says.
    pub fn local_addr(&self) -> Result<SocketAddrV4, Error> {
        only_v4(self.0.get_ref().local_addr()?)
    }
}

/// A TCP connection. It is closed when it is dropped; what was written still goes out.
#[derive(Debug)]
pub struct TcpStream(Async<std::net::TcpStream>);

impl TcpStream {
    /// Connects to an address.
    ///
    /// # Errors
    /// If nobody listens or answers there.
    pub async fn connect(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        Ok(Self(Async::<std::net::TcpStream>::connect(only_v4(address.into())?).await?))
    }

    /// Reads what has come, at most as much as fits. 0 at the end of the stream.
    ///
    /// # Errors
    /// If the connection is no more.
    pub async fn read(&self, bytes: &mut [u8]) -> Result<usize, Error> {
        Ok(self.0.read_with(|mut stream| stream.read(bytes)).await?)
    }

    /// Writes some of `bytes`, and returns how many.
    ///
    /// # Errors
    /// If the connection is no more, or was closed on this side.
    pub async fn write(&self, bytes: &[u8]) -> Result<usize, Error> {
        Ok(self.0.write_with(|mut stream| stream.write(bytes)).await?)
    }

    /// Ends the stream to the peer. What comes from it can still be read.
    ///
    /// # Errors
    /// If the connection is no more.
    pub fn close_write(&self) -> Result<(), Error> {
        Ok(self.0.get_ref().shutdown(Shutdown::Write)?)
    }

    /// Whether small writes go out at once instead of waiting for what is on its way to be acknowledged.
    ///
    /// # Errors
    /// If the connection is no more.
    pub fn set_nodelay(&self, nodelay: bool) -> Result<(), Error> {
        Ok(self.0.get_ref().set_nodelay(nodelay)?)
    }

    /// The peer's address.
    ///
    /// # Errors
    /// If the connection is no more.
    pub fn peer_addr(&self) -> Result<SocketAddrV4, Error> {
        only_v4(self.0.get_ref().peer_addr()?)
    }

    /// This side's address.
    ///
    /// # Errors
    /// If the connection is no more.
    pub fn local_addr(&self) -> Result<SocketAddrV4, Error> {
        only_v4(self.0.get_ref().local_addr()?)
    }
}

super::implement_io!(TcpStream);

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket(Async<std::net::UdpSocket>);

impl UdpSocket {
    /// Takes datagrams to an address; port 0 chooses a free one.
    ///
    /// # Errors
    /// If the port is taken, or the address is not ours.
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        Ok(Self(Async::<std::net::UdpSocket>::bind(only_v4(address.into())?)?))
    }

    /// Waits for a datagram. What of it does not fit is lost.
    ///
    /// # Errors
    /// What the host says.
    pub async fn recv_from(&self, bytes: &mut [u8]) -> Result<(usize, SocketAddrV4), Error> {
        let (length, from) = self.0.recv_from(bytes).await?;
        Ok((length, only_v4(from)?))
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// If it is too large, or the address cannot be reached.
    pub async fn send_to(&self, bytes: &[u8], to: impl Into<SocketAddr>) -> Result<(), Error> {
        self.0.send_to(bytes, only_v4(to.into())?).await?;
        Ok(())
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// What the host says.
    pub fn local_addr(&self) -> Result<SocketAddrV4, Error> {
        only_v4(self.0.get_ref().local_addr()?)
    }
}
