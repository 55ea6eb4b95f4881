//! Random runs against a model, named by their seeds: programs read and write memory, discard it, ask for random
//! bytes, print and send frames, while the supervisor creates, pauses, stops and destroys them. Every byte a
//! program reads must be the one its model has; every frame must arrive as it was sent; nothing may be lost.
//!
//! `FIRN_SEEDS=100000 cargo test -p simulator --test seeds --release` runs more of them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use simulator::bundle::{CONSTANTS, DATA, END, TEXT, fill_of};
use simulator::guest::rings;
use simulator::{Cpu, Fault, Lab, Op, Program};
use std::collections::BTreeMap;
use virtual_isa::control::{self, Pending};
use virtual_isa::gate::{GateError, MachineStatus, Operation};
use virtual_isa::instruction::{Instruction, InstructionError};
use virtual_isa::network::Network;

const MEMORY_PAGES: u32 = 1024;
const NR_VMS: u32 = 6;

fn below(random: &mut ChaCha8Rng, limit: u32) -> u32 {
    random.next_u32() % limit
}

/// One guest's idea of its memory: the bytes it has written, by page, at a fixed offset.
struct Guest {
    number: u32,
    random: ChaCha8Rng,
    model: BTreeMap<u32, u8>,
    waits_for_entropy: Option<u32>,
}

impl Guest {
    const OFFSET: u64 = 0x123;

    fn expected(&self, page: u32) -> u8 {
        self.model.get(&page).copied().unwrap_or(match page {
            TEXT..=DATA => fill_of(page),
            _ => 0,
        })
    }

    fn any_page(&mut self) -> u32 {
        loop {
            // Mostly few pages, so that they meet again; sometimes any.
            let page = match below(&mut self.random, 8) {
                0 => below(&mut self.random, MEMORY_PAGES),
                _ => TEXT + below(&mut self.random, 24),
            };
            if page != 0 && !(0x10..0x20).contains(&page) {
                return page;
            }
        }
    }

    fn send(&mut self, cpu: &mut Cpu<'_>) -> Result<(), Fault> {
        let n = Network::default();
        let to = 1 + below(&mut self.random, NR_VMS);
        let length = 34 + below(&mut self.random, 1480) as usize;
        let mut frame = vec![0u8; length];
        let mark = u8::try_from(length % 251).unwrap();
        frame[34..].fill(mark);
        frame[..6].copy_from_slice(&Network::SWITCH_MAC);
        frame[6..12].copy_from_slice(&Network::mac_of(self.number));
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[26..30].copy_from_slice(&n.ipv4_of(self.number));
        frame[30..34].copy_from_slice(&n.ipv4_of(to));
        cpu.push(&rings::TRANSMIT, &frame)?;
        Ok(())
    }

    fn receive(&mut self, cpu: &mut Cpu<'_>) -> Result<(), Fault> {
        while let Some(frame) = cpu.pop(&rings::RECEIVE)? {
            assert_eq!(frame[..6], Network::mac_of(self.number), "a frame for somebody else");
            let mark = u8::try_from(frame.len() % 251).unwrap();
            assert!(frame[34..].iter().all(|&b| b == mark), "a frame is not as it was sent");
        }
        Ok(())
    }
}

impl Program for Guest {
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        if let Some(page) = self.waits_for_entropy {
            if cpu.result() == Err(InstructionError::NoMemory) {
                self.waits_for_entropy = None;
                return Ok(Op::Compute);
            }
            assert_eq!(cpu.result(), Ok(1));
            let mut byte = [0];
            cpu.read(u64::from(page) * 4096 + Self::OFFSET, &mut byte)?;
            self.model.insert(page, byte[0]);
            self.waits_for_entropy = None;
        }
        // A step that faults is done again from the same random state.
        let before = self.random.clone();
        let op = self.act(cpu);
        if op.is_err() {
            self.random = before;
        }
        op
    }
}

