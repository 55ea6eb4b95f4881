//! Questions to name servers and their answers (RFC 1035), by smoltcp's reading of the wire format.

use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;
use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData, DnsRepr,
};

/// Most bytes of a label, and of a name.
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;

/// Aliases that are followed in one answer.
const MOST_ALIASES: usize = 8;

/// Records that are looked at in one answer.
const MOST_RECORDS: u16 = 64;

/// Addresses that are taken from one answer.
const MOST_ADDRESSES: usize = 16;

/// A kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    const fn query(self) -> DnsQueryType {
        match self {
            Self::V4 => DnsQueryType::A,
            Self::V6 => DnsQueryType::Aaaa,
        }
    }
}

/// A name as it is asked for: labels with their lengths, in small letters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(Vec<u8>);

impl Name {
    /// Reads a host name.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > MAX_NAME {
            return None;
        }
        let mut bytes = Vec::with_capacity(text.len() + 2);
        for label in text.split('.') {
            let is_good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if label.is_empty() || label.len() > MAX_LABEL || !label.bytes().all(is_good) {
                return None;
            }
            bytes.push(u8::try_from(label.len()).ok()?);
            bytes.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        }
        bytes.push(0);
        Some(Self(bytes))
    }

    fn of<'a, E>(labels: impl Iterator<Item = Result<&'a [u8], E>>) -> Option<Self> {
        let mut bytes = Vec::new();
        for label in labels {
            let label = label.ok()?;
            if bytes.len() + label.len() > MAX_NAME {
                return None;
            }
            bytes.push(u8::try_from(label.len()).ok()?);
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        bytes.push(0);
        Some(Self(bytes))
    }
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// These, for so many seconds. None: the name has no such address.
    Addresses(Vec<IpAddr>, u32),
    /// There is no such name.
    NoSuchName,
    /// It did not fit: ask again by TCP.
    Truncated,
    /// The server cannot, or will not, say.
    Failed,
}

/// A question.
pub fn question(id: u16, name: &Name, family: Family) -> Vec<u8> {
    let repr = DnsRepr {
        transaction_id: id,
        opcode: DnsOpcode::Query,
        flags: DnsFlags::RECURSION_DESIRED,
        question: DnsQuestion { name: &name.0, type_: family.query() },
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut DnsPacket::new_unchecked(&mut bytes[..]));
    bytes
}

/// Reads the answer to a question. `None` if it is none: something else, or nonsense.
pub fn answer(bytes: &[u8], id: u16, name: &Name, family: Family) -> Option<Reply> {
    let packet = DnsPacket::new_checked(bytes).ok()?;
    let is_answer = packet.transaction_id() == id
        && packet.flags().contains(DnsFlags::RESPONSE)
        && packet.opcode() == DnsOpcode::Query
        && packet.question_count() == 1;
    if !is_answer {
        return None;
    }
    let (mut rest, asked) = DnsQuestion::parse(packet.payload()).ok()?;
    if asked.type_ != family.query() || Name::of(packet.parse_name(asked.name))? != *name {
        return None;
    }
    match packet.rcode() {
        DnsRcode::NoError if packet.flags().contains(DnsFlags::TRUNCATED) => return Some(Reply::Truncated),
        DnsRcode::NoError => {}
        DnsRcode::NXDomain => return Some(Reply::NoSuchName),
        _ => return Some(Reply::Failed),
    }
    let mut records = Vec::new();
    for _ in 0..packet.answer_record_count().min(MOST_RECORDS) {
        let (after, record) = DnsRecord::parse(rest).ok()?;
        rest = after;
        records.push((Name::of(packet.parse_name(record.name))?, record));
    }
    Some(addresses_of(&packet, name, family, &records))
}

