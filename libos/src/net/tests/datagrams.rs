//! UDP, and that the host's sockets are like a VM's.

use super::*;

#[test]
fn datagrams_go_both_ways_and_too_large_ones_are_refused() {
    let mut lab = Lab::new();
    let server = lab.server.bind_udp(any(7), UdpOptions::default()).unwrap();
    assert_eq!(lab.server.bind_udp(any(7), UdpOptions::default()), Err(Error::AddressInUse));
    let client = lab.client.bind_udp(any(0), UdpOptions::default()).unwrap();
    let from = lab.client.udp_address(client);
    let to = SocketAddr::new(SERVER.into(), 7);
    assert_eq!(lab.client.poll_send_to(client, b"ping", to, Waker::noop()), Poll::Ready(Ok(())));
    assert_eq!(lab.client.poll_send_to(client, &[0; 1473], to, Waker::noop()), Poll::Ready(Err(Error::TooLarge)));
    assert_eq!(lab.client.poll_send_to(client, &[5; 1472], to, Waker::noop()), Poll::Ready(Ok(())));
    lab.settle();
    let mut bytes = [0; 2000];
    assert_eq!(lab.server.poll_recv_from(server, &mut bytes, Waker::noop()), Poll::Ready((4, from)));
    assert_eq!(bytes[..4], *b"ping");
    assert_eq!(lab.server.poll_recv_from(server, &mut bytes[..10], Waker::noop()), Poll::Ready((10, from)));
    assert!(lab.server.poll_recv_from(server, &mut bytes, Waker::noop()).is_pending());
    assert_eq!(lab.server.poll_send_to(server, b"pong", from, Waker::noop()), Poll::Ready(Ok(())));
    lab.settle();
    assert_eq!(lab.client.poll_recv_from(client, &mut bytes, Waker::noop()), Poll::Ready((4, to)));
    lab.server.release_udp(server);
    assert_eq!(lab.server.usage().1, 0);
    assert!(lab.server.bind_udp(any(7), UdpOptions::default()).is_ok());
}

#[test]
fn sockets_of_the_host_behave_the_same() {
    crate::block_on(async {
        use crate::net::{TcpListener, TcpStream, UdpSocket};
        let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = crate::task::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 100];
            let mut total = 0;
            loop {
                match stream.read(&mut bytes).await.unwrap() {
                    0 => break,
                    n => total += n,
                }
            }
            stream.write_all(&[9; 10]).await.unwrap();
            total
        });
        let client = TcpStream::connect(address).await.unwrap();
        client.set_nodelay(true).unwrap();
        client.write_all(&[1; 1000]).await.unwrap();
        client.close_write().unwrap();
        let mut bytes = [0; 100];
        assert_eq!(client.read(&mut bytes).await, Ok(10));
        assert_eq!(client.read(&mut bytes).await, Ok(0));
        assert_eq!(server.await, 1000);

        let socket = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
        let own = socket.local_addr().unwrap();
        socket.send_to(b"self", own).await.unwrap();
        assert_eq!(socket.recv_from(&mut bytes).await, Ok((4, own)));
        let refused = TcpStream::connect(([127, 0, 0, 1], 1)).await;
        assert_eq!(refused.err(), Some(Error::ConnectionRefused));
    });
}
