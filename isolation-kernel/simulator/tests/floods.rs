//! The network under load: shares of a slow wire, rates, floods, and what becomes of VMs that wait for the wire.

use simulator::guest::rings;
use simulator::{Cpu, Fault, Lab, LabPlan, Op, Program};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use virtual_isa::control::{self, Pending};
use virtual_isa::exception::{Cause, Ring};
use virtual_isa::gate::{ClassTerms, GateError, Operation, Tier, VmState};
use virtual_isa::instruction::{Instruction, NO_DEADLINE};
use virtual_isa::limits::MAX_RECEIVE_QUEUE_FRAMES;
use virtual_isa::network::Network;

/// Short frames that wait for a VM that takes none.
#[expect(clippy::cast_possible_truncation, reason = "it is 1,024")]
const KEPT: u32 = MAX_RECEIVE_QUEUE_FRAMES as u32;

/// A gigabit in a second would be 8; here the processor must be faster than the wire.
const NS_PER_BYTE: u64 = 50;

const MS: u64 = 1_000_000;

fn frame(vm: u32, to: [u8; 4], length: usize) -> Vec<u8> {
    let mut f = vec![0x55; length];
    f[..6].copy_from_slice(&Network::SWITCH_MAC);
    f[6..12].copy_from_slice(&Network::mac_of(vm));
    f[12..15].copy_from_slice(&[8, 0, 0x45]);
    f[26..30].copy_from_slice(&Network::default().ipv4_of(vm));
    f[30..34].copy_from_slice(&to);
    f
}

fn to_host(vm: u32, length: usize) -> Vec<u8> {
    frame(vm, Network::default().host_ipv4, length)
}

/// Sends a frame as often as there is room, once it is told to go.
fn greedy(frame: Vec<u8>, go: Rc<Cell<bool>>) -> Box<dyn Program> {
    Box::new(move |cpu: &mut Cpu<'_>| {
        cpu.set_control(control::PENDING, 0)?;
        cpu.set_control(control::ENABLED, Pending::TRANSMIT.bits())?;
        if !go.get() {
            return Ok(Op::call(Instruction::Idle, &[cpu.now() + 50 * MS]));
        }
        while cpu.push(&rings::TRANSMIT, &frame)? {}
        Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
    })
}

/// Sends a frame in each period, from a time on.
fn steady(frame: Vec<u8>, period_ns: u64, go: Rc<Cell<bool>>) -> Box<dyn Program> {
    let mut next = 0;
    Box::new(move |cpu: &mut Cpu<'_>| {
        cpu.set_control(control::PENDING, 0)?;
        cpu.set_control(control::ENABLED, 0)?;
        let now = cpu.now();
        if go.get() && now >= next && cpu.push(&rings::TRANSMIT, &frame)? {
            next = next.max(now - now % period_ns) + period_ns;
        }
        Ok(Op::call(Instruction::Idle, &[next.max(now + 1)]))
    })
}

/// Takes all that comes.
fn taker() -> Box<dyn Program> {
    Box::new(|cpu: &mut Cpu<'_>| {
        cpu.set_control(control::PENDING, 0)?;
        cpu.set_control(control::ENABLED, Pending::RECEIVE.bits())?;
        while cpu.pop(&rings::RECEIVE)?.is_some() {}
        Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
    })
}

