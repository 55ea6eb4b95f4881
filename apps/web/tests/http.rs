//! The server as a client sees it, over streams in memory and over real sockets.

use core::convert::Infallible;
use embedded_io_async::{ErrorType, Read, Write};
use libos::time::{Duration, Instant, sleep};
use web::Settings;
use web::connection::{Error, serve};

/// What the client does next.
enum Act {
    Send(Vec<u8>),
    Wait(Duration),
    Hang,
}

/// A client that follows a script; the end of the script is the end of its stream.
struct Client {
    script: std::collections::VecDeque<Act>,
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

    fn serve(&mut self, settings: &Settings) -> Result<(), Error<Infallible>> {
        libos::block_on(serve(self, settings))
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

fn ask(request: &str) -> String {
    let mut client = Client::sending(request);
    client.serve(&Settings::default()).unwrap();
    client.text()
}

fn quick() -> Settings {
    Settings {
        head_timeout: Duration::from_millis(40),
        idle_timeout: Duration::from_millis(40),
        write_timeout: Duration::from_millis(40),
        ..Settings::default()
    }
}

#[test]
fn a_small_answer_is_one_write_of_the_asked_length() {
    let mut client = Client::sending("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    client.serve(&Settings { body_bytes: 300, ..Settings::default() }).unwrap();
    assert_eq!(client.writes.len(), 1);
    let text = client.text();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-length: 300"), "{head}");
    assert_eq!(body.len(), 300);
}

#[test]
fn a_large_body_comes_in_pieces_and_whole() {
    let mut client = Client::sending("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    client.serve(&Settings { body_bytes: 1_000_000, ..Settings::default() }).unwrap();
    assert!(client.writes.iter().all(|write| write.len() < 4096));
    assert_eq!(client.text().split_once("\r\n\r\n").unwrap().1.len(), 1_000_000);
}

#[test]
fn pipelined_requests_are_answered_in_order_and_together() {
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nHEAD / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut client = Client::sending(request);
    client.serve(&Settings::default()).unwrap();
    assert_eq!(client.writes.len(), 1);
    let statuses: Vec<_> = client.text().lines().filter(|l| l.starts_with("HTTP/")).map(str::to_owned).collect();
    assert_eq!(statuses, ["HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found", "HTTP/1.1 200 OK"]);
    assert!(client.text().ends_with("content-length: 128\r\n\r\n"), "HEAD has no body");
}

#[test]
fn a_head_in_single_bytes_is_a_head() {
    let script = b"\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".iter().map(|&b| Act::Send(vec![b]));
    let mut client = Client::new(script);
    client.serve(&Settings::default()).unwrap();
    assert!(client.text().ends_with("\r\n\r\nok\n"));
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
fn bodies_are_skipped_and_what_follows_is_served() {
    let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6000\r\n\r\n";
    let text = ask(&format!("{post}{}GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "z".repeat(6000)));
    assert!(text.starts_with("HTTP/1.1 405 ") && text.ends_with("\r\n\r\nok\n"), "{text}");
    let mut client = Client::new([Act::Send(post.into()), Act::Hang]);
    client.serve(&quick()).unwrap();
    assert!(client.text().starts_with("HTTP/1.1 405 "));
}

#[test]
fn the_identity_is_the_same_in_every_answer() {
    let text = ask(&"GET /id HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2));
    let bodies: Vec<_> = text.lines().filter(|line| line.starts_with('{')).collect();
    let field = |name: &str| {
        let (_, rest) = bodies[0].split_once(&format!("\"{name}\":\"")).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    assert_eq!(bodies.len(), 2);
    assert!(bodies[0].starts_with("{\"vm\":0,\"generation\":1,\"random\":\""));
    assert_eq!((field("random").len(), field("page").len()), (32, 8));
    assert!(field("random").bytes().chain(field("page").bytes()).all(|digit| digit.is_ascii_hexdigit()));
    assert_eq!(bodies[0], bodies[1]);
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
    assert_eq!(deaf.serve(&quick()), Err(Error::Stalled));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn it_serves_real_connections() {
    libos::block_on(async {
        use libos::net::{TcpListener, TcpStream};
        let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
        let address = listener.local_addr().unwrap();
        libos::task::spawn(async { web::serve(listener, Settings::default()).await }).detach();
        for _ in 0..20 {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            let mut bytes = [0; 500];
            while let Ok(length @ 1..) = stream.read(&mut bytes).await {
                answer.extend_from_slice(&bytes[..length]);
            }
            let answer = String::from_utf8(answer).unwrap();
            assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), 128);
        }
    });
}
