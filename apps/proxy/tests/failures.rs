//! Back ends that fail, in each way, and come back.

mod common;

use common::*;
use libos::block_on;
use libos::net::{TcpListener, TcpStream};
use libos::time::{Duration, sleep};
use proxy::Settings;
use proxy::backends::{HealthTerms, Policy};

#[test]
fn who_does_not_listen_is_passed_over() {
    block_on(async {
        let (web, _web) = web(100);
        let (address, _proxy) = proxy(unchecked(&[nobody(), web, nobody()]));
        for _ in 0..12 {
            assert_eq!(status(&ask(address, &get("/")).await), 200);
        }
    });
}

#[test]
fn failures_have_their_statuses() {
    block_on(async {
        let short = Duration::from_millis(200);
        let of = |backend| Settings { response_timeout: short, connect_timeout: short, ..unchecked(&[backend]) };
        let post = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        // Nobody listens; it closes; it says something else; it says nothing.
        let closes = || scripted("\r\n\r\n", "", 1).0;
        let closes_after_post = || scripted("hi", "", 1).0;
        let silent = || scripted("never", "", 1).0;
        for (backend, text, wanted) in [
            (nobody(), get("/"), 502),
            (closes(), get("/"), 502),
            (closes_after_post(), post.to_owned(), 502),
            (scripted("\r\n\r\n", "nonsense\r\n\r\n", 1).0, get("/"), 502),
            (scripted("\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", 1).0, get("/"), 502),
            (silent(), get("/"), 504),
            (silent(), post.to_owned(), 504),
        ] {
            let (address, _proxy) = proxy(of(backend));
            assert_eq!(status(&ask(address, &text).await), wanted, "{text}");
        }
        // Three failures and it is taken to be down: nobody is asked.
        let (backend, seen) = scripted("\r\n\r\n", "", 1);
        let (address, _proxy) = proxy(Settings {
            health: HealthTerms { interval: Duration::ZERO, most: Duration::from_secs(3600), ..HealthTerms::default() },
            ..of(backend)
        });
        let mut statuses = Vec::new();
        for _ in 0..5 {
            statuses.push(status(&ask(address, &get("/")).await));
        }
        assert_eq!(statuses, [502, 502, 502, 503, 503]);
        assert_eq!(seen.borrow().len(), 3);
        let answer = ask(address, &get("/")).await;
        assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    });
}

#[test]
fn an_answer_that_breaks_off_is_not_whole_for_the_client_either() {
    block_on(async {
        for (answer, end) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "\r\n\r\nhalf"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "\r\n\r\n4\r\nhalf\r\n"),
            // What comes with a mistake is not even begun.
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nX\r\n", ""),
        ] {
            let (backend, _) = scripted("\r\n\r\n", answer, 1);
            let (address, _proxy) = proxy(unchecked(&[backend]));
            let got = ask(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert!(got.ends_with(end) && !got.ends_with("0\r\n\r\n"), "{got}");
        }
    });
}

#[test]
fn who_must_not_be_asked_twice_is_not() {
    block_on(async {
        let (first, seen_first) = scripted("hi", "", 1);
        let (second, seen_second) = scripted("hi", "", 1);
        let (address, _proxy) = proxy(unchecked(&[first, second]));
        let post = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(status(&ask(address, post).await), 502);
        assert_eq!((seen_first.borrow().len(), seen_second.borrow().len()), (1, 0));
        let (first, seen_first) = scripted("\r\n\r\n", "", 1);
        let (second, _) = scripted("\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 9);
        let (address, _proxy) = proxy(unchecked(&[first, second]));
        assert_eq!(status(&ask(address, &get("/")).await), 200, "another one may answer what can be asked twice");
        assert_eq!(seen_first.borrow().len(), 1);
    });
}

#[test]
fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    block_on(async {
        let refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n";
        let (backend, _) = scripted("\r\n\r\n", refusal, 1);
        let (address, _proxy) = proxy(unchecked(&[backend]));
        let stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
        let answer = read_until(&stream, "\r\n\r\n").await;
        assert!(status(&answer) == 413 && answer.contains("connection: close\r\n"), "{answer}");
    });
}

#[test]
fn checks_find_who_is_down_and_who_is_back() {
    block_on(async {
        let health =
            HealthTerms { fall: 2, rise: 2, interval: Duration::from_millis(20), most: Duration::from_millis(100) };
        let (first, _first) = web(100);
        let (listener, second) = listen();
        let back_end = web_at(listener, 200);
        let settings = // Its open connections would outlive a server that is cancelled, not one that is stopped.
        Settings { health, check_path: "/healthz", keep: 0, ..Settings::new(vec![first, second]) };
        let (address, _proxy) = proxy(settings);
        let lengths = async |n: usize| {
            let mut lengths = Vec::new();
            for _ in 0..n {
                let answer = ask(address, &get("/")).await;
                assert_eq!(status(&answer), 200);
                lengths.push(body(&answer).len());
            }
            lengths.sort_unstable();
            lengths
        };
        assert_eq!(lengths(4).await, [100, 100, 200, 200]);
        // Stopped. No client notices, then it is not even tried.
        back_end.cancel().await;
        for _ in 0..20 {
            assert_eq!(lengths(2).await, [100, 100]);
        }
        sleep(Duration::from_millis(300)).await;
        // Started again at the same place.
        let _back_end = web_at(TcpListener::bind(second).unwrap(), 200);
        let mut waited = 0;
        while lengths(2).await == [100, 100] {
            sleep(Duration::from_millis(20)).await;
            waited += 1;
            assert!(waited < 500, "it is not found again");
        }
        assert_eq!(lengths(4).await, [100, 100, 200, 200]);
    });
}

#[test]
fn a_check_that_is_answered_badly_counts_as_failed() {
    block_on(async {
        let health =
            HealthTerms { fall: 1, rise: 1, interval: Duration::from_millis(10), most: Duration::from_millis(20) };
        let (backend, _) = scripted("\r\n\r\n", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 9);
        let (address, _proxy) = proxy(Settings { health, ..Settings::new(vec![backend]) });
        let mut asked = 0;
        while status(&ask(address, &get("/")).await) != 503 {
            sleep(Duration::from_millis(20)).await;
            asked += 1;
            assert!(asked < 500, "it is never taken to be down");
        }
    });
}

#[test]
fn the_least_busy_back_end_is_asked() {
    block_on(async {
        // One holds on to its request; all others go to the other one.
        let (busy, seen_busy) = scripted("never", "", 1);
        let (free, seen_free) = scripted("\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 99);
        let (address, _proxy) = proxy(Settings { policy: Policy::LeastConnections, ..unchecked(&[busy, free]) });
        let held = TcpStream::connect(address).await.unwrap();
        held.write_all(get("/").as_bytes()).await.unwrap();
        while seen_busy.borrow().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..5 {
            assert_eq!(body(&ask(address, &get("/")).await), "ok");
        }
        assert_eq!((seen_busy.borrow().len(), seen_free.borrow().len()), (1, 1));
    });
}
