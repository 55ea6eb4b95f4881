//! What becomes of connections: of those that were begun, waited for, and left to end by themselves; and of the memory
//! of those that are silent.

use super::buffers::MOST_WARM;
use super::connections::{Key, Owner};
use super::{FrameMemory, SECOND_NS, Stack, send_one};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};

/// A connection that was begun and not completed by then is forgotten.
pub(super) const HALF_OPEN_NS: u64 = 5 * SECOND_NS;

/// A closed connection whose peer has acknowledged everything may go on sending that long.
const FIN_WAIT_NS: u64 = 10 * SECOND_NS;

/// A closed connection is over by then, whatever its peer does.
pub(super) const LINGER_NS: u64 = 120 * SECOND_NS;

/// A peer that acknowledges nothing for that long is given up.
pub(super) const PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// Buffers that were empty for so long are given back, if there are many.
const IDLE_NS: u64 = SECOND_NS;

/// What becomes of a connection that was looked at.
enum Step {
    Keep,
    Remove,
    /// It was aborted: a reset is to be sent, and then it is gone.
    GiveUp,
}

impl<M: FrameMemory> Stack<M> {
    /// Serves the connections that have something to do, until there is none, or no room to send.
    pub(super) fn serve_connections(&mut self, now: Instant, now_ns: u64) {
        while let Some(key) = self.connections.next_ready() {
            let has_sent = self.send_one(key, now);
            match self.step(key, now_ns) {
                Step::Keep => {}
                // The reset goes out at once, and then it is gone.
                Step::GiveUp => {
                    self.send_one(key, now);
                    self.connections.make_ready(key);
                }
                Step::Remove => {
                    self.remove(key);
                    continue;
                }
            }
            if self.device.is_blocked() {
                return self.connections.put_back(key);
            }
            let due_ns = self.due_ns(key, now);
            // Asking when is half of what asking for one more packet takes, and has to be asked anyway.
            if has_sent && due_ns <= now_ns {
                self.connections.put_back(key);
            } else {
                self.connections.set_due(key, due_ns);
            }
        }
    }

    fn send_one(&mut self, key: Key, now: Instant) -> bool {
        let Self { interface, device, connections, .. } = self;
        send_one(interface, device, &mut connections[key].set, now)
    }

