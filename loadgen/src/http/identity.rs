//! The proof that N answers came from N different VMs, and that each still has what it had: what `/id` says, checked
//! and counted, and compared with what it said earlier.

use crate::report::HttpReport;
use crate::targets::Targets;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Most bytes of an `/id` answer that are looked at.
pub const MAX_BODY_BYTES: usize = 4096;

/// Wrong answers that a report lists.
const MAX_LISTED: usize = 10;

/// The answer of `/id`.
#[derive(Deserialize)]
struct Identity {
    vm: u32,
    generation: u64,
    random: String,
    page: Option<String>,
}

/// What a VM says of itself that is to stay the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Its generation.
    pub generation: u64,
    /// First bytes of the page of random bytes that it keeps.
    pub random: String,
    /// Checksum of that page as it is now; not every service has it.
    pub page: Option<String>,
}

/// An answer from another VM than the one asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongVm {
    /// Number of the target.
    pub target: u32,
    /// Number of the VM that has this address.
    pub expected: u32,
    /// Number of the VM that answered.
    pub answered: u32,
}

/// What the `/id` answers of a sweep show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityReport {
    /// Answers read.
    pub answers: u32,
    /// Different VM numbers among them.
    pub distinct_vms: u32,
    /// Different random values among them.
    pub distinct_random: u32,
    /// Different (VM, generation) pairs among them.
    pub distinct_generations: u32,
    /// Answers that came from another VM than the one asked.
    pub wrong_vm: u32,
    /// The first of these.
    pub wrong_vm_first: Vec<WrongVm>,
    /// What each target said, in their order; `null` if it did not answer.
    pub said: Vec<Option<Said>>,
}

impl IdentityReport {
    /// Whether every answer came from its own VM, and no random value came twice.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.wrong_vm == 0 && self.distinct_vms == self.answers && self.distinct_random == self.answers
    }
}

/// Whether VMs still have what they had: two sweeps over the same targets, compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// VMs that answered both times.
    pub compared: u32,
    /// Of these, VMs whose page, random value and generation are the same.
    pub intact: u32,
    /// VMs whose page has another checksum, or that say none.
    pub other_page: u32,
    /// VMs with another random value.
    pub other_random: u32,
    /// VMs with another generation.
    pub other_generation: u32,
    /// Targets of the first VMs that are not intact.
    pub lost_first: Vec<u32>,
}

impl Kept {
    /// What `now` says against what `then` said.
    #[must_use]
    pub fn of(then: &[Option<Said>], now: &[Option<Said>]) -> Self {
        let mut kept = Self::default();
        for (target, (then, now)) in (0..).zip(then.iter().zip(now)) {
            let (Some(then), Some(now)) = (then, now) else { continue };
            kept.compared += 1;
            kept.other_page += u32::from(then.page != now.page || now.page.is_none());
            kept.other_random += u32::from(then.random != now.random);
            kept.other_generation += u32::from(then.generation != now.generation);
            if then == now && now.page.is_some() {
                kept.intact += 1;
            } else if kept.lost_first.len() < MAX_LISTED {
                kept.lost_first.push(target);
            }
        }
        kept
    }

    /// What is wrong, if anything is.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        (self.intact != self.compared).then(|| {
            format!(
                "of {} VMs that answered twice only {} still have what they had: {} have another page, {} another random \
                 value, {} another generation (such as target {})",
                self.compared,
                self.intact,
                self.other_page,
                self.other_random,
                self.other_generation,
                self.lost_first.first().copied().unwrap_or_default()
            )
        })
    }
}

/// Compares two sweeps over the same targets. What each VM said is taken out of their reports: it is a lot, and has
/// served.
#[must_use]
pub fn kept(then: &mut HttpReport, now: &mut HttpReport) -> Kept {
    let said = |report: &mut HttpReport| {
        let identity = report.sweep.as_mut().and_then(|sweep| sweep.identity.as_mut());
        identity.map(|identity| std::mem::take(&mut identity.said)).unwrap_or_default()
    };
    Kept::of(&said(then), &said(now))
}

/// Collects the answers.
#[derive(Debug)]
pub struct Identities {
    first_vm: u32,
    stride: u32,
    vms: HashSet<u32>,
    randoms: HashSet<u128>,
    generations: HashSet<(u32, u64)>,
    report: IdentityReport,
}

impl Identities {
    /// For `targets` of which the first is VM number `first_vm`.
    #[must_use]
    pub fn new(first_vm: u32, targets: Targets) -> Self {
        Self {
            first_vm,
            stride: targets.stride(),
            vms: HashSet::new(),
            randoms: HashSet::new(),
            generations: HashSet::new(),
            report: IdentityReport { said: vec![None; targets.count() as usize], ..IdentityReport::default() },
        }
    }

