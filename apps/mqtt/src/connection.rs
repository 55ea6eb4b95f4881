//! Speaking with one client.
//!
//! One task both reads and writes: what waits for the client goes out whenever nothing has come from it. A client that
//! publishes faster than others take it is not read from for a while.

use crate::broker::{Link, Pressure};
use crate::packet::{self, Connect, Malformed, Message, Packet, Qos};
use crate::server::Shared;
use crate::topic;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use libos::net::{Error, TcpStream};
use libos::sync::Charge;
use libos::task::{Either3, select3, yield_now};
use libos::time::{Duration, Instant, sleep_until, timeout, timeout_at};

/// Bytes of packets that every connection may hold.
const BASE_INPUT_BYTES: usize = 1024;

/// Packets for a client are written when they are together this long.
const FLUSH_BYTES: usize = 1400;

/// Packets after which others have their turn.
const TURN: usize = 16;

/// How long a client that publishes waits for those who are slow, at a time.
const PATIENCE: Duration = Duration::from_millis(200);

/// Longest name of a client.
const MAX_CLIENT_BYTES: usize = 256;

/// What a last will takes besides its bytes.
const WILL_BYTES: usize = 128;

/// `CONNACK`: come in; a protocol, a name, or a moment that is not right.
const ACCEPTED: u8 = 0;
const BAD_VERSION: u8 = 1;
const BAD_CLIENT: u8 = 2;
const UNAVAILABLE: u8 = 3;

/// Why there is nothing more to do.
#[derive(Debug)]
enum End {
    /// The client has said good-bye.
    Done,
    /// The stream is no more, or the client was silent for too long, or has another connection.
    Lost,
    /// What it sends cannot be.
    Malformed(Malformed),
}

impl From<Error> for End {
    fn from(_: Error) -> Self {
        Self::Lost
    }
}

impl From<Malformed> for End {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// What is published for a client that is lost.
struct Will {
    topic: String,
    payload: Box<[u8]>,
    qos: Qos,
    is_retained: bool,
    _charge: Charge,
}

/// One client's connection.
struct Connection<'a> {
    stream: &'a TcpStream,
    shared: &'a Shared,
    /// Bytes that were read and not used yet.
    input: Vec<u8>,
    input_charge: Option<Charge>,
    /// Packets that were not written yet.
    out: Vec<u8>,
    will: Option<Will>,
    /// How long the client may be silent.
    silence: Option<Duration>,
}

/// Serves a client until it goes, has to go, or has been silent for too long.
pub async fn serve(stream: &TcpStream, shared: &Shared) {
    let (input, out) = (Vec::new(), Vec::new());
    let mut connection = Connection { stream, shared, input, input_charge: None, out, will: None, silence: None };
    let Ok(Ok(Some(link))) = timeout(shared.settings.packet_timeout, connection.admit()).await else { return };
    let end = match connection.run(&link).await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    let _ = connection.flush().await;
    if let End::Malformed(malformed) = &end {
        libos::log::debug!("a client was sent away: {malformed}");
    }
    let mut broker = shared.broker.borrow_mut();
    broker.disconnect(&link);
    if let (Some(will), false) = (&connection.will, matches!(end, End::Done)) {
        let Will { topic, payload, qos, is_retained, .. } = will;
        let will = Message { topic, payload, qos: *qos, is_retained: *is_retained };
        // If there is no memory for it, it is counted.
        let _ = broker.publish(&will, None);
    }
}

