//! Sockets in a VM: handles on the VM's own stack, which is built when the first of them is, and renewed when the VM
//! finds that it has become another one.

use super::device::{FrameMemory, Link, Parts};
pub use super::stack::Counters;
use super::stack::{Settings, Stack};
use super::{Error, ListenOptions, SocketAddr, SocketAddrV4, only_v4};
use crate::guest::runtime::{self, Driver};
use crate::guest::{Single, control, instruction, receive_ring, registers, transmit_ring};
use core::future::poll_fn;
use core::task::{Context, Poll};
use smoltcp::iface::SocketHandle;
use virtual_isa::control::{Devices, Pending};

/// The fixed pages.
struct OwnRings(());

impl FrameMemory for OwnRings {
    fn parts(&mut self) -> Parts<'_> {
        // SAFETY: there is one value of this type, borrowed for as long as the slices live; traps happen only in
        // `notify_transmit`, which borrows it too, and outside of the stack.
        unsafe { Parts { control: control(), transmit: transmit_ring(), receive: receive_ring() } }
    }

    fn notify_transmit(&mut self) {
        instruction::notify(Devices::TRANSMIT);
    }
}

struct Network {
    stack: Stack<OwnRings>,
    /// The generation whose addresses and random numbers the stack has.
    generation: u64,
    /// The program has done something that may have to go out.
    is_dirty: bool,
    /// When the stack wants to be polled, as of the last poll.
    poll_at: Option<u64>,
}

static NETWORK: Single<Option<Network>> = Single::new(None);

/// The share of the heap that the buffers of all sockets may take: a third. The program needs some for each, too.
const BUFFER_SHARE: usize = 3;

/// What the register page and the generator say now.
fn settings() -> Settings {
    let page = registers::registers();
    Settings {
        link: Link { mac: page.mac, gateway_mac: page.gateway_mac, mtu: page.mtu as usize },
        ipv4: page.ipv4,
        prefix_bits: u8::try_from(page.prefix_bits).unwrap_or(32),
        seed: u64::from_le_bytes(crate::rand::bytes()),
        max_buffer_bytes: crate::guest::heap_size() / BUFFER_SHARE,
    }
}

fn build() -> Network {
    runtime::add_driver(Driver { interests: Pending::RECEIVE, poll, poll_at });
    let generation = registers::registers().generation;
    let stack = Stack::new(OwnRings(()), &settings(), registers::now_ns());
    Network { stack, generation, is_dirty: false, poll_at: None }
}

impl Network {
    /// Sees to it that the stack is this VM's and not that of the one it was cloned from.
    fn check_generation(&mut self) {
        let generation = registers::registers().generation;
        if self.generation != generation {
            self.generation = generation;
            self.stack.renew(&settings(), registers::now_ns());
            self.is_dirty = true;
        }
    }
}

/// Works on the network, after which it may have something to send.
fn with<R>(work: impl FnOnce(&mut Stack<OwnRings>) -> R) -> R {
    NETWORK.with(|network| {
        let network = network.get_or_insert_with(build);
        network.check_generation();
        network.is_dirty = true;
        work(&mut network.stack)
    })
}

fn poll(pending: Pending, now_ns: u64) {
    NETWORK.with(|network| {
        let Some(network) = network else { return };
        network.check_generation();
        let is_due = network.poll_at.is_some_and(|at| at <= now_ns);
        if network.is_dirty || is_due || pending.intersects(Pending::RECEIVE | Pending::TRANSMIT) {
            network.is_dirty = false;
            network.stack.poll(now_ns);
            network.poll_at = network.stack.poll_at(now_ns);
            // The interrupt comes with every frame that is taken: it is wanted only by who waits for room.
            match network.stack.is_blocked() {
                true => runtime::enable(Pending::TRANSMIT),
                false => runtime::disable(Pending::TRANSMIT),
            }
        }
    });
}

fn poll_at(_now_ns: u64) -> Option<u64> {
    NETWORK.with(|network| network.as_ref().and_then(|network| network.poll_at))
}

/// What has happened to this VM's connections so far.
#[must_use]
pub fn counters() -> Counters {
    with(|stack| stack.counters)
}

/// A TCP socket that waits for connections.
#[derive(Debug)]
pub struct TcpListener {
    index: usize,
}

