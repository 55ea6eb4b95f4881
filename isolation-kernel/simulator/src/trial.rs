//! Random runs of memory against a model, by seed: guests with a model on a machine that is too small for them,
//! while the outside parks, wakes, pauses, stops and destroys them and things go wrong. A run that finds anything
//! wrong panics.

use crate::domains::Domains;
use crate::guest::Program;
use crate::lab::{Lab, LabPlan, cores_wanted};
use crate::model::{self, Deeds, Modelled};
use crate::supervisor::Reply;
use fastrand::Rng;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use virtual_isa::exception::Cause;
use virtual_isa::gate::{Answer, Event, GateError, MachineStatus, Operation, Tier};
use vm::Defect;

/// Rounds of a run, at least and at most: something is done from outside, then the kernel turns for a while.
const ROUNDS: std::ops::Range<usize> = 20..160;

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// Nothing.
    Clean,
    /// The disk is slow and late, or its queue short; writes fail. Nothing may be lost.
    Slow,
    /// Reads fail, writes are torn or lost, blocks change. Pages may be lost, and must be reported so.
    Lossy,
    /// Allocations fail.
    Short,
}

/// What the guests of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guests {
    /// Those that use memory: [`Modelled`].
    Memory,
    /// Those that make address spaces as well: [`Domains`].
    Spaces,
}

/// What a run has done, for whoever asks whether runs do enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the guests did.
    pub deeds: Deeds,
    /// VMs that lost a page.
    pub pages_lost: u64,
    /// Failed transfers that the supervisor was told of.
    pub swap_failures: u64,
    /// Faults that decompressed a page, and that had to wait for the disk, of VMs that were there at the end.
    pub faults: (u64, u64),
    /// The machine's figures before all was destroyed.
    pub machine: MachineStatus,
}

struct Trial {
    lab: Lab,
    random: Rng,
    mood: Mood,
    nr_vms: u32,
    memory_pages: u32,
    deeds: Rc<RefCell<Deeds>>,
    /// Requests under way, by ticket.
    asked: BTreeMap<u64, String>,
    start: MachineStatus,
}

/// Runs a seed, with a defect planted or without.
///
/// # Panics
/// If anything is wrong.
#[must_use]
pub fn run(seed: u64, guests: Guests, defect: Option<Defect>) -> Outcome {
    run_on(seed, cores_wanted(), guests, defect)
}

/// Runs a seed on so many cores, whose turns are interleaved by the seed.
///
/// # Panics
/// If anything is wrong.
#[must_use]
pub fn run_on(seed: u64, cores: u32, guests: Guests, defect: Option<Defect>) -> Outcome {
    let mut trial = Trial::new(seed, cores, guests);
    if let Some(defect) = defect {
        trial.lab.core().plant(defect);
    }
    for _ in 0..trial.random.usize(ROUNDS) {
        trial.disturb();
        for _ in 0..3 {
            trial.act();
        }
        let turns = 1 + trial.random.usize(..24);
        trial.lab.turns(turns);
        trial.collect();
        trial.check_figures();
    }
    trial.finish()
}

impl Trial {
    fn new(seed: u64, cores: u32, guests: Guests) -> Self {
        let mut random = Rng::with_seed(seed);
        let mood = [Mood::Clean, Mood::Clean, Mood::Slow, Mood::Lossy, Mood::Lossy, Mood::Short][random.usize(..6)];
        let pages = 130 + random.u32(..250) + if guests == Guests::Spaces { random.u32(..400) } else { 0 };
        let blocks = [0, 64 + random.u64(..40), 100 + random.u64(..400), 4000][random.usize(..4)];
        let memory_pages = 256 + random.u32(..64);
        let limit = 80 + random.u32(..176);
        let deeds = Rc::new(RefCell::new(Deeds::default()));
        let theirs = Rc::clone(&deeds);
        let mut births = 0;
        let plan = LabPlan::new(pages)
            .cores(cores, seed)
            .images(2)
            .disk(blocks)
            .memory(memory_pages)
            .template(model::prologue);
        let mut lab = plan.boot(move |number| {
            births += 1;
            let seed = seed ^ (u64::from(number) << 32) ^ (births << 48);
            let deeds = Rc::clone(&theirs);
            let guest: Box<dyn Program> = match guests {
                Guests::Memory => Box::new(Modelled::new(number, seed, memory_pages, limit, deeds)),
                Guests::Spaces => Box::new(Domains::new(number, seed, memory_pages, limit, deeds)),
            };
            guest
        });
        let nr_vms = 6 + random.u32(..5);
        lab.outside_mut().disk.reseed(random.u64(..));
        lab.outside_mut().allocation.reseed(random.u64(..));
        let start = lab.status();
        let asked = BTreeMap::new();
        let mut trial = Self { lab, random, mood, nr_vms, memory_pages, deeds, asked, start };
        for vm in 1..=nr_vms {
            trial.create(vm);
        }
        trial
    }

