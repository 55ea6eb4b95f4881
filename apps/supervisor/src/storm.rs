//! `storm`: spare VMs are created, started, stopped and destroyed as fast as the gate takes it, again and again for some
//! seconds. It is what others on the machine are to feel nothing of.

use crate::crowd::{self, Tally};
use crate::json::Object;
use crate::launch::Spare;
use crate::{Machine, Office};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::ops::Range;
use libos::gate::Operation;
use libos::time::{Duration, Instant};

/// Longest storm in seconds.
pub const MAX_SECONDS: u32 = 3600;

/// Does it. Returns what to print. VMs that it has created are gone afterwards, also when something failed.
///
/// # Errors
/// What to print instead.
pub async fn storm<M: Machine>(office: &Rc<Office<M>>, vms: Range<u32>, seconds: u32) -> Result<String, String> {
    let spare = office.spare.get().ok_or("storm: there is no service to take an image from")?;
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let (mut rounds, mut created) = (0u64, 0u64);
    while Instant::now() < end {
        if let Err(problem) = round(office, spare, &vms).await {
            crowd::clear(office, vms).await;
            return Err(problem);
        }
        rounds += 1;
        created += u64::from(vms.end - vms.start);
    }
    let report = Object::default().number("first", vms.start).number("count", vms.end - vms.start);
    Ok(format!("storm {}", report.number("rounds", rounds).number("created", created).finish()))
}

async fn round<M: Machine>(office: &Rc<Office<M>>, spare: Spare, vms: &Range<u32>) -> Result<(), String> {
    all_done("created", crowd::each(office, [vms.clone()], move |vm| spare.create(vm)).await)?;
    all_done("started", crowd::each(office, [vms.clone()], |vm| Operation::Start { vm }).await)?;
    all_done("stopped", crowd::each(office, [vms.clone()], |vm| Operation::Stop { vm }).await)?;
    all_done("destroyed", crowd::each(office, [vms.clone()], |vm| Operation::Destroy { vm }).await)
}

fn all_done(what: &str, tally: Tally) -> Result<(), String> {
    match tally.why {
        None => Ok(()),
        Some(e) => Err(format!("storm: {} VMs could not be {what}: {e}", tally.refused)),
    }
}