impl Guest {
    fn act(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        cpu.set_control(control::ENABLED, Pending::RECEIVE.bits())?;
        let page = self.any_page();
        let at = u64::from(page) * 4096 + Self::OFFSET;
        match below(&mut self.random, 12) {
            0..4 => {
                let mut byte = [0];
                cpu.read(at, &mut byte)?;
                assert_eq!(byte[0], self.expected(page), "VM {} page {page:#x}", self.number);
            }
            4..7 if !(TEXT..=CONSTANTS).contains(&page) => {
                let value = self.random.next_u32().to_le_bytes()[0];
                cpu.write(at, &[value])?;
                self.model.insert(page, value);
            }
            7 => {
                let first = END + below(&mut self.random, 40);
                let pages = below(&mut self.random, 200);
                self.model.retain(|page, _| !(first..first + pages).contains(page));
                return Ok(Op::call(Instruction::Discard, &[u64::from(first) * 4096, u64::from(pages) * 4096]));
            }
            8 if !(TEXT..=CONSTANTS).contains(&page) => {
                self.waits_for_entropy = Some(page);
                return Ok(Op::call(Instruction::Entropy, &[at, 1]));
            }
            9 => {
                self.send(cpu)?;
                return Ok(Op::call(Instruction::Notify, &[1]));
            }
            10 => {
                cpu.set_control(control::PENDING, 0)?;
                self.receive(cpu)?;
                let pause = u64::from(below(&mut self.random, 3)) * 50_000;
                let mut deadline = [0; 8];
                cpu.read(virtual_isa::layout::CONTROL_PAGE + control::DEADLINE as u64, &mut deadline)?;
                return Ok(Op::call(Instruction::Idle, &[u64::from_le_bytes(deadline) + pause]));
            }
            _ => return Ok(Op::call(Instruction::Console, &[at, 20])),
        }
        Ok(Op::Compute)
    }
}

fn run(seed: u64) {
    let mut lab = Lab::new(1500, move |number| {
        let random = ChaCha8Rng::seed_from_u64(seed ^ (u64::from(number) << 32));
        Box::new(Guest { number, random, model: BTreeMap::new(), waits_for_entropy: None })
    });
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let before = lab.status();
    for _ in 0..30 {
        let vm = 1 + below(&mut random, NR_VMS);
        match below(&mut random, 8) {
            0..3 => drop(lab.create(vm)),
            3..5 => drop(lab.ask(Operation::Start { vm })),
            5 => drop(lab.ask(Operation::Pause { vm })),
            6 => drop(lab.ask(Operation::Stop { vm })),
            _ => drop(lab.ask(Operation::Destroy { vm })),
        }
        let now_and_then = below(&mut random, 4) == 0;
        lab.outside_mut().is_wire_full = now_and_then;
        lab.turns(below(&mut random, 12) as usize);
    }
    lab.outside_mut().is_wire_full = false;
    for vm in 1..=NR_VMS {
        let _ = lab.ask(Operation::Stop { vm });
        match lab.ask(Operation::Destroy { vm }) {
            Ok(_) | Err(GateError::NoSuchVm) => {}
            Err(e) => panic!("VM {vm} cannot be destroyed: {e}"),
        }
    }
    lab.turns(100);
    let after = lab.status();
    let nr_pages = |status: &MachineStatus| status.free_pages + status.template_pages;
    assert_eq!(nr_pages(&after), nr_pages(&before), "pages are lost");
    assert_eq!(lab.frames_in_use(), 0, "frames are lost");
    assert_eq!(after.vms, 1);
    let ended: Vec<_> =
        lab.outside().serial.lines().filter(|line| line.contains("violation")).map(String::from).collect();
    assert!(ended.is_empty(), "{ended:?}");
}

#[test]
fn random_runs_agree_with_the_model() {
    let seeds = std::env::var("FIRN_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    for seed in 0..seeds {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(panic);
        }
    }
}
