//! `churn`: spare VMs are created, started, parked, woken, stopped and destroyed, and what each step cost the machine
//! is said. It shows whether a VM costs the same however many there are.
//!
//! Costs are times in which the processors had something to run, from a step's first request until the machine is at
//! rest again. Where the emulator counts instructions instead of time, they are instructions. Of each step are said:
//!
//! | field | what it holds |
//! |---|---|
//! | `busy_ns` | all of it |
//! | `supervisor_ns` | this program itself: asking, and looking whether the machine is at rest |
//! | `guest_ns` | the VMs themselves |
//! | `kernel_ns` | the kernel, for exits of these VMs: their faults, interrupts and virtual instructions |
//!
//! What remains of `busy_ns` is the kernel's work on the requests, on getting the VMs to their first instruction, and
//! on their memory when they are gone.

use crate::crowd::{self, Tally};
use crate::json::Object;
use crate::launch::Spare;
use crate::{Machine, Office};
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::ops::Range;
use libos::gate::{Answer, Operation, Tier, VmState, VmStatus};
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

/// What VMs used by a moment, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    /// They themselves.
    guest: u64,
    /// The kernel, for them.
    kernel: u64,
}

async fn inspect<M: Machine>(office: &Office<M>, vm: u32) -> Result<Box<VmStatus>, String> {
    match office.machine.call(Operation::Inspect { vm }).await.map_err(|e| format!("churn: vm {vm}: {e}"))? {
        Answer::Vm(status) => Ok(status),
        _ => Err("churn: unexpected answer".into()),
    }
}

async fn spent<M: Machine>(office: &Office<M>) -> Result<Spent, String> {
    let supervisor = inspect(office, 0).await?.counters.guest_ns;
    match office.machine.call(Operation::Machine).await.map_err(|e| format!("churn: {e}"))? {
        Answer::Machine(machine) => {
            let up = machine.uptime_ns.saturating_mul(u64::from(machine.cpus));
            Ok(Spent { up, idle: machine.idle_ns, busy: up.saturating_sub(machine.idle_ns), supervisor })
        }
        _ => Err("churn: unexpected answer".into()),
    }
}

/// What all of these VMs used. All of them must be parked, or none.
async fn used<M: Machine>(office: &Office<M>, vms: Range<u32>, are_parked: bool) -> Result<Used, String> {
    let mut used = Used::default();
    for vm in vms {
        let status = inspect(office, vm).await?;
        if (status.state == VmState::Parked) != are_parked {
            let state = if are_parked { "not parked" } else { "parked" };
            return Err(format!("churn: vm {vm} is {state}, as it should not be"));
        }
        used.guest = used.guest.saturating_add(status.counters.guest_ns);
        used.kernel = used.kernel.saturating_add(status.counters.kernel_ns);
    }
    Ok(used)
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
    Err("churn: the machine does not come to rest".into())
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

/// Does it. Returns what to print. VMs that it has created are gone afterwards, also when something failed.
///
/// # Errors
/// What to print instead.
pub async fn churn<M: Machine>(office: &Rc<Office<M>>, vms: Range<u32>) -> Result<String, String> {
    let spare = office.spare.get().ok_or("churn: there is no service to take an image from")?;
    let result = run(office, spare, vms.clone()).await;
    if result.is_err() {
        crowd::clear(office, vms).await;
    }
    result
}

async fn run<M: Machine>(office: &Rc<Office<M>>, spare: Spare, vms: Range<u32>) -> Result<String, String> {
    let start = |vm| Operation::Start { vm };
    let mut report = Object::default().number("first", vms.start).number("count", vms.end - vms.start);
    rest(office).await?;

    report = step(report, "create", office, &vms, move |vm| spare.create(vm)).await?;
    report = step(report, "start", office, &vms, start).await?;
    let started = used(office, vms.clone(), false).await?;
    report = guests(report, "start", Used::default(), started);

    report = step(report, "park", office, &vms, |vm| Operation::Park { vm, tier: Tier::Memory }).await?;
    let parked = used(office, vms.clone(), true).await?;
    // A parked VM that is paused goes on when it is started, and for that it wakes.
    all_done("paused", crowd::each(office, [vms.clone()], |vm| Operation::Pause { vm }).await)?;
    report = step(report, "wake", office, &vms, start).await?;
    report = guests(report, "wake", parked, used(office, vms.clone(), false).await?);

    report = step(report, "stop", office, &vms, |vm| Operation::Stop { vm }).await?;
    report = step(report, "destroy", office, &vms, |vm| Operation::Destroy { vm }).await?;
    Ok(format!("churn {}", report.finish()))
}

/// Has the same done to all of the VMs, waits until the machine is at rest, and adds what that cost.
async fn step<M: Machine>(
    report: Object,
    name: &str,
    office: &Rc<Office<M>>,
    vms: &Range<u32>,
    operation: impl Fn(u32) -> Operation<'static> + Copy + 'static,
) -> Result<Object, String> {
    let before = spent(office).await?;
    all_done(name, crowd::each(office, [vms.clone()], operation).await)?;
    rest(office).await?;
    let after = spent(office).await?;
    Ok(report
        .number(&format!("{name}_busy_ns"), after.busy.saturating_sub(before.busy))
        .number(&format!("{name}_supervisor_ns"), after.supervisor.saturating_sub(before.supervisor)))
}

fn all_done(what: &str, tally: Tally) -> Result<(), String> {
    match tally.why {
        None => Ok(()),
        Some(e) => Err(format!("churn: {what}: {} VMs refused: {e}", tally.refused)),
    }
}

/// Adds what the VMs used in a step.
fn guests(report: Object, name: &str, before: Used, after: Used) -> Object {
    report
        .number(&format!("{name}_guest_ns"), after.guest.saturating_sub(before.guest))
        .number(&format!("{name}_kernel_ns"), after.kernel.saturating_sub(before.kernel))
}
