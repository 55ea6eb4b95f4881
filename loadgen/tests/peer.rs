//! The server that Linux is measured with answers as `apps/web` does, byte for byte.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The server, built from its source and running.
struct Server {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("server");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/peer/server.c");
        let built = Command::new("gcc").args(["-static", "-O2", source, "-o"]).arg(&program).status().unwrap();
        assert!(built.success());
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(program);
        // It says on descriptor 1 that it listens.
        command.args(["127.0.0.1", &free.port().to_string(), "7", "1"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = [0];
        child.stdout.take().unwrap().read_exact(&mut said).unwrap();
        Self { child, address: free, _folder: folder }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `apps/web` in this process.
fn web() -> SocketAddr {
    let listener = libos::net::TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || drop(libos::block_on(web::serve(listener, web::Settings::default()))));
    address
}

/// Sends pieces one after the other, and reads all that comes.
fn converse(to: SocketAddr, pieces: &[&str]) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        stream.write_all(piece.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn both_answer_the_same_bytes() {
    let (peer, web) = (Server::start(), web());
    for pieces in [
        &["GET / HTTP/1.1\r\nHost: x\r\n\r\n"][..],
        &["GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"],
        &["GET / HT", "TP/1.1\r\nHost: x\r\n", "\r\n"],
        &["GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n", "\r\n"],
    ] {
        let (of_peer, of_web) = (converse(peer.address, pieces), converse(web, pieces));
        assert_eq!(of_peer, of_web, "{pieces:?}");
        assert!(of_web.starts_with("HTTP/1.1 200 OK\r\n") && of_web.ends_with('\n'), "{of_web}");
    }
}

#[test]
fn it_says_who_it_is_and_bears_nonsense() {
    let peer = Server::start();
    let [port, first] = [peer.address.port().to_string(), peer.address.ip().to_string()];
    let sweep = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command.args(["http", "--quiet", "--sweep", "--count", "1", "--first-vm", "7", "--first", &first]);
        command.args(["--port", &port]).output().unwrap()
    };
    let before = sweep();
    assert!(before.status.success(), "{before:?}");
    let long = "x".repeat(5000);
    for nonsense in ["\r\n\r\n", "GET /nowhere HTTP/1.1\r\n\r\n", "\0\0\0\0\r\n\r\n", &long] {
        // It may answer, or reset the connection.
        let mut stream = TcpStream::connect(peer.address).unwrap();
        let _ = stream.write_all(nonsense.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.shutdown(Shutdown::Write).and_then(|()| stream.read_to_end(&mut answer));
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{nonsense:?}");
    }
    let after = sweep();
    assert!(after.status.success(), "{after:?}");
}
