//! The service as its clients see it, over sockets of this host.

use libos::net::{TcpListener, TcpStream};

/// Sends a request to a service of its own, and reads until the end.
async fn ask(request: &str) -> String {
    let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let service = libos::task::spawn(template::serve(listener));
    let stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = stream.read_to_end(10_000).await.unwrap();
    drop(service);
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> String {
    libos::block_on(ask(&format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")))
}

#[test]
fn who_asks_is_greeted() {
    for (path, name) in [("/", "you"), ("/hello/snow", "snow")] {
        let answer = get(path);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\nhello {name} from a VM of my own\n")), "{answer}");
    }
    assert!(get("/nowhere").starts_with("HTTP/1.1 404 Not Found\r\n"));
}

/// 4 KiB is the limit; sending more could end the connection before the answer is read.
#[test]
fn a_head_without_end_is_refused() {
    let answer = libos::block_on(ask(&"x".repeat(4096)));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}