    /// Creates and starts a VM, mostly of the first image and without a minimum.
    fn create(&mut self, vm: u32) {
        let image = self.lab.images()[usize::from(self.random.u32(..8) == 0)];
        let minimum_pages = if self.random.u32(..3) == 0 { self.random.u32(..60) } else { 0 };
        let shares = 1 + self.random.u32(..200);
        let memory_pages = self.memory_pages;
        self.send(Operation::Create { vm, image, memory_pages, minimum_pages, shares, class: 0, arguments: "" });
        self.send(Operation::Start { vm });
    }

    fn send(&mut self, operation: Operation<'_>) {
        let ticket = self.lab.send(operation);
        self.asked.insert(ticket, format!("{operation:?}"));
    }

    fn any_vm(&mut self) -> u32 {
        1 + self.random.u32(..self.nr_vms)
    }

    /// Something that the supervisor does, or the network.
    fn act(&mut self) {
        let vm = self.any_vm();
        match self.random.u32(..24) {
            0..4 => self.send(Operation::Park { vm, tier: Tier::Memory }),
            4..8 => self.send(Operation::Park { vm, tier: Tier::Disk }),
            8..16 => {
                let length = 34 + self.random.usize(..1400);
                self.lab.frame_to(vm, length, model::mark(length));
            }
            16 => self.send(Operation::Pause { vm }),
            17..19 => self.send(Operation::Start { vm }),
            19 => {
                self.send(Operation::Stop { vm });
                self.send(Operation::Destroy { vm });
            }
            20 | 21 => {
                self.create(vm);
            }
            _ => self.send(Operation::Inspect { vm }),
        }
    }

    /// Lets things go wrong, as far as the mood says.
    fn disturb(&mut self) {
        if self.random.u32(..4) != 0 {
            return;
        }
        let random = &mut self.random;
        let total = self.start.total_pages;
        let outside = &mut *self.lab.outside_mut();
        outside.is_wire_full = random.u32(..8) == 0;
        let faults = &mut outside.disk.faults;
        if self.mood != Mood::Clean {
            faults.delay_ns = 0..[1, 100_000, 5_000_000][random.usize(..3)];
            faults.is_reordered = random.bool();
            faults.queue = [1, 4, 64][random.usize(..3)];
            faults.write_errors = [0.0, 0.1, 1.0][random.usize(..3)];
        }
        match self.mood {
            Mood::Lossy => {
                faults.read_errors = [0.0, 0.05, 0.3][random.usize(..3)];
                faults.torn_writes = [0.0, 0.05, 0.3][random.usize(..3)];
                faults.lost_writes = [0.0, 0.05, 0.3][random.usize(..3)];
                outside.disk.corrupt_any();
            }
            Mood::Short => {
                outside.allocation.chance = [0.0, 0.01, 0.2, 1.0][random.usize(..4)];
                // So little room that VMs are parked for it, and not so little that none can be created.
                outside.heap_room = random.bool().then_some(total * 12);
            }
            Mood::Clean | Mood::Slow => {}
        }
    }

    /// Takes what the kernel answered and reported, and checks it.
    fn collect(&mut self) {
        let (completions, events) = {
            let mut desk = self.lab.desk();
            (std::mem::take(&mut desk.completions), desk.events.clone())
        };
        for (ticket, result) in completions {
            let ticket = ticket.expect("the kernel reads all requests");
            let Some(asked) = self.asked.remove(&ticket) else { continue };
            let is_known = match result {
                Ok(_) => true,
                Err(e) => {
                    matches!(e, GateError::NoSuchVm | GateError::VmExists | GateError::BadState | GateError::NoMemory)
                }
            };
            assert!(is_known, "{asked} is answered by {result:?}");
        }
        let may_lose = self.lab.outside().disk.counts.may_lose_pages();
        for event in events {
            let Event::Ended { vm, report } = event else { continue };
            match report.cause {
                Cause::Stopped => {}
                Cause::PageLost { .. } => assert!(may_lose, "VM {vm} lost a page of a good disk: {}", report.cause),
                other => panic!("VM {vm} ended: {other}"),
            }
        }
    }

