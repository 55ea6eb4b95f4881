//! The proof that N answers came from N different VMs: what `/id` says, checked and counted.

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
}

impl IdentityReport {
    /// Whether every answer came from its own VM, and no random value came twice.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.wrong_vm == 0 && self.distinct_vms == self.answers && self.distinct_random == self.answers
    }
}

/// Collects the answers.
#[derive(Debug)]
pub struct Identities {
    first_vm: u32,
    vms: HashSet<u32>,
    randoms: HashSet<u128>,
    generations: HashSet<(u32, u64)>,
    report: IdentityReport,
}

impl Identities {
    /// For targets of which the first is VM number `first_vm`.
    #[must_use]
    pub fn new(first_vm: u32) -> Self {
        Self {
            first_vm,
            vms: HashSet::new(),
            randoms: HashSet::new(),
            generations: HashSet::new(),
            report: IdentityReport::default(),
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
        let expected = self.first_vm.saturating_add(target);
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

    fn body(vm: u32, random: &str) -> Vec<u8> {
        format!(r#"{{"vm":{vm},"generation":1,"random":"{random}"}}"#).into_bytes()
    }

    #[test]
    fn right_answers_are_clean() {
        let mut ids = Identities::new(7);
        assert!(ids.take(0, &body(7, "000102030405060708090a0b0c0d0e0f")));
        assert!(ids.take(1, &body(8, "100102030405060708090a0b0c0d0e0f")));
        let report = ids.report();
        assert!(report.is_clean());
        assert_eq!((report.answers, report.distinct_vms, report.distinct_random), (2, 2, 2));
    }

    #[test]
    fn a_wrong_vm_or_a_repeated_random_value_is_seen() {
        let random = "000102030405060708090a0b0c0d0e0f";
        let mut ids = Identities::new(1);
        assert!(ids.take(0, &body(1, random)));
        assert!(ids.take(1, &body(2, random)));
        assert!(!ids.report().is_clean());
        assert_eq!(ids.report().distinct_random, 1);
        let mut ids = Identities::new(1);
        assert!(ids.take(4, &body(9, random)));
        assert_eq!(ids.report().wrong_vm_first, [WrongVm { target: 4, expected: 5, answered: 9 }]);
        assert!(!ids.report().is_clean());
    }

    #[test]
    fn what_is_no_identity_is_not_counted() {
        let mut ids = Identities::new(0);
        for bad in ["", "{}", r#"{"vm":1}"#, r#"{"vm":-1,"generation":1,"random":"00"}"#] {
            assert!(!ids.take(0, bad.as_bytes()), "{bad}");
        }
        assert!(!ids.take(0, &body(1, "00")));
        assert!(!ids.take(0, &body(1, "+00102030405060708090a0b0c0d0e0f")));
        assert_eq!(ids.report().answers, 0);
    }
}
