//! A zone: names, and what is known of them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;
use domain::base::iana::Rtype;
use domain::base::message_builder::{PushError, RecordSectionBuilder};
use domain::base::name::Label;
use domain::base::wire::Composer;
use domain::base::{Name, ToName, Ttl};
use domain::rdata::{A, Aaaa, Cname, Mx, Ns, Ptr, Soa, Srv, Txt};

/// A name that a zone has for itself.
pub type OwnName = Name<Vec<u8>>;

/// What records hold.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named like the types")]
pub enum Data {
    A(A),
    Aaaa(Aaaa),
    Cname(Cname<OwnName>),
    Mx(Mx<OwnName>),
    Ns(Ns<OwnName>),
    Ptr(Ptr<OwnName>),
    Soa(Soa<OwnName>),
    Srv(Srv<OwnName>),
    Txt(Txt<Vec<u8>>),
}

impl Data {
    /// Of what type it is.
    #[must_use]
    pub const fn rtype(&self) -> Rtype {
        match self {
            Self::A(_) => Rtype::A,
            Self::Aaaa(_) => Rtype::AAAA,
            Self::Cname(_) => Rtype::CNAME,
            Self::Mx(_) => Rtype::MX,
            Self::Ns(_) => Rtype::NS,
            Self::Ptr(_) => Rtype::PTR,
            Self::Soa(_) => Rtype::SOA,
            Self::Srv(_) => Rtype::SRV,
            Self::Txt(_) => Rtype::TXT,
        }
    }

    /// The name whose addresses an asker will want next.
    #[must_use]
    pub fn target(&self) -> Option<&OwnName> {
        match self {
            Self::Mx(mx) => Some(mx.exchange()),
            Self::Ns(ns) => Some(ns.nsdname()),
            Self::Srv(srv) => Some(srv.target()),
            _ => None,
        }
    }

    /// Adds a record to a section of a message.
    ///
    /// # Errors
    /// If there is no room for it; nothing was added then.
    pub fn push<T: Composer>(
        &self,
        owner: &impl ToName,
        ttl: Ttl,
        section: &mut impl RecordSectionBuilder<T>,
    ) -> Result<(), PushError> {
        match self {
            Self::A(data) => section.push((owner, ttl, data)),
            Self::Aaaa(data) => section.push((owner, ttl, data)),
            Self::Cname(data) => section.push((owner, ttl, data)),
            Self::Mx(data) => section.push((owner, ttl, data)),
            Self::Ns(data) => section.push((owner, ttl, data)),
            Self::Ptr(data) => section.push((owner, ttl, data)),
            Self::Soa(data) => section.push((owner, ttl, data)),
            Self::Srv(data) => section.push((owner, ttl, data)),
            Self::Txt(data) => section.push((owner, ttl, data)),
        }
    }
}

/// All records of one type that a name has.
#[derive(Debug)]
pub struct Set {
    /// Their type.
    pub rtype: Rtype,
    /// How long they may be remembered.
    pub ttl: Ttl,
    /// What they hold.
    pub data: Vec<Data>,
}

/// A zone that cannot be, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneError(pub &'static str);

/// A zone.
#[derive(Debug)]
pub struct Zone {
    origin: OwnName,
    /// In the order of names, in which all that is below a name follows it.
    nodes: BTreeMap<OwnName, Vec<Set>>,
}

/// What a zone says of a name and a type.
#[derive(Debug)]
pub enum Found<'a> {
    /// These.
    Records(&'a Set),
    /// It is another name for this one.
    Alias(&'a Set, &'a OwnName),
    /// Others are to be asked: the name is at or below this one, which these name servers have.
    Referral(&'a OwnName, &'a Set),
    /// The name is there, such records are not.
    NoData,
    /// There is no such name.
    NoName,
    /// The name is another zone's.
    Elsewhere,
}

impl Zone {
    /// An empty one.
    #[must_use]
    pub const fn new(origin: OwnName) -> Self {
        Self { origin, nodes: BTreeMap::new() }
    }

    /// Its name.
    #[must_use]
    pub const fn origin(&self) -> &OwnName {
        &self.origin
    }

