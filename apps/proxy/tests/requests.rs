//! Requests and their answers, through the proxy and over real sockets.

mod common;

use common::*;
use libos::block_on;
use libos::net::TcpStream;
use libos::time::{Duration, sleep, timeout};
use proxy::Settings;

#[test]
fn answers_of_web_come_through_in_turn_and_over_kept_connections() {
    block_on(async {
        let webs = [web(100), web(200), web(300)];
        let (address, _proxy) = proxy(unchecked(&webs.each_ref().map(|(address, _)| *address)));
        let lengths: Vec<_> = [get("/"), get("/"), get("/"), get("/")]
            .map(|text| async move { body(&ask(address, &text).await).len() })
            .into_iter()
            .collect();
        let mut got = Vec::new();
        for length in lengths {
            got.push(length.await);
        }
        assert_eq!(got, [100, 200, 300, 100]);
        // Several at once over one connection, and an answer without a body among them.
        let stream = TcpStream::connect(address).await.unwrap();
        let text = "HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(text.as_bytes()).await.unwrap();
        let answers = read_until(&stream, "ok\n").await;
        let statuses: Vec<_> = answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
        assert_eq!(statuses, ["200", "404", "200"], "{answers}");
        assert!(answers.starts_with("HTTP/1.1 200 OK\r\n") && answers.contains("content-length: 200\r\n"), "{answers}");
        assert_eq!(answers.matches("via: 1.1 firn-proxy\r\n").count(), 3);
    });
}

#[test]
fn a_large_answer_streams_to_a_slow_client() {
    block_on(async {
        let (web, _web) = web(8 << 20);
        let (address, _proxy) = proxy(unchecked(&[web]));
        let stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(get("/").as_bytes()).await.unwrap();
        sleep(Duration::from_millis(300)).await;
        let answer = read_to_end(&stream).await;
        assert_eq!((status(&answer), body(&answer).len()), (200, 8 << 20));
    });
}

