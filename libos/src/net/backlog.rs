//! A listener's backlog: the stack below has none, so each connection that asks for the port gets a socket of its
//! own the moment its SYN is seen, if bounds allow it.

use super::ListenOptions;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::task::Waker;
use smoltcp::iface::SocketHandle;

/// A port that is listened on.
pub(crate) struct Listener {
    pub port: u16,
    pub options: ListenOptions,
    /// Connections that are open and were not accepted yet, oldest first.
    open: VecDeque<SocketHandle>,
    /// Connections that are half-open.
    half_open: usize,
    wakers: Vec<Waker>,
}

impl Listener {
    pub const fn new(port: u16, options: ListenOptions) -> Self {
        Self { port, options, open: VecDeque::new(), half_open: 0, wakers: Vec::new() }
    }

    /// Whether one more connection may begin.
    pub fn has_room(&self) -> bool {
        self.open.len() + self.half_open < self.options.backlog
    }

    /// A connection has begun.
    pub fn begin(&mut self) {
        self.half_open += 1;
    }

    /// A half-open connection has become none.
    pub fn abandon(&mut self) {
        self.half_open = self.half_open.saturating_sub(1);
    }

    /// A half-open connection is open: it can be accepted.
    pub fn complete(&mut self, handle: SocketHandle) {
        self.abandon();
        self.open.push_back(handle);
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }

    /// An open connection has become none before it was accepted.
    pub fn lose(&mut self, handle: SocketHandle) {
        self.open.retain(|&other| other != handle);
    }

    /// Gives back what a burst of connections has left.
    pub fn trim(&mut self) {
        if self.open.is_empty() {
            self.open = VecDeque::new();
        }
    }

    /// The connection that has waited longest. If there is none, `waker` is woken for the next.
    pub fn accept(&mut self, waker: &Waker) -> Option<SocketHandle> {
        let next = self.open.pop_front();
        if next.is_none() && !self.wakers.iter().any(|known| known.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
        next
    }
}
