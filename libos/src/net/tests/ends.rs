//! How connections end, and what is remembered of them.

use super::*;

#[test]
fn each_side_can_end_its_own_stream() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (server, client) = lab.open(listener);
    write(&mut lab.client, client, b"all");
    lab.client.close_write(client);
    lab.settle();
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(b"all".to_vec())));
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(Vec::new())));
    assert_eq!(lab.client.poll_write(client, b"more", Waker::noop()), Poll::Ready(Err(Error::Closed)));
    assert_eq!(write(&mut lab.server, server, b"late answer"), 11);
    lab.settle();
    assert_eq!(read(&mut lab.client, client), Poll::Ready(Ok(b"late answer".to_vec())));
    lab.server.release(server, lab.now);
    lab.client.release(client, lab.now);
    lab.run(SECOND);
    assert_eq!(lab.server.usage(), (0, 0, 0));
    // This time the client was first.
    assert_eq!(lab.client.usage(), (0, 0, 1));
}

#[test]
fn a_peer_that_never_ends_its_stream_is_given_up() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (server, client) = lab.open(listener);
    lab.server.release(server, lab.now);
    lab.run(SECOND);
    assert_eq!(lab.server.usage().0, 1);
    lab.run(15 * SECOND);
    assert_eq!(lab.server.usage(), (0, 0, 0));
    assert_eq!(lab.server.counters.linger_expired, 1);
    assert_eq!(read(&mut lab.client, client), Poll::Ready(Ok(Vec::new())));
    assert_eq!(lab.client.poll_write(client, b"x", Waker::noop()), Poll::Ready(Err(Error::ConnectionReset)));
}

#[test]
fn an_idle_connection_stays_for_ever_and_a_dead_peer_does_not() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (server, client) = lab.open(listener);
    write(&mut lab.client, client, b"x");
    lab.settle();
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(b"x".to_vec())));
    write(&mut lab.server, server, b"y");
    lab.run(600 * SECOND);
    assert_eq!(read(&mut lab.client, client), Poll::Ready(Ok(b"y".to_vec())));
    assert_eq!(write(&mut lab.client, client, b"still here"), 10);
    lab.settle();
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(b"still here".to_vec())));
    lab.loses = |_, _| true;
    assert_eq!(write(&mut lab.server, server, b"anybody?"), 8);
    lab.run(120 * SECOND);
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Err(Error::ConnectionReset)));
}

#[test]
fn thousands_of_connections_one_after_the_other_leave_a_bounded_trace() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    for _ in 0..3000 {
        let (server, client) = lab.open(listener);
        write(&mut lab.server, server, b"hello");
        lab.server.release(server, lab.now);
        lab.settle();
        lab.client.release(client, lab.now);
        lab.settle();
        lab.now += MILLISECOND;
    }
    assert_eq!(lab.server.usage(), (0, 0, 32));
    assert_eq!(lab.server.counters.accepted, 3000);
    assert!(lab.server.counters.time_wait_dropped > 2900);
}

#[test]
fn a_repeated_fin_is_acknowledged_after_the_end() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (server, client) = lab.open(listener);
    lab.server.release(server, lab.now);
    lab.settle();
    // The server's last acknowledgement, of the client's FIN, is lost.
    lab.client.release(client, lab.now);
    lab.loses = |frame, _| frame[26..30] == SERVER;
    lab.settle();
    assert_eq!(lab.server.usage(), (0, 0, 1));
    assert_eq!(lab.client.usage().0, 1);
    lab.loses = |_, _| false;
    lab.run(5 * SECOND);
    assert_eq!(lab.client.usage(), (0, 0, 0));
    let last = lab.log.last().unwrap();
    assert_eq!(last[14 + 20 + 13], 0x10, "an acknowledgement and not a reset");
}