    /// When a connection has to be looked at again.
    fn due_ns(&mut self, key: Key, now: Instant) -> u64 {
        let connection = &self.connections[key];
        let stack = self.interface.poll_at(now, &connection.set);
        let stack = stack.map_or(u64::MAX, |at| u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000));
        stack.min(connection.deadline_ns)
    }

    fn step(&mut self, key: Key, now_ns: u64) -> Step {
        let connection = &mut self.connections[key];
        let socket = connection.socket();
        let is_gone = socket.state() == tcp::State::Closed && socket.remote_endpoint().is_none();
        let is_late = now_ns >= connection.deadline_ns;
        match connection.owner {
            Owner::HalfOpen(listener) => {
                let state = socket.state();
                let Some(Some(listener_of)) = self.listeners.get_mut(listener) else { return Step::Remove };
                match state {
                    tcp::State::SynReceived if !is_late => Step::Keep,
                    tcp::State::SynReceived | tcp::State::Closed | tcp::State::Listen => {
                        self.counters.half_open_expired += u64::from(!is_gone);
                        listener_of.abandon(key);
                        Step::Remove
                    }
                    _ => {
                        connection.owner = Owner::Waiting(listener);
                        connection.deadline_ns = u64::MAX;
                        listener_of.complete(key);
                        self.counters.accepted += 1;
                        Step::Keep
                    }
                }
            }
            Owner::Waiting(listener) if is_gone => {
                if let Some(Some(listener)) = self.listeners.get_mut(listener) {
                    listener.lose(key);
                }
                Step::Remove
            }
            Owner::Waiting(_) => Step::Keep,
            Owner::Connecting if is_late && socket.state() == tcp::State::SynSent => {
                connection.socket_mut().abort();
                Step::GiveUp
            }
            Owner::Connecting | Owner::Program => {
                if socket.send_queue() == 0 && socket.state() == tcp::State::Established {
                    // An idle connection may be silent for ever, unless it is asked whether it is there.
                    let limit = connection.keepalive.map(|after| after * 3);
                    connection.socket_mut().set_timeout(limit);
                }
                Step::Keep
            }
            Owner::Lingering if is_gone => Step::Remove,
            Owner::Lingering => self.step_lingering(key, now_ns),
        }
    }

    fn step_lingering(&mut self, key: Key, now_ns: u64) -> Step {
        let connection = &mut self.connections[key];
        let deadline_ns = connection.deadline_ns;
        let socket = connection.socket_mut();
        // Nobody reads it; the end of the stream comes behind it.
        while socket.can_recv() && socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|n| n > 0) {}
        match socket.state() {
            tcp::State::TimeWait => {
                if let Some((remote, local)) = socket.remote_endpoint().zip(socket.local_endpoint()) {
                    let peer = (remote.addr.into(), remote.port);
                    let is_early = self.time_wait.remember(peer, local.port, now_ns);
                    self.counters.time_wait_dropped += u64::from(is_early);
                }
                Step::Remove
            }
            tcp::State::FinWait2 if deadline_ns > now_ns.saturating_add(FIN_WAIT_NS) => {
                connection.deadline_ns = now_ns + FIN_WAIT_NS;
                Step::Keep
            }
            _ if now_ns >= deadline_ns => {
                socket.abort();
                connection.deadline_ns = u64::MAX;
                self.counters.linger_expired += 1;
                Step::GiveUp
            }
            _ => Step::Keep,
        }
    }

    /// Forgets a connection. Its buffers are given back.
    pub(super) fn remove(&mut self, key: Key) {
        let Some(connection) = self.connections.remove(key) else { return };
        // The socket first: it uses them.
        drop(connection.set);
        self.buffers.give_back(connection.slot);
        self.trim_later(self.polled_ns);
        self.shrink();
    }

    /// Gives the tables back when there is nothing in them.
    pub(super) fn shrink(&mut self) {
        if self.connections.is_empty() {
            self.listeners.iter_mut().flatten().for_each(super::Listener::trim);
        }
    }

    /// Notes that something was put into a connection's buffers.
    pub(super) fn touch(&mut self, key: Key, now_ns: u64) {
        let connection = &mut self.connections[key];
        connection.used_ns = now_ns;
        if core::mem::replace(&mut connection.is_touched, true) {
            return;
        }
        self.buffers.touch(&connection.slot);
        self.trim_later(now_ns);
    }

    fn trim_later(&mut self, now_ns: u64) {
        if self.trim_at.is_none() && self.buffers.is_spread() {
            self.trim_at = Some(now_ns.saturating_add(IDLE_NS));
        }
    }

    /// Gives back the pages of buffers that have been empty for a while. Looks again in a while if there are some that
    /// may be by then.
    pub(super) fn trim_buffers(&mut self, now_ns: u64) {
        self.trim_at = None;
        let Self { buffers, device, connections, .. } = self;
        buffers.trim(&mut |start, bytes| device.discard(start, bytes));
        for connection in connections.iter_mut().filter(|connection| connection.is_touched) {
            if buffers.nr_touched() <= MOST_WARM {
                return;
            }
            let is_idle = connection.used_ns.saturating_add(IDLE_NS) <= now_ns;
            if !is_idle {
                self.trim_at = Some(now_ns.saturating_add(IDLE_NS));
            } else if connection.is_empty() {
                connection.is_touched = false;
                self.counters.buffers_discarded += 1;
                buffers.discard(&connection.slot, &mut |start, bytes| device.discard(start, bytes));
            }
        }
    }
}
