//! Who gets what.
//!
//! Filters without wildcards are looked up; those with wildcards are gone through. A message is kept once, however many
//! it waits for. What does not fit is dropped for the client whose queue is full, or refused altogether when memory is:
//! a message that is to arrive surely is not acknowledged then.

use crate::packet::{Message, Qos};
use crate::session::{Delivery, Outgoing, Published, Session};
use crate::settings::Settings;
use crate::topic;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use libos::sync::{Budget, Notify};

/// What a message takes besides its bytes.
const MESSAGE_BYTES: usize = 128;
/// What a place in a queue takes, half of it unused after the queue has grown.
const DELIVERY_BYTES: usize = 128;
/// What a subscription takes besides its filter.
const SUBSCRIPTION_BYTES: usize = 256;
/// What a session takes besides its client's name.
const SESSION_BYTES: usize = 768;

/// A session's number.
type SessionId = u64;

/// Who has which filter.
type Index = BTreeMap<Rc<str>, Vec<(SessionId, Qos)>>;

/// A connection's place at the broker.
#[derive(Clone, Debug)]
pub struct Link {
    session: SessionId,
    connection: u64,
    /// Wakes the connection: there is something to send, or it is over.
    pub wake: Rc<Notify>,
}

/// There is no memory for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Everybody keeps up.
    Low,
    /// A client's queue is nearly full: whoever publishes should wait for it.
    High,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that were published.
    pub published: u64,
    /// Messages that a client did not get, as its queue was full.
    pub dropped: u64,
    /// Messages that were refused, or not kept, as memory was full.
    pub refused: u64,
}

/// All sessions, filters and kept messages.
#[derive(Debug)]
pub struct Broker {
    settings: Settings,
    budget: Budget,
    sessions: BTreeMap<SessionId, Session>,
    clients: BTreeMap<Rc<str>, SessionId>,
    exact: Index,
    wild: Index,
    retained: BTreeMap<Rc<str>, Rc<Published>>,
    /// Connections so far, and sessions so far.
    count: u64,
    counters: Counters,
    /// Wakes those who wait for queues to be shorter.
    drained: Rc<Notify>,
}

impl Broker {
    /// One that knows nobody.
    #[must_use]
    pub fn new(settings: Settings, budget: Budget) -> Self {
        Self {
            settings,
            budget,
            sessions: BTreeMap::new(),
            clients: BTreeMap::new(),
            exact: Index::new(),
            wild: Index::new(),
            retained: BTreeMap::new(),
            count: 0,
            counters: Counters::default(),
            drained: Rc::new(Notify::default()),
        }
    }

    /// What is counted.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// How many sessions there are, connected or not.
    #[must_use]
    pub fn nr_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Wakes those who wait for queues to be shorter.
    #[must_use]
    pub fn drained(&self) -> Rc<Notify> {
        self.drained.clone()
    }

    /// A client has come. Returns its place, and whether there was a session of it. A connection that it had before is
    /// over.
    ///
    /// # Errors
    /// [`Full`] if there is no place for its session.
    pub fn connect(&mut self, client: &str, is_clean: bool) -> Result<(Link, bool), Full> {
        self.count += 1;
        let connection = self.count;
        let known = self.clients.get(client).copied();
        let kept = known.filter(|id| !is_clean && self.sessions.get(id).is_some_and(|session| !session.is_clean));
        if let (Some(id), None) = (known, kept) {
            self.remove(id);
        }
        let id = match kept {
            Some(id) => id,
            None => self.add(client, connection)?,
        };
        let session = self.sessions.get_mut(&id).ok_or(Full)?;
        session.connect(connection, is_clean);
        Ok((Link { session: id, connection, wake: session.wake.clone() }, kept.is_some()))
    }

    fn add(&mut self, client: &str, id: SessionId) -> Result<SessionId, Full> {
        let bytes = SESSION_BYTES + 2 * client.len();
        let charge = loop {
            let has_place = self.sessions.len() < 2 * self.settings.max_clients;
            match self.budget.take(bytes) {
                Some(charge) if has_place => break charge,
                // The session that was left alone for longest makes room.
                _ => {
                    let oldest =
                        self.sessions.iter().filter_map(|(&id, session)| Some((session.connection.err()?, id)));
                    let (_, oldest) = oldest.min().ok_or(Full)?;
                    self.remove(oldest);
                }
            }
        };
        let client: Rc<str> = client.into();
        self.clients.insert(client.clone(), id);
        self.sessions.insert(id, Session::new(client, charge));
        Ok(id)
    }

    /// Whether a connection is its client's: not if the client has another one, or its session was removed.
    #[must_use]
    pub fn is_current(&self, link: &Link) -> bool {
        self.sessions.get(&link.session).is_some_and(|session| session.connection == Ok(link.connection))
    }

    fn current(&mut self, link: &Link) -> Option<&mut Session> {
        self.sessions.get_mut(&link.session).filter(|session| session.connection == Ok(link.connection))
    }

    /// A connection has ended.
    pub fn disconnect(&mut self, link: &Link) {
        self.count += 1;
        let count = self.count;
        let Some(session) = self.current(link) else { return };
        session.connection = Err(count);
        if session.is_clean {
            self.remove(link.session);
        }
        // Nobody is to wait for it.
        self.drained.notify_waiters();
    }