impl TcpListener {
    /// Listens on an address; port 0 chooses a free one.
    ///
    /// # Errors
    /// If the port is taken, or the address is not ours.
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        Self::bind_with(address, ListenOptions::default())
    }

    /// Listens, with other sizes than the usual ones.
    ///
    /// # Errors
    /// As [`TcpListener::bind`].
    pub fn bind_with(address: impl Into<SocketAddr>, options: ListenOptions) -> Result<Self, Error> {
        let address = only_v4(address.into())?;
        let index = with(|stack| stack.listen(address, options))?;
        Ok(Self { index })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// None in a VM.
    pub async fn accept(&self) -> Result<(TcpStream, SocketAddrV4), Error> {
        let accept = |context: &mut Context<'_>| with(|stack| stack.poll_accept(self.index, context.waker()));
        let (handle, peer) = poll_fn(accept).await;
        Ok((TcpStream { handle }, peer))
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// None in a VM.
    pub fn local_addr(&self) -> Result<SocketAddrV4, Error> {
        with(|stack| stack.listener_address(self.index)).ok_or(Error::Closed)
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        with(|stack| stack.close_listener(self.index, registers::now_ns()));
    }
}

/// A TCP connection. It is closed when it is dropped; what was written still goes out.
#[derive(Debug)]
pub struct TcpStream {
    handle: SocketHandle,
}

impl TcpStream {
    /// Connects to an address.
    ///
    /// # Errors
    /// If nobody listens or answers there, or there is no memory for it.
    pub async fn connect(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        let address = only_v4(address.into())?;
        let handle = with(|stack| stack.connect(address, ListenOptions::default(), registers::now_ns()))?;
        // Released if it is dropped meanwhile.
        let stream = Self { handle };
        poll_fn(|context| with(|stack| stack.poll_connected(handle, context.waker(), registers::now_ns()))).await?;
        Ok(stream)
    }

    /// Reads what has come, at most as much as fits. 0 at the end of the stream.
    ///
    /// # Errors
    /// If the connection is no more.
    pub async fn read(&self, bytes: &mut [u8]) -> Result<usize, Error> {
        poll_fn(|context| with(|stack| stack.poll_read(self.handle, bytes, context.waker()))).await
    }

    /// Writes some of `bytes`, and returns how many.
    ///
    /// # Errors
    /// If the connection is no more, or was closed on this side.
    pub async fn write(&self, bytes: &[u8]) -> Result<usize, Error> {
        poll_fn(|context| with(|stack| stack.poll_write(self.handle, bytes, context.waker()))).await
    }

    /// Ends the stream to the peer. What comes from it can still be read.
    ///
    /// # Errors
    /// None in a VM.
    pub fn close_write(&self) -> Result<(), Error> {
        with(|stack| stack.close_write(self.handle));
        Ok(())
    }

    /// Whether small writes go out at once instead of waiting for what is on its way to be acknowledged.
    ///
    /// # Errors
    /// None in a VM.
    pub fn set_nodelay(&self, nodelay: bool) -> Result<(), Error> {
        with(|stack| stack.set_nodelay(self.handle, nodelay));
        Ok(())
    }

    /// The peer's address.
    ///
    /// # Errors
    /// If the connection is no more.
    pub fn peer_addr(&self) -> Result<SocketAddrV4, Error> {
        with(|stack| stack.addresses(self.handle)).map(|(peer, _)| peer).ok_or(Error::ConnectionReset)
    }

    /// This side's address.
    ///
    /// # Errors
    /// If the connection is no more.
    pub fn local_addr(&self) -> Result<SocketAddrV4, Error> {
        with(|stack| stack.addresses(self.handle)).map(|(_, own)| own).ok_or(Error::ConnectionReset)
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        with(|stack| stack.release(self.handle, registers::now_ns()));
    }
}

super::implement_io!(TcpStream);

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    handle: SocketHandle,
}

impl UdpSocket {
    /// Takes datagrams to an address; port 0 chooses a free one.
    ///
    /// # Errors
    /// If the port is taken, the address is not ours, or there is no memory for it.
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        let address = only_v4(address.into())?;
        let handle = with(|stack| stack.bind_udp(address))?;
        Ok(Self { handle })
    }

    /// Waits for a datagram. What of it does not fit is lost.
    ///
    /// # Errors
    /// None in a VM.
    pub async fn recv_from(&self, bytes: &mut [u8]) -> Result<(usize, SocketAddrV4), Error> {
        let receive = |context: &mut Context<'_>| -> Poll<_> {
            with(|stack| stack.poll_recv_from(self.handle, bytes, context.waker()))
        };
        Ok(poll_fn(receive).await)
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// If it is too large, or the address cannot be reached.
    pub async fn send_to(&self, bytes: &[u8], to: impl Into<SocketAddr>) -> Result<(), Error> {
        let to = only_v4(to.into())?;
        poll_fn(|context| with(|stack| stack.poll_send_to(self.handle, bytes, to, context.waker()))).await
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// None in a VM.
    pub fn local_addr(&self) -> Result<SocketAddrV4, Error> {
        Ok(with(|stack| stack.udp_address(self.handle)))
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        with(|stack| stack.release_udp(self.handle));
    }
}
