//! The service as its clients see it, over real sockets.

use kv::Settings;
use libos::net::{SocketAddr, TcpListener, TcpStream};
use libos::time::{Duration, sleep, timeout};
use proptest::prelude::*;

fn settings() -> Settings {
    Settings { max_memory: 1 << 20, max_clients: 10, buffer_bytes: 100_000, ..Settings::for_memory(4 << 20) }
}

/// A service of its own for each test.
fn start(settings: Settings) -> SocketAddr {
    let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
    let address = listener.local_addr().unwrap();
    libos::task::spawn(kv::serve(listener, settings)).detach();
    address
}

struct Client(TcpStream);

impl Client {
    async fn new(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn send(&self, words: &[&str]) {
        let mut bytes = format!("*{}\r\n", words.len());
        for word in words {
            bytes += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Exactly so many bytes more.
    async fn take(&self, length: usize) -> String {
        let mut bytes = vec![0; length];
        let read = timeout(Duration::from_secs(20), self.0.read_exact(&mut bytes)).await;
        read.unwrap_or_else(|_| panic!("only {:?}", String::from_utf8_lossy(&bytes))).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    async fn ask(&self, line: &str, reply: &str) {
        self.send(&line.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(self.take(reply.len()).await, reply, "{line}");
    }

    async fn rest(&self) -> String {
        let bytes = timeout(Duration::from_secs(20), self.0.read_to_end(100_000)).await.unwrap();
        String::from_utf8(bytes.unwrap_or_default()).unwrap()
    }
}

#[test]
fn commands_do_what_clients_expect() {
    libos::block_on(async {
        let c = Client::new(start(settings())).await;
        for (line, reply) in [
            ("PING", "+PONG\r\n"),
            ("ping hello", "$5\r\nhello\r\n"),
            ("ECHO a", "$1\r\na\r\n"),
            ("GET a", "$-1\r\n"),
            ("SET a 1", "+OK\r\n"),
            ("SET a 2 NX", "$-1\r\n"),
            ("SET b 2 XX", "$-1\r\n"),
            ("SET a 2 XX EX 100", "+OK\r\n"),
            ("TTL a", ":100\r\n"),
            ("SET a 3 KEEPTTL", "+OK\r\n"),
            ("TTL a", ":100\r\n"),
            ("PERSIST a", ":1\r\n"),
            ("PERSIST a", ":0\r\n"),
            ("TTL a", ":-1\r\n"),
            ("TTL none", ":-2\r\n"),
            ("INCR a", ":4\r\n"),
            ("DECR a", ":3\r\n"),
            ("INCRBY a 10", ":13\r\n"),
            ("DECRBY a 3", ":10\r\n"),
            ("DECRBY a -9223372036854775808", "-ERR increment or decrement would overflow\r\n"),
            ("INCRBY a 9223372036854775807", "-ERR increment or decrement would overflow\r\n"),
            ("SET s word", "+OK\r\n"),
            ("INCR s", "-ERR value is not an integer or out of range\r\n"),
            ("APPEND s s", ":5\r\n"),
            ("STRLEN s", ":5\r\n"),
            ("SETNX s x", ":0\r\n"),
            ("MSET x 1 y 2", "+OK\r\n"),
            ("MSET x 1 y", "-ERR wrong number of arguments for 'mset' command\r\n"),
            ("MGET x none y", "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n"),
            ("EXISTS x y x none", ":3\r\n"),
            ("TYPE x", "+string\r\n"),
            ("TYPE none", "+none\r\n"),
            ("DBSIZE", ":4\r\n"),
            ("KEYS [x]", "*1\r\n$1\r\nx\r\n"),
            ("GETDEL x", "$1\r\n1\r\n"),
            ("DEL x y none", ":1\r\n"),
            ("EXPIRE s 0", ":1\r\n"),
            ("EXISTS s", ":0\r\n"),
            ("EXPIRE s 10", ":0\r\n"),
            ("EXPIRE a 9223372036854775807", "-ERR invalid expire time in 'expire' command\r\n"),
            ("SET a 1 EX 0", "-ERR invalid expire time in 'set' command\r\n"),
            ("SET a 1 EX x", "-ERR value is not an integer or out of range\r\n"),
            ("SET a 1 EX 1 PX 1", "-ERR syntax error\r\n"),
            ("SET a 1 NX XX", "-ERR syntax error\r\n"),
            ("GET a", "$2\r\n10\r\n"),
            ("get", "-ERR wrong number of arguments for 'get' command\r\n"),
            ("nonsense a", "-ERR unknown command 'nonsense'\r\n"),
            ("SCAN 0 COUNT 100", "*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n"),
            ("SCAN 0 TYPE list", "*2\r\n$1\r\n0\r\n*0\r\n"),
            ("SCAN x", "-ERR invalid cursor\r\n"),
            ("SELECT 0", "+OK\r\n"),
            ("SELECT 1", "-ERR DB index is out of range\r\n"),
            ("HELLO 3", "-NOPROTO unsupported protocol version\r\n"),
            ("CONFIG GET save appendonly", "*4\r\n$4\r\nsave\r\n$0\r\n\r\n$10\r\nappendonly\r\n$2\r\nno\r\n"),
            ("COMMAND COUNT", ":34\r\n"),
            (
                "COMMAND INFO none get",
                "*2\r\n$-1\r\n*6\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n",
            ),
            ("FLUSHALL", "+OK\r\n"),
            ("DBSIZE", ":0\r\n"),
            ("QUIT", "+OK\r\n"),
        ] {
            c.ask(line, reply).await;
        }
        assert_eq!(c.rest().await, "");
    });
}

#[test]
fn info_and_command_say_what_is_there() {
    libos::block_on(async {
        let c = Client::new(start(settings())).await;
        c.ask("SET a 1 PX 100000", "+OK\r\n").await;
        c.send(&["INFO"]).await;
        c.0.close_write().unwrap();
        let text = c.rest().await;
        for line in
            ["connected_clients:1", "maxmemory:1048576", "total_commands_processed:2", "db0:keys=1,expires=1,avg_ttl=0"]
        {
            assert!(text.contains(&format!("\r\n{line}\r\n")), "{line}: {text}");
        }
        let c = Client::new(start(settings())).await;
        c.send(&["COMMAND"]).await;
        c.0.close_write().unwrap();
        let text = c.rest().await;
        assert!(text.starts_with("*34\r\n*6\r\n$3\r\nget\r\n:2\r\n"), "{text}");
    });
}

#[test]
fn keys_expire_on_time_and_also_when_nobody_asks() {
    libos::block_on(async {
        let c = Client::new(start(settings())).await;
        c.ask("SET long 1 EX 1000", "+OK\r\n").await;
        for n in 0..200 {
            c.ask(&format!("SET key{n} 1 PX {}", 200 + n % 7), "+OK\r\n").await;
        }
        sleep(Duration::from_millis(600)).await;
        c.send(&["INFO"]).await;
        c.0.close_write().unwrap();
        let text = c.rest().await;
        assert!(text.contains("expired_keys:200\r\n") && text.contains("keys=1,expires=1"), "{text}");
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
    libos::block_on(async {
        let c = Client::new(start(settings())).await;
        let mut requests = String::new();
        let mut replies = String::new();
        for n in 0..500 {
            requests +=
                &format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$3\r\n{n:03}\r\n*2\r\n$3\r\nGET\r\n$3\r\nkey\r\nPING\r\n");
            replies += &format!("+OK\r\n$3\r\n{n:03}\r\n+PONG\r\n");
        }
        let (reader, writer) = c.0.into_split();
        let sent = libos::task::spawn(async move {
            for piece in requests.as_bytes().chunks(701) {
                writer.write_all(piece).await.unwrap();
                libos::task::yield_now().await;
            }
            writer
        });
        let mut got = Vec::new();
        let mut bytes = [0; 1000];
        while got.len() < replies.len() {
            let length = timeout(Duration::from_secs(20), reader.read(&mut bytes)).await.unwrap().unwrap();
            assert_ne!(length, 0);
            got.extend_from_slice(&bytes[..length]);
        }
        assert_eq!(String::from_utf8(got).unwrap(), replies);
        drop(sent.await);
    });
}

#[test]
fn a_full_store_refuses_what_grows_and_changes_nothing() {
    libos::block_on(async {
        let c = Client::new(start(Settings { max_memory: 20_000, ..settings() })).await;
        let full = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
        let value = "v".repeat(9_000);
        c.ask(&format!("SET a {value}"), "+OK\r\n").await;
        c.ask(&format!("SET b {value}"), "+OK\r\n").await;
        c.ask(&format!("SET c {value}"), full).await;
        c.ask(&format!("APPEND a {value}"), full).await;
        c.ask(&format!("MSET x 1 y {value}"), full).await;
        c.ask("EXISTS a b c x y", ":2\r\n").await;
        c.ask("STRLEN a", ":9000\r\n").await;
        c.ask("SET a small", "+OK\r\n").await;
        c.ask(&format!("SET c {value}"), "+OK\r\n").await;
        c.ask("DEL a b c", ":3\r\n").await;
        c.ask(&format!("SET d {value} PX 1"), "+OK\r\n").await;
        c.ask(&format!("SET e {value} PX 1"), "+OK\r\n").await;
        sleep(Duration::from_millis(5)).await;
        c.ask(&format!("SET f {}", "w".repeat(19_000)), "+OK\r\n").await;
        c.ask(&format!("GET {}", "k".repeat(16_385)), "-ERR the key is longer than 16384 bytes\r\n").await;
        let pattern = "*a".repeat(129);
        for line in [format!("KEYS {pattern}"), format!("SCAN 0 MATCH {pattern}")] {
            c.ask(&line, "-ERR the pattern is longer than 256 bytes\r\n").await;
        }
    });
}

#[test]
fn large_values_pass_and_what_is_too_large_is_refused() {
    libos::block_on(async {
        let address = start(settings());
        let c = Client::new(address).await;
        let value = "v".repeat(60_000);
        c.ask(&format!("SET a {value}"), "+OK\r\n").await;
        c.ask("GET a", &format!("$60000\r\n{value}\r\n")).await;
        // Two such values are more than all large replies may take together.
        c.ask("MGET a a", "-OOM the reply is larger than what is left for large replies\r\n").await;
        c.ask("GET a", &format!("$60000\r\n{value}\r\n")).await;
        c.ask(&format!("APPEND a {value}"), ":120000\r\n").await;
        c.ask("GETDEL a", "-OOM the reply is larger than what is left for large replies\r\n").await;
        c.ask("STRLEN a", ":120000\r\n").await;
        c.send(&["SET", "b", &"v".repeat(100_001)]).await;
        assert_eq!(c.rest().await, "-ERR Protocol error: invalid bulk length\r\n");
        let c = Client::new(address).await;
        let _ =
            c.0.write_all(format!("*3\r\n$4\r\nMSET\r\n$60000\r\n{value}\r\n$60000\r\n{value}\r\n").as_bytes()).await;
        assert_eq!(c.rest().await, "-OOM the request is larger than what is left for large requests\r\n");
        // All of it is there again.
        let c = Client::new(address).await;
        c.ask(&format!("SET c {}", "v".repeat(90_000)), "+OK\r\n").await;
    });
}

#[test]
fn who_is_too_much_is_told_so_and_who_goes_makes_room() {
    libos::block_on(async {
        let address = start(Settings { max_clients: 2, ..settings() });
        let (a, b) = (Client::new(address).await, Client::new(address).await);
        a.ask("PING", "+PONG\r\n").await;
        b.ask("PING", "+PONG\r\n").await;
        assert_eq!(Client::new(address).await.rest().await, "-ERR max number of clients reached\r\n");
        a.ask("QUIT", "+OK\r\n").await;
        a.rest().await;
        Client::new(address).await.ask("PING", "+PONG\r\n").await;
    });
}

#[test]
fn slow_and_silent_clients_are_cut_off() {
    libos::block_on(async {
        let quick = Duration::from_millis(300);
        let address = start(Settings { idle_timeout: quick, request_timeout: quick, ..settings() });
        let silent = Client::new(address).await;
        assert_eq!(silent.rest().await, "");
        // A byte at a time: the deadline is the request's, not the byte's.
        let slow = Client::new(address).await;
        for byte in b"*2\r\n$3\r\nGET\r\n$100\r\n".iter().chain(&[b'k'; 80]) {
            if slow.0.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(slow.rest().await, "-ERR the request was not complete in time\r\n");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a client sends, the service goes on for others.
    #[test]
    fn any_bytes_from_a_client_hurt_nobody_else(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..50),
            Just(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n".to_vec()),
            Just(b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$90000\r\n".to_vec()),
            Just(b"*65536\r\n".to_vec()),
            Just(b"SCAN 0\r\nKEYS *\r\nINFO\r\nCOMMAND\r\n".to_vec()),
        ], 0..10)
    ) {
        libos::block_on(async {
            let address = start(settings());
            let hostile = Client::new(address).await;
            for piece in &pieces {
                let _ = hostile.0.write_all(piece).await;
            }
            let _ = hostile.0.close_write();
            let _ = hostile.rest().await;
            let c = Client::new(address).await;
            c.ask("SET a 1", "+OK\r\n").await;
            c.ask("GET a", "$1\r\n1\r\n").await;
        });
    }
}