#[test]
fn connections_to_a_back_end_are_used_again_only_where_that_is_safe() {
    block_on(async {
        let (backend, seen) = scripted("\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 9);
        let (address, _proxy) = proxy(unchecked(&[backend]));
        for _ in 0..3 {
            assert_eq!(body(&ask(address, &get("/")).await), "ok");
        }
        assert_eq!(seen.borrow().len(), 1, "one connection for three clients");
        let post = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert_eq!(body(&ask(address, post).await), "ok");
        assert_eq!(seen.borrow().len(), 2, "what must not be done twice has a connection of its own");
        // An answer that nobody asked for does not become somebody's.
        let (backend, seen) = scripted("\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK", 9);
        let (address, _proxy) = proxy(unchecked(&[backend]));
        for _ in 0..2 {
            assert_eq!(body(&ask(address, &get("/")).await), "ok");
        }
        assert_eq!(seen.borrow().len(), 2);
    });
}

#[test]
fn a_connection_that_its_back_end_closed_meanwhile_is_replaced() {
    block_on(async {
        let (backend, seen) = scripted("\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 1);
        let (address, _proxy) = proxy(unchecked(&[backend]));
        for _ in 0..4 {
            assert_eq!(body(&ask(address, &get("/")).await), "ok");
        }
        assert_eq!(seen.borrow().len(), 4);
    });
}

#[test]
fn bodies_of_requests_stream_in_our_own_framing() {
    block_on(async {
        let (backend, seen) = scripted("the end\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nno length", 1);
        let (address, _proxy) = proxy(unchecked(&[backend]));
        let stream = TcpStream::connect(address).await.unwrap();
        let head = "POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n";
        stream.write_all(format!("{head}5;ext=1\r\nhel").as_bytes()).await.unwrap();
        // What there is goes on at once.
        while !seen.borrow().first().is_some_and(|text| text.ends_with("hel\r\n")) {
            sleep(Duration::from_millis(5)).await;
        }
        stream.write_all(b"lo\r\n7\r\nthe end\r\n0\r\nT: x\r\n\r\n").await.unwrap();
        let answer = read_until(&stream, "0\r\n\r\n").await;
        assert!(
            answer.contains("transfer-encoding: chunked\r\n") && answer.contains("\r\n9\r\nno length\r\n"),
            "{answer}"
        );
        let text = seen.borrow()[0].clone();
        assert!(text.ends_with("\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n7\r\nthe end\r\n0\r\n\r\n"), "{text}");
        assert!(!text.contains("ext=1") && !text.contains("T: x") && !text.contains("Trailer"), "{text}");
        assert!(text.contains("x-forwarded-for: 127.0.0.1\r\n") && text.contains("via: 1.1 firn-proxy\r\n"), "{text}");
    });
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() {
    block_on(async {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let (backend, _) = scripted("\r\n\r\n", chunked, 9);
        let (address, _proxy) = proxy(unchecked(&[backend]));
        let answer = ask(address, "GET / HTTP/1.0\r\n\r\n").await;
        assert!(answer.contains("connection: close\r\n") && body(&answer) == "abcde", "{answer}");
        let answer = ask(address, &get("/")).await;
        assert!(body(&answer).ends_with("0\r\n\r\n"), "{answer}");
    });
}

#[test]
fn interim_answers_come_through_and_a_change_of_protocol_does_not() {
    block_on(async {
        let continued = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let (backend, seen) = scripted("\r\n\r\n", continued, 9);
        let (address, _proxy) = proxy(unchecked(&[backend]));
        let text = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
        let answer = ask(address, text).await;
        assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
        // The body never came: nothing else may be read as a request.
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(seen.borrow()[0].contains("Expect: 100-continue"));
        let (backend, seen) = scripted("\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 9);
        let (address, _proxy) = proxy(unchecked(&[backend]));
        let text = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: x\r\n\r\n";
        assert_eq!(status(&ask(address, text).await), 502);
        assert!(!seen.borrow()[0].to_lowercase().contains("upgrade"));
    });
}

#[test]
fn what_could_be_smuggled_gets_to_no_back_end() {
    block_on(async {
        let (backend, seen) = scripted("\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 9);
        let (address, _proxy) = proxy(unchecked(&[backend]));
        let smuggled = "0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n";
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5\r\nContent-Length: 5",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: \x0bchunked",
            "Content-Length: 5\x0b",
            "Content-Length : 5",
        ] {
            let answer = ask(address, &format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n{smuggled}")).await;
            assert_eq!((status(&answer), answer.matches("HTTP/1.1").count()), (400, 1), "{lines}: {answer}");
        }
        assert!(seen.borrow().is_empty());
        // A body that is not framed as it says ends the connection to the back end before it is whole.
        let (backend, seen) = scripted("never", "", 9);
        let (address, _proxy) = proxy(unchecked(&[backend]));
        let stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello").await.unwrap();
        while !seen.borrow().first().is_some_and(|text| text.ends_with("hello\r\n")) {
            sleep(Duration::from_millis(5)).await;
        }
        stream.write_all(b"X").await.unwrap();
        assert_eq!(status(&read_to_end(&stream).await), 400);
        assert!(seen.borrow().iter().all(|text| !text.contains("\r\n0\r\n\r\n")));
    });
}

#[test]
fn a_slow_head_and_a_body_that_stops_end_the_connection() {
    block_on(async {
        let (backend, _) = scripted("never", "", 9);
        let short = Duration::from_millis(200);
        let (address, _proxy) =
            proxy(Settings { head_timeout: short, stall_timeout: short, idle_timeout: short, ..unchecked(&[backend]) });
        assert_eq!(status(&ask(address, "GET / HTTP/1.1\r\nHost").await), 408);
        assert_eq!(status(&ask(address, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel").await), 408);
        let silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(timeout(LONG, silent.read(&mut [0; 1])).await.unwrap(), Ok(0));
    });
}

#[test]
fn there_are_only_so_many_clients() {
    block_on(async {
        let (web, _web) = web(100);
        let (address, _proxy) = proxy(Settings { connections: 1, ..unchecked(&[web]) });
        let first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        read_until(&first, "ok\n").await;
        let second = TcpStream::connect(address).await.unwrap();
        second.write_all(get("/healthz").as_bytes()).await.unwrap();
        assert!(timeout(Duration::from_millis(200), second.readable()).await.is_err(), "it waits");
        drop(first);
        assert!(read_to_end(&second).await.ends_with("ok\n"));
    });
}