fn sleeper() -> Box<dyn Program> {
    Box::new(|_: &mut Cpu<'_>| Ok(Op::call(Instruction::Idle, &[NO_DEADLINE])))
}

fn spinner() -> Box<dyn Program> {
    Box::new(|_: &mut Cpu<'_>| Ok(Op::Compute))
}

/// Starts a VM with these shares, of this class.
fn start(lab: &mut Lab, vm: u32, own_shares: u32, own_class: u32) {
    let mut creation = lab.creation(vm);
    if let Operation::Create { shares, class, .. } = &mut creation {
        (*shares, *class) = (own_shares, own_class);
    }
    lab.ask(creation).expect("the VM is created");
    lab.ask(Operation::Start { vm }).expect("the VM starts");
}

fn define(lab: &mut Lab, class: u32, frames_per_s: u32, bytes_per_s: u32) {
    let terms = ClassTerms { group: 1, reservation_ppm: 0, limit_ppm: 0, frames_per_s, bytes_per_s };
    lab.ask(Operation::Class { class, terms }).expect("the class is defined");
}

fn run_for(lab: &mut Lab, ns: u64) {
    let end = lab.outside().now + ns;
    while lab.outside().now < end {
        lab.turn();
    }
}

/// Frames and bytes that have come out since this was last asked, by their sender.
fn sent(lab: &Lab) -> BTreeMap<u32, (u64, u64)> {
    let mut outside = lab.outside_mut();
    outside.outgoing_at.clear();
    let mut sums: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for frame in std::mem::take(&mut outside.outgoing) {
        let mac = frame[6..12].try_into().expect("six bytes");
        let sum = sums.entry(Network::vm_with_mac(mac).expect("it is a VM's")).or_default();
        *sum = (sum.0 + 1, sum.1 + frame.len() as u64);
    }
    sums
}

#[test]
fn a_thousand_senders_get_bytes_of_a_slow_wire_by_their_shares() {
    // All lengths, so that nobody's frames fit a quantum.
    share_the_wire(1, 1000, |vm| 200 + (vm as usize * 131) % 1300, |_, _| true);
}

#[test]
fn a_ring_that_holds_two_frames_is_enough_for_large_shares() {
    share_the_wire(1, 1000, |_| 1514, |_, _| true);
}

#[test]
fn senders_on_all_cores_share_the_wire() {
    for cores in [2, 3] {
        share_the_wire(cores, 60, |vm| 200 + (vm as usize * 131) % 1300, |_, _| true);
    }
}

#[test]
fn few_senders_on_the_core_with_the_card_and_many_on_another_share_it_and_the_other_way_round() {
    for few in [0, 1] {
        share_the_wire(2, 60, |_| 1000, |vm, core| core != few || vm < 10);
    }
}

/// Some of the VMs send as fast as they can, with shares 1:2:4: those that `sends` says, by number and core.
fn share_the_wire(cores: u32, nr_vms: u32, length: fn(u32) -> usize, sends: impl Fn(u32, u32) -> bool) {
    let go: Rc<Vec<Rc<Cell<bool>>>> = Rc::new((0..=nr_vms).map(|_| Rc::default()).collect());
    let theirs = Rc::clone(&go);
    let plan = LabPlan::new(30 * nr_vms + 1000).cores(cores, 7);
    let mut lab = plan.boot(move |vm| greedy(to_host(vm, length(vm)), Rc::clone(&theirs[vm as usize])));
    let shares = |vm: u32| 100 << (vm % 3);
    for vm in 1..=nr_vms {
        start(&mut lab, vm, shares(vm), 0);
    }
    lab.outside_mut().wire_ns_per_byte = NS_PER_BYTE;
    let senders: Vec<u32> = (1..=nr_vms).filter(|&vm| sends(vm, lab.inspect(vm).core)).collect();
    senders.iter().for_each(|&vm| go[vm as usize].set(true));
    run_for(&mut lab, 500 * MS);
    sent(&lab);
    let mut bytes: BTreeMap<u32, u64> = BTreeMap::new();
    for _ in 0..50 {
        run_for(&mut lab, 100 * MS);
        for (vm, (_, more)) in sent(&lab) {
            *bytes.entry(vm).or_default() += more;
        }
    }
    let total: u64 = bytes.values().sum();
    assert!(total * NS_PER_BYTE > 4_900 * MS, "the wire was idle: {total} bytes in five seconds");
    let parts: Vec<f64> =
        senders.iter().map(|vm| *bytes.get(vm).unwrap_or(&0) as f64 / f64::from(shares(*vm))).collect();
    let (sum, squares) = (parts.iter().sum::<f64>(), parts.iter().map(|x| x * x).sum::<f64>());
    let index = sum * sum / (senders.len() as f64 * squares);
    println!("weighted Jain index of {} senders on {cores} cores: {index:.5}, {total} bytes", senders.len());
    assert!(index >= 0.99, "{index}");
}

#[test]
fn a_bound_on_the_wire_holds_and_is_used_up_and_shared() {
    for cores in [1, 2] {
        let go = Rc::new(Cell::new(true));
        let mut lab = LabPlan::new(3000).cores(cores, 3).boot(move |vm| greedy(to_host(vm, 700), Rc::clone(&go)));
        lab.core().set_wire_rate(10_000_000);
        for vm in 1..=8 {
            start(&mut lab, vm, 100 * vm, 0);
        }
        run_for(&mut lab, 200 * MS);
        sent(&lab);
        let begun = lab.outside().now;
        run_for(&mut lab, 1000 * MS);
        let (sent, elapsed) = (sent(&lab), (lab.outside().now - begun) as f64 / 1e9);
        let total: u64 = sent.values().map(|(_, bytes)| bytes).sum();
        assert!((0.98..=1.01).contains(&(total as f64 / (1e7 * elapsed))), "{cores} cores: {total} in {elapsed} s");
        for (vm, (_, bytes)) in sent {
            let due = total as f64 * f64::from(vm) / 36.0;
            assert!((0.95..=1.05).contains(&(bytes as f64 / due)), "{cores} cores: VM {vm} sent {bytes} of {due}");
        }
    }
}

#[test]
fn rates_hold_within_a_percent_and_their_vms_sleep_meanwhile() {
    let go = Rc::new(Cell::new(true));
    let mut lab = LabPlan::new(2000).boot(move |vm| greedy(to_host(vm, 500), Rc::clone(&go)));
    define(&mut lab, 1, 1000, 0);
    define(&mut lab, 2, 0, 2_000_000);
    define(&mut lab, 3, 700, 100_000);
    for vm in 1..=3 {
        start(&mut lab, vm, 100, vm);
    }
    run_for(&mut lab, 200 * MS);
    sent(&lab);
    let before: Vec<_> = (1..=3).map(|vm| lab.inspect(vm).counters).collect();
    let idle = lab.status().idle_ns;
    let start = lab.outside().now;
    sent(&lab);
    run_for(&mut lab, 10_000 * MS);
    let sent = sent(&lab);
    let elapsed = (lab.outside().now - start) as f64 / 1e9;
    for (vm, rate, count) in [(1, 1000.0, sent[&1].0), (2, 2_000_000.0, sent[&2].1), (3, 100_000.0, sent[&3].1)] {
        let ratio = count as f64 / (rate * elapsed);
        assert!((0.99..=1.01).contains(&ratio), "VM {vm}: {ratio}");
        let counters = lab.inspect(vm).counters;
        let dispatches = counters.dispatches - before[vm as usize - 1].dispatches;
        assert!(dispatches <= 12_000, "VM {vm} ran {dispatches} times in ten seconds");
        assert!(counters.waits_rate > 0);
    }
    let idle = (lab.status().idle_ns - idle) as f64 / 1e9;
    assert!(idle >= 0.7 * elapsed, "idle for {idle} s");
    assert_eq!(lab.status().senders_waiting, 0);
}

#[test]
fn a_rate_of_a_few_frames_lets_a_frame_through_when_it_is_time() {
    let go = Rc::new(Cell::new(true));
    let mut lab = LabPlan::new(2000).boot(move |vm| greedy(to_host(vm, 1514), Rc::clone(&go)));
    // Less in a second than the longest frame has bytes.
    define(&mut lab, 1, 0, 1000);
    start(&mut lab, 1, 100, 1);
    run_for(&mut lab, 15_140 * MS);
    let frames = sent(&lab)[&1].0;
    assert!((10..=11).contains(&frames), "{frames}");
    // The VM ends while it waits for time to pass, and nothing is left of it.
    lab.destroy(1);
    sent(&lab);
    run_for(&mut lab, 2000 * MS);
    assert!(sent(&lab).is_empty());
    assert_eq!(lab.frames_in_use(), 0);
}

#[test]
fn a_vm_that_has_used_up_its_burst_is_not_parked_before_it_has_it_again() {
    let mut lab = LabPlan::new(2000).boot(|_| {
        let mut left = 5;
        Box::new(move |cpu: &mut Cpu<'_>| {
            while left > 0 && cpu.push(&rings::TRANSMIT, &to_host(1, 60))? {
                left -= 1;
            }
            Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
        })
    });
    // Five frames at once, and one in 10 ms.
    define(&mut lab, 1, 100, 0);
    start(&mut lab, 1, 100, 1);
    lab.until("its frames", |lab| lab.outside().outgoing.len() == 5);
    assert_eq!(lab.park(1, Tier::Memory), Err(GateError::BadState));
    run_for(&mut lab, 50 * MS);
    lab.park_fully(1, Tier::Memory);
}

#[test]
fn a_victim_keeps_its_share_of_the_wire_beside_greedy_senders() {
    for attackers in [1u32, 100] {
        const VICTIM: u32 = 200;
        let go = Rc::new(Cell::new(false));
        let theirs = Rc::clone(&go);
        let mut lab = LabPlan::new(8000).cores(1, 0).boot(move |vm| match vm {
            VICTIM => steady(to_host(vm, 100), MS, Rc::clone(&theirs)),
            _ => greedy(to_host(vm, 1514), Rc::clone(&theirs)),
        });
        for vm in (1..=attackers).chain([VICTIM]) {
            start(&mut lab, vm, 100, 0);
        }
        lab.outside_mut().wire_ns_per_byte = NS_PER_BYTE;
        go.set(true);
        run_for(&mut lab, 200 * MS);
        sent(&lab);
        run_for(&mut lab, 1000 * MS);
        let times: Vec<u64> = {
            let outside = lab.outside();
            let is_its = |f: &[u8]| f[6..12] == Network::mac_of(VICTIM);
            let pairs = outside.outgoing.iter().zip(&outside.outgoing_at);
            pairs.filter(|(f, _)| is_its(f)).map(|(_, at)| *at).collect()
        };
        let longest_gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!((980..=1020).contains(&times.len()), "{} of 1000 beside {attackers}", times.len());
        // A round of the others, and what the card has queued already.
        let round = u64::from(attackers) * (2048 + 1514) * NS_PER_BYTE + 9 * 1514 * NS_PER_BYTE + MS;
        assert!(longest_gap <= round + MS, "{longest_gap} ns between frames beside {attackers}");
    }
}

#[test]
fn frames_between_vms_do_not_wait_for_a_full_wire() {
    let mut lab = LabPlan::new(2000).boot(|vm| match vm {
        1 => greedy(to_host(1, 1000), Rc::new(Cell::new(true))),
        2 => steady(frame(2, Network::default().ipv4_of(3), 100), MS, Rc::new(Cell::new(true))),
        _ => taker(),
    });
    lab.outside_mut().is_wire_full = true;
    for vm in 1..=3 {
        lab.start(vm);
    }
    run_for(&mut lab, 100 * MS);
    assert_eq!(lab.status().senders_waiting, 1);
    let received = lab.inspect(3).counters.frames_received;
    assert!(received >= 99, "{received}");
}

#[test]
fn a_vm_that_spins_alone_does_not_keep_others_from_the_wire() {
    let mut lab = LabPlan::new(2000).cores(1, 0).boot(|vm| match vm {
        1 => {
            let mut left = 30;
            Box::new(move |cpu: &mut Cpu<'_>| {
                cpu.set_control(control::PENDING, 0)?;
                cpu.set_control(control::ENABLED, Pending::TRANSMIT.bits())?;
                while left > 0 && cpu.push(&rings::TRANSMIT, &to_host(1, 100))? {
                    left -= 1;
                }
                Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
            })
        }
        _ => spinner(),
    });
    lab.outside_mut().wire_ns_per_byte = 100;
    lab.start(2);
    let begun = lab.outside().now;
    lab.start(1);
    run_for(&mut lab, 40 * MS);
    let outside = lab.outside();
    assert_eq!(outside.outgoing.len(), 30);
    // Thirty frames take 300 us; the card holds eight, and a quantum is 4 ms. Once begun it must not stop.
    let gap = outside.outgoing_at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(gap <= 300_000, "the wire was idle for {gap} ns, begun at {begun}: {:?}", outside.outgoing_at);
}

