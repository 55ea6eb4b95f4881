//! The server as a client sees it, over streams in memory and over real sockets.

use super::*;
use crate::time::{Duration, Instant, sleep, timeout};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::convert::Infallible;
use embedded_io_async::{ErrorType, Read, Write};
use std::vec;

/// What the client does next.
enum Act {
    Send(Vec<u8>),
    Wait(Duration),
    Hang,
}

/// A client that follows a script; the end of the script is the end of its stream.
struct Client {
    script: VecDeque<Act>,
    writes: Vec<Vec<u8>>,
    takes_answers: bool,
}

impl Client {
    fn new(script: impl IntoIterator<Item = Act>) -> Self {
        Self { script: script.into_iter().collect(), writes: Vec::new(), takes_answers: true }
    }

    fn sending(text: &str) -> Self {
        Self::new([Act::Send(text.into())])
    }

    fn text(&self) -> String {
        String::from_utf8(self.writes.concat()).unwrap()
    }

    fn serve(&mut self, limits: &Limits) -> Result<(), ServeError<Infallible>> {
        crate::block_on(serve_stream(self, &router(), limits))
    }
}

impl ErrorType for &mut Client {
    type Error = Infallible;
}

impl Read for &mut Client {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        loop {
            match self.script.front_mut() {
                None => return Ok(0),
                Some(Act::Hang) => core::future::pending().await,
                Some(Act::Wait(duration)) => {
                    sleep(*duration).await;
                    self.script.pop_front();
                }
                Some(Act::Send(data)) => {
                    let length = data.len().min(bytes.len());
                    bytes[..length].copy_from_slice(&data[..length]);
                    data.drain(..length);
                    if data.is_empty() {
                        self.script.pop_front();
                    }
                    return Ok(length);
                }
            }
        }
    }
}

