//! The processors but the first.

use super::{Outcome, check};
use alloc::string::ToString;
use hal::{Pages, Processor};
use machine::{Job, Machine};

/// How long a wake-up may take: one that is lost never comes, and a host may have fewer processors than the machine.
const WAKE_NS: u64 = 2_000_000_000;

/// All come up, answer with their own numbers, see the same memory, are as protected as the first, and wake.
pub fn all(machine: &mut Machine) -> Outcome {
    let (running, found) = (machine.nr_running(), machine.nr_cpus());
    check!(running == found || !super::terms().is_whole, "{running} of {found} processors run");
    let free = machine.free_pages();
    let page = machine.allocate().ok_or("no page".to_string())?;
    let at = page.mpn();
    let ids: alloc::vec::Vec<u32> = (0..running).map(|cpu| machine.apic_id(cpu)).collect();
    for cpu in 1..running {
        let answer = machine.ask(cpu, Job::Identify, at);
        check!(answer == Some(u64::from(machine.apic_id(cpu))), "processor {cpu} is {answer:?}");
        check!(ids.iter().filter(|id| Some(u64::from(**id)) == answer).count() == 1, "{ids:?} are not all different");
        for n in 0..1024_u32 {
            machine.store(at, n as usize * 4, n.wrapping_mul(0x0101_4001) ^ cpu);
        }
        for job in [Job::Sum, Job::Fill] {
            let theirs = machine.ask(cpu, job, at);
            let ours = machine.ask(0, Job::Sum, at);
            check!(theirs.is_some() && theirs == ours, "{job:?} on {cpu}: {theirs:x?}, here {ours:x?}");
        }
        for job in [Job::Cr0, Job::Cr4, Job::Efer, Job::Xcr0] {
            let (theirs, ours) = (machine.ask(cpu, job, at), machine.ask(0, job, at));
            check!(theirs.is_some() && theirs == ours, "{job:?} on {cpu}: {theirs:x?}, here {ours:x?}");
        }
        wakes(machine, cpu)?;
    }
    machine.release(page);
    check!(machine.free_pages() == free, "{} pages free, were {free}", machine.free_pages());
    Ok(())
}

fn wakes(machine: &Machine, cpu: u32) -> Outcome {
    // Halted for certain: nothing is left to do but the wake-up of the last job.
    let start = machine.now().0;
    while machine.now().0 - start < 1_000_000 {}
    let before = machine.wakes(cpu);
    let start = machine.now().0;
    machine.interrupt(cpu);
    while machine.wakes(cpu) == before {
        check!(machine.now().0 - start < WAKE_NS, "processor {cpu} does not wake");
    }
    Ok(())
}