#[test]
fn who_sends_pays_for_telling_the_card() {
    let mut lab = LabPlan::new(2000).cores(1, 0).boot(|vm| match vm {
        1 => steady(to_host(1, 100), 2 * MS, Rc::new(Cell::new(true))),
        _ => spinner(),
    });
    lab.start(1);
    lab.start(2);
    lab.outside_mut().has_costs = true;
    let (before, sent_before) = ([1, 2].map(|vm| lab.inspect(vm).counters.kernel_ns), lab.status().frames_out);
    run_for(&mut lab, 1000 * MS);
    let (after, sent) = ([1, 2].map(|vm| lab.inspect(vm).counters.kernel_ns), lab.status().frames_out - sent_before);
    assert!(sent >= 400, "{sent}");
    // Each frame is told of by itself, long after the next VM runs.
    let told_ns = sent * 10_000;
    assert!(after[0] - before[0] >= told_ns, "{} of {told_ns} ns", after[0] - before[0]);
}

#[test]
fn a_flood_from_the_wire_costs_nobody_else_a_frame() {
    let mut lab = LabPlan::new(2000).cores(1, 0).boot(|vm| if vm == 2 { taker() } else { sleeper() });
    lab.start(1);
    lab.start(2);
    for _ in 0..2000 {
        for _ in 0..50 {
            lab.frame_to(1, 60, 1);
        }
        lab.frame_to(2, 60, 1);
        lab.turn();
    }
    lab.turns(100);
    let (one, two) = (lab.inspect(1).counters, lab.inspect(2).counters);
    assert_eq!((two.frames_received, two.drops_queue_full, two.drops_no_buffer), (2000, 0, 0));
    // Its queue has ended where the pool of this machine, or the longest queue, had it end.
    let kept = lab.frames_in_use();
    assert!((100..=KEPT as usize).contains(&kept), "{kept}");
    assert_eq!((one.drops_queue_full + one.drops_no_buffer) as usize, 50 * 2000 - kept);
    let status = lab.status();
    let of_one = (u64::from(one.drops_queue_full), u64::from(one.drops_no_buffer));
    assert_eq!((status.drops_queue_full, status.drops_no_buffer), of_one);
}