/// Follows aliases from `name`, and collects the addresses at their end.
fn addresses_of(packet: &DnsPacket<&[u8]>, name: &Name, family: Family, records: &[(Name, DnsRecord<'_>)]) -> Reply {
    let mut at = name.clone();
    let mut seconds = u32::MAX;
    for _ in 0..MOST_ALIASES {
        let alias = records.iter().find_map(|(owner, record)| match record.data {
            DnsRecordData::Cname(target) if *owner == at => Some((Name::of(packet.parse_name(target)), record.ttl)),
            _ => None,
        });
        match alias {
            None => break,
            Some((None, _)) => return Reply::Failed,
            Some((Some(target), ttl)) => {
                at = target;
                seconds = seconds.min(ttl);
            }
        }
    }
    let mut addresses = Vec::new();
    for (_, record) in records.iter().filter(|(owner, _)| *owner == at) {
        let address = match (&record.data, family) {
            (DnsRecordData::A(address), Family::V4) => IpAddr::V4(*address),
            (DnsRecordData::Aaaa(address), Family::V6) => IpAddr::V6(*address),
            _ => continue,
        };
        if addresses.len() < MOST_ADDRESSES {
            addresses.push(address);
            seconds = seconds.min(record.ttl);
        }
    }
    Reply::Addresses(addresses, seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    /// The header of an answer to `question` with so many records and these flags, then what follows.
    fn reply(question: &[u8], flags: [u8; 2], records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = question.to_vec();
        bytes[2..4].copy_from_slice(&flags);
        bytes[7] = u8::try_from(records.len()).unwrap();
        records.iter().for_each(|record| bytes.extend_from_slice(record));
        bytes
    }

    /// A record of the name at offset 12.
    fn record(kind: u8, ttl: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xc0, 12, 0, kind, 0, 1];
        bytes.extend_from_slice(&ttl.to_be_bytes());
        bytes.extend_from_slice(&[0, u8::try_from(data.len()).unwrap()]);
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn names_are_checked_and_compared_in_small_letters() {
        assert_eq!(name("Table.Example."), name("table.example"));
        let long = [b'x'; 64];
        for bad in ["", ".", "a..b", "a b", "ä", core::str::from_utf8(&long).unwrap()] {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn answers_are_read_with_their_time() {
        let name = name("a.example");
        let question = question(7, &name, Family::V4);
        let two = [record(1, 60, &[10, 65, 0, 7]), record(1, 30, &[10, 65, 0, 8])];
        let bytes = reply(&question, [0x81, 0x80], &[&two[0], &two[1]]);
        let expected = Reply::Addresses(vec![[10, 65, 0, 7].into(), [10, 65, 0, 8].into()], 30);
        assert_eq!(answer(&bytes, 7, &name, Family::V4), Some(expected));
        assert_eq!(answer(&bytes, 8, &name, Family::V4), None, "another question's");
        assert_eq!(answer(&bytes, 7, &name, Family::V6), None, "another kind");
        assert_eq!(answer(&question, 7, &name, Family::V4), None, "a question");
        let failed = reply(&question, [0x81, 0x82], &[]);
        assert_eq!(answer(&failed, 7, &name, Family::V4), Some(Reply::Failed));
        let unknown = reply(&question, [0x81, 0x83], &[]);
        assert_eq!(answer(&unknown, 7, &name, Family::V4), Some(Reply::NoSuchName));
        let truncated = reply(&question, [0x83, 0x80], &[]);
        assert_eq!(answer(&truncated, 7, &name, Family::V4), Some(Reply::Truncated));
    }

    #[test]
    fn aliases_are_followed_and_strangers_are_not_believed() {
        let name = name("a.example");
        let question = question(7, &name, Family::V4);
        let alias = record(5, 20, b"\x01b\xc0\x0e");
        let mut target = b"\x01b\xc0\x0e".to_vec();
        target.extend_from_slice(&record(1, 60, &[10, 65, 0, 9])[2..]);
        let bytes = reply(&question, [0x81, 0x80], &[&alias, &target]);
        assert_eq!(answer(&bytes, 7, &name, Family::V4), Some(Reply::Addresses(vec![[10, 65, 0, 9].into()], 20)));
        let bytes = reply(&question, [0x81, 0x80], &[&target]);
        assert_eq!(answer(&bytes, 7, &name, Family::V4), Some(Reply::Addresses(vec![], u32::MAX)));
        // Round and round.
        let circle = record(5, 20, &[0xc0, 12]);
        let bytes = reply(&question, [0x81, 0x80], &[&circle]);
        assert_eq!(answer(&bytes, 7, &name, Family::V4), Some(Reply::Addresses(vec![], 20)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(flags: [u8; 2], rest in proptest::collection::vec(any::<u8>(), 0..200), count: u8) {
            let name = name("a.example");
            let mut bytes = question(7, &name, Family::V6);
            bytes[2..4].copy_from_slice(&flags);
            bytes[7] = count;
            bytes.extend_from_slice(&rest);
            if let Some(Reply::Addresses(addresses, _)) = answer(&bytes, 7, &name, Family::V6) {
                prop_assert!(addresses.len() <= MOST_ADDRESSES);
            }
        }
    }
}
