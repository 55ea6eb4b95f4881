//! Very many timers in one instant: how much the kernel does for them at a time, and who waits for that.

use simulator::{Cpu, Fault, LabPlan, Op};
use std::cell::Cell;
use std::rc::Rc;
use virtual_isa::control::{self, Pending};
use virtual_isa::gate::{ClassTerms, Operation, VmState};
use virtual_isa::instruction::{Instruction, NO_DEADLINE};

/// When they wake.
const INSTANT: u64 = 60_000_000_000;

/// Pages that each of them takes: its control page, and its tables.
const PAGES_EACH: u32 = 6;

#[test]
fn a_storm_of_timers_holds_up_neither_frames_nor_vms_that_run() {
    storm(10_000);
}

#[test]
#[ignore = "takes 2.5 GiB of memory: cargo nextest run -p simulator --test storm --run-ignored all"]
fn neither_does_one_of_a_hundred_thousand() {
    storm(100_000);
}

/// So many VMs sleep until one instant; one more computes all the time, and one waits for a frame.
fn storm(sleepers: u32) {
    let (spinner, listener) = (sleepers + 1, sleepers + 2);
    let woken = Rc::new(Cell::new(0));
    let (steps, heard) = (Rc::new(Cell::new(0u64)), Rc::new(Cell::new(0u64)));
    let (count, spun, hears) = (Rc::clone(&woken), Rc::clone(&steps), Rc::clone(&heard));
    let plan = LabPlan::new(sleepers * PAGES_EACH + 4096).cores(1, 0).memory(256);
    let mut lab = plan.boot(move |vm| {
        let (count, spun, hears) = (Rc::clone(&count), Rc::clone(&spun), Rc::clone(&hears));
        let mut is_asleep = false;
        match vm {
            _ if vm == spinner => Box::new(move |_: &mut Cpu<'_>| {
                spun.set(spun.get() + 1);
                Ok(Op::Compute)
            }),
            _ if vm == listener => Box::new(move |cpu: &mut Cpu<'_>| {
                cpu.set_control(control::ENABLED, Pending::RECEIVE.bits())?;
                if cpu.control(control::PENDING)? & Pending::RECEIVE.bits() != 0 && hears.get() == 0 {
                    hears.set(cpu.now());
                }
                Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
            }),
            _ => Box::new(move |cpu: &mut Cpu<'_>| -> Result<Op, Fault> {
                if !is_asleep {
                    is_asleep = true;
                    return Ok(Op::call(Instruction::Idle, &[INSTANT]));
                }
                assert!(cpu.now() >= INSTANT, "a VM wakes before its deadline");
                assert_ne!(cpu.control(control::PENDING)? & Pending::TIMER.bits(), 0);
                count.set(count.get() + 1);
                Ok(Op::call(Instruction::Terminate, &[0]))
            }),
        }
    });
    // The spinner is in a group of its own: in one with so many that have slept it would be their turn first, by right.
    let terms = ClassTerms { group: 2, reservation_ppm: 0, limit_ppm: 0, frames_per_s: 0, bytes_per_s: 0 };
    lab.ask(Operation::Class { class: 1, terms }).unwrap();
    // The first one waits for its template.
    lab.start(1);
    for vm in 2..=listener {
        let mut creation = lab.creation(vm);
        if let Operation::Create { class, .. } = &mut creation {
            *class = u32::from(vm == spinner);
        }
        lab.send(creation);
        lab.send(Operation::Start { vm });
        if vm % 16 == 0 {
            lab.turns(24);
        }
    }
    lab.until("the last VM to sleep", |lab| {
        lab.turns(2);
        lab.outside().now < INSTANT && lab.inspect(listener).state == VmState::Idle
    });
    assert_eq!(woken.get(), 0);

    // To just before the instant, with the spinner running; then a frame comes in the middle of it.
    lab.outside_mut().now = INSTANT - 1_000;
    let (before, begun) = (steps.get(), lab.outside().now);
    lab.outside_mut().most_raised = 0;
    let mut sent = 0;
    while woken.get() < sleepers || heard.get() == 0 {
        lab.turn();
        if sent == 0 && woken.get() > sleepers / 8 {
            lab.frame_to(listener, 100, 1);
            sent = lab.outside().now;
        }
        assert!(lab.outside().now < INSTANT + 100 * u64::from(sleepers) * 1_000, "{} woke", woken.get());
    }
    let most = lab.outside().most_raised;
    println!(
        "{} VMs woke in {} us; at most {most} of them between two looks at the wire; the spinner did {} steps",
        woken.get(),
        (lab.outside().now - begun) / 1_000,
        steps.get() - before,
    );
    assert!((8..=130).contains(&most), "{most} VMs were woken between two looks at the wire");
    assert!(steps.get() > before, "a VM that was running never ran");
    assert!(heard.get() > 0, "the frame never came");
}
