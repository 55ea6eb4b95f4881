//! How connections begin: who is let in, who waits, and who is turned away.

use super::*;

#[test]
fn a_closed_port_refuses_at_once() {
    let mut lab = Lab::new();
    let client = lab.dial(81);
    lab.settle();
    assert_eq!(lab.connected(client), Poll::Ready(Err(Error::ConnectionRefused)));
    lab.client.release(client, lab.now);
    lab.run(SECOND);
    assert_eq!(lab.client.usage(), (0, 0, 0));
}

#[test]
fn many_connections_at_once_find_a_backlog() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions { backlog: 100, ..ListenOptions::default() }).unwrap();
    let clients: Vec<_> = (0..100).map(|_| lab.dial(80)).collect();
    lab.settle();
    assert!(clients.iter().all(|&client| lab.connected(client) == Poll::Ready(Ok(()))));
    let accepted: Vec<_> = core::iter::from_fn(|| lab.accept(listener)).collect();
    assert_eq!(accepted.len(), 100);
    assert_eq!(lab.server.counters.accepted, 100);
    assert_eq!(lab.server.counters.backlog_full, 0);
}

#[test]
fn a_full_backlog_drops_and_the_dropped_come_in_when_there_is_room() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions { backlog: 3, ..ListenOptions::default() }).unwrap();
    let clients: Vec<_> = (0..5).map(|_| lab.dial(80)).collect();
    lab.settle();
    let open = clients.iter().filter(|&&client| lab.connected(client) == Poll::Ready(Ok(()))).count();
    assert_eq!(open, 3);
    assert_eq!(lab.server.counters.backlog_full, 2);
    while lab.accept(listener).is_some() {}
    lab.run(5 * SECOND);
    assert!(clients.iter().all(|&client| lab.connected(client) == Poll::Ready(Ok(()))));
}

#[test]
fn memory_bounds_the_connections() {
    let mut lab = Lab::with_memory(4 * 8192 + 100);
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let clients: Vec<_> = (0..6).map(|_| lab.dial(80)).collect();
    lab.settle();
    let open = clients.iter().filter(|&&client| lab.connected(client) == Poll::Ready(Ok(()))).count();
    assert_eq!(open, 4);
    assert_eq!(lab.server.counters.memory_full, 2);
    assert_eq!(lab.server.usage().1, 4 * 8192);
    for _ in 0..4 {
        let server = lab.accept(listener).unwrap();
        lab.server.release(server, lab.now);
    }
    for &client in &clients {
        lab.client.release(client, lab.now);
    }
    lab.run(20 * SECOND);
    assert_eq!(lab.server.usage().1, 0);
}

#[test]
fn half_open_connections_are_forgotten() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions { backlog: 4, ..ListenOptions::default() }).unwrap();
    // Answers to the client never arrive.
    lab.loses = |frame, _| frame[26..30] == SERVER;
    for _ in 0..4 {
        lab.dial(80);
    }
    lab.settle();
    assert_eq!(lab.server.usage().0, 4);
    lab.client = vm(CLIENT, 1 << 20);
    lab.run(10 * SECOND);
    assert_eq!(lab.server.usage(), (0, 0, 0));
    assert_eq!(lab.server.counters.half_open_expired, 4);
    lab.loses = |_, _| false;
    lab.open(listener);
}

#[test]
fn a_syn_with_a_bad_checksum_leaves_nothing() {
    let mut lab = Lab::new();
    lab.server.listen(any(80), ListenOptions::default()).unwrap();
    lab.dial(80);
    lab.client.poll(lab.now);
    lab.client.memory().drain();
    let mut frame = lab.client.memory().sent.pop_front().unwrap();
    frame[14 + 20 + 16] ^= 0xff;
    assert!(lab.server.memory().memory.kernel_put(&frame));
    lab.server.poll(lab.now);
    assert_eq!(lab.server.usage(), (0, 0, 0));
    lab.server.memory().drain();
    assert!(lab.server.memory().sent.is_empty());
}

#[test]
fn nobody_answers_a_connect_times_out() {
    let mut lab = Lab::new();
    lab.loses = |_, _| true;
    let client = lab.dial(80);
    lab.run(30 * SECOND);
    assert_eq!(lab.connected(client), Poll::Ready(Err(Error::TimedOut)));
}

#[test]
fn closing_a_listener_resets_who_waits_and_frees_the_port() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    assert_eq!(lab.server.listen(any(80), ListenOptions::default()), Err(Error::AddressInUse));
    let elsewhere = SocketAddr::from(([10, 65, 0, 9], 80));
    assert_eq!(lab.server.listen(elsewhere, ListenOptions::default()), Err(Error::BadAddress));
    let client = lab.dial(80);
    lab.settle();
    assert_eq!(lab.connected(client), Poll::Ready(Ok(())));
    lab.server.close_listener(listener, lab.now);
    lab.run(SECOND);
    assert_eq!(read(&mut lab.client, client), Poll::Ready(Err(Error::ConnectionReset)));
    assert_eq!(lab.server.usage(), (0, 0, 0));
    assert!(lab.server.listen(any(80), ListenOptions::default()).is_ok());
}