    /// Takes the answer of a target. Says whether it is one at all.
    pub fn take(&mut self, target: u32, body: &[u8]) -> bool {
        let Ok(identity) = serde_json::from_slice::<Identity>(body) else { return false };
        let Some(random) = parse_random(&identity.random) else { return false };
        self.vms.insert(identity.vm);
        self.randoms.insert(random);
        self.generations.insert((identity.vm, identity.generation));
        self.report.answers += 1;
        if let Some(said) = self.report.said.get_mut(target as usize) {
            *said = Some(Said { generation: identity.generation, random: identity.random, page: identity.page });
        }
        let expected = self.first_vm.saturating_add(target.saturating_mul(self.stride));
        if identity.vm != expected {
            self.report.wrong_vm += 1;
            if self.report.wrong_vm_first.len() < MAX_LISTED {
                self.report.wrong_vm_first.push(WrongVm { target, expected, answered: identity.vm });
            }
        }
        true
    }

    /// What they show.
    #[must_use]
    pub fn report(&self) -> IdentityReport {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        IdentityReport {
            distinct_vms: count(self.vms.len()),
            distinct_random: count(self.randoms.len()),
            distinct_generations: count(self.generations.len()),
            ..self.report.clone()
        }
    }
}

/// 16 random bytes as 32 hexadecimal digits.
fn parse_random(digits: &str) -> Option<u128> {
    let is_hex = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex { u128::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn identities(first_vm: u32, stride: u32) -> Identities {
        Identities::new(first_vm, Targets::new(Ipv4Addr::new(10, 65, 0, 1), 5, stride).unwrap())
    }

    fn body(vm: u32, random: &str) -> Vec<u8> {
        format!(r#"{{"vm":{vm},"generation":1,"random":"{random}"}}"#).into_bytes()
    }

    #[test]
    fn right_answers_are_clean() {
        let mut ids = identities(7, 1);
        assert!(ids.take(0, &body(7, "000102030405060708090a0b0c0d0e0f")));
        assert!(ids.take(1, &body(8, "100102030405060708090a0b0c0d0e0f")));
        let report = ids.report();
        assert!(report.is_clean());
        assert_eq!((report.answers, report.distinct_vms, report.distinct_random), (2, 2, 2));
    }

    #[test]
    fn a_wrong_vm_or_a_repeated_random_value_is_seen() {
        let random = "000102030405060708090a0b0c0d0e0f";
        let mut ids = identities(1, 1);
        assert!(ids.take(0, &body(1, random)));
        assert!(ids.take(1, &body(2, random)));
        assert!(!ids.report().is_clean());
        assert_eq!(ids.report().distinct_random, 1);
        let mut ids = identities(1, 1);
        assert!(ids.take(4, &body(9, random)));
        assert_eq!(ids.report().wrong_vm_first, [WrongVm { target: 4, expected: 5, answered: 9 }]);
        assert!(!ids.report().is_clean());
    }

    #[test]
    fn what_is_no_identity_is_not_counted() {
        let mut ids = identities(0, 1);
        for bad in ["", "{}", r#"{"vm":1}"#, r#"{"vm":-1,"generation":1,"random":"00"}"#] {
            assert!(!ids.take(0, bad.as_bytes()), "{bad}");
        }
        assert!(!ids.take(0, &body(1, "00")));
        assert!(!ids.take(0, &body(1, "+00102030405060708090a0b0c0d0e0f")));
        assert_eq!(ids.report().answers, 0);
    }

    #[test]
    fn vms_are_as_far_apart_as_their_addresses() {
        let mut ids = identities(7, 3);
        assert!(ids.take(0, &body(7, "000102030405060708090a0b0c0d0e0f")));
        assert!(ids.take(2, &body(13, "100102030405060708090a0b0c0d0e0f")));
        assert!(ids.report().is_clean());
        assert!(ids.report().said[1].is_none() && ids.report().said[2].is_some());
    }

    #[test]
    fn a_vm_that_lost_something_is_found() {
        let said = |generation, random: &str, page: Option<&str>| {
            Some(Said { generation, random: random.to_owned(), page: page.map(str::to_owned) })
        };
        let then =
            [said(1, "aa", Some("01")), said(1, "bb", Some("02")), None, said(1, "cc", None), said(1, "dd", None)];
        let kept = Kept::of(&then[..3], &then[..3]);
        assert_eq!((kept.compared, kept.intact, kept.trouble()), (2, 2, None));
        // A VM that says nothing of its page proves nothing.
        assert_eq!(Kept::of(&then[3..], &then[3..]).intact, 0);
        let now = [said(1, "aa", Some("09")), said(2, "bb", Some("02")), None, said(1, "ee", Some("03")), None];
        let kept = Kept::of(&then, &now);
        assert_eq!((kept.compared, kept.intact), (3, 0));
        assert_eq!((kept.other_page, kept.other_random, kept.other_generation), (2, 1, 1));
        assert_eq!(kept.lost_first, [0, 1, 3]);
        assert!(kept.trouble().unwrap().contains("of 3 VMs that answered twice only 0"));
    }
}
