//! What the broker keeps for a client: what it wants, what waits for it, what it has not acknowledged.

use crate::packet::Qos;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use libos::sync::{Charge, Notify};

/// Messages that a client may have without having acknowledged them.
pub const MAX_IN_FLIGHT: usize = 16;

/// A message, however many it goes to.
#[derive(Debug)]
pub struct Published {
    /// What it is about.
    pub topic: Box<str>,
    /// What it says.
    pub payload: Box<[u8]>,
    /// Its place in memory.
    pub charge: Charge,
}

/// A message that waits for a client.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Rc<Published>,
    /// How sure its arrival is to be.
    pub qos: Qos,
    /// Whether it was kept for those who subscribe later.
    pub is_retained: bool,
    /// The place in the queue.
    pub charge: Charge,
}

/// A message that is to be written now.
#[derive(Debug)]
pub struct Outgoing {
    /// The message.
    pub message: Rc<Published>,
    /// How sure its arrival is to be.
    pub qos: Qos,
    /// Whether it was kept for those who subscribe later.
    pub is_retained: bool,
    /// Its number, if it is to be acknowledged.
    pub id: Option<u16>,
    /// Whether it was sent before.
    pub is_repeated: bool,
}

#[derive(Debug)]
struct InFlight {
    id: u16,
    delivery: Delivery,
    /// Whether it was sent on this connection.
    is_sent: bool,
}

/// A client's session.
#[derive(Debug)]
pub struct Session {
    /// Who it is.
    pub client: Rc<str>,
    /// Whether it ends with its connection.
    pub is_clean: bool,
    /// Its connection, if there is one; when there is none, when the last one ended, in the same count.
    pub connection: Result<u64, u64>,
    /// Wakes its connection.
    pub wake: Rc<Notify>,
    /// Its filters, with their places in memory.
    pub filters: Vec<(Rc<str>, Charge)>,
    queue: VecDeque<Delivery>,
    in_flight: VecDeque<InFlight>,
    last_id: u16,
    /// Its place in memory.
    _charge: Charge,
}

impl Session {
    /// A new one.
    #[must_use]
    pub fn new(client: Rc<str>, charge: Charge) -> Self {
        Self {
            client,
            is_clean: true,
            connection: Err(0),
            wake: Rc::new(Notify::default()),
            filters: Vec::new(),
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            last_id: 0,
            _charge: charge,
        }
    }

    /// Begins another connection: what was not acknowledged goes out once more.
    pub fn connect(&mut self, connection: u64, is_clean: bool) {
        self.connection = Ok(connection);
        self.is_clean = is_clean;
        // Whoever waited for the last one notices that it is over.
        self.wake.notify_waiters();
        self.wake = Rc::new(Notify::default());
        self.in_flight.iter_mut().for_each(|message| message.is_sent = false);
    }

    /// How many messages wait.
    #[must_use]
    pub fn nr_queued(&self) -> usize {
        self.queue.len()
    }

    /// Lets a message wait, and wakes the connection.
    pub fn push(&mut self, delivery: Delivery) {
        self.queue.push_back(delivery);
        self.wake.notify_one();
    }

    /// The message that is to be written next.
    pub fn next_outgoing(&mut self) -> Option<Outgoing> {
        if let Some(InFlight { id, delivery, is_sent }) = self.in_flight.iter_mut().find(|message| !message.is_sent) {
            *is_sent = true;
            return Some(outgoing(delivery, Some(*id), true));
        }
        let is_sure = self.queue.front()?.qos == Qos::AtLeastOnce;
        if is_sure && self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let delivery = self.queue.pop_front()?;
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        let id = is_sure.then(|| self.next_id());
        let outgoing = outgoing(&delivery, id, false);
        if let Some(id) = id {
            self.in_flight.push_back(InFlight { id, delivery, is_sent: true });
        }
        Some(outgoing)
    }

    /// A message was acknowledged. Of one that was not sent nothing comes.
    pub fn acknowledge(&mut self, id: u16) {
        self.in_flight.retain(|message| message.id != id);
    }

    /// A number that no message has which is not acknowledged.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.in_flight.iter().all(|message| message.id != self.last_id) {
                return self.last_id;
            }
        }
    }
}

fn outgoing(delivery: &Delivery, id: Option<u16>, is_repeated: bool) -> Outgoing {
    let Delivery { message, qos, is_retained, .. } = delivery;
    Outgoing { message: message.clone(), qos: *qos, is_retained: *is_retained, id, is_repeated }
}
