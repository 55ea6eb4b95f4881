//! The `[machine]` part of a fleet file: memory, processors, swap.

use super::{Checked, DEFAULT_MACHINE_MEMORY, MAX_CPUS, MIN_MACHINE_BYTES, Overrides, Source};
use crate::size;
use crate::swap::{MAX_SWAP_BYTES, MIN_SWAP_BYTES, Swap};
use serde::Deserialize;
use toml::Spanned;

/// The part as it is written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMachine {
    memory: Option<Spanned<String>>,
    cpus: Option<Spanned<u32>>,
    swap: Option<Spanned<String>>,
    #[serde(alias = "swap-iops")]
    swap_iops: Option<u32>,
    pub(super) power_off_when_done: Option<bool>,
}

/// Memory in bytes.
pub(super) fn read_memory(source: &Source<'_>, raw: &RawMachine, given: &Overrides) -> Checked<u64> {
    let field = "machine: memory";
    let (text, at) = raw.memory.as_ref().map_or((DEFAULT_MACHINE_MEMORY, 0), |m| (m.get_ref(), m.span().start));
    let bytes = size::parse(text).map_err(|e| source.error(at, field, format!("{text:?} {e}"), size::REMEDY))?;
    let bytes = given.memory_bytes.unwrap_or(bytes);
    if bytes < MIN_MACHINE_BYTES {
        let remedy = format!("give the machine {} or more", size::format(MIN_MACHINE_BYTES));
        return Err(source.error(at, field, format!("{} is too small", size::format(bytes)), remedy));
    }
    Ok(bytes)
}

/// Processors.
pub(super) fn read_cpus(source: &Source<'_>, raw: &RawMachine, given: &Overrides) -> Checked<u32> {
    let (cpus, at) = raw.cpus.as_ref().map_or((1, 0), |c| (*c.get_ref(), c.span().start));
    let cpus = given.cpus.unwrap_or(cpus);
    if (1..=MAX_CPUS).contains(&cpus) {
        return Ok(cpus);
    }
    let problem = format!("a machine cannot have {cpus} processors");
    Err(source.error(at, "machine: cpus", problem, format!("give 1 to {MAX_CPUS}")))
}

/// The swap disk, if there is to be one.
pub(super) fn read_swap(source: &Source<'_>, raw: &RawMachine, given: &Overrides) -> Checked<Option<Swap>> {
    let field = "machine: swap";
    let (text, at) = raw.swap.as_ref().map_or(("0", 0), |s| (s.get_ref(), s.span().start));
    let bytes = size::parse(text).map_err(|e| source.error(at, field, format!("{text:?} {e}"), size::REMEDY))?;
    let error = |problem: String, remedy: String| match given.swap_bytes {
        Some(_) => source.whole("--swap", problem, remedy),
        None => source.error(at, field, problem, remedy),
    };
    let bytes = given.swap_bytes.unwrap_or(bytes);
    if bytes == 0 {
        return match given.swap_iops {
            Some(iops) if iops > 0 => {
                let remedy = "give the machine a swap disk with --swap SIZE, or leave --swap-iops out";
                Err(source.whole("--swap-iops", "there is no swap disk to throttle", remedy))
            }
            _ => Ok(None),
        };
    }
    if bytes < MIN_SWAP_BYTES {
        let problem = format!("{} is too small for a swap disk", size::format(bytes));
        let remedy = format!("give {} or more, or \"0\" for none", size::format(MIN_SWAP_BYTES));
        return Err(error(problem, remedy));
    }
    if bytes > MAX_SWAP_BYTES {
        let problem = format!("{} is too large for a swap disk", size::format(bytes));
        return Err(error(problem, format!("give at most {}", size::format(MAX_SWAP_BYTES))));
    }
    let iops = given.swap_iops.or(raw.swap_iops).filter(|iops| *iops > 0);
    Ok(Some(Swap { bytes, iops }))
}
