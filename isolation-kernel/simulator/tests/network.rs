//! Frames between VMs and the wire, and every way in which they are dropped.

use simulator::guest::rings;
use simulator::{Cpu, Fault, Lab, Op, Program};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use virtual_isa::control::{self, Pending};
use virtual_isa::gate::{Event, VmState};
use virtual_isa::instruction::{Instruction, NO_DEADLINE};
use virtual_isa::limits::{MAX_RECEIVE_QUEUE_BYTES, MAX_RECEIVE_QUEUE_FRAMES};
use virtual_isa::network::{Network, ipv6_of};

fn ipv4(from: [u8; 4], to: [u8; 4], source_mac: [u8; 6], length: usize, mark: u8) -> Vec<u8> {
    let mut f = vec![mark; length.max(34)];
    f[..6].copy_from_slice(&Network::SWITCH_MAC);
    f[6..12].copy_from_slice(&source_mac);
    f[12..15].copy_from_slice(&[8, 0, 0x45]);
    f[26..30].copy_from_slice(&from);
    f[30..34].copy_from_slice(&to);
    f.truncate(length);
    f
}

fn from_vm(vm: u32, to: [u8; 4], length: usize, mark: u8) -> Vec<u8> {
    ipv4(Network::default().ipv4_of(vm), to, Network::mac_of(vm), length, mark)
}

fn from_host(vm: u32, length: usize, mark: u8) -> Vec<u8> {
    let n = Network::default();
    ipv4(n.host_ipv4, n.ipv4_of(vm), n.host_mac, length, mark)
}

#[derive(Default)]
struct Post {
    to_send: VecDeque<Vec<u8>>,
    received: Vec<Vec<u8>>,
    sleeps: u32,
}

/// Sends what it is given, keeps what it gets, sleeps.
struct Mailbox(Rc<RefCell<Post>>);

impl Program for Mailbox {
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        let mut post = self.0.borrow_mut();
        cpu.set_control(control::PENDING, 0)?;
        cpu.set_control(control::ENABLED, (Pending::RECEIVE | Pending::TIMER).bits())?;
        while let Some(frame) = cpu.pop(&rings::RECEIVE)? {
            post.received.push(frame);
        }
        while let Some(frame) = post.to_send.front() {
            if !cpu.push(&rings::TRANSMIT, frame)? {
                return Ok(Op::call(Instruction::Notify, &[1]));
            }
            post.to_send.pop_front();
        }
        post.sleeps += 1;
        Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
    }
}

fn lab(nr_vms: u32) -> (Lab, Vec<Rc<RefCell<Post>>>) {
    let posts: Vec<_> = (0..=nr_vms).map(|_| Rc::new(RefCell::new(Post::default()))).collect();
    let theirs = posts.clone();
    let mut lab = Lab::new(4096, move |vm| Box::new(Mailbox(Rc::clone(&theirs[vm as usize]))));
    for vm in 1..=nr_vms {
        lab.start(vm);
    }
    lab.turns(20);
    (lab, posts)
}

/// Wakes a mailbox, so that it sends what it was given.
fn poke(lab: &mut Lab, vm: u32) {
    lab.outside_mut().incoming.push_back(from_host(vm, 60, 0));
    lab.turns(20);
}

#[test]
fn frames_from_the_wire_reach_the_right_vm_and_wake_no_other() {
    let (mut lab, posts) = lab(3);
    let sleeps: Vec<u32> = posts.iter().map(|post| post.borrow().sleeps).collect();
    for length in [34, 60, 1000, 1514] {
        lab.outside_mut().incoming.push_back(from_host(2, length, 5));
    }
    lab.turns(20);
    let lengths: Vec<usize> = posts[2].borrow().received.iter().map(Vec::len).collect();
    assert_eq!(lengths, [34, 60, 1000, 1514]);
    assert!(
        posts[2]
            .borrow()
            .received
            .iter()
            .all(|f| f[..6] == Network::mac_of(2) && f.ends_with(&[10, 65, 0, 2]) | f.ends_with(&[5]))
    );
    assert_eq!(posts[1].borrow().sleeps, sleeps[1]);
    assert_eq!(posts[3].borrow().sleeps, sleeps[3]);
}