#[test]
fn a_flood_is_looked_at_in_bounded_batches_while_a_vm_runs() {
    let mut lab = LabPlan::new(2000).cores(1, 0).boot(|vm| if vm == 2 { spinner() } else { sleeper() });
    lab.start(1);
    lab.start(2);
    for _ in 0..50_000 {
        lab.frame_to(1, 60, 1);
    }
    let (before, start) = (lab.status().frames_in, lab.outside().now);
    run_for(&mut lab, 20 * MS);
    let (taken, elapsed) = (lab.status().frames_in - before, lab.outside().now - start);
    let batches = elapsed / 100_000;
    assert!(taken <= 64 * (batches + 2), "{taken} frames in {elapsed} ns");
    assert!(taken >= 64 * batches / 2, "{taken} frames in {elapsed} ns: the wire is not looked after");
    assert!(lab.inspect(2).counters.guest_ns >= elapsed / 2);
}

#[test]
fn a_vm_that_floods_its_neighbour_hurts_neither_the_pool_nor_a_third() {
    let to_two = frame(1, Network::default().ipv4_of(2), 60);
    let mut lab = LabPlan::new(2000).cores(1, 0).boot(move |vm| match vm {
        1 => greedy(to_two.clone(), Rc::new(Cell::new(true))),
        3 => taker(),
        _ => sleeper(),
    });
    for vm in [2, 3, 1] {
        lab.start(vm);
    }
    for _ in 0..20 {
        lab.frame_to(3, 60, 1);
        lab.turns(2);
    }
    lab.until("the victim to have taken all", |lab| lab.inspect(3).counters.frames_received == 20);
    let two = lab.inspect(2).counters;
    assert!(two.drops_queue_full + two.drops_no_buffer > 10_000, "{two:?}");
    assert!(lab.frames_in_use() <= KEPT as usize + 1);
    assert_eq!(lab.inspect(1).counters.drops_unroutable, 0);
    assert_eq!(lab.inspect(3).counters.drops_queue_full, 0);
}

