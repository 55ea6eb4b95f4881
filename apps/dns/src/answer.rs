//! From the bytes of a query to the bytes of an answer. There is no state, and nothing to wait for.

use crate::zone::{Data, Found, OwnName, Set, Zone};
use alloc::vec::Vec;
use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{
    AdditionalBuilder, AnswerBuilder, AuthorityBuilder, PushError, RecordSectionBuilder,
};
use domain::base::opt::{Opt, OptRecord};
use domain::base::{Message, MessageBuilder, StaticCompressor, ToName};

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// On a stream.
    Tcp,
}

/// Largest datagram: what passes everywhere in one piece (DNS flag day 2020).
pub const MAX_UDP_BYTES: u16 = 1232;

/// Largest datagram for those who do not say what they take.
const PLAIN_UDP_BYTES: u16 = 512;

/// Bytes of an OPT record without options.
const OPT_BYTES: usize = 11;

/// Longest chain of aliases that is followed.
const MAX_ALIASES: usize = 8;

type Target = StaticCompressor<Vec<u8>>;

/// What the asker says by an OPT record (RFC 6891).
#[derive(Clone, Copy)]
struct Edns {
    size: u16,
    version: u8,
    dnssec_ok: bool,
}

/// The answer to a query; `None` for what must not be answered.
#[must_use]
pub fn answer(zone: &Zone, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let query = Message::from_octets(query).ok()?;
    // An answer to an answer is how two servers keep each other busy.
    if query.header().qr() {
        return None;
    }
    let edns = match edns(&query) {
        Ok(edns) => edns,
        Err(()) => return refuse(&query, Rcode::FORMERR, None, transport),
    };
    if query.header().opcode() != Opcode::QUERY {
        return refuse(&query, Rcode::NOTIMP, edns, transport);
    }
    let Ok(question) = query.sole_question() else { return refuse(&query, Rcode::FORMERR, edns, transport) };
    if edns.is_some_and(|edns| edns.version > 0) {
        return refuse(&query, Rcode::NOERROR, edns, transport);
    }
    // Transfers and what is asked of others are not for everybody.
    let is_meta = (128..=254).contains(&question.qtype().to_int());
    if is_meta || !matches!(question.qclass(), Class::IN | Class::ANY) {
        return refuse(&query, Rcode::REFUSED, edns, transport);
    }
    let mut answers = start(&query, Rcode::NOERROR, edns, transport)?;
    let name = question.qname().to_name();
    let Ok(rest) = fill(zone, name, question.qtype(), &mut answers) else { return truncated(answers, edns, transport) };
    let mut authority = answers.authority();
    match push_authority(zone, &rest, &mut authority) {
        Ok(()) => {}
        Err(_) => return truncated(authority.answer(), edns, transport),
    }
    let mut additional = authority.additional();
    let is_whole = push_addresses(zone, &rest, &mut additional).is_ok();
    if !is_whole && matches!(rest, Rest::Servers(..)) {
        // Without these addresses the asker may find no way to the servers (RFC 9471).
        additional.header_mut().set_tc(true);
    }
    end(additional, edns, transport)
}

/// What the answers leave to be said in the other sections.
enum Rest<'a> {
    Nothing,
    /// That there is nothing, and for how long that is so.
    Soa,
    /// Who is to be asked instead.
    Servers(&'a OwnName, &'a Set),
    /// Addresses of the names that these records have.
    Targets(&'a Set),
}

/// Looks a name up, through its aliases, and writes answers.
fn fill<'a>(
    zone: &'a Zone,
    mut name: OwnName,
    rtype: Rtype,
    answers: &mut AnswerBuilder<Target>,
) -> Result<Rest<'a>, PushError> {
    answers.header_mut().set_aa(true);
    for nr_aliases in 0..=MAX_ALIASES {
        match zone.look_up(&name, rtype) {
            Found::Records(set) => {
                push_set(set, &name, answers)?;
                return Ok(Rest::Targets(set));
            }
            Found::Alias(set, target) => {
                push_set(set, &name, answers)?;
                name = target.clone();
            }
            Found::NoData => return Ok(Rest::Soa),
            Found::NoName => {
                answers.header_mut().set_rcode(Rcode::NXDOMAIN);
                return Ok(Rest::Soa);
            }
            Found::Referral(owner, servers) => {
                // What an alias says is ours to say, what is behind it is not.
                answers.header_mut().set_aa(nr_aliases > 0);
                return Ok(Rest::Servers(owner, servers));
            }
            Found::Elsewhere => {
                if nr_aliases == 0 {
                    answers.header_mut().set_aa(false);
                    answers.header_mut().set_rcode(Rcode::REFUSED);
                }
                return Ok(Rest::Nothing);
            }
        }
    }
    Ok(Rest::Nothing)
}

