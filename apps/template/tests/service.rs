//! The service as its clients see it, over sockets of this host.

use libos::net::{TcpListener, TcpStream};

/// Sends a request to a service of its own, and reads until the end.
async fn ask(request: &[u8]) -> String {
    let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let service = libos::task::spawn(template::serve(listener));
    let stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let mut bytes = [0; 512];
    while let Ok(length @ 1..) = stream.read(&mut bytes).await {
        answer.extend_from_slice(&bytes[..length]);
    }
    drop(service);
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_request_is_answered_with_a_greeting() {
    let answer = libos::block_on(ask(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello 127.0.0.1 from a VM of my own\n"), "{answer}");
}

#[test]
fn a_head_without_end_is_refused() {
    let answer = libos::block_on(ask(&[b'x'; 2048]));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}