#[test]
fn vms_reach_each_other_the_host_and_themselves() {
    let (mut lab, posts) = lab(2);
    let n = Network::default();
    {
        let mut post = posts[1].borrow_mut();
        post.to_send.push_back(from_vm(1, n.ipv4_of(2), 100, 21));
        post.to_send.push_back(from_vm(1, n.host_ipv4, 200, 22));
        post.to_send.push_back(from_vm(1, n.ipv4_of(1), 300, 23));
    }
    poke(&mut lab, 1);
    assert_eq!(posts[2].borrow().received.last().unwrap().len(), 100);
    let out = lab.outside().outgoing.clone();
    assert_eq!(out.len(), 1, "what is meant for a VM never leaves the machine");
    assert_eq!((out[0].len(), &out[0][..6]), (200, &n.host_mac[..]));
    assert_eq!(posts[1].borrow().received.last().unwrap().len(), 300);
    let counters = lab.inspect(1).counters;
    assert_eq!((counters.frames_sent, counters.frames_received), (3, 2));
    assert_eq!(lab.frames_in_use(), 0);
}

/// A datagram over IPv6.
fn ipv6(from: [u8; 4], to: [u8; 4], source_mac: [u8; 6], length: usize, mark: u8) -> Vec<u8> {
    let mut f = vec![mark; length.max(54)];
    f[..6].copy_from_slice(&Network::SWITCH_MAC);
    f[6..12].copy_from_slice(&source_mac);
    f[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    f[20..22].copy_from_slice(&[17, 64]);
    f[22..38].copy_from_slice(&ipv6_of(from));
    f[38..54].copy_from_slice(&ipv6_of(to));
    f
}

/// A question for the Ethernet address of an IPv6 address.
fn solicitation(from: [u8; 4], source_mac: [u8; 6], sought: [u8; 4]) -> Vec<u8> {
    let mut f = ipv6(from, sought, source_mac, 86, 0);
    f[..6].copy_from_slice(&[0x33, 0x33, 0xff, sought[1], sought[2], sought[3]]);
    f[18..22].copy_from_slice(&[0, 32, 58, 255]);
    f[38..54].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, sought[1], sought[2], sought[3]]);
    f[54..56].copy_from_slice(&[135, 0]);
    f[62..78].copy_from_slice(&ipv6_of(sought));
    f
}

#[test]
fn ipv6_reaches_vms_and_host_as_ipv4_does() {
    let (mut lab, posts) = lab(2);
    let n = Network::default();
    let (one, two) = (n.ipv4_of(1), n.ipv4_of(2));
    {
        let mut post = posts[1].borrow_mut();
        post.to_send.push_back(ipv6(one, two, Network::mac_of(1), 100, 21));
        post.to_send.push_back(ipv6(one, n.host_ipv4, Network::mac_of(1), 200, 22));
        post.to_send.push_back(ipv6(two, n.host_ipv4, Network::mac_of(1), 60, 23));
    }
    poke(&mut lab, 1);
    let received = posts[2].borrow().received.last().unwrap().clone();
    assert_eq!((received.len(), &received[..6], received[99]), (100, &Network::mac_of(2)[..], 21));
    let out = lab.outside().outgoing.clone();
    assert_eq!((out.len(), out[0].len(), &out[0][..6]), (1, 200, &n.host_mac[..]));
    assert_eq!(lab.inspect(1).counters.drops_spoofed, 1);
    lab.outside_mut().incoming.push_back(ipv6(n.host_ipv4, two, n.host_mac, 300, 24));
    lab.turns(20);
    assert_eq!(posts[2].borrow().received.last().unwrap().len(), 300);
    assert_eq!(lab.frames_in_use(), 0);
}

#[test]
fn neighbours_are_found_without_waking_them() {
    let (mut lab, posts) = lab(2);
    let n = Network::default();
    let sleeps = posts[2].borrow().sleeps;
    for sought in [n.ipv4_of(2), n.switch_ipv4, n.ipv4_of(1000)] {
        lab.outside_mut().incoming.push_back(solicitation(n.host_ipv4, n.host_mac, sought));
    }
    lab.turns(20);
    let out = lab.outside().outgoing.clone();
    let answers: Vec<_> = out.iter().map(|f| (f[54], f[62..78].to_vec(), f[80..86].to_vec())).collect();
    let expected = [(n.ipv4_of(2), Network::mac_of(2)), (n.switch_ipv4, Network::SWITCH_MAC)];
    assert_eq!(answers, expected.map(|(ipv4, mac)| (136, ipv6_of(ipv4).to_vec(), mac.to_vec())));
    posts[1].borrow_mut().to_send.push_back(solicitation(n.ipv4_of(1), Network::mac_of(1), n.host_ipv4));
    poke(&mut lab, 1);
    let posts1 = posts[1].borrow();
    let answer = posts1.received.iter().find(|f| f[12..14] == [0x86, 0xdd]).unwrap();
    assert_eq!((answer.len(), answer[54], &answer[80..86]), (86, 136, &n.host_mac[..]));
    assert_eq!(posts[2].borrow().sleeps, sleeps);
    assert_eq!(lab.frames_in_use(), 0);
}

