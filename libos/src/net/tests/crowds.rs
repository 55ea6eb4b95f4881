//! Many connections: what they take, and what is left of it afterwards.

use super::*;

/// Opens so many connections, a few at a time, and accepts them.
fn crowd(lab: &mut Lab, listener: usize, count: usize) -> (Vec<Key>, Vec<Key>) {
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    while clients.len() < count {
        let some: Vec<Key> = (0..50.min(count - clients.len())).map(|_| lab.dial(80)).collect();
        lab.settle();
        assert!(some.iter().all(|&client| lab.connected(client) == Poll::Ready(Ok(()))));
        servers.extend(core::iter::from_fn(|| lab.accept(listener)));
        clients.extend(some);
    }
    assert_eq!(servers.len(), count);
    (servers, clients)
}

fn exchange(lab: &mut Lab, server: Key, client: Key) {
    assert_eq!(write(&mut lab.client, client, b"request"), 7);
    lab.settle();
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(b"request".to_vec())));
    assert_eq!(write(&mut lab.server, server, b"answer"), 6);
    lab.settle();
    assert_eq!(read(&mut lab.client, client), Poll::Ready(Ok(b"answer".to_vec())));
}

#[test]
fn a_thousand_idle_connections_hold_no_buffers_and_are_served_again() {
    let mut lab = Lab::with_memory(16 << 20);
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (servers, clients) = crowd(&mut lab, listener, 1000);
    // Connections that were never used have no pages.
    assert_eq!(lab.server.touched(), 0);
    for (&server, &client) in servers.iter().zip(&clients) {
        exchange(&mut lab, server, client);
    }
    assert_eq!(lab.server.touched(), 1000);
    lab.run(3 * SECOND);
    assert_eq!(lab.server.touched(), 4);
    assert_eq!(lab.server.counters.buffers_discarded, 996);
    assert_eq!(lab.server.poll_at(lab.now), None, "nothing to wake up for");
    for (&server, &client) in servers.iter().zip(&clients) {
        exchange(&mut lab, server, client);
    }
    for (&server, &client) in servers.iter().zip(&clients) {
        lab.client.release(client, lab.now);
        lab.server.release(server, lab.now);
        lab.settle();
    }
    lab.run(3 * SECOND);
    let (connections, bytes, _) = lab.server.usage();
    assert_eq!((connections, bytes), (0, 0));
    assert!(lab.server.touched() <= 1, "{}", lab.server.touched());
}

#[test]
fn buffers_with_something_in_them_are_left_alone() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (servers, clients) = crowd(&mut lab, listener, 10);
    let data: Vec<u8> = (0..1500u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
    for &client in &clients {
        assert_eq!(write(&mut lab.client, client, &data), data.len());
    }
    lab.run(10 * SECOND);
    assert_eq!(lab.server.counters.buffers_discarded, 0);
    for &server in &servers {
        assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(data.clone())));
    }
}

#[test]
fn data_that_came_out_of_order_is_not_given_back() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (servers, clients) = crowd(&mut lab, listener, 10);
    for &client in &clients {
        lab.client.set_nodelay(client, true);
    }
    // The first of two segments of each connection is lost, again and again.
    lab.loses = |frame, _| frame[26..30] == CLIENT && frame.ends_with(b"first.");
    for &client in &clients {
        write(&mut lab.client, client, b"first.");
        lab.client.poll(lab.now);
        write(&mut lab.client, client, b"second");
    }
    lab.settle();
    assert_eq!(lab.server.touched(), 10);
    // The client's clock stands still: nothing is sent again.
    for _ in 0..5 {
        lab.now += SECOND;
        lab.server.poll(lab.now);
    }
    assert_eq!(lab.server.counters.buffers_discarded, 0);
    lab.loses = |_, _| false;
    lab.run(5 * SECOND);
    for &server in &servers {
        assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(b"first.second".to_vec())));
    }
}

#[test]
fn beginnings_without_an_end_keep_nobody_out() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    // Of what the attacker is answered nothing arrives.
    lab.loses = |frame, _| frame[26..30] == SERVER;
    for _ in 0..20 {
        for _ in 0..50 {
            lab.dial(80);
        }
        lab.settle();
        lab.now += 250 * MILLISECOND;
    }
    let counters = lab.server.counters;
    assert!(counters.half_open_evicted >= 1000 - 128, "{counters:?}");
    assert!(lab.server.usage().0 <= 128, "{:?}", lab.server.usage());
    lab.now += 250 * MILLISECOND;
    // Somebody else comes, with other numbers.
    lab.client = vm([10, 65, 0, 3], 1 << 20);
    let client = lab.dial(80);
    lab.loses = |frame, _| frame[26..30] == SERVER && frame[30..34] != [10, 65, 0, 3];
    lab.settle_as([10, 65, 0, 3]);
    assert_eq!(lab.connected(client), Poll::Ready(Ok(())));
    let Poll::Ready((_, peer)) = lab.server.poll_accept(listener, Waker::noop()) else { panic!("nobody came") };
    assert_eq!(peer.ip(), core::net::IpAddr::from([10, 65, 0, 3]));
    lab.client = vm(CLIENT, 1 << 20);
    lab.run(10 * SECOND);
    assert_eq!(lab.server.usage().0, 1);
}

#[test]
fn resets_leave_nothing() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    for _ in 0..20 {
        let (servers, clients) = crowd(&mut lab, listener, 50);
        for (&server, &client) in servers.iter().zip(&clients) {
            exchange(&mut lab, server, client);
            lab.client.abort(client);
        }
        lab.settle();
        for &server in &servers {
            assert_eq!(read(&mut lab.server, server), Poll::Ready(Err(Error::ConnectionReset)));
            lab.server.release(server, lab.now);
        }
        for &client in &clients {
            lab.client.release(client, lab.now);
        }
        lab.settle();
    }
    lab.run(3 * SECOND);
    assert_eq!(lab.server.usage(), (0, 0, 0));
    assert!(lab.server.touched() <= 1, "{}", lab.server.touched());
}

#[test]
fn a_peer_that_is_gone_is_noticed_by_who_asks() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (server, client) = lab.open(listener);
    lab.server.set_keepalive(server, Some(core::time::Duration::from_secs(10)));
    lab.run(120 * SECOND);
    assert_eq!(read(&mut lab.server, server), Poll::Pending, "it is there, and answers");
    lab.loses = |_, _| true;
    lab.run(60 * SECOND);
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Err(Error::ConnectionReset)));
    lab.client.release(client, lab.now);
}
