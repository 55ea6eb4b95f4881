//! Back ends that behave well and badly, and a client that says exactly what it is told to.
#![allow(dead_code, reason = "each test program uses its own part of this")]

use libos::net::{SocketAddr, TcpListener, TcpStream};
use libos::task::{JoinHandle, spawn};
use libos::time::{Duration, timeout};
use proxy::Settings;
use proxy::backends::HealthTerms;
use std::cell::RefCell;
use std::rc::Rc;

/// Longer than anything takes.
pub const LONG: Duration = Duration::from_secs(20);

/// Settings without checks, so that only requests tell how back ends are.
pub fn unchecked(backends: &[SocketAddr]) -> Settings {
    let usual = Settings::new(backends.to_vec());
    Settings { health: HealthTerms { interval: Duration::ZERO, ..usual.health }, ..usual }
}

pub fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A port where nobody listens.
pub fn nobody() -> SocketAddr {
    listen().1
}

/// A proxy, which ends with the handle.
pub fn proxy(settings: Settings) -> (SocketAddr, JoinHandle<()>) {
    let (listener, address) = listen();
    (address, spawn(proxy::serve(listener, settings)))
}

/// The app `web` as a back end.
pub fn web(body_bytes: usize) -> (SocketAddr, JoinHandle<()>) {
    let (listener, address) = listen();
    (address, web_at(listener, body_bytes))
}

pub fn web_at(listener: TcpListener, body_bytes: usize) -> JoinHandle<()> {
    let settings = web::Settings { body_bytes, ..web::Settings::default() };
    spawn(async move { web::serve(listener, settings).await.unwrap() })
}

/// What a back end has seen: one text for each connection.
pub type Seen = Rc<RefCell<Vec<String>>>;

/// A back end that answers whatever ends in `until` with `answer`, and closes after so many answers.
pub fn scripted(until: &'static str, answer: &'static str, answers: usize) -> (SocketAddr, Seen) {
    let (listener, address) = listen();
    let seen: Seen = Rc::default();
    let log = seen.clone();
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let number = log.borrow().len();
            log.borrow_mut().push(String::new());
            let log = log.clone();
            spawn(async move {
                for _ in 0..answers {
                    let mut text = String::new();
                    while !text.ends_with(until) {
                        let mut bytes = [0; 1000];
                        let Ok(length @ 1..) = stream.read(&mut bytes).await else { return };
                        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
                        log.borrow_mut()[number].push_str(&String::from_utf8_lossy(&bytes[..length]));
                    }
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            })
            .detach();
        }
    })
    .detach();
    (address, seen)
}

/// Says something and reads to the end of the connection.
pub async fn ask(address: SocketAddr, text: &str) -> String {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    read_to_end(&stream).await
}

pub async fn read_to_end(stream: &TcpStream) -> String {
    let mut answer = Vec::new();
    let mut bytes = vec![0; 8192];
    while let Ok(length @ 1..) = timeout(LONG, stream.read(&mut bytes)).await.expect("no end") {
        answer.extend_from_slice(&bytes[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until the text ends so.
pub async fn read_until(stream: &TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut bytes = vec![0; 8192];
    while !text.ends_with(end) {
        match timeout(LONG, stream.read(&mut bytes)).await {
            Ok(Ok(length @ 1..)) => text.push_str(&String::from_utf8_lossy(&bytes[..length])),
            other => panic!("{other:?} after {text:?}"),
        }
    }
    text
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
}

pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}")).1
}