    /// A client wants messages. Returns with what quality of service, or nothing if it cannot have them. Kept messages
    /// are queued for it.
    pub fn subscribe(&mut self, link: &Link, filter: &str, qos: Qos) -> Option<Qos> {
        if !topic::is_filter(filter) {
            return None;
        }
        let max_subscriptions = self.settings.max_subscriptions;
        let budget = self.budget.clone();
        let session = self.current(link)?;
        let name: Rc<str> = match session.filters.iter().find(|(known, _)| &**known == filter) {
            Some((known, _)) => known.clone(),
            None if session.filters.len() >= max_subscriptions => return None,
            None => {
                let charge = budget.take(SUBSCRIPTION_BYTES + 2 * filter.len())?;
                let name: Rc<str> = filter.into();
                session.filters.push((name.clone(), charge));
                name
            }
        };
        let index = if topic::is_wild(filter) { &mut self.wild } else { &mut self.exact };
        let takers = index.entry(name).or_default();
        takers.retain(|&(id, _)| id != link.session);
        takers.push((link.session, qos));
        self.queue_retained(link, filter, qos);
        Some(qos)
    }

    /// Queues the kept messages of a filter. There is room for all of them beside what waits anyway.
    fn queue_retained(&mut self, link: &Link, filter: &str, qos: Qos) {
        let most = self.settings.max_queue.saturating_add(self.settings.max_retained);
        let Some(session) = self.sessions.get_mut(&link.session) else { return };
        let found = self.retained.iter().filter(|(topic, _)| topic::matches(filter, topic));
        for (_, message) in found {
            match self.budget.take(DELIVERY_BYTES) {
                Some(charge) if session.nr_queued() < most => {
                    session.push(Delivery { message: message.clone(), qos, is_retained: true, charge });
                }
                _ => self.counters.dropped += 1,
            }
        }
    }

    /// A client wants messages no more. What waits for it already stays.
    pub fn unsubscribe(&mut self, link: &Link, filter: &str) {
        let Some(session) = self.current(link) else { return };
        session.filters.retain(|(known, _)| &**known != filter);
        self.forget(link.session, filter);
    }

    fn forget(&mut self, id: SessionId, filter: &str) {
        let index = if topic::is_wild(filter) { &mut self.wild } else { &mut self.exact };
        if let Some(takers) = index.get_mut(filter) {
            takers.retain(|&(taker, _)| taker != id);
            if takers.is_empty() {
                index.remove(filter);
            }
        }
    }

    fn remove(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.clients.remove(&session.client);
        for (filter, _) in &session.filters {
            self.forget(id, filter);
        }
        session.wake.notify_waiters();
    }

    /// Publishes a message, whose topic is a name. `from` is whoever publishes: it does not wait for itself.
    ///
    /// # Errors
    /// [`Full`] if there is no memory for it. Nobody has got it.
    pub fn publish(&mut self, message: &Message<'_>, from: Option<&Link>) -> Result<Pressure, Full> {
        self.counters.published += 1;
        let mut takers: BTreeMap<SessionId, Qos> = BTreeMap::new();
        let wild = self.wild.iter().filter(|(filter, _)| topic::matches(filter, message.topic)).map(|(_, ids)| ids);
        for &(id, qos) in self.exact.get(message.topic).into_iter().chain(wild).flatten() {
            let best = takers.entry(id).or_insert(qos);
            *best = qos.max(*best);
        }
        let is_kept = message.is_retained && !message.payload.is_empty();
        if message.is_retained && !is_kept {
            self.retained.remove(message.topic);
        }
        if takers.is_empty() && !is_kept {
            return Ok(Pressure::Low);
        }
        let bytes = MESSAGE_BYTES + message.payload.len() + 2 * message.topic.len();
        let Some(charge) = self.budget.take(bytes) else {
            self.counters.refused += 1;
            return Err(Full);
        };
        let published = Rc::new(Published { topic: message.topic.into(), payload: message.payload.into(), charge });
        if is_kept {
            self.keep(message.topic, &published);
        }
        let mut pressure = Pressure::Low;
        for (id, qos) in takers {
            if self.deliver(id, &published, qos.min(message.qos)) == Pressure::High
                && from.is_none_or(|from| from.session != id)
            {
                pressure = Pressure::High;
            }
        }
        Ok(pressure)
    }

    fn keep(&mut self, topic: &str, message: &Rc<Published>) {
        if let Some(kept) = self.retained.get_mut(topic) {
            *kept = message.clone();
        } else if self.retained.len() < self.settings.max_retained {
            self.retained.insert(topic.into(), message.clone());
        } else {
            self.counters.refused += 1;
        }
    }

    fn deliver(&mut self, id: SessionId, message: &Rc<Published>, qos: Qos) -> Pressure {
        let max_queue = self.settings.max_queue;
        let Some(session) = self.sessions.get_mut(&id) else { return Pressure::Low };
        let is_connected = session.connection.is_ok();
        // What is not sure to arrive does not wait for those who are away.
        if !is_connected && qos == Qos::AtMostOnce {
            return Pressure::Low;
        }
        match self.budget.take(DELIVERY_BYTES) {
            Some(charge) if session.nr_queued() < max_queue => {
                session.push(Delivery { message: message.clone(), qos, is_retained: false, charge });
            }
            _ => self.counters.dropped += 1,
        }
        if is_connected && session.nr_queued() >= max_queue - max_queue / 4 { Pressure::High } else { Pressure::Low }
    }

    /// The message that is to be written next on a connection.
    pub fn next(&mut self, link: &Link) -> Option<Outgoing> {
        let half = self.settings.max_queue / 2;
        let session = self.current(link)?;
        let outgoing = session.next_outgoing()?;
        if session.nr_queued() == half {
            self.drained.notify_waiters();
        }
        Some(outgoing)
    }

    /// A client has acknowledged a message.
    pub fn acknowledge(&mut self, link: &Link, id: u16) {
        if let Some(session) = self.current(link) {
            session.acknowledge(id);
        }
    }
}
