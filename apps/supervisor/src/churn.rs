//! `churn`: spare VMs are created, started, stopped and destroyed, and what each step cost the machine is said. It
//! shows whether a VM costs the same however many there are.
//!
//! Costs are times in which the processors had something to run. Where the emulator counts instructions instead of
//! time, they are instructions.

use crate::crowd::{self, Tally};
use crate::json::Object;
use crate::launch::Spare;
use crate::{Machine, Office};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::ops::Range;
use libos::gate::{Answer, Operation};
use libos::time::{Duration, Instant, sleep};
use virtual_isa::limits::MAX_VMS;

/// How often it is looked whether the machine has come to rest.
const LOOK: Duration = Duration::from_millis(50);

/// The machine is at rest when its processors had nothing to run for that part of the time, in percent.
const REST_PERCENT: u64 = 80;

/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Time that was spent by a moment, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    up: u64,
    idle: u64,
    /// By all processors, on everything.
    busy: u64,
    /// By this program itself.
    supervisor: u64,
}

async fn spent<M: Machine>(office: &Office<M>) -> Result<Spent, String> {
    let refused = |e| format!("{e}");
    let Answer::Vm(own) = office.machine.call(Operation::Inspect { vm: 0 }).await.map_err(refused)? else {
        return Err("unexpected answer".into());
    };
    let Answer::Machine(machine) = office.machine.call(Operation::Machine).await.map_err(refused)? else {
        return Err("unexpected answer".into());
    };
    let all = machine.uptime_ns.saturating_mul(u64::from(machine.cpus));
    let busy = all.saturating_sub(machine.idle_ns);
    Ok(Spent { up: all, idle: machine.idle_ns, busy, supervisor: own.counters.guest_ns })
}

/// Waits until the processors have next to nothing to run.
async fn rest<M: Machine>(office: &Office<M>) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    let mut before = spent(office).await?;
    while Instant::now() < end {
        sleep(LOOK).await;
        let now = spent(office).await?;
        if (now.idle - before.idle) * 100 >= (now.up - before.up) * REST_PERCENT {
            return Ok(());
        }
        before = now;
    }
    Err("the machine does not come to rest".into())
}

/// Checks which spare VMs are asked for.
///
/// # Errors
/// What is wrong.
pub fn spare_vms<M>(office: &Office<M>, first: u32, count: u32) -> Result<Range<u32>, String> {
    let end = first.checked_add(count).filter(|&end| end <= MAX_VMS);
    let vms = match end {
        Some(end) if first > 0 && count > 0 => first..end,
        _ => return Err(format!("churn {first} {count}: VMs are 1 to {}, at least one", MAX_VMS - 1)),
    };
    match office.fleet.borrow().plan.services.iter().find(|s| s.vms.start < vms.end && vms.start < s.vms.end) {
        Some(service) => Err(format!("churn {first} {count}: some of these VMs are service {}'s", service.name)),
        None => Ok(vms),
    }
}

fn all_done(what: &str, tally: Tally) -> Result<(), String> {
    match tally.why {
        None => Ok(()),
        Some(e) => Err(format!("churn: {} VMs could not be {what}: {e}", tally.refused)),
    }
}

/// Does it. Returns what to print. VMs that it has created are gone afterwards, also when something failed.
///
/// # Errors
/// What to print instead.
pub async fn churn<M: Machine>(office: &Rc<Office<M>>, vms: Range<u32>) -> Result<String, String> {
    let spare = office.spare.get().ok_or("churn: there is no service to take an image from")?;
    let result = run(office, spare, vms.clone()).await;
    if result.is_err() {
        // Those that are not there are refused, as is right.
        crowd::each(office, [vms.clone()], |vm| Operation::Stop { vm }).await;
        crowd::each(office, [vms], |vm| Operation::Destroy { vm }).await;
    }
    result
}

async fn run<M: Machine>(office: &Rc<Office<M>>, spare: Spare, vms: Range<u32>) -> Result<String, String> {
    let Spare { image, memory_pages, minimum_pages, shares } = spare;
    let create = move |vm| Operation::Create { vm, image, memory_pages, minimum_pages, shares, arguments: "" };
    let mut object = Object::default().number("first", vms.start).number("count", vms.end - vms.start);
    rest(office).await?;
    let before = spent(office).await?;
    all_done("created", crowd::each(office, [vms.clone()], create).await)?;
    object = cost(object, "create", before, spent(office).await?);

    let before = spent(office).await?;
    all_done("started", crowd::each(office, [vms.clone()], |vm| Operation::Start { vm }).await)?;
    rest(office).await?;
    object = cost(object, "start", before, spent(office).await?);
    let mut guests = 0u64;
    for vm in vms.clone() {
        if let Ok(Answer::Vm(status)) = office.machine.call(Operation::Inspect { vm }).await {
            guests = guests.saturating_add(status.counters.guest_ns);
        }
    }
    object = object.number("start_guest_ns", guests);

    rest(office).await?;
    let before = spent(office).await?;
    all_done("stopped", crowd::each(office, [vms.clone()], |vm| Operation::Stop { vm }).await)?;
    object = cost(object, "stop", before, spent(office).await?);
    let before = spent(office).await?;
    all_done("destroyed", crowd::each(office, [vms.clone()], |vm| Operation::Destroy { vm }).await)?;
    object = cost(object, "destroy", before, spent(office).await?);
    Ok(format!("churn {}", object.finish()))
}

/// Adds what a step cost.
fn cost(object: Object, step: &str, before: Spent, after: Spent) -> Object {
    object
        .number(&format!("{step}_busy_ns"), after.busy.saturating_sub(before.busy))
        .number(&format!("{step}_supervisor_ns"), after.supervisor.saturating_sub(before.supervisor))
}
