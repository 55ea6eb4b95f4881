//! The connections of a stack: who has which, which of them have something to do now, and which later.
//!
//! Each is in a socket set of its own, found by its ends. A packet, a deadline or something that the program did costs
//! what its own connection takes, however many others there are.

use super::buffers::Slot;
use crate::burst;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::ops::{Index, IndexMut};
use slab::Slab;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Duration;

/// Names a connection. It is used again when the connection is gone and its owner knows.
pub(crate) type Key = usize;

/// Whose a TCP socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A listener's, half-open.
    HalfOpen(usize),
    /// A listener's, to be accepted.
    Waiting(usize),
    /// The program's, still connecting.
    Connecting,
    /// The program's.
    Program,
    /// Nobody's: the program is done with it, its peer is not.
    Lingering,
}

/// Both ends of a connection; this side's port is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ends {
    pub port: u16,
    pub peer_port: u16,
    pub peer: IpAddr,
}

pub(super) struct Connection {
    /// The socket, alone.
    pub set: SocketSet<'static>,
    /// Where its buffers are.
    pub slot: Slot,
    pub owner: Owner,
    /// When it is given up, if nothing happens.
    pub deadline_ns: u64,
    pub keepalive: Option<Duration>,
    /// Pages of its buffers may be in use.
    pub is_touched: bool,
    /// Segments may have come before those that they follow: the free part of the buffer holds something.
    pub has_gap: bool,
    /// When something was put into its buffers last.
    pub used_ns: u64,
    ends: Ends,
    /// When it is to be looked at, as `due` has it.
    due_ns: u64,
    is_ready: bool,
}

impl Connection {
    pub fn socket(&self) -> &tcp::Socket<'static> {
        self.set.get(SocketHandle::default())
    }

    pub fn socket_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.set.get_mut(SocketHandle::default())
    }

    /// Whether there is nothing in its buffers.
    pub fn is_empty(&self) -> bool {
        let socket = self.socket();
        !self.has_gap && socket.recv_queue() == 0 && socket.send_queue() == 0
    }
}

#[derive(Default)]
pub(super) struct Connections {
    table: Slab<Connection>,
    /// Sorted, as `due` is: a tree would be five times the code in every image, and pay off beyond a thousand only.
    by_ends: Vec<(Ends, Key)>,
    due: VecDeque<(u64, Key)>,
    /// Those that have something to do. One that is gone may still be named.
    ready: VecDeque<Key>,
}

impl Connections {
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut Connection> {
        self.table.get_mut(key)
    }

    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.table.iter().map(|(key, _)| key)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.table.iter_mut().map(|(_, connection)| connection)
    }

    /// Adds a connection, ready to be looked at.
    pub fn add(&mut self, socket: tcp::Socket<'static>, slot: Slot, ends: Ends, owner: Owner, deadline_ns: u64) -> Key {
        let mut set = SocketSet::new(alloc::vec::Vec::with_capacity(1));
        set.add(socket);
        let key = self.table.insert(Connection {
            set,
            slot,
            owner,
            deadline_ns,
            keepalive: None,
            is_touched: false,
            has_gap: false,
            used_ns: 0,
            ends,
            due_ns: u64::MAX,
            is_ready: false,
        });
        let (Ok(at) | Err(at)) = self.place_of(ends);
        self.by_ends.insert(at, (ends, key));
        self.make_ready(key);
        key
    }

    /// Takes a connection out.
    pub fn remove(&mut self, key: Key) -> Option<Connection> {
        let connection = self.table.try_remove(key)?;
        if let Ok(at) = self.place_of(connection.ends) {
            self.by_ends.remove(at);
        }
        self.forget_due(connection.due_ns, key);
        if burst::is_over(self.table.is_empty(), self.table.capacity()) {
            *self = Self::default();
        }
        Some(connection)
    }

    fn place_of(&self, ends: Ends) -> Result<usize, usize> {
        self.by_ends.binary_search_by_key(&ends, |&(ends, _)| ends)
    }

    pub fn find(&self, ends: Ends) -> Option<Key> {
        self.place_of(ends).ok().map(|at| self.by_ends[at].1)
    }

    /// Whether a connection has this port on this side.
    pub fn has_port(&self, port: u16) -> bool {
        self.by_ends.binary_search_by_key(&port, |(ends, _)| ends.port).is_ok()
    }

    /// Has a connection looked at soon.
    pub fn make_ready(&mut self, key: Key) {
        if let Some(connection) = self.table.get_mut(key)
            && !connection.is_ready
        {
            connection.is_ready = true;
            self.ready.push_back(key);
        }
    }

    /// Has those looked at whose time has come.
    pub fn make_due_ready(&mut self, now_ns: u64) {
        while let Some(&(_, key)) = self.due.front().filter(|&&(at, _)| at <= now_ns) {
            self.due.pop_front();
            if let Some(connection) = self.table.get_mut(key) {
                connection.due_ns = u64::MAX;
            }
            self.make_ready(key);
        }
    }

    /// The next one to be looked at.
    pub fn next_ready(&mut self) -> Option<Key> {
        while let Some(key) = self.ready.pop_front() {
            if let Some(connection) = self.table.get_mut(key)
                && core::mem::take(&mut connection.is_ready)
            {
                return Some(key);
            }
        }
        None
    }

    /// Puts one back that could not be served: it is the next one again.
    pub fn put_back(&mut self, key: Key) {
        if let Some(connection) = self.table.get_mut(key)
            && !connection.is_ready
        {
            connection.is_ready = true;
            self.ready.push_front(key);
        }
    }

    /// Has a connection looked at, at that time at the latest.
    pub fn set_due(&mut self, key: Key, due_ns: u64) {
        let Some(connection) = self.table.get_mut(key) else { return };
        let before = core::mem::replace(&mut connection.due_ns, due_ns);
        if before == due_ns {
            return;
        }
        self.forget_due(before, key);
        if due_ns != u64::MAX {
            match self.due.back() {
                Some(&last) if last > (due_ns, key) => {
                    let (Ok(at) | Err(at)) = self.due.binary_search(&(due_ns, key));
                    self.due.insert(at, (due_ns, key));
                }
                // Nearly always: what was heard of last is due last.
                _ => self.due.push_back((due_ns, key)),
            }
        }
    }

    fn forget_due(&mut self, due_ns: u64, key: Key) {
        if due_ns == u64::MAX {
            return;
        }
        if self.due.front() == Some(&(due_ns, key)) {
            self.due.pop_front();
        } else if let Ok(at) = self.due.binary_search(&(due_ns, key)) {
            self.due.remove(at);
        }
    }

    /// When the first is to be looked at.
    pub fn next_due(&self) -> Option<u64> {
        self.due.front().map(|&(at, _)| at)
    }
}

impl Index<Key> for Connections {
    type Output = Connection;

    fn index(&self, key: Key) -> &Connection {
        &self.table[key]
    }
}

impl IndexMut<Key> for Connections {
    fn index_mut(&mut self, key: Key) -> &mut Connection {
        &mut self.table[key]
    }
}