    /// Asks for the machine's figures and checks that they add up.
    fn check_figures(&mut self) -> MachineStatus {
        let status = self.lab.status();
        if status.cpus > 1 {
            // Each core says what it has at another time: they add up only when all is quiet.
            return status;
        }
        let known =
            |s: &MachineStatus| s.free_pages + s.private_pages + s.table_pages + s.template_pages + s.packed_pages;
        let (before, now) = (self.start.total_pages - known(&self.start), status.total_pages - known(&status));
        // Between the tables: pages of VMs that have just ended, and of transfers.
        assert!(now >= before, "pages have two owners: {before} are nobody's at the start, now {now}: {status:?}");
        assert!(status.swap_used_blocks <= status.swap_blocks);
        status
    }

    /// Checks that reclaim has done what it can: it has had time, and nothing goes wrong any more.
    fn check_reserve(&self, status: &MachineStatus) {
        assert!(status.free_pages > 0, "the kernel gave its last page away: {status:?}");
        let room = status.swap_blocks - status.swap_used_blocks;
        let is_anything_left = room >= 64 && status.private_pages > self.start.private_pages + 64;
        assert!(
            !is_anything_left || status.free_pages >= status.reserve_pages / 2,
            "the reserve is not kept, though there is something to reclaim: {status:?}"
        );
    }

    /// Ends what goes wrong, destroys all VMs, and checks that everything has come back.
    fn finish(mut self) -> Outcome {
        {
            let mut outside = self.lab.outside_mut();
            outside.disk.faults = crate::disk::DiskFaults::default();
            outside.allocation.chance = 0.0;
            outside.heap_room = None;
            outside.is_wire_full = false;
        }
        self.lab.turns(400);
        self.collect();
        let machine = self.check_figures();
        self.check_reserve(&machine);
        let faults = self.faults();
        // A creation that had to wait may be done only when others are gone.
        for _ in 0..20 {
            for vm in 1..=self.nr_vms {
                self.send(Operation::Stop { vm });
                self.send(Operation::Destroy { vm });
            }
            for _ in 0..20 {
                self.lab.turns(10);
                self.collect();
            }
            if self.asked.is_empty() && self.lab.status().vms == 1 {
                break;
            }
        }
        self.lab.turns(100);
        assert!(self.asked.is_empty(), "never answered: {:?}", self.asked);
        let after = self.check_figures();
        let used = |s: &MachineStatus| s.total_pages - s.free_pages - s.template_pages - s.table_pages;
        assert_eq!(used(&after), used(&self.start), "pages are lost: {:?} became {after:?}", self.start);
        assert_eq!((after.vms, after.waiting, after.parked), (1, 0, 0));
        assert_eq!((after.private_pages, after.packed_pages), (self.start.private_pages, 0));
        assert_eq!(after.swap_used_blocks, 0, "blocks are lost: {after:?}");
        assert_eq!(self.lab.frames_in_use(), 0, "frames are lost");
        assert_eq!(self.lab.outside().disk.nr_under_way(), 0);
        let desk = self.lab.desk();
        let count = |is_it: fn(&Event) -> bool| desk.events.iter().filter(|event| is_it(event)).count() as u64;
        Outcome {
            deeds: *self.deeds.borrow(),
            pages_lost: count(
                |event| matches!(event, Event::Ended { report, .. } if matches!(report.cause, Cause::PageLost { .. })),
            ),
            swap_failures: count(|event| matches!(event, Event::SwapFailed { .. })),
            faults,
            machine,
        }
    }

    fn faults(&mut self) -> (u64, u64) {
        let mut sum = (0, 0);
        for vm in 1..=self.nr_vms {
            if let Ok(Reply::Plain(Answer::Vm(status))) = self.lab.ask(Operation::Inspect { vm }) {
                sum.0 += status.counters.faults_packed;
                sum.1 += status.counters.faults_disk;
            }
        }
        sum
    }
}