    /// How many names it has.
    #[must_use]
    pub fn nr_names(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a record. Records of one set may be remembered for the shortest of their times.
    ///
    /// # Errors
    /// If it does not belong into the zone, or not beside what is there.
    pub fn add(&mut self, owner: OwnName, ttl: Ttl, data: Data) -> Result<(), ZoneError> {
        if !owner.ends_with(&self.origin) {
            return Err(ZoneError("the owner is not in the zone"));
        }
        let rtype = data.rtype();
        if rtype == Rtype::SOA && owner != self.origin {
            return Err(ZoneError("a SOA that is not at the zone's top"));
        }
        let node = self.nodes.entry(owner).or_default();
        let has_alias = node.iter().any(|set| set.rtype == Rtype::CNAME);
        if has_alias || (rtype == Rtype::CNAME && !node.is_empty()) {
            return Err(ZoneError("a CNAME stands beside other records"));
        }
        match node.iter_mut().find(|set| set.rtype == rtype) {
            Some(_) if rtype == Rtype::SOA => Err(ZoneError("a second SOA")),
            Some(set) => {
                set.ttl = set.ttl.min(ttl);
                set.data.push(data);
                Ok(())
            }
            None => {
                node.push(Set { rtype, ttl, data: alloc::vec![data] });
                Ok(())
            }
        }
    }

    /// Checks what can be checked only when all is there.
    ///
    /// # Errors
    /// If there is no SOA.
    pub fn check(&self) -> Result<(), ZoneError> {
        self.soa().map(drop).ok_or(ZoneError("the zone has no SOA"))
    }

    /// The zone's SOA, and how long it may be remembered that there is nothing (RFC 2308).
    #[must_use]
    pub fn soa(&self) -> Option<(&Data, Ttl)> {
        let set = self.set(&self.origin, Rtype::SOA)?;
        match set.data.first()? {
            data @ Data::Soa(soa) => Some((data, set.ttl.min(soa.minimum()))),
            _ => None,
        }
    }

    /// The records of this type that a name has itself.
    #[must_use]
    pub fn set(&self, name: &OwnName, rtype: Rtype) -> Option<&Set> {
        find(self.nodes.get(name)?, rtype)
    }

    /// Looks a name up (RFC 1034, section 4.3.2). `Rtype::ANY` finds one set of what there is (RFC 8482).
    #[must_use]
    pub fn look_up(&self, name: &OwnName, rtype: Rtype) -> Found<'_> {
        if !name.ends_with(&self.origin) {
            return Found::Elsewhere;
        }
        // From the name upwards, to just below the zone's top; the cut next to the top counts.
        let labels = name.label_count() - self.origin.label_count();
        let above: Vec<OwnName> = name.iter_suffixes().take(labels).map(|suffix| suffix.to_name()).collect();
        let cut = |suffix| self.nodes.get_key_value(suffix).and_then(|(key, node)| Some((key, find(node, Rtype::NS)?)));
        if let Some((owner, servers)) = above.iter().rev().find_map(cut) {
            return Found::Referral(owner, servers);
        }
        if let Some(node) = self.nodes.get(name) {
            return in_node(node, rtype);
        }
        if self.has_below(name) {
            return Found::NoData;
        }
        let encloser = above.iter().skip(1).find(|suffix| self.nodes.contains_key(*suffix) || self.has_below(suffix));
        let encloser = encloser.unwrap_or(&self.origin);
        match wildcard(encloser).and_then(|wildcard| self.nodes.get(&wildcard)) {
            Some(node) => in_node(node, rtype),
            None => Found::NoName,
        }
    }

    /// Whether there are names below this one.
    fn has_below(&self, name: &OwnName) -> bool {
        let mut after = self.nodes.range::<OwnName, _>((Bound::Excluded(name), Bound::Unbounded));
        after.next().is_some_and(|(next, _)| next.ends_with(name))
    }
}

fn find(node: &[Set], rtype: Rtype) -> Option<&Set> {
    node.iter().find(|set| set.rtype == rtype)
}

fn in_node(node: &[Set], rtype: Rtype) -> Found<'_> {
    let found = if rtype == Rtype::ANY { node.first() } else { find(node, rtype) };
    if let Some(set) = found {
        return Found::Records(set);
    }
    match find(node, Rtype::CNAME) {
        Some(set) => match set.data.first() {
            Some(Data::Cname(cname)) => Found::Alias(set, cname.cname()),
            _ => Found::NoData,
        },
        None => Found::NoData,
    }
}

/// The name of what stands for all names below this one, if that is not too long.
fn wildcard(name: &OwnName) -> Option<OwnName> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    Label::from_slice(b"*").ok()?.compose(&mut bytes).ok()?;
    bytes.extend_from_slice(name.as_slice());
    Name::from_octets(bytes).ok()
}
