//! VMs behind a gateway: what they send and what is sent to them goes through it, whatever state it is in.

use simulator::guest::rings;
use simulator::{Cpu, Fault, Lab, LabPlan, Op, Program};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use virtual_isa::control::{self, Pending};
use virtual_isa::gate::{GateError, Operation, Tier};
use virtual_isa::instruction::{Instruction, NO_DEADLINE};
use virtual_isa::network::Network;

/// The gateway of [`WARDS`].
const GATEWAY: u32 = 1;

/// VMs behind it: two.
const WARDS: u32 = 2;

/// A VM like any other.
const PEER: u32 = 4;

const NR_VMS: u32 = 5;

/// Bytes of the frames that are sent.
const LENGTH: usize = 60;

fn network() -> Network {
    Network::default()
}

fn packet(source_mac: [u8; 6], from: [u8; 4], to: [u8; 4], mark: u8) -> Vec<u8> {
    let mut f = vec![mark; LENGTH];
    f[..6].copy_from_slice(&Network::SWITCH_MAC);
    f[6..12].copy_from_slice(&source_mac);
    f[12..15].copy_from_slice(&[8, 0, 0x45]);
    f[26..30].copy_from_slice(&from);
    f[30..34].copy_from_slice(&to);
    f
}

#[derive(Default)]
struct Post {
    to_send: VecDeque<Vec<u8>>,
    received: Vec<Vec<u8>>,
}

impl Post {
    fn has(&self, mark: u8) -> bool {
        self.received.iter().any(|frame| frame.ends_with(&[mark]))
    }
}

/// Sends what it is given and keeps what it gets. One that forwards sends on what is not for itself.
struct Mailbox {
    vm: u32,
    forwards: bool,
    post: Rc<RefCell<Post>>,
}

impl Program for Mailbox {
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        let mut post = self.post.borrow_mut();
        cpu.set_control(control::PENDING, 0)?;
        cpu.set_control(control::ENABLED, (Pending::RECEIVE | Pending::TIMER).bits())?;
        while let Some(frame) = cpu.pop(&rings::RECEIVE)? {
            if self.forwards && frame[30..34] != network().ipv4_of(self.vm) {
                let mut on = frame.clone();
                on[..6].copy_from_slice(&Network::SWITCH_MAC);
                on[6..12].copy_from_slice(&Network::mac_of(self.vm));
                post.to_send.push_back(on);
            }
            post.received.push(frame);
        }
        while let Some(frame) = post.to_send.front() {
            if !cpu.push(&rings::TRANSMIT, frame)? {
                return Ok(Op::call(Instruction::Notify, &[1]));
            }
            post.to_send.pop_front();
        }
        Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
    }
}

struct Bench {
    lab: Lab,
    posts: Vec<Rc<RefCell<Post>>>,
}

impl Bench {
    /// A machine with all VMs, of which these forward, and [`WARDS`] behind [`GATEWAY`].
    fn new(cores: u32, forward: &'static [u32]) -> Self {
        let posts: Vec<_> = (0..=NR_VMS).map(|_| Rc::new(RefCell::new(Post::default()))).collect();
        let theirs = posts.clone();
        let plan = LabPlan::new(4096).disk(1000).cores(cores, 7);
        let mut lab = plan.boot(move |vm| {
            Box::new(Mailbox { vm, forwards: forward.contains(&vm), post: Rc::clone(&theirs[vm as usize]) })
        });
        set(&mut lab, WARDS, 2, Some(GATEWAY)).unwrap();
        for vm in 1..=NR_VMS {
            lab.start(vm);
        }
        lab.turns(40 * cores as usize);
        Self { lab, posts }
    }

    /// A VM sends a packet.
    fn send(&mut self, vm: u32, from: [u8; 4], to: [u8; 4], mark: u8) {
        self.post(vm, packet(Network::mac_of(vm), from, to, mark));
    }

    fn post(&mut self, vm: u32, frame: Vec<u8>) {
        self.posts[vm as usize].borrow_mut().to_send.push_back(frame);
        // It is woken by something from its gateway, or from the host.
        match (WARDS..WARDS + 2).contains(&vm) {
            true => {
                let wake = packet(Network::mac_of(GATEWAY), network().ipv4_of(GATEWAY), network().ipv4_of(vm), 0);
                self.posts[GATEWAY as usize].borrow_mut().to_send.push_back(wake);
                self.lab.frame_to(GATEWAY, LENGTH, 0);
            }
            false => self.lab.frame_to(vm, LENGTH, 0),
        }
        self.lab.turns(120);
    }

