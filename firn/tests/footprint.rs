//! What each app takes: bytes of its image, and pages of a VM of it that has served and waits. `cargo nextest run -p firn
//! --test footprint --no-capture` prints the table that the book has.

mod common;

use common::{Bench, built, number};
use std::time::Duration;

/// An app: its arguments, what a client does (`$address` is the VM's), and most bytes and pages.
struct App {
    name: &'static str,
    arguments: &'static str,
    client: &'static str,
    most_kib: u64,
    most_pages: u64,
}

const fn app(name: &'static str, client: &'static str, most_kib: u64, most_pages: u64) -> App {
    App { name, arguments: "", client, most_kib, most_pages }
}

const GET: &str = "curl --silent --fail --max-time 10 http://$address/ > /dev/null";
const ECHO: &str =
    r#"exec 3<>/dev/tcp/$address/7 && echo hello >&3 && read -t 10 line <&3 && test "$line" = hello && exec 3>&-"#;
const KV: &str = r#"
exec 3<>/dev/tcp/$address/6379 && printf 'SET a 1\r\nGET a\r\nDEL a\r\n' >&3
for expected in +OK '$1' 1 :1; do read -t 10 line <&3 && test "${line%$'\r'}" = "$expected" || exit 1; done
exec 3>&-"#;
const DNS: &str = r#"
exec 3<>/dev/udp/$address/53 && printf '\0\7\1\0\0\1\0\0\0\0\0\0\3www\7example\3org\0\0\1\0\1' >&3
timeout 10 dd bs=512 count=1 <&3 2>/dev/null | head -c 2 | od -An -tx1 | grep -q '00 07' && exec 3>&-"#;
const MQTT: &str = r#"
exec 3<>/dev/tcp/$address/1883 && printf '\x10\x0d\0\4MQTT\4\2\0\x3c\0\1a' >&3
timeout 10 head -c 4 <&3 | od -An -tx1 | grep -q '20 02 00 00' && printf '\xe0\0' >&3 && exec 3>&-"#;

/// `web` has a budget: 200 KiB and 12 pages. The others may grow a little before somebody looks.
const APPS: [App; 7] = [
    app("web", GET, 200, 12),
    app("template", GET, 180, 13),
    app("echo", ECHO, 148, 12),
    app("kv", KV, 220, 13),
    app("dns", DNS, 228, 16),
    app("mqtt", MQTT, 228, 12),
    App { name: "proxy", arguments: "backends=10.65.0.2", client: GET, most_kib: 212, most_pages: 20 },
];

#[test]
fn images_and_idle_vms_are_as_small_as_the_book_says() {
    let bench = Bench::new();
    let services = APPS.iter().map(|App { name, arguments, .. }| {
        format!(
            "[[service]]\nname = \"{name}\"\nimage = \"{name}\"\ncount = 1\nmemory = \"4M\"\nargs = \"{arguments}\"\n"
        )
    });
    let fleet = bench.fleet(&format!("[machine]\nmemory = \"256M\"\n{}", services.collect::<String>()));
    bench.up(&fleet, &["--name", "footprint"]);
    for (app, vm) in APPS.iter().zip(1..) {
        let script = format!("address=10.65.0.{vm}\n{}", app.client);
        bench.firn(["exec", "--name", "footprint", "--", "bash", "-c", &script]).expect(0);
    }
    // Whatever they give back, they have by then.
    std::thread::sleep(Duration::from_secs(3));
    println!("| app | image | private memory of an idle VM that has served |\n|---|---|---|");
    let mut over = Vec::new();
    for (app, vm) in APPS.iter().zip(1..) {
        let status =
            bench.firn(["inspect", &vm.to_string(), "--name", "footprint", "--format", "json"]).expect(0).json();
        assert_eq!(status["state"], "idle", "{status}");
        let pages = number(&status, "/private_pages");
        let kib = std::fs::metadata(built().image(app.name)).unwrap().len() / 1024;
        println!("| `{}` | {kib} KiB | {} KiB: {pages} pages |", app.name, pages * 4);
        if pages > app.most_pages || kib > app.most_kib {
            over.push(format!("{}: {kib} KiB of {}, {pages} pages of {}", app.name, app.most_kib, app.most_pages));
        }
    }
    assert!(over.is_empty(), "{over:?}");
    bench.firn(["down", "--name", "footprint"]).expect(0);
}
