//! What goes over a connection: requests and answers, small and large, with frames lost and a kernel that takes nothing.

use super::*;

#[test]
fn a_request_is_answered_and_both_sides_give_everything_back() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    assert_eq!(lab.server.usage(), (0, 0, 0));
    let (server, client) = lab.open(listener);
    let (peer, own) = lab.server.addresses(server).unwrap();
    assert_eq!(Some(own), lab.server.listener_address(listener));
    assert_eq!(Some((own, peer)), lab.client.addresses(client));
    assert_eq!(write(&mut lab.client, client, b"request"), 7);
    lab.settle();
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(b"request".to_vec())));
    lab.log.clear();
    assert_eq!(write(&mut lab.server, server, b"answer"), 6);
    lab.server.release(server, lab.now);
    lab.settle();
    // Answer and end of stream are one frame.
    let flags = lab.log[0][14 + 20 + 13];
    assert_eq!(flags & 1, 1, "the first frame has the FIN");
    assert!(lab.log[0].ends_with(b"answer"));
    let mut answer = b"its ".to_vec();
    let mut append = |bytes: &mut Vec<u8>| lab.client.poll_append(client, bytes, 4, Waker::noop());
    assert_eq!(append(&mut answer), Poll::Ready(Ok(4)));
    assert_eq!(append(&mut answer), Poll::Ready(Ok(2)));
    assert_eq!((append(&mut answer), &answer[..]), (Poll::Ready(Ok(0)), &b"its answer"[..]));
    lab.client.release(client, lab.now);
    lab.run(SECOND);
    // The server closed first: it remembers, but holds no buffers.
    assert_eq!(lab.server.usage(), (0, 0, 1));
    assert_eq!(lab.client.usage(), (0, 0, 0));
}

#[test]
fn small_writes_wait_for_each_other_unless_told_not_to() {
    for (nodelay, frames) in [(false, 1), (true, 3)] {
        let mut lab = Lab::new();
        let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
        let (server, _) = lab.open(listener);
        lab.server.set_nodelay(server, nodelay);
        for piece in [b"one", b"two", b"six"] {
            write(&mut lab.server, server, piece);
            lab.server.poll(lab.now);
        }
        lab.server.memory().drain();
        assert_eq!(lab.server.memory().sent.len(), frames);
    }
}

#[test]
fn frames_that_are_no_packets_are_dropped_and_the_rest_goes_on() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let mut arp = [0u8; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut nonsense = [0xffu8; 60];
    nonsense[12..14].copy_from_slice(&[8, 0]);
    for frame in [&arp[..], &[1; 13], &[], &nonsense, &nonsense[..14]] {
        assert!(lab.server.memory().memory.kernel_put(frame));
    }
    lab.open(listener);
    assert_eq!(lab.server.usage().0, 1);
}

#[test]
fn a_large_transfer_survives_losses_and_a_small_transmit_ring() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (server, client) = lab.open(listener);
    lab.loses = |_, n| n % 29 == 28;
    let data: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 253).to_le_bytes()[0]).collect();
    let (mut sent, mut received) = (0, Vec::new());
    for _ in 0..20_000 {
        if sent < data.len() {
            sent += write(&mut lab.server, server, &data[sent..]);
            if sent == data.len() {
                lab.server.close_write(server);
            }
        }
        lab.run(5 * MILLISECOND);
        match read(&mut lab.client, client) {
            Poll::Ready(Ok(bytes)) if bytes.is_empty() => break,
            Poll::Ready(Ok(bytes)) => received.extend(bytes),
            Poll::Ready(Err(e)) => panic!("{e}"),
            Poll::Pending => {}
        }
    }
    assert_eq!(received.len(), data.len());
    assert!(received == data);
}

#[test]
fn a_stuck_kernel_blocks_and_nothing_is_lost() {
    let mut lab = Lab::new();
    let options = ListenOptions { transmit_bytes: 16_384, ..ListenOptions::default() };
    let listener = lab.server.listen(any(80), options).unwrap();
    let to = SocketAddr::new(SERVER.into(), 80);
    let client =
        lab.client.connect(to, ConnectOptions { receive_bytes: 16_384, ..ConnectOptions::default() }, lab.now).unwrap();
    lab.settle();
    let server = lab.accept(listener).unwrap();
    lab.server.memory().is_stuck = true;
    assert_eq!(write(&mut lab.server, server, &[7; 12_000]), 12_000);
    lab.server.poll(lab.now);
    assert!(lab.server.is_blocked());
    assert!(lab.server.memory().notifications > 0);
    // Only the interrupt helps: there is no timer to spin on.
    assert!(lab.server.poll_at(lab.now).is_none_or(|at| at > lab.now));
    lab.server.memory().is_stuck = false;
    lab.run(SECOND);
    assert!(!lab.server.is_blocked());
    let mut received = 0;
    while let Poll::Ready(Ok(bytes)) = read(&mut lab.client, client) {
        received += bytes.len();
        lab.run(100 * MILLISECOND);
    }
    assert_eq!(received, 12_000);
}
