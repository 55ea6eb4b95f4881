//! Clones of one VM: nothing that a peer can see may tell how their common template counted.

use super::*;

/// A VM of a template, as it is after it has drawn its own seed.
fn clone(seed: u64) -> Stack<Rings> {
    Stack::new(rings(), &settings(SERVER, seed), 1)
}

fn settings(ipv4: [u8; 4], seed: u64) -> Settings {
    Settings { seed, ..super::settings(ipv4, 1 << 20) }
}

/// The port and the sequence number with which a VM begins a connection of its own.
fn beginnings(mut stack: Stack<Rings>, count: usize) -> Vec<(u16, u32)> {
    let begin = |stack: &mut Stack<Rings>| {
        stack.connect(SocketAddr::new(CLIENT.into(), 80), ConnectOptions::default(), 1).unwrap();
        stack.poll(1);
        stack.memory().drain();
        let frame = stack.memory().sent.pop_front().unwrap();
        let port = u16::from_be_bytes([frame[34], frame[35]]);
        (port, u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]))
    };
    (0..count).map(|_| begin(&mut stack)).collect()
}

#[test]
fn sequence_numbers_and_ports_come_from_the_clones_own_seed_and_from_nothing_else() {
    let all = [1u64 << 20, 2 << 20, 3 << 20].map(|seed| beginnings(clone(seed), 20));
    for (n, one) in all.iter().enumerate() {
        for other in &all[n + 1..] {
            assert!(one.iter().all(|(_, number)| other.iter().all(|(_, known)| number != known)), "{one:?} {other:?}");
            assert_ne!(one[0].0, other[0].0);
        }
    }
    // Same seed, same numbers: this is why every generation must draw a new one.
    assert_eq!(beginnings(clone(7), 3), beginnings(clone(7), 3));
}

#[test]
fn a_vm_that_has_become_another_one_counts_anew() {
    let mut renewed = clone(1 << 20);
    renewed.renew(&settings(SERVER, 2 << 20), 1);
    assert_eq!(beginnings(renewed, 5), beginnings(clone(2 << 20), 5));
}

#[test]
fn the_connections_of_the_former_vm_are_over_and_its_listeners_go_on_at_the_new_address() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (held, _) = lab.open(listener);
    let (released, _) = lab.open(listener);
    lab.server.release(released, lab.now);
    let waiting = lab.dial(80);
    lab.settle();
    assert_eq!(lab.connected(waiting), Poll::Ready(Ok(())));
    lab.server.memory().sent.clear();

    const OTHER: [u8; 4] = [10, 65, 0, 3];
    lab.server.renew(&settings(OTHER, 99), lab.now);
    lab.server.poll(lab.now);
    lab.server.memory().drain();
    assert!(lab.server.memory().sent.is_empty(), "nothing is said in the former VM's name");
    assert_eq!(read(&mut lab.server, held), Poll::Ready(Err(Error::ConnectionReset)));
    lab.server.release(held, lab.now);
    lab.server.poll(lab.now);
    assert_eq!(lab.server.usage(), (0, 0, 0));
    assert_eq!(lab.server.poll_accept(listener, Waker::noop()), Poll::Pending);

    let own = lab.server.listener_address(listener).unwrap();
    assert_eq!(own.ip(), core::net::IpAddr::from(OTHER));
    let client = lab.client.connect(own, ConnectOptions::default(), lab.now).unwrap();
    loop {
        lab.client.poll(lab.now);
        lab.server.poll(lab.now);
        let loses = |_: &[u8], _: usize| false;
        let (mut frames, mut log) = (0, Vec::new());
        let mut has_moved = Lab::carry(&mut lab.client, &mut lab.server, CLIENT, loses, &mut frames, &mut log);
        has_moved |= Lab::carry(&mut lab.server, &mut lab.client, OTHER, loses, &mut frames, &mut log);
        if !has_moved {
            break;
        }
    }
    assert_eq!(lab.connected(client), Poll::Ready(Ok(())));
    assert!(lab.server.poll_accept(listener, Waker::noop()).is_ready());
}