impl Connection<'_> {
    /// Waits for the first packet, and answers it. `None` if the client is not let in, and was told so.
    async fn admit(&mut self) -> Result<Option<Link>, End> {
        let length = loop {
            match packet::length(&self.input, self.shared.settings.max_packet)? {
                Some(length) if length <= self.input.len() => break length,
                _ => self.fill().await?,
            }
        };
        let bytes = self.input.get(..length).unwrap_or(&[]);
        let admitted = match packet::read(bytes)? {
            Packet::Connect(connect) => self.let_in(&connect)?,
            Packet::OtherVersion => Err(BAD_VERSION),
            _ => return Err(Malformed("something before CONNECT").into()),
        };
        self.input.drain(..length);
        match admitted {
            Ok((link, is_known, will, silence)) => {
                packet::write_connack(&mut self.out, is_known, ACCEPTED);
                (self.will, self.silence) = (will, silence);
                Ok(Some(link))
            }
            Err(code) => {
                packet::write_connack(&mut self.out, false, code);
                self.flush().await?;
                Ok(None)
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "taken apart at its only caller")]
    fn let_in(&self, connect: &Connect<'_>) -> Result<Result<(Link, bool, Option<Will>, Option<Duration>), u8>, End> {
        if connect.client.len() > MAX_CLIENT_BYTES || (connect.client.is_empty() && !connect.is_clean) {
            return Ok(Err(BAD_CLIENT));
        }
        let will = match &connect.will {
            None => None,
            Some(Message { topic, .. }) if !topic::is_name(topic) => return Err(Malformed("a will's topic").into()),
            Some(Message { topic, payload, qos, is_retained }) => {
                let Some(charge) = self.shared.budget.take(WILL_BYTES + topic.len() + payload.len()) else {
                    return Ok(Err(UNAVAILABLE));
                };
                let (topic, payload) = ((*topic).into(), (*payload).into());
                Some(Will { topic, payload, qos: *qos, is_retained: *is_retained, _charge: charge })
            }
        };
        let chosen;
        let client = if connect.client.is_empty() {
            chosen = alloc::format!("firn-{:016x}", u64::from_le_bytes(libos::rand::bytes()));
            &chosen
        } else {
            connect.client
        };
        let silence = (connect.keep_alive > 0).then(|| Duration::from_millis(u64::from(connect.keep_alive) * 1500));
        match self.shared.broker.borrow_mut().connect(client, connect.is_clean) {
            Ok((link, is_known)) => Ok(Ok((link, is_known, will, silence))),
            Err(_) => Ok(Err(UNAVAILABLE)),
        }
    }

    async fn run(&mut self, link: &Link) -> Result<core::convert::Infallible, End> {
        let mut heard = Instant::now();
        // When a packet that has begun to come must be complete.
        let mut deadline = None;
        loop {
            // From here on, nothing is missed that is queued while the rest is written.
            let woken = link.wake.notified();
            if self.take_all(link).await? {
                (heard, deadline) = (Instant::now(), None);
            }
            self.send_queued(link).await?;
            if self.input.is_empty() {
                (self.input, self.input_charge) = (Vec::new(), None);
            } else {
                deadline.get_or_insert_with(|| Instant::now() + self.shared.settings.packet_timeout);
            }
            let silent = self.silence.map(|silence| heard + silence);
            let until = silent.into_iter().chain(deadline).min().unwrap_or(Instant::from_nanos(u64::MAX));
            match select3(self.stream.readable(), woken, sleep_until(until)).await {
                Either3::First(readable) => {
                    readable?;
                    timeout_at(until, self.fill()).await.map_err(|_| End::Lost)??;
                }
                Either3::Second(()) => {}
                Either3::Third(()) => return Err(End::Lost),
            }
        }
    }

    /// Reads some more.
    async fn fill(&mut self) -> Result<(), End> {
        let used = self.input.len();
        if used == self.input.capacity() {
            // As much as is known to come, but no more at once than is there already: who only says that much will
            // come, gets nothing for it.
            let known = packet::length(&self.input, self.shared.settings.max_packet)?.unwrap_or(0);
            let doubled = used.saturating_mul(2).max(BASE_INPUT_BYTES);
            let wanted = if known > used + BASE_INPUT_BYTES { doubled.min(known) } else { doubled };
            self.input_charge = None;
            self.input_charge = Some(self.shared.budget.take(wanted - BASE_INPUT_BYTES).ok_or(End::Lost)?);
            self.input.reserve_exact(wanted - used);
        }
        self.input.resize(self.input.capacity(), 0);
        let read = self.stream.read(self.input.get_mut(used..).unwrap_or(&mut [])).await;
        self.input.truncate(used + read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err(End::Lost),
            _ => Ok(()),
        }
    }

    /// Does what every packet says that is all there. Returns whether there was one.
    async fn take_all(&mut self, link: &Link) -> Result<bool, End> {
        let (mut start, mut turn) = (0, 0);
        loop {
            let rest = self.input.get(start..).unwrap_or(&[]);
            let Some(length) = packet::length(rest, self.shared.settings.max_packet)? else { break };
            let Some(bytes) = rest.get(..length) else { break };
            let pressure = take(self.shared, link, &mut self.out, packet::read(bytes)?)?;
            start += length;
            turn += 1;
            if pressure == Pressure::High {
                let drained = self.shared.broker.borrow().drained();
                let shorter = drained.notified();
                self.send_queued(link).await?;
                let _ = timeout(PATIENCE, shorter).await;
            } else if turn == TURN || self.out.len() >= FLUSH_BYTES {
                turn = 0;
                self.send_queued(link).await?;
                yield_now().await;
            }
        }
        self.input.drain(..start);
        Ok(start > 0)
    }

    /// Writes what waits for the client.
    async fn send_queued(&mut self, link: &Link) -> Result<(), End> {
        loop {
            let next = {
                let mut broker = self.shared.broker.borrow_mut();
                if !broker.is_current(link) {
                    return Err(End::Lost);
                }
                broker.next(link)
            };
            let Some(next) = next else { break };
            let message = Message {
                topic: &next.message.topic,
                payload: &next.message.payload,
                qos: next.qos,
                is_retained: next.is_retained,
            };
            packet::write_publish_head(&mut self.out, &message, next.id, next.is_repeated);
            if self.out.len() + message.payload.len() > FLUSH_BYTES {
                self.flush().await?;
                self.stream.write_all(message.payload).await?;
                yield_now().await;
            } else {
                self.out.extend_from_slice(message.payload);
            }
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), End> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.out = Vec::new();
        }
        Ok(())
    }
}

