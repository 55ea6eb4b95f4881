//! Packets (MQTT 3.1.1, sections 2 and 3): from clients they are read, to clients they are written.
//!
//! A packet is looked at only when all of it is there, and nothing outside of it is looked at. What the standard forbids
//! is [`Malformed`], and ends the connection.

use alloc::vec::Vec;
use core::fmt;

/// Bytes before a packet's body, at most.
pub const MAX_HEAD_BYTES: usize = 5;

/// Most filters in a `SUBSCRIBE` or `UNSUBSCRIBE`.
pub const MAX_FILTERS: usize = 64;

/// Why what a client sends is no packet, or none that is taken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

type Result<T> = core::result::Result<T, Malformed>;

/// How sure a message's arrival is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// It is sent once.
    AtMostOnce,
    /// It is sent until it was acknowledged.
    AtLeastOnce,
}

impl Qos {
    /// The number that says so in packets.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
        }
    }

    /// What a client publishes with. There is no quality of service 2 here.
    fn of_message(bits: u8) -> Result<Self> {
        match bits {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Err(Malformed("quality of service 2 is not there")),
            _ => Err(Malformed("quality of service 3")),
        }
    }

    /// What a client subscribes with: at most, so that 2 becomes 1.
    fn of_subscription(byte: u8) -> Result<Self> {
        match byte {
            0 => Ok(Self::AtMostOnce),
            1 | 2 => Ok(Self::AtLeastOnce),
            _ => Err(Malformed("a subscription's options")),
        }
    }
}

/// A message in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is about. Whether it is a name is not checked yet.
    pub topic: &'a str,
    /// What it says.
    pub payload: &'a [u8],
    /// How sure its arrival is.
    pub qos: Qos,
    /// Whether it is kept for those who subscribe later; to clients, whether it was.
    pub is_retained: bool,
}

/// The first packet of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Who it is; empty if it does not mind.
    pub client: &'a str,
    /// Whether nothing is kept, from before and after this connection.
    pub is_clean: bool,
    /// Seconds in which it says something; 0 if it does not promise to.
    pub keep_alive: u16,
    /// What is published for it when it is lost.
    pub will: Option<Message<'a>>,
}

/// A packet of a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// It is there.
    Connect(Connect<'a>),
    /// It speaks another version of the protocol.
    OtherVersion,
    /// A message, with its number if it is to be acknowledged.
    Publish(Message<'a>, Option<u16>),
    /// The message of this number has come.
    PubAck(u16),
    /// It wants messages.
    Subscribe(u16, Filters<'a>),
    /// It wants them no more.
    Unsubscribe(u16, Filters<'a>),
    /// It wants to hear something.
    PingReq,
    /// It goes.
    Disconnect,
}

/// The filters of a packet, one after the other. All of them were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filters<'a> {
    rest: Reader<'a>,
    has_qos: bool,
}

impl<'a> Iterator for Filters<'a> {
    type Item = (&'a str, Qos);

    fn next(&mut self) -> Option<Self::Item> {
        let filter = self.rest.string().ok()?;
        let qos = if self.has_qos { Qos::of_subscription(self.rest.byte().ok()?).ok()? } else { Qos::AtMostOnce };
        Some((filter, qos))
    }
}

/// What is left of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("a packet that ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1).map(|bytes| bytes.first().copied().unwrap_or(0))
    }

    fn number(&mut self) -> Result<u16> {
        Ok(self.take(2)?.iter().fold(0, |number, &byte| number << 8 | u16::from(byte)))
    }

    /// A packet's number, which is not 0.
    fn id(&mut self) -> Result<u16> {
        match self.number()? {
            0 => Err(Malformed("packet number 0")),
            id => Ok(id),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }

    fn string(&mut self) -> Result<&'a str> {
        let text = core::str::from_utf8(self.bytes()?).map_err(|_| Malformed("text that is not UTF-8"))?;
        if text.contains('\0') { Err(Malformed("text with a zero")) } else { Ok(text) }
    }

    const fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("a packet that is too long")) }
    }
}

/// How long the packet at the start of `input` is, as soon as that is known.
///
/// # Errors
/// If it is longer than `max_bytes`, or its length is no length.
pub fn length(input: &[u8], max_bytes: usize) -> Result<Option<usize>> {
    let mut length = 0usize;
    for (n, byte) in input.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            let whole = length + n + 2;
            return if whole > max_bytes { Err(Malformed("a packet that is too large")) } else { Ok(Some(whole)) };
        }
    }
    if input.len() >= MAX_HEAD_BYTES { Err(Malformed("a length of more than four bytes")) } else { Ok(None) }
}

/// Reads a packet that is all there.
///
/// # Errors
/// What is wrong with it.
pub fn read(packet: &[u8]) -> Result<Packet<'_>> {
    let mut reader = Reader(packet);
    let first = reader.byte()?;
    while reader.byte()? & 0x80 != 0 {}
    let (kind, flags) = (first >> 4, first & 0xf);
    let expected = match kind {
        3 => flags,
        6 | 8 | 10 => 2,
        _ => 0,
    };
    if flags != expected {
        return Err(Malformed("flags that are reserved"));
    }
    let packet = match kind {
        1 => return connect(&mut reader),
        3 => return publish(flags, reader),
        4 => Packet::PubAck(reader.id()?),
        8 | 10 => {
            let id = reader.id()?;
            let filters = filters(&mut reader, kind == 8)?;
            if kind == 8 { Packet::Subscribe(id, filters) } else { Packet::Unsubscribe(id, filters) }
        }
        12 => Packet::PingReq,
        14 => Packet::Disconnect,
        5..=7 => return Err(Malformed("quality of service 2 is not there")),
        _ => return Err(Malformed("a packet that clients do not send")),
    };
    reader.end()?;
    Ok(packet)
}

