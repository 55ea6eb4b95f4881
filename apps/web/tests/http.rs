//! The service as a client sees it, over real sockets.

use libos::net::{SocketAddr, TcpListener, TcpStream};
use web::Settings;

fn serve(settings: Settings) -> SocketAddr {
    let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
    let address = listener.local_addr().unwrap();
    libos::task::spawn(web::serve(listener, settings)).detach();
    address
}

async fn ask(address: SocketAddr, path: &str, headers: &str) -> (String, Vec<u8>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = stream.read_to_end(1 << 21).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
}

#[test]
fn bodies_have_the_asked_length() {
    libos::block_on(async {
        for body_bytes in [128, 300, 1_000_000] {
            let address = serve(Settings { body_bytes, ..Settings::default() });
            let (head, body) = ask(address, "/", "").await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert!(head.contains(&format!("content-length: {body_bytes}")), "{head}");
            assert_eq!(body.len(), body_bytes);
        }
    });
}

#[test]
fn the_identity_is_the_same_in_every_answer() {
    libos::block_on(async {
        let address = serve(Settings::default());
        let (_, first) = ask(address, "/id", "").await;
        let (_, second) = ask(address, "/id", "").await;
        assert_eq!(first, second);
        let text = String::from_utf8(first).unwrap();
        let field = |name: &str| {
            let (_, rest) = text.split_once(&format!("\"{name}\":\"")).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        assert!(text.starts_with("{\"vm\":0,\"generation\":1,\"random\":\""));
        assert_eq!((field("random").len(), field("page").len()), (32, 8));
        assert!(field("random").bytes().chain(field("page").bytes()).all(|digit| digit.is_ascii_hexdigit()));
        assert_eq!(ask(address, "/healthz", "").await.1, b"ok\n");
        assert!(ask(address, "/nowhere", "").await.0.starts_with("HTTP/1.1 404 "));
    });
}

#[test]
fn files_come_whole_in_parts_or_not_again() {
    libos::block_on(async {
        let address = serve(Settings::default());
        let (head, page) = ask(address, "/static/", "").await;
        assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
        assert_eq!(page, include_bytes!("../static/index.html"));
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let (again, nothing) = ask(address, "/static/", &format!("If-None-Match: {tag}\r\n")).await;
        assert!(again.starts_with("HTTP/1.1 304 ") && nothing.is_empty(), "{again}");
        let (part, bytes) = ask(address, "/static/style.css", "Range: bytes=10-19\r\n").await;
        assert!(part.starts_with("HTTP/1.1 206 "), "{part}");
        assert_eq!(bytes, include_bytes!("../static/style.css")[10..20]);
        assert!(ask(address, "/static/firn.svg", "").await.0.contains("content-type: image/svg+xml"));
    });
}
