//! What the supervisor's `churn` command says: what it costs to create, start, park, wake, stop and destroy a VM.
//!
//! On a machine that counts instructions instead of time the figures are instructions. They hold all that the
//! processor executed from a step's first request until the machine was at rest again; what the supervisor's own
//! program executed is taken off, and of the rest is told apart what the VMs executed themselves and what the kernel
//! did for them once they ran.

use crate::driver::Session;
use crate::fleet::Fleet;
use crate::machine::Failure;
use serde_json::Value;

/// VMs that are created and destroyed at a time: enough for what is not per VM not to matter.
pub const COUNT: u32 = 1000;

/// An answer of the supervisor's.
#[derive(Clone, Debug, PartialEq)]
pub struct Churn(Value);

/// What a VM costs in a step, in instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// The kernel's, for the request and whatever follows from it, but not once the VM runs.
    pub kernel: f64,
    /// The kernel's, for exits of the VM: its faults and virtual instructions.
    pub exits: f64,
    /// The VM's own.
    pub guest: f64,
}

impl Cost {
    /// All that is the kernel's.
    #[must_use]
    pub fn in_kernel(self) -> f64 {
        self.kernel + self.exits
    }
}

/// The fleet of a machine that counts instructions.
#[must_use]
pub fn fleet(vms: u32, memory: &str) -> Fleet {
    Fleet { icount: true, ..Fleet::web(vms, memory) }
}

impl Churn {
    /// Has the supervisor of a machine do it with VMs that its fleet does not have.
    ///
    /// # Errors
    /// If it refuses, or does not answer.
    pub fn of(session: &Session<'_>) -> Result<Self, Failure> {
        let first = session.vms.saturating_add(1).to_string();
        Self::parse(&session.ask(&["churn", &first, &COUNT.to_string()])?).map_err(Failure::failed)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// With it.
    pub(super) fn parse(answer: &str) -> Result<Self, String> {
        let value = answer.strip_prefix("churn ").and_then(|json| serde_json::from_str::<Value>(json).ok());
        let churn = value.filter(Value::is_object).map(Self);
        churn
            .filter(|churn| churn.number("count").is_some_and(|count| count > 0.0))
            .ok_or_else(|| format!("the supervisor answers what is not understood: {answer}"))
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.0[name].as_f64()
    }

    /// What a step costs per VM; nothing if the answer does not have it.
    #[must_use]
    pub fn cost(&self, step: &str) -> Option<Cost> {
        let of = |what: &str| self.number(&format!("{step}_{what}_ns"));
        let count = self.number("count")?;
        // Only VMs that run in a step have figures of their own.
        let (guest, exits) = (of("guest").unwrap_or(0.0), of("kernel").unwrap_or(0.0));
        let kernel = of("busy")? - of("supervisor")? - guest - exits;
        Some(Cost { kernel: kernel / count, exits: exits / count, guest: guest / count })
    }

    /// What was read.
    #[must_use]
    pub const fn sample(&self) -> &Value {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_told_apart() {
        let churn = Churn::parse(
            r#"churn {"first":11,"count":10,"create_busy_ns":600,"create_supervisor_ns":250,"start_busy_ns":5000,
            "start_supervisor_ns":500,"start_guest_ns":1000,"start_kernel_ns":2000}"#,
        )
        .unwrap();
        assert_eq!(churn.cost("create"), Some(Cost { kernel: 35.0, exits: 0.0, guest: 0.0 }));
        let start = churn.cost("start").unwrap();
        assert_eq!(start, Cost { kernel: 150.0, exits: 200.0, guest: 100.0 });
        assert_eq!(start.in_kernel(), 350.0);
        assert_eq!(churn.cost("wake"), None);
    }

    #[test]
    fn other_answers_are_refused() {
        for answer in ["", "churn", "churn []", "churn {}", "churn {\"count\":0}", "parked 7 VMs", "churn {\"count\":7"]
        {
            assert!(Churn::parse(answer).unwrap_err().contains("not understood"), "{answer}");
        }
    }
}