fn connect<'a>(reader: &mut Reader<'a>) -> Result<Packet<'a>> {
    let (name, level) = (reader.string()?, reader.byte()?);
    if name != "MQTT" && name != "MQIsdp" {
        return Err(Malformed("another protocol"));
    }
    if (name, level) != ("MQTT", 4) {
        return Ok(Packet::OtherVersion);
    }
    let flags = reader.byte()?;
    let has = |bit: u8| flags & bit != 0;
    let (has_will, has_password, has_name) = (has(0x04), has(0x40), has(0x80));
    let will_bits = flags >> 3 & 3;
    if has(0x01) || (has_password && !has_name) || (!has_will && (will_bits != 0 || has(0x20))) {
        return Err(Malformed("flags that are reserved"));
    }
    let keep_alive = reader.number()?;
    let client = reader.string()?;
    let will = match has_will {
        false => None,
        true => Some(Message {
            topic: reader.string()?,
            payload: reader.bytes()?,
            qos: Qos::of_message(will_bits)?,
            is_retained: has(0x20),
        }),
    };
    // Everybody may come: a name and a password are read and not looked at.
    if has_name {
        reader.string()?;
    }
    if has_password {
        reader.bytes()?;
    }
    reader.end()?;
    Ok(Packet::Connect(Connect { client, is_clean: has(0x02), keep_alive, will }))
}

fn publish(flags: u8, mut reader: Reader<'_>) -> Result<Packet<'_>> {
    let qos = Qos::of_message(flags >> 1 & 3)?;
    let topic = reader.string()?;
    let id = match qos {
        Qos::AtMostOnce if flags & 8 != 0 => return Err(Malformed("a repetition of what is sent once")),
        Qos::AtMostOnce => None,
        Qos::AtLeastOnce => Some(reader.id()?),
    };
    Ok(Packet::Publish(Message { topic, payload: reader.0, qos, is_retained: flags & 1 != 0 }, id))
}

/// Looks at all filters, and leaves nothing.
fn filters<'a>(reader: &mut Reader<'a>, has_qos: bool) -> Result<Filters<'a>> {
    let filters = Filters { rest: *reader, has_qos };
    for _ in 0..MAX_FILTERS {
        reader.string()?;
        if has_qos {
            Qos::of_subscription(reader.byte()?)?;
        }
        if reader.0.is_empty() {
            return Ok(filters);
        }
    }
    Err(Malformed("too many filters in a packet"))
}

/// Writes the packet that answers `CONNECT`: 0 for success, else why not.
pub fn write_connack(out: &mut Vec<u8>, is_session_present: bool, code: u8) {
    out.extend_from_slice(&[0x20, 2, u8::from(is_session_present), code]);
}

/// Writes all of a message but its payload, which is to follow.
pub fn write_publish_head(out: &mut Vec<u8>, message: &Message<'_>, id: Option<u16>, is_repeated: bool) {
    let flags = u8::from(is_repeated) << 3 | message.qos.bits() << 1 | u8::from(message.is_retained);
    let id_bytes = if id.is_some() { 2 } else { 0 };
    out.push(0x30 | flags);
    write_length(out, 2 + message.topic.len() + id_bytes + message.payload.len());
    write_number(out, message.topic.len());
    out.extend_from_slice(message.topic.as_bytes());
    if let Some(id) = id {
        out.extend_from_slice(&id.to_be_bytes());
    }
}

/// Writes that a message has come.
pub fn write_puback(out: &mut Vec<u8>, id: u16) {
    out.extend_from_slice(&[0x40, 2]);
    out.extend_from_slice(&id.to_be_bytes());
}

/// Writes what became of a `SUBSCRIBE`: for each filter its quality of service, or `None`.
pub fn write_suback(out: &mut Vec<u8>, id: u16, granted: &[Option<Qos>]) {
    out.push(0x90);
    write_length(out, 2 + granted.len());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend(granted.iter().map(|granted| granted.map_or(0x80, Qos::bits)));
}

/// Writes that an `UNSUBSCRIBE` was heard.
pub fn write_unsuback(out: &mut Vec<u8>, id: u16) {
    out.extend_from_slice(&[0xb0, 2]);
    out.extend_from_slice(&id.to_be_bytes());
}

/// Writes the answer to a `PINGREQ`.
pub fn write_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xd0, 0]);
}

fn write_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let low = length.to_le_bytes().first().map_or(0, |byte| byte & 0x7f);
        length >>= 7;
        out.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            return;
        }
    }
}

/// A length of two bytes. Names are shorter than that: [`crate::topic::MAX_TOPIC_BYTES`].
fn write_number(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes());
}