#[test]
fn a_corrupt_ring_of_a_vm_that_waits_ends_it_and_the_next_is_served() {
    let mut lab = LabPlan::new(2000).boot(|vm| {
        let mut step = 0;
        Box::new(move |cpu: &mut Cpu<'_>| -> Result<Op, Fault> {
            if step == 0 {
                cpu.push(&rings::TRANSMIT, &to_host(vm, 100))?;
            } else if step == 1 && vm == 1 {
                // The kernel has seen the frame, and waits with it.
                cpu.set_control(control::TRANSMIT_HEAD, 4097)?;
            }
            step += 1;
            let is_done = step > 2;
            let (instruction, argument) =
                if is_done { (Instruction::Idle, NO_DEADLINE) } else { (Instruction::Notify, 1) };
            Ok(Op::call(instruction, &[argument]))
        })
    });
    lab.outside_mut().is_wire_full = true;
    lab.start(1);
    lab.start(2);
    lab.turns(20);
    assert!(lab.report_now(1).is_some() || lab.status().senders_waiting == 2);
    lab.outside_mut().is_wire_full = false;
    let report = lab.report(1);
    assert!(matches!(report.cause, Cause::RingCorrupt { ring: Ring::Transmit, head: 4097, .. }));
    lab.until("the other's frame", |lab| !lab.outside().outgoing.is_empty());
    lab.turns(50);
    assert_eq!((lab.status().senders_waiting, lab.frames_in_use()), (0, 0));
    assert_eq!(lab.inspect(2).state, VmState::Idle);
}

