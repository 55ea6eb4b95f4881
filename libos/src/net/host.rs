//! Sockets on the host.

use super::{ConnectOptions, Error, ListenOptions, SocketAddr, UdpOptions};
use crate::time::timeout;
use alloc::vec::Vec;
use async_io::Async;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
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
            ErrorKind::UnexpectedEof => Self::UnexpectedEnd,
            ErrorKind::OutOfMemory => Self::NoMemory,
            _ => Self::Other,
        }
    }
}

/// An IPv4 address that came through a socket of both kinds, as the address it is.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A socket as a VM has it: `[::]` takes both kinds.
fn new_socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

#[derive(Debug)]
pub(super) struct Listener(Async<std::net::TcpListener>);

impl Listener {
    pub fn bind(address: SocketAddr, options: ListenOptions) -> Result<Self, Error> {
        let socket = new_socket(address, Type::STREAM, Protocol::TCP)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        Ok(Self(Async::new(socket.into())?))
    }

    pub async fn accept(&self) -> Result<(Stream, SocketAddr), Error> {
        let (stream, peer) = self.0.accept().await?;
        Ok((Stream(stream), plain(peer)))
    }

    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        Ok(self.0.get_ref().local_addr()?)
    }
}

/// Bytes that are appended at a time, at most.
const MOST_APPENDED: usize = 4096;

#[derive(Debug)]
pub(super) struct Stream(Async<std::net::TcpStream>);

impl Stream {
    pub async fn connect(address: SocketAddr, options: ConnectOptions) -> Result<Self, Error> {
        Ok(Self(timeout(options.timeout, Async::<std::net::TcpStream>::connect(address)).await??))
    }

    pub fn poll_read(&self, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<Result<usize, Error>> {
        loop {
            match self.0.get_ref().read(bytes) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => ready!(self.0.poll_readable(context))?,
                result => return Poll::Ready(Ok(result?)),
            }
        }
    }

    pub fn poll_append(
        &self,
        context: &mut Context<'_>,
        bytes: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<Result<usize, Error>> {
        ready!(self.poll_readable(context))?;
        let used = bytes.len();
        bytes.resize(used + limit.min(MOST_APPENDED), 0);
        let read = self.poll_read(context, &mut bytes[used..]);
        bytes.truncate(used + if let Poll::Ready(Ok(length)) = read { length } else { 0 });
        read
    }

    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            match self.0.get_ref().peek(&mut [0]) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => ready!(self.0.poll_readable(context))?,
                result => return Poll::Ready(Ok(result.map(|_| ())?)),
            }
        }
    }

    pub fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        loop {
            match self.0.get_ref().write(bytes) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => ready!(self.0.poll_writable(context))?,
                result => return Poll::Ready(Ok(result?)),
            }
        }
    }

    pub fn close_write(&self) -> Result<(), Error> {
        Ok(self.0.get_ref().shutdown(Shutdown::Write)?)
    }

    pub fn set_nodelay(&self, nodelay: bool) -> Result<(), Error> {
        Ok(self.0.get_ref().set_nodelay(nodelay)?)
    }

    pub fn set_keepalive(&self, after: Option<Duration>) -> Result<(), Error> {
        let socket = SockRef::from(self.0.get_ref());
        match after {
            None => socket.set_keepalive(false)?,
            Some(after) => {
                // The host counts seconds.
                let after = after.max(Duration::from_secs(1));
                socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(after).with_interval(after))?;
            }
        }
        Ok(())
    }

    pub fn peer_addr(&self) -> Result<SocketAddr, Error> {
        Ok(plain(self.0.get_ref().peer_addr()?))
    }

    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        Ok(plain(self.0.get_ref().local_addr()?))
    }
}

#[derive(Debug)]
pub(super) struct Datagrams {
    socket: Async<std::net::UdpSocket>,
    is_ipv6: bool,
}

impl Datagrams {
    pub fn bind(address: SocketAddr, _options: UdpOptions) -> Result<Self, Error> {
        let socket = new_socket(address, Type::DGRAM, Protocol::UDP)?;
        socket.bind(&address.into())?;
        Ok(Self { socket: Async::new(socket.into())?, is_ipv6: address.is_ipv6() })
    }

    pub async fn recv_from(&self, bytes: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        let (length, from) = self.socket.recv_from(bytes).await?;
        Ok((length, plain(from)))
    }

    pub async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> Result<(), Error> {
        let to = match to {
            SocketAddr::V4(v4) if self.is_ipv6 => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            to => to,
        };
        self.socket.send_to(bytes, to).await?;
        Ok(())
    }

    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        Ok(self.socket.get_ref().local_addr()?)
    }
}