/// Does what a packet says.
fn take(shared: &Shared, link: &Link, out: &mut Vec<u8>, packet: Packet<'_>) -> Result<Pressure, End> {
    let mut broker = shared.broker.borrow_mut();
    if !broker.is_current(link) {
        return Err(End::Lost);
    }
    match packet {
        Packet::Connect(_) | Packet::OtherVersion => return Err(Malformed("a second CONNECT").into()),
        Packet::Disconnect => return Err(End::Done),
        Packet::PingReq => packet::write_pingresp(out),
        Packet::PubAck(id) => broker.acknowledge(link, id),
        Packet::Publish(message, id) => {
            if !topic::is_name(message.topic) {
                return Err(Malformed("a topic that is none").into());
            }
            return match (broker.publish(&message, Some(link)), id) {
                (Ok(pressure), None) => Ok(pressure),
                (Ok(pressure), Some(id)) => {
                    packet::write_puback(out, id);
                    Ok(pressure)
                }
                // It was not sure to arrive.
                (Err(_), None) => Ok(Pressure::High),
                // The client keeps it, and sends it again when it is back.
                (Err(_), Some(_)) => Err(End::Lost),
            };
        }
        Packet::Subscribe(id, filters) => {
            let granted: Vec<Option<Qos>> = filters.map(|(filter, qos)| broker.subscribe(link, filter, qos)).collect();
            packet::write_suback(out, id, &granted);
        }
        Packet::Unsubscribe(id, filters) => {
            filters.for_each(|(filter, _)| broker.unsubscribe(link, filter));
            packet::write_unsuback(out, id);
        }
    }
    Ok(Pressure::Low)
}