    fn send_from_host(&mut self, to: u32, mark: u8) {
        self.lab.frame_to(to, LENGTH, mark);
        self.lab.turns(120);
    }

    fn has(&self, vm: u32, mark: u8) -> bool {
        self.posts[vm as usize].borrow().has(mark)
    }

    fn is_on_wire(&self, mark: u8) -> bool {
        self.lab.outside().outgoing.iter().any(|frame| frame.ends_with(&[mark]))
    }
}

fn set(lab: &mut Lab, first: u32, count: u32, through: Option<u32>) -> Result<(), GateError> {
    lab.ask(Operation::Gateway { first, count, through }).map(drop)
}

fn all_ways(cores: u32) {
    let mut b = Bench::new(cores, &[GATEWAY]);
    let n = network();
    let [ward, other, peer] = [WARDS, WARDS + 1, PEER].map(|vm| n.ipv4_of(vm));
    b.send_from_host(WARDS, 11);
    b.send(WARDS, ward, n.host_ipv4, 12);
    b.send(WARDS, ward, [192, 0, 2, 1], 13);
    b.send(WARDS, ward, other, 14);
    b.send(WARDS, ward, peer, 15);
    b.send(PEER, peer, ward, 16);
    b.send(WARDS, ward, ward, 17);
    b.send(PEER, peer, n.ipv4_of(NR_VMS), 18);
    let arrived = [(WARDS, 11), (WARDS + 1, 14), (PEER, 15), (WARDS, 16), (NR_VMS, 18)];
    for (vm, mark) in arrived {
        assert!(b.has(vm, mark), "{mark} reaches VM {vm} with {cores} cores");
    }
    assert!(b.is_on_wire(12) && b.is_on_wire(13));
    let seen: Vec<bool> = (11..=18).map(|mark| b.has(GATEWAY, mark)).collect();
    assert_eq!(seen, [true, true, true, true, true, true, true, false], "all but what passes between others");
    // Who a packet is from is for the gateway to say; the frame is the gateway's.
    let post = b.posts[WARDS as usize].borrow();
    let frame = post.received.iter().find(|frame| frame.ends_with(&[16])).unwrap();
    assert_eq!((&frame[6..12], &frame[26..30]), (&Network::mac_of(GATEWAY)[..], &peer[..]));
    drop(post);
    assert!(!b.has(WARDS, 17), "nobody is told that it has sent something itself");
    assert_eq!(b.lab.frames_in_use(), 0);
}

#[test]
fn frames_of_wards_go_through_the_gateway_both_ways() {
    for cores in 1..=3 {
        all_ways(cores);
    }
}

#[test]
fn there_is_no_way_around_a_gateway_that_forwards_nothing() {
    let mut b = Bench::new(1, &[]);
    let n = network();
    let [ward, other, peer] = [WARDS, WARDS + 1, PEER].map(|vm| n.ipv4_of(vm));
    let mut direct = packet(Network::mac_of(WARDS), ward, other, 21);
    direct[..6].copy_from_slice(&Network::mac_of(WARDS + 1));
    b.post(WARDS, direct);
    let mut to_host = packet(Network::mac_of(WARDS), ward, n.host_ipv4, 22);
    to_host[..6].copy_from_slice(&n.host_mac);
    b.post(WARDS, to_host);
    let mut to_ward = packet(Network::mac_of(PEER), peer, ward, 23);
    to_ward[..6].copy_from_slice(&Network::mac_of(WARDS));
    b.post(PEER, to_ward);
    b.send_from_host(WARDS, 24);
    for mark in 21..=24 {
        assert!(b.has(GATEWAY, mark), "{mark}");
        assert!(!b.has(WARDS, mark) && !b.has(WARDS + 1, mark) && !b.is_on_wire(mark), "{mark}");
    }
}