fn push_set<T: RecordSectionBuilder<Target>>(set: &Set, owner: &OwnName, section: &mut T) -> Result<(), PushError> {
    set.data.iter().try_for_each(|data| data.push(owner, set.ttl, section))
}

fn push_authority(zone: &Zone, rest: &Rest<'_>, section: &mut AuthorityBuilder<Target>) -> Result<(), PushError> {
    match rest {
        Rest::Nothing | Rest::Targets(_) => Ok(()),
        Rest::Servers(owner, servers) => push_set(servers, owner, section),
        Rest::Soa => zone.soa().map_or(Ok(()), |(soa, ttl)| soa.push(zone.origin(), ttl, section)),
    }
}

/// Adds addresses of what was named, as far as they are in the zone.
fn push_addresses(zone: &Zone, rest: &Rest<'_>, section: &mut AdditionalBuilder<Target>) -> Result<(), PushError> {
    let (Rest::Servers(_, set) | Rest::Targets(set)) = rest else { return Ok(()) };
    for target in set.data.iter().filter_map(Data::target) {
        for rtype in [Rtype::A, Rtype::AAAA] {
            if let Some(addresses) = zone.set(target, rtype) {
                push_set(addresses, target, section)?;
            }
        }
    }
    Ok(())
}

/// What an asker says by an OPT record; an error if there are two, or what should be records are none.
fn edns(query: &Message<&[u8]>) -> Result<Option<Edns>, ()> {
    let mut found = None;
    let Ok(additional) = query.additional() else { return Ok(None) };
    for record in additional {
        let record = record.map_err(drop)?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        let record = record.to_record::<Opt<&[u8]>>().map_err(drop)?.ok_or(())?;
        let opt = OptRecord::from_record(record);
        let edns = Edns { size: opt.udp_payload_size(), version: opt.version(), dnssec_ok: opt.dnssec_ok() };
        if found.replace(edns).is_some() {
            return Err(());
        }
    }
    Ok(found)
}

/// Most bytes of an answer.
fn limit(edns: Option<Edns>, transport: Transport) -> usize {
    match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => edns.map_or(PLAIN_UDP_BYTES, |edns| edns.size.clamp(PLAIN_UDP_BYTES, MAX_UDP_BYTES)).into(),
    }
}

/// Begins an answer, which leaves room for an OPT record if there is to be one.
fn start(
    query: &Message<&[u8]>,
    rcode: Rcode,
    edns: Option<Edns>,
    transport: Transport,
) -> Option<AnswerBuilder<Target>> {
    let mut builder = MessageBuilder::from_target(StaticCompressor::new(Vec::with_capacity(256))).ok()?;
    let reserved = if edns.is_some() { OPT_BYTES } else { 0 };
    // The builder's limit is the length that is too long.
    builder.set_push_limit(limit(edns, transport) - reserved + 1);
    builder.start_answer(query, rcode).ok()
}

/// Says that there is more than fits: the asker comes again over TCP.
fn truncated(answers: AnswerBuilder<Target>, edns: Option<Edns>, transport: Transport) -> Option<Vec<u8>> {
    end(answers.tc_rewind_into().additional(), edns, transport)
}

/// An answer that says only what is wrong.
fn refuse(query: &Message<&[u8]>, rcode: Rcode, edns: Option<Edns>, transport: Transport) -> Option<Vec<u8>> {
    // Questions that cannot be read, or are several, are not repeated.
    let answers = if query.sole_question().is_ok() {
        start(query, rcode, edns, transport)?
    } else {
        let mut builder = MessageBuilder::from_target(StaticCompressor::new(Vec::with_capacity(64))).ok()?;
        let asked = query.header();
        let header = builder.header_mut();
        header.set_id(asked.id());
        header.set_qr(true);
        header.set_opcode(asked.opcode());
        header.set_rd(asked.rd());
        header.set_rcode(rcode);
        builder.answer()
    };
    end(answers.additional(), edns, transport)
}

/// Adds an OPT record if the asker has sent one, and finishes the message.
fn end(mut message: AdditionalBuilder<Target>, edns: Option<Edns>, transport: Transport) -> Option<Vec<u8>> {
    if let Some(asked) = edns {
        message.set_push_limit(limit(edns, transport) + 1);
        let rcode = OptRcode::from_rcode(message.header().rcode());
        let done = message.opt(|opt| {
            opt.set_udp_payload_size(MAX_UDP_BYTES);
            opt.set_dnssec_ok(asked.dnssec_ok);
            opt.set_rcode(if asked.version > 0 { OptRcode::BADVERS } else { rcode });
            Ok(())
        });
        done.ok()?;
    }
    Some(message.finish().into_target())
}
