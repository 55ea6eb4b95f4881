//! `loadgen arena` end to end, against servers on loopback addresses.

use arena::arena::Settings;
use libos::net::UdpSocket;
use serde_json::Value;
use std::net::{Ipv4Addr, UdpSocket as HostSocket};
use std::process::{Command, Output};

/// A server for each setting, on consecutive addresses of a net that is this process's.
fn servers(net: u8, settings: &[Settings]) -> (Ipv4Addr, u16) {
    let first = Ipv4Addr::new(127, std::process::id().to_le_bytes()[0], net, 1);
    let port = HostSocket::bind((first, 0)).unwrap().local_addr().unwrap().port();
    for (i, &settings) in (0u8..).zip(settings) {
        let [a, b, c, d] = first.octets();
        let (up, is_up) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            libos::block_on(async move {
                let socket = UdpSocket::bind(([a, b, c, d + i], port)).unwrap();
                up.send(()).unwrap();
                arena::serve(socket, settings).await;
            })
        });
        is_up.recv().unwrap();
    }
    (first, port)
}

fn loadgen((first, port): (Ipv4Addr, u16), arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["arena", "--quiet", "--first", &first.to_string(), "--port", &port.to_string()]).args(arguments);
    command.output().unwrap()
}

fn report(servers: (Ipv4Addr, u16), arguments: &[&str]) -> (Option<i32>, Value) {
    let output = loadgen(servers, &[arguments, &["--format", "json"]].concat());
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}")))
}

#[test]
fn bots_play_and_their_figures_agree_with_the_servers() {
    let servers = servers(1, &[Settings::default(); 3]);
    let (status, report) = report(servers, &["--count", "3", "--players", "4", "--seconds", "2"]);
    assert_eq!(status, Some(0), "{report}");
    assert_eq!((&report["bots"]["played"], &report["servers"]["joined"]), (&12.into(), &12.into()), "{report}");
    assert_eq!((&report["servers"]["left"], &report["servers"]["players"]), (&12.into(), &0.into()), "{report}");
    let number =
        |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {report}"));
    // Two seconds at 20 Hz; a busy host may start late.
    assert!(number("/snapshots/received") > 12.0 * 10.0, "{report}");
    assert!(number("/servers/snapshots") >= number("/snapshots/received"), "{report}");
    assert!(number("/snapshots/expected") >= number("/snapshots/received") - number("/snapshots/out_of_order"));
    assert!((25_000.0..100_000.0).contains(&number("/between/p50_us")), "{report}");
    assert!(number("/response/count") > 0.0 && number("/response/p50_us") > 0.0, "{report}");
    assert_eq!(number("/servers/bad_keys") + number("/servers/malformed"), 0.0, "{report}");
}

#[test]
fn who_is_not_let_in_or_finds_nobody_fails_the_run() {
    let place = servers(2, &[Settings { players: 2, ..Settings::default() }]);
    let output = loadgen(place, &["--players", "3", "--seconds", "1"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("2 of 3 got in") && text.contains("not every player"), "{text}");

    let nobody = (place.0, HostSocket::bind((place.0, 0)).unwrap().local_addr().unwrap().port());
    let (status, report) = report(nobody, &["--players", "1", "--seconds", "0.5"]);
    assert_eq!((status, &report["silent"], &report["bots"]["played"]), (Some(1), &1.into(), &0.into()), "{report}");
}

#[test]
fn bad_arguments_name_what_to_give() {
    let here = (Ipv4Addr::LOCALHOST, 7777);
    for (arguments, part) in [
        (&["--players", "33"][..], "give 1 to 32"),
        (&["--players", "0"], "give 1 to 32"),
        (&["--count", "100000"], "at most 50000"),
        (&["--seconds", "-1"], "give more than 0"),
    ] {
        let output = loadgen(here, arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(part), "{output:?}");
    }
}