#[test]
fn only_the_gateway_speaks_for_its_wards_and_for_no_one_else() {
    let mut b = Bench::new(1, &[]);
    let n = network();
    let [ward, other, peer] = [WARDS, WARDS + 1, PEER].map(|vm| n.ipv4_of(vm));
    b.send(PEER, ward, n.host_ipv4, 31);
    b.send(PEER, ward, other, 32);
    b.send(WARDS, other, n.host_ipv4, 33);
    b.send(GATEWAY, peer, n.host_ipv4, 34);
    b.send(GATEWAY, peer, n.ipv4_of(NR_VMS), 35);
    // From a ward to itself: it must not look as if it had said that.
    b.send(GATEWAY, ward, ward, 36);
    for mark in 31..=36 {
        assert!((1..=NR_VMS).all(|vm| !b.has(vm, mark)) && !b.is_on_wire(mark), "{mark}");
    }
    assert_eq!([PEER, WARDS, GATEWAY].map(|vm| b.lab.inspect(vm).counters.drops_spoofed), [2, 1, 3]);
    // For its wards it may speak, to everybody; and to them for everybody.
    b.send(GATEWAY, ward, n.host_ipv4, 37);
    b.send(GATEWAY, ward, peer, 38);
    b.send(GATEWAY, [192, 0, 2, 1], other, 39);
    assert!(b.is_on_wire(37) && b.has(PEER, 38) && b.has(WARDS + 1, 39));
    // No longer, once they are behind it no more.
    set(&mut b.lab, WARDS, 2, None).unwrap();
    b.send(GATEWAY, ward, n.host_ipv4, 40);
    b.send_from_host(WARDS, 41);
    assert!(!b.is_on_wire(40) && b.has(WARDS, 41) && !b.has(GATEWAY, 41));
}

#[test]
fn a_gateway_that_is_not_there_lets_nothing_through() {
    for is_destroyed in [false, true] {
        let mut b = Bench::new(1, &[GATEWAY]);
        b.lab.ask(Operation::Stop { vm: GATEWAY }).unwrap();
        b.lab.report(GATEWAY);
        if is_destroyed {
            b.lab.destroy(GATEWAY);
        }
        let before = b.lab.status().drops_unroutable;
        b.send_from_host(WARDS, 51);
        assert!(!b.has(WARDS, 51));
        assert_eq!(b.lab.status().drops_unroutable, before + 1);
        b.send_from_host(PEER, 52);
        assert!(b.has(PEER, 52), "others go on");
        assert_eq!(b.lab.frames_in_use(), 0);
    }
}

#[test]
fn a_gateway_that_is_parked_is_woken() {
    for tier in [Tier::Memory, Tier::Disk] {
        let mut b = Bench::new(1, &[GATEWAY]);
        b.lab.park_fully(GATEWAY, tier);
        b.lab.park_fully(WARDS, tier);
        b.send_from_host(WARDS, 61);
        b.lab.until("the ward to have it", |lab| {
            lab.turns(10);
            b.posts[WARDS as usize].borrow().has(61)
        });
        assert!(b.has(GATEWAY, 61));
    }
}

#[test]
fn packets_between_wards_of_two_gateways_go_through_both() {
    let mut b = Bench::new(1, &[GATEWAY, NR_VMS]);
    set(&mut b.lab, PEER, 1, Some(NR_VMS)).unwrap();
    let [ward, peer] = [WARDS, PEER].map(|vm| network().ipv4_of(vm));
    b.send(WARDS, ward, peer, 71);
    for vm in [GATEWAY, NR_VMS, PEER] {
        assert!(b.has(vm, 71), "VM {vm}");
    }
}

#[test]
fn a_flood_through_a_gateway_that_forwards_costs_others_nothing() {
    // Two gateways whose wards send to each other: what goes round is bounded by their rings and queues.
    let mut b = Bench::new(1, &[GATEWAY, NR_VMS, PEER]);
    set(&mut b.lab, PEER, 1, Some(NR_VMS)).unwrap();
    for _ in 0..500 {
        b.lab.frame_to(WARDS, LENGTH, 81);
        b.lab.frame_to(PEER, LENGTH, 81);
    }
    b.lab.turns(2000);
    b.send_from_host(WARDS + 1, 82);
    assert!(b.has(WARDS + 1, 82));
    b.lab.turns(500);
    assert_eq!(b.lab.frames_in_use(), 0, "everything has gone somewhere");
}

#[test]
fn what_cannot_be_set_is_refused_and_changes_nothing() {
    let mut b = Bench::new(1, &[GATEWAY]);
    for (first, count, through) in [
        (0, 1, Some(GATEWAY)),
        (PEER, 0, Some(GATEWAY)),
        (PEER, u32::MAX, Some(GATEWAY)),
        (PEER, 2, Some(NR_VMS)),
        (PEER, 1, Some(0)),
        (PEER, 1, Some(u32::MAX)),
        // Behind one that is behind another, and in front of one that is in front.
        (PEER, 1, Some(WARDS)),
        (GATEWAY, 1, Some(PEER)),
        (WARDS, 1, Some(PEER)),
        (PEER, 1, None),
    ] {
        assert_eq!(set(&mut b.lab, first, count, through), Err(GateError::BadArgument), "{first} {count} {through:?}");
    }
    b.send_from_host(WARDS, 91);
    assert!(b.has(WARDS, 91) && b.has(GATEWAY, 91));
}