#[test]
fn each_bad_frame_is_dropped_and_counted() {
    let (mut lab, posts) = lab(2);
    let n = Network::default();
    let (one, two) = (n.ipv4_of(1), n.ipv4_of(2));
    {
        let mut post = posts[1].borrow_mut();
        post.to_send.push_back(from_vm(1, two, 13, 1));
        post.to_send.push_back(from_vm(1, two, 1515, 1));
        post.to_send.push_back(ipv4(one, two, Network::mac_of(2), 60, 1));
        post.to_send.push_back(ipv4(two, two, Network::mac_of(1), 60, 1));
        post.to_send.push_back(ipv4(n.host_ipv4, two, Network::mac_of(1), 60, 1));
        post.to_send.push_back(vec![0xff; 60]);
        let mut strange = from_vm(1, two, 60, 1);
        strange[12] = 0x99;
        post.to_send.push_back(strange);
    }
    poke(&mut lab, 1);
    let counters = lab.inspect(1).counters;
    assert_eq!(counters.drops_bad_length, 2);
    assert_eq!(counters.drops_spoofed, 4);
    assert_eq!(counters.drops_unroutable, 1);
    assert_eq!(counters.frames_sent, 0);
    assert!(posts[2].borrow().received.is_empty());
    assert!(lab.outside().outgoing.is_empty());
    let spoofs = lab.desk().events.iter().filter(|e| matches!(e, Event::Spoofed { vm: 1 })).count();
    assert_eq!(spoofs, 1, "one event a second, however many frames");

    let dropped = lab.status().frames_dropped;
    for length in [13, 1515, 65_535] {
        lab.outside_mut().incoming.push_back(from_host(1, length, 1));
    }
    lab.outside_mut().incoming.push_back(ipv4(one, two, n.host_mac, 60, 1));
    lab.outside_mut().incoming.push_back(from_host(77, 60, 1));
    lab.turns(20);
    assert_eq!(lab.status().frames_dropped - dropped, 5);
    assert_eq!(lab.frames_in_use(), 0);
}

#[test]
fn a_record_of_65535_bytes_is_dropped_and_the_vm_lives() {
    let mut lab = Lab::new(512, |_| {
        let mut step = 0;
        Box::new(move |cpu: &mut Cpu<'_>| {
            // A step that faults is done again: it counts when all its accesses have succeeded.
            let op = match step {
                0 => {
                    cpu.write(virtual_isa::layout::TRANSMIT_RING, &65_535u32.to_le_bytes())?;
                    cpu.set_control(control::TRANSMIT_HEAD, 64)?;
                    Op::call(Instruction::Notify, &[1])
                }
                1 => {
                    assert_eq!(cpu.result(), Ok(0));
                    assert_eq!(cpu.control(control::TRANSMIT_TAIL)?, 64);
                    let frame = from_vm(1, Network::default().host_ipv4, 60, 3);
                    assert!(cpu.push(&rings::TRANSMIT, &frame)?);
                    Op::call(Instruction::Idle, &[NO_DEADLINE])
                }
                _ => Op::call(Instruction::Idle, &[NO_DEADLINE]),
            };
            step += 1;
            Ok(op)
        })
    });
    lab.start(1);
    lab.turns(20);
    let status = lab.inspect(1);
    assert_eq!(status.state, VmState::Idle);
    assert_eq!((status.counters.drops_bad_length, status.counters.frames_sent), (1, 1));
    assert_eq!(lab.outside().outgoing.len(), 1);
}

