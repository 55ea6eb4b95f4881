//! Sockets in a VM: handles on the VM's own stack, which is built when the first of them is, and renewed when the VM
//! finds that it has become another one.

use super::device::{FrameMemory, Link, Parts};
use super::stack::{Counters, Key, Settings, Stack};
use super::{ConnectOptions, Error, ListenOptions, SocketAddr, UdpOptions};
use crate::guest::runtime::{self, Driver};
use crate::guest::{Single, control, instruction, receive_ring, registers, transmit_ring};
use alloc::vec::Vec;
use core::future::poll_fn;
use core::ptr::NonNull;
use core::task::{Context, Poll};
use core::time::Duration;
use smoltcp::iface::SocketHandle;
use virtual_isa::control::{Devices, Pending};
use virtual_isa::network::{IPV6_PREFIX_BITS, ipv6_of};

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

    fn discard(&mut self, start: NonNull<u8>, bytes: usize) {
        let start = start.addr().get() as u64;
        // SAFETY: whoever has these pages says that there is nothing in them. What cannot be given back stays.
        let _ = unsafe { instruction::discard(start..start + bytes as u64) };
    }
}

struct Network {
    stack: Stack<OwnRings>,
    /// The generation whose addresses and random numbers the stack has.
    generation: u64,
    /// The program has done something that may have to go out.
    is_dirty: bool,
    /// What is due waits for tasks that run first.
    is_put_off: bool,
    /// When the stack wants to be polled, as of the last poll.
    poll_at: Option<u64>,
}

static NETWORK: Single<Option<Network>> = Single::new(None);

/// The share of the heap that the buffers of all sockets may take: a half. The program needs some for each, too.
const BUFFER_SHARE: usize = 2;

/// What the register page and the generator say now.
fn settings() -> Settings {
    let page = registers::registers();
    Settings {
        link: Link { mac: page.mac, gateway_mac: page.gateway_mac, mtu: page.mtu as usize },
        ipv4: page.ipv4,
        prefix_bits: u8::try_from(page.prefix_bits).unwrap_or(32),
        ipv6: ipv6_of(page.ipv4),
        ipv6_prefix_bits: IPV6_PREFIX_BITS,
        seed: u64::from_le_bytes(crate::rand::bytes()),
        max_buffer_bytes: crate::guest::heap().size() / BUFFER_SHARE,
    }
}

fn build() -> Network {
    runtime::add_driver(Driver { interests: Pending::RECEIVE, poll, poll_at });
    let generation = registers::registers().generation;
    let stack = Stack::new(OwnRings(()), &settings(), registers::now_ns());
    Network { stack, generation, is_dirty: false, is_put_off: false, poll_at: None }
}

impl Network {
    /// Sees to it that the stack is this VM's and not that of the one it was cloned from: before anything is taken or
    /// sent.
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
        network.is_dirty = true;
        work(&mut network.stack)
    })
}

fn poll(pending: Pending, now_ns: u64) {
    NETWORK.with(|network| {
        let Some(network) = network else { return };
        network.check_generation();
        let has_come = pending.intersects(Pending::RECEIVE | Pending::TRANSMIT);
        let is_due = network.poll_at.is_some_and(|at| at <= now_ns);
        if !has_come && !network.is_dirty && !is_due {
            return;
        }
        // What has come is for tasks, which will have an answer: connections are looked at once, after them. But not
        // for ever, if there is always a task that can run.
        let mut has_more = has_come && network.stack.take(now_ns);
        if has_come && !has_more && !network.is_put_off && runtime::has_ready() {
            (network.is_put_off, network.is_dirty) = (true, true);
            return;
        }
        (network.is_put_off, network.is_dirty) = (false, false);
        network.stack.serve(now_ns);
        while has_more && !network.stack.is_blocked() {
            has_more = network.stack.take(now_ns);
            network.stack.serve(now_ns);
        }
        network.poll_at = network.stack.poll_at(now_ns);
        // The interrupt comes with every frame that is taken: it is wanted only by who waits for room.
        match network.stack.is_blocked() {
            true => runtime::enable(Pending::TRANSMIT),
            false => runtime::disable(Pending::TRANSMIT),
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

#[derive(Debug)]
pub(super) struct Listener {
    index: usize,
}

impl Listener {
    pub fn bind(address: SocketAddr, options: ListenOptions) -> Result<Self, Error> {
        let index = with(|stack| stack.listen(address, options))?;
        Ok(Self { index })
    }

    pub async fn accept(&self) -> Result<(Stream, SocketAddr), Error> {
        let accept = |context: &mut Context<'_>| with(|stack| stack.poll_accept(self.index, context.waker()));
        let (key, peer) = poll_fn(accept).await;
        Ok((Stream { key }, peer))
    }

    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        with(|stack| stack.listener_address(self.index)).ok_or(Error::Closed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        with(|stack| stack.close_listener(self.index, registers::now_ns()));
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    key: Key,
}

impl Stream {
    pub async fn connect(address: SocketAddr, options: ConnectOptions) -> Result<Self, Error> {
        let key = with(|stack| stack.connect(address, options, registers::now_ns()))?;
        // Released if it is dropped meanwhile.
        let stream = Self { key };
        poll_fn(|context| with(|stack| stack.poll_connected(key, context.waker(), registers::now_ns()))).await?;
        Ok(stream)
    }

    pub fn poll_read(&self, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<Result<usize, Error>> {
        with(|stack| stack.poll_read(self.key, bytes, context.waker()))
    }

    pub fn poll_append(
        &self,
        context: &mut Context<'_>,
        bytes: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<Result<usize, Error>> {
        with(|stack| stack.poll_append(self.key, bytes, limit, context.waker()))
    }

    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        with(|stack| stack.poll_readable(self.key, context.waker()))
    }

    pub fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        with(|stack| stack.poll_write(self.key, bytes, context.waker()))
    }

    pub fn close_write(&self) -> Result<(), Error> {
        with(|stack| stack.close_write(self.key));
        Ok(())
    }

    pub fn set_nodelay(&self, nodelay: bool) -> Result<(), Error> {
        with(|stack| stack.set_nodelay(self.key, nodelay));
        Ok(())
    }

    pub fn set_keepalive(&self, after: Option<Duration>) -> Result<(), Error> {
        with(|stack| stack.set_keepalive(self.key, after));
        Ok(())
    }

    pub fn peer_addr(&self) -> Result<SocketAddr, Error> {
        with(|stack| stack.addresses(self.key)).map(|(peer, _)| peer).ok_or(Error::ConnectionReset)
    }

    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        with(|stack| stack.addresses(self.key)).map(|(_, own)| own).ok_or(Error::ConnectionReset)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        with(|stack| stack.release(self.key, registers::now_ns()));
    }
}

#[derive(Debug)]
pub(super) struct Datagrams {
    handle: SocketHandle,
}

impl Datagrams {
    pub fn bind(address: SocketAddr, options: UdpOptions) -> Result<Self, Error> {
        let handle = with(|stack| stack.bind_udp(address, options))?;
        Ok(Self { handle })
    }

    pub async fn recv_from(&self, bytes: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        let receive = |context: &mut Context<'_>| -> Poll<_> {
            with(|stack| stack.poll_recv_from(self.handle, bytes, context.waker()))
        };
        Ok(poll_fn(receive).await)
    }

    pub async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> Result<(), Error> {
        poll_fn(|context| with(|stack| stack.poll_send_to(self.handle, bytes, to, context.waker()))).await
    }

    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        Ok(with(|stack| stack.udp_address(self.handle)))
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        with(|stack| stack.release_udp(self.handle));
    }
}
