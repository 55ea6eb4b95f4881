//! VMs asked one after the other, and what the machine counted meanwhile.

use super::report::Measure;
use crate::driver::{Selection, Session};
use crate::machine::{Failure, counter};
use crate::report::HttpReport;
use serde::Serialize;
use serde_json::Value;

/// Some VMs asked one after the other.
#[derive(Debug, Serialize)]
pub struct Wakes {
    /// The machine's state before.
    pub before: Value,
    /// What they answered.
    pub sweep: HttpReport,
    /// The machine's state after it.
    pub after: Value,
}

/// Each VM's own words are a lot, and of use only to be compared.
pub fn drop_what_was_said(sweep: &mut HttpReport) {
    if let Some(identity) = sweep.sweep.as_mut().and_then(|sweep| sweep.identity.as_mut()) {
        identity.said = Vec::new();
    }
}

/// By how much a counter grew.
#[must_use]
pub fn grown(before: &Value, after: &Value, name: &str) -> Option<f64> {
    Some(counter(after, name)? - counter(before, name)?)
}

impl Wakes {
    /// Asks them.
    ///
    /// # Errors
    /// If the machine does not answer.
    pub fn measure(session: &Session<'_>, sample: Selection) -> Result<Self, Failure> {
        let before = session.status()?;
        let mut sweep = session.sweep(sample, 1)?;
        drop_what_was_said(&mut sweep);
        Ok(Self { before, sweep, after: session.status()? })
    }

    /// By how much a counter grew.
    #[must_use]
    pub fn grown(&self, name: &str) -> Option<f64> {
        grown(&self.before, &self.after, name)
    }

    /// Reads that the emulator counted at the swap disk.
    #[must_use]
    pub fn disk_reads(&self) -> Option<f64> {
        let device = |status: &Value| status.get("swap_device")?.get("reads")?.as_f64();
        Some(device(&self.after)? - device(&self.before)?)
    }

    /// Reads of the swap disk for each wake from there.
    #[must_use]
    pub fn reads_per_wake(&self) -> Option<f64> {
        let wakes = self.grown("wakes_disk").filter(|&wakes| wakes > 0.0)?;
        Some(self.disk_reads()? / wakes)
    }

    /// How long an answer took.
    #[must_use]
    pub fn figures(&self, name: &str, about: &str) -> [Measure; 2] {
        let total = &self.sweep.latency.total;
        [("p50", total.p50_us), ("p99", total.p99_us)].map(|(quantile, us)| {
            let value = (total.count > 0).then_some(us / 1e3);
            Measure::new(&format!("{name}_{quantile}_ms"), &format!("{about}, {quantile}"), "ms", value)
        })
    }
}
