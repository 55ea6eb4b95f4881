//! Small HTTP servers on loopback addresses, each well or badly behaved in its own way, and a way to run the
//! program against them.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod stage;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How a server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers `/` with 128 bytes and `/id` as that VM.
    Good(u32),
    /// As a good one, after a while.
    Slow(Duration),
    /// Does not listen at all.
    Refuses,
    /// Takes the request and resets the connection.
    Resets,
    /// Closes each connection without an answer.
    Closes,
    /// Answers with this status.
    Status(u16),
    /// Promises more bytes than it sends.
    Short,
    /// Answers with what is not HTTP.
    Nonsense,
    /// Takes connections and never answers.
    Silent,
    /// Does not close although asked to.
    KeepsOpen,
    /// Keeps connections, but closes each after that many answers, without a word.
    ClosesAfter(u32),
    /// Listens only after a while, as that VM.
    UpAfter(Duration, u32),
    /// Answers `/id` with the same random value as all others of its kind.
    NotRandom(u32),
    /// Answers `/id` with another page each time.
    Forgetful(u32),
    /// Sends its answer in two pieces with a pause between.
    InPieces,
}

/// Servers on consecutive addresses, one port.
pub struct Servers {
    pub first: Ipv4Addr,
    pub port: u16,
    pub count: u32,
    /// Connections accepted by all of them.
    pub accepted: Arc<AtomicU32>,
}

/// A net of its own for each group of servers of a test program.
static NEXT_NET: AtomicU32 = AtomicU32::new(0);

impl Servers {
    /// Starts one server for each behaviour.
    pub fn start(behaviours: &[Behaviour]) -> Self {
        let net = NEXT_NET.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let first = u32::from(Ipv4Addr::new(127, 0, 0, 0)) | ((process & 0xff) << 16) | ((net & 0xff) << 8) | 1;
        let first = Ipv4Addr::from(first);
        let accepted = Arc::new(AtomicU32::new(0));
        let address = |i: usize| Ipv4Addr::from(u32::from(first) + u32::try_from(i).unwrap());
        // The first one that listens chooses the port.
        let mut port = 0;
        for (i, &behaviour) in behaviours.iter().enumerate() {
            let (delay, behaviour) = match behaviour {
                Behaviour::UpAfter(delay, vm) => (delay, Behaviour::Good(vm)),
                other => (Duration::ZERO, other),
            };
            if behaviour == Behaviour::Refuses || delay > Duration::ZERO {
                let _ = port == 0 && {
                    port = TcpListener::bind((first, 0)).unwrap().local_addr().unwrap().port();
                    true
                };
            }
            if behaviour == Behaviour::Refuses {
                continue;
            }
            let accepted = Arc::clone(&accepted);
            if delay > Duration::ZERO {
                let to = (address(i), port);
                std::thread::spawn(move || {
                    std::thread::sleep(delay);
                    serve(&TcpListener::bind(to).unwrap(), behaviour, &accepted);
                });
            } else {
                let listener = TcpListener::bind((address(i), port)).unwrap();
                port = listener.local_addr().unwrap().port();
                std::thread::spawn(move || serve(&listener, behaviour, &accepted));
            }
        }
        Self { first, port, count: u32::try_from(behaviours.len()).unwrap(), accepted }
    }

    /// The address of one of them.
    pub fn address(&self, i: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first) + i)
    }

    /// Runs `loadgen http` against them.
    pub fn load(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command.args(["http", "--quiet", "--first", &self.first.to_string(), "--count", &self.count.to_string()]);
        command.args(["--port", &self.port.to_string()]).args(arguments);
        command.output().unwrap()
    }

    /// Runs `loadgen http` against them. Returns its exit status and its report.
    pub fn report(&self, arguments: &[&str]) -> (i32, serde_json::Value) {
        let output = self.load(&[arguments, &["--format", "json"]].concat());
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code().unwrap(), report)
    }
}

/// Reads a file that a run wrote.
pub fn json_in(file: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Bytes that are text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn serve(listener: &TcpListener, behaviour: Behaviour, accepted: &AtomicU32) {
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        accepted.fetch_add(1, Ordering::Relaxed);
        std::thread::spawn(move || {
            // The client may go away at any time: that is its right.
            let _ = converse(stream, behaviour);
        });
    }
}

/// Reads one request. `None` if the client is done.
fn read_request(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut request = Vec::new();
    let mut byte = [0; 1];
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        request.push(byte[0]);
    }
    Ok(Some(String::from_utf8(request).unwrap()))
}

fn converse(mut stream: TcpStream, behaviour: Behaviour) -> std::io::Result<()> {
    static PAGE: AtomicU32 = AtomicU32::new(1);
    let mut answers = 0;
    if behaviour == Behaviour::Closes {
        return Ok(());
    }
    while let Some(request) = read_request(&mut stream)? {
        assert!(request.contains("\r\nHost: 127."), "{request}");
        let close = request.contains("\r\nConnection: close\r\n");
        let (vm, random, page) = match behaviour {
            Behaviour::Good(vm) => (vm, vm, vm),
            Behaviour::NotRandom(vm) => (vm, 0, vm),
            Behaviour::Forgetful(vm) => (vm, vm, PAGE.fetch_add(1, Ordering::Relaxed)),
            _ => (0, 0, 0),
        };
        let body = if request.starts_with("GET /id ") {
            format!("{{\"vm\":{vm},\"generation\":1,\"random\":\"{random:032x}\",\"page\":\"{page:08x}\"}}")
        } else {
            "x".repeat(128)
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        match behaviour {
            Behaviour::Slow(pause) => std::thread::sleep(pause),
            Behaviour::Resets => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
            Behaviour::Silent => {
                std::thread::sleep(Duration::from_secs(3));
                return Ok(());
            }
            Behaviour::Status(status) => {
                write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno")?;
                if close {
                    return Ok(());
                }
                continue;
            }
            Behaviour::Short => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")?;
                return Ok(());
            }
            Behaviour::Nonsense => {
                stream.write_all(b"220 mail.example ESMTP\r\n")?;
                return Ok(());
            }
            Behaviour::InPieces => {
                stream.set_nodelay(true)?;
                stream.write_all(&head.as_bytes()[..20])?;
                std::thread::sleep(Duration::from_millis(20));
                stream.write_all(&head.as_bytes()[20..])?;
                std::thread::sleep(Duration::from_millis(20));
                stream.write_all(body.as_bytes())?;
                if close {
                    return Ok(());
                }
                continue;
            }
            _ => {}
        }
        stream.write_all((head + &body).as_bytes())?;
        answers += 1;
        let closes = matches!(behaviour, Behaviour::ClosesAfter(n) if n == answers);
        if closes || (close && behaviour != Behaviour::KeepsOpen) {
            return stream.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}