impl Write for &mut Client {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        if !self.takes_answers {
            core::future::pending::<()>().await;
        }
        self.writes.push(bytes.to_vec());
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl Transport for &mut Client {}

fn router() -> Router {
    Router::new()
        .get("/", |_: Request| Response::text("root"))
        .get("/large", |_: Request| {
            Response::pieces("text/plain", 1_000_000, |out| out.extend_from_slice(&[b'x'; 999]))
        })
        .get("/own", |_: Request| Response::bytes("text/plain", vec![b'y'; 100_000]))
        .get("/short", |_: Request| Response::pieces("text/plain", 10, |_| ()))
        .get("/late", |_: Request| async {
            sleep(Duration::from_millis(5)).await;
            "late"
        })
        .get("/never", |_: Request| async {
            core::future::pending::<()>().await;
            "never"
        })
        .post("/echo", |request: Request| Response::bytes("text/plain", request.body().to_vec()))
}

fn ask(request: &str) -> String {
    let mut client = Client::sending(request);
    client.serve(&Limits::default()).unwrap();
    client.text()
}

fn quick() -> Limits {
    let short = Duration::from_millis(40);
    Limits {
        head_timeout: short,
        body_timeout: short,
        idle_timeout: short,
        write_timeout: short,
        answer_timeout: short,
        ..Limits::default()
    }
}

#[test]
fn a_small_answer_is_one_write() {
    let mut client = Client::sending("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    client.serve(&Limits::default()).unwrap();
    assert_eq!(client.writes.len(), 1);
    let text = client.text();
    assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nroot");
}

#[test]
fn large_bodies_come_in_pieces_and_whole() {
    for (path, length) in [("/large", 1_000_000), ("/own", 100_000)] {
        let mut client = Client::sending(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        client.serve(&Limits::default()).unwrap();
        assert_eq!(client.text().split_once("\r\n\r\n").unwrap().1.len(), length);
    }
    let mut client = Client::sending("GET /short HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.serve(&Limits::default()), Err(ServeError::Stalled));
}

#[test]
fn pipelined_requests_are_answered_in_order_and_together() {
    let request =
        "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nHEAD / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut client = Client::sending(request);
    client.serve(&Limits::default()).unwrap();
    assert_eq!(client.writes.len(), 1);
    let text = client.text();
    let statuses: Vec<_> = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "404", "200"]);
    assert!(client.text().ends_with("content-length: 4\r\n\r\n"), "HEAD has no body");
}

#[test]
fn a_head_in_single_bytes_is_a_head() {
    let script = b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".iter().map(|&b| Act::Send(vec![b]));
    let mut client = Client::new(script);
    client.serve(&Limits::default()).unwrap();
    assert!(client.text().ends_with("\r\n\r\nroot"));
}

#[test]
fn close_closes_and_old_clients_are_closed_unless_they_ask() {
    let twice = |line: &str| ask(&format!("{line}\r\n\r\n{line}\r\n\r\n")).matches("200 OK").count();
    assert_eq!(twice("GET / HTTP/1.1\r\nHost: x"), 2);
    assert_eq!(twice("GET / HTTP/1.1\r\nHost: x\r\nConnection: close"), 1);
    assert_eq!(twice("GET / HTTP/1.0"), 1);
    assert_eq!(twice("GET / HTTP/1.0\r\nConnection: keep-alive"), 2);
    assert!(ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").contains("connection: keep-alive"));
}

#[test]
fn nonsense_is_told_so_and_closed() {
    let both = ask("complete nonsense\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(both.starts_with("HTTP/1.1 400 Bad Request") && both.contains("connection: close"));
    assert!(!both.contains("200 OK"));
    let endless = format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(2000));
    assert!(ask(&endless).starts_with("HTTP/1.1 431 "));
}

#[test]
fn bodies_come_to_handlers_and_what_follows_is_served() {
    let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let post =
        |path: &str, more: &str| format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 6000\r\n{more}\r\n");
    let text = ask(&format!("{}{}{get}", post("/echo", ""), "z".repeat(6000)));
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(body.starts_with(&"z".repeat(6000)) && body.ends_with("root"), "{text}");
    let waits = ask(&format!("{}{}", post("/echo", "Expect: 100-continue\r\n"), "z".repeat(6000)));
    assert!(waits.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"), "{waits}");
    // Nobody wants it: it is thrown away.
    let unwanted = ask(&format!("{}{}{get}", post("/", ""), "z".repeat(6000)));
    assert!(unwanted.starts_with("HTTP/1.1 405 ") && unwanted.ends_with("root"), "{unwanted}");
    let told = ask(&format!("{}{get}", post("/", "Expect: 100-continue\r\n")));
    assert!(told.starts_with("HTTP/1.1 405 ") && told.contains("connection: close"), "{told}");
    let large = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n";
    assert!(ask(large).starts_with("HTTP/1.1 413 "));
    let mut client = Client::new([Act::Send(post("/echo", "").into()), Act::Hang]);
    client.serve(&quick()).unwrap();
    assert!(client.text().starts_with("HTTP/1.1 408 "));
    assert_eq!(ask(&post("/echo", "")), "", "a client that goes is told nothing");
}

#[test]
fn handlers_may_take_their_time_but_not_all_of_it() {
    assert!(ask("GET /late HTTP/1.1\r\nHost: x\r\n\r\n").ends_with("\r\n\r\nlate"));
    let mut client = Client::sending("GET /never HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    client.serve(&quick()).unwrap();
    assert!(client.text().starts_with("HTTP/1.1 503 ") && client.text().ends_with("root"));
}

#[test]
fn slow_and_silent_clients_are_cut_off() {
    let start = Instant::now();
    // One byte at a time, for ever: the deadline is the head's, not the byte's.
    let mut script: Vec<_> = Vec::new();
    for _ in 0..1000 {
        script.push(Act::Send(b"G".to_vec()));
        script.push(Act::Wait(Duration::from_millis(10)));
    }
    let mut slow = Client::new(script);
    slow.serve(&quick()).unwrap();
    assert!(slow.text().starts_with("HTTP/1.1 408 "), "{}", slow.text());
    let mut silent = Client::new([Act::Hang]);
    silent.serve(&quick()).unwrap();
    assert_eq!(silent.text(), "");
    let mut idle = Client::new([Act::Send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()), Act::Hang]);
    idle.serve(&quick()).unwrap();
    assert!(idle.text().starts_with("HTTP/1.1 200 OK"));
    let mut deaf = Client::sending("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    deaf.takes_answers = false;
    assert_eq!(deaf.serve(&quick()), Err(ServeError::Stalled));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn many_connections_are_served_beside_each_other_and_no_more_than_allowed() {
    crate::block_on(async {
        use crate::net::{ListenOptions, TcpListener, TcpStream};
        const MANY: usize = 200;
        let options = ListenOptions { backlog: 1024, ..ListenOptions::default() };
        let listener = TcpListener::bind_with(([127, 0, 0, 1], 0), options).unwrap();
        let address = listener.local_addr().unwrap();
        let answered = Rc::new(Cell::new(0));
        let count = answered.clone();
        let router = Router::new().get("/", move |_: Request| {
            count.set(count.get() + 1);
            Response::text("here")
        });
        let limits = Limits { connections: MANY, ..Limits::default() };
        let _server = crate::task::spawn(Server::new(router).with_limits(limits).serve(listener));
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut streams = Vec::new();
        for _ in 0..MANY {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request).await.unwrap();
            streams.push(stream);
        }
        let mut answer = [0; 200];
        for stream in &streams {
            assert!(stream.read(&mut answer).await.unwrap() > 0);
        }
        assert_eq!(answered.get(), MANY);
        // One too many waits until another one ends.
        let extra = TcpStream::connect(address).await.unwrap();
        extra.write_all(request).await.unwrap();
        assert!(timeout(Duration::from_millis(50), extra.read(&mut answer)).await.is_err());
        drop(streams.pop());
        let read = timeout(Duration::from_secs(5), extra.read(&mut answer)).await.unwrap().unwrap();
        assert!(read > 0);
    });
}