#[test]
fn a_number_that_is_used_again_while_it_waits_waits_once() {
    let mut lab = LabPlan::new(2000).boot(|vm| greedy(to_host(vm, 500), Rc::new(Cell::new(true))));
    lab.outside_mut().is_wire_full = true;
    for _ in 0..10 {
        lab.start(1);
        lab.until("it to wait", |lab| {
            lab.turns(2);
            lab.inspect(1).counters.waits_wire == 1
        });
        assert_eq!(lab.status().senders_waiting, 1);
        lab.destroy(1);
    }
    lab.start(2);
    lab.turns(50);
    lab.outside_mut().is_wire_full = false;
    lab.outside_mut().wire_ns_per_byte = NS_PER_BYTE;
    run_for(&mut lab, 10 * MS);
    assert!(sent(&lab)[&2].0 > 100);
    lab.destroy(2);
    run_for(&mut lab, 10 * MS);
    assert_eq!((lab.status().senders_waiting, lab.frames_in_use()), (0, 0));
}

#[test]
fn a_look_at_the_wire_that_was_put_off_does_not_keep_the_core_awake() {
    // One that computes for a while now and then. Interrupts of the serial line have the wire looked at too.
    let mut lab = LabPlan::new(2000).cores(1, 0).boot(|_| {
        let mut steps = 0;
        Box::new(move |cpu: &mut Cpu<'_>| {
            steps += 1;
            cpu.set_control(control::PENDING, 0)?;
            cpu.set_control(control::ENABLED, Pending::TIMER.bits())?;
            Ok(if steps % 300 == 0 { Op::call(Instruction::Idle, &[cpu.now() + 20 * MS]) } else { Op::Compute })
        })
    });
    lab.start(1);
    for _ in 0..40 {
        // Two interrupts, one shortly after the other, before it sleeps again.
        lab.outside_mut().typed_later.extend([(90, b'a'), (20, b'b'), (90, b'c'), (20, b'd')]);
        lab.turns(20);
    }
    let before = lab.status();
    lab.turns(400);
    let after = lab.status();
    let (idle, elapsed) = (after.idle_ns - before.idle_ns, after.uptime_ns - before.uptime_ns);
    assert!(elapsed > 40 * MS && idle > elapsed / 2, "{idle} of {elapsed} idle");
}