#[test]
fn a_flood_costs_its_target_its_queue_and_nobody_else() {
    let mut lab = Lab::new(4096, |vm| {
        Box::new(move |cpu: &mut Cpu<'_>| {
            cpu.set_control(control::ENABLED, if vm == 2 { Pending::RECEIVE.bits() } else { 0 })?;
            if vm == 2 {
                cpu.set_control(control::PENDING, 0)?;
                while cpu.pop(&rings::RECEIVE)?.is_some() {}
            }
            Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
        })
    });
    for vm in 1..4 {
        lab.start(vm);
    }
    lab.turns(20);
    for _ in 0..1000 {
        lab.outside_mut().incoming.push_back(from_host(1, 1000, 1));
    }
    lab.outside_mut().incoming.push_back(from_host(2, 100, 1));
    lab.turns(100);
    let refused = |lab: &mut Lab, vm: u32| {
        let counters = lab.inspect(vm).counters;
        (counters.drops_queue_full + counters.drops_no_buffer) as usize
    };
    let kept = lab.frames_in_use();
    assert!((100..=MAX_RECEIVE_QUEUE_BYTES / 1000).contains(&kept), "{kept}");
    assert_eq!(refused(&mut lab, 1), 1000 - kept);
    for _ in 0..2000 {
        lab.outside_mut().incoming.push_back(from_host(3, 40, 1));
    }
    lab.turns(100);
    let short = lab.frames_in_use() - kept;
    assert!((100..=MAX_RECEIVE_QUEUE_FRAMES).contains(&short), "short frames hold a buffer each, too: {short}");
    assert_eq!(refused(&mut lab, 3), 2000 - short);
    let two = lab.inspect(2).counters;
    assert_eq!((two.frames_received, two.drops_queue_full), (1, 0));
}

#[test]
fn a_full_wire_pushes_back_and_loses_nothing() {
    let (mut lab, posts) = lab(1);
    lab.outside_mut().is_wire_full = true;
    let host = Network::default().host_ipv4;
    for n in 0..200u8 {
        posts[1].borrow_mut().to_send.push_back(from_vm(1, host, 100, n));
    }
    poke(&mut lab, 1);
    assert!(lab.outside().outgoing.is_empty());
    lab.outside_mut().is_wire_full = false;
    lab.turns(500);
    let marks: Vec<u8> = lab.outside().outgoing.iter().map(|frame| frame[40]).collect();
    assert_eq!(marks, (0..200).collect::<Vec<u8>>());
    assert_eq!(lab.frames_in_use(), 0);
}

#[test]
fn arp_for_vms_is_answered_by_the_switch() {
    let (mut lab, posts) = lab(1);
    let n = Network::default();
    let ask = |target: [u8; 4]| {
        let mut f = vec![0xff; 6];
        for piece in [&n.host_mac[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &n.host_mac, &n.host_ipv4, &[0; 6], &target] {
            f.extend_from_slice(piece);
        }
        f
    };
    let sleeps = posts[1].borrow().sleeps;
    for target in [n.ipv4_of(1), n.switch_ipv4, n.ipv4_of(2)] {
        lab.outside_mut().incoming.push_back(ask(target));
    }
    lab.turns(20);
    let answers: Vec<[u8; 6]> = lab.outside().outgoing.iter().map(|f| f[22..28].try_into().unwrap()).collect();
    assert_eq!(answers, [Network::mac_of(1), Network::SWITCH_MAC], "and none for a VM that does not exist");
    assert_eq!(posts[1].borrow().sleeps, sleeps, "nobody was woken for it");
}

#[test]
fn flooded_vms_leave_buffers_for_the_others() {
    let mut lab = Lab::new(8192, |vm| {
        Box::new(move |cpu: &mut Cpu<'_>| {
            cpu.set_control(control::ENABLED, if vm == 100 { Pending::RECEIVE.bits() } else { 0 })?;
            if vm == 100 {
                cpu.set_control(control::PENDING, 0)?;
                while cpu.pop(&rings::RECEIVE)?.is_some() {}
            }
            Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))
        })
    });
    for vm in (1..40).chain([100]) {
        lab.start(vm);
    }
    lab.turns(100);
    for _ in 0..200 {
        for vm in 1..40 {
            lab.outside_mut().incoming.push_back(from_host(vm, 60, 1));
        }
    }
    lab.turns(1000);
    assert!(lab.outside().incoming.is_empty(), "the card was kept going");
    for _ in 0..20 {
        lab.outside_mut().incoming.push_back(from_host(100, 60, 1));
    }
    lab.turns(100);
    let counters = lab.inspect(100).counters;
    assert_eq!((counters.frames_received, counters.drops_queue_full), (20, 0));
}
