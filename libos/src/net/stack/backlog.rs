//! A listener's backlog: the stack below has none, so each connection that asks for the port gets a socket of its
//! own the moment its SYN is seen, if bounds allow it.

use super::Key;
use crate::burst;
use crate::net::ListenOptions;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::task::Waker;

/// A half-open connection may be forgotten for another one when it is so old: its peer's answer would have come.
const PATIENCE_NS: u64 = 250_000_000;

/// What is done with a connection that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Begin,
    /// It may begin if this half-open one, which nobody completes, goes.
    Evict(Key),
    /// There are too many: who asks will ask again.
    Drop,
}

/// A port that is listened on.
pub(super) struct Listener {
    pub port: u16,
    /// Whether IPv4 only is meant.
    pub is_v4_only: bool,
    pub options: ListenOptions,
    /// Connections that are open and were not accepted yet, oldest first.
    open: VecDeque<Key>,
    /// Connections that are half-open and when they began, oldest first.
    half_open: VecDeque<(Key, u64)>,
    wakers: Vec<Waker>,
}

impl Listener {
    pub const fn new(port: u16, is_v4_only: bool, options: ListenOptions) -> Self {
        Self { port, is_v4_only, options, open: VecDeque::new(), half_open: VecDeque::new(), wakers: Vec::new() }
    }

    /// What is done with a connection that is asked for.
    pub fn admit(&self, now_ns: u64) -> Admission {
        let (nr_open, nr_half_open) = (self.open.len(), self.half_open.len());
        if nr_half_open < self.options.half_open && nr_open + nr_half_open < self.options.backlog {
            return Admission::Begin;
        }
        match self.half_open.front() {
            Some(&(oldest, begun_ns)) if begun_ns.saturating_add(PATIENCE_NS) <= now_ns => Admission::Evict(oldest),
            _ => Admission::Drop,
        }
    }

    /// A connection has begun.
    pub fn begin(&mut self, key: Key, now_ns: u64) {
        self.half_open.push_back((key, now_ns));
    }

    /// A half-open connection has become none.
    pub fn abandon(&mut self, key: Key) {
        self.half_open.retain(|&(other, _)| other != key);
    }

    /// A half-open connection is open: it can be accepted.
    pub fn complete(&mut self, key: Key) {
        self.abandon(key);
        self.open.push_back(key);
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }

    /// An open connection has become none before it was accepted.
    pub fn lose(&mut self, key: Key) {
        self.open.retain(|&other| other != key);
    }

    /// Gives back what a burst of connections has left.
    pub fn trim(&mut self) {
        burst::trim(&mut self.open);
        burst::trim(&mut self.half_open);
    }

    /// The connection that has waited longest. If there is none, `waker` is woken for the next.
    pub fn accept(&mut self, waker: &Waker) -> Option<Key> {
        let next = self.open.pop_front();
        if next.is_none() && !self.wakers.iter().any(|known| known.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
        next
    }
}
