//! Writing answers.

use crate::identity::Identity;
use alloc::vec::Vec;

/// A status that is not a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 400.
    BadRequest,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 408.
    RequestTimeout,
    /// 413.
    BodyTooLarge,
    /// 431.
    HeadTooLarge,
    /// 501.
    NotImplemented,
}

impl Status {
    /// Number and name.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::RequestTimeout => "408 Request Timeout",
            Self::BodyTooLarge => "413 Content Too Large",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::NotImplemented => "501 Not Implemented",
        }
    }
}

/// What is said of the connection in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It stays open, as it does by default.
    Open,
    /// It stays open, which has to be said to a client of HTTP/1.0.
    KeepAlive,
    /// It is closed.
    Close,
}

/// Text that fills `/`: lines of 64 bytes.
pub static FILLER: [u8; 1024] = filler();

const fn filler() -> [u8; 1024] {
    const LINE: &[u8; 64] = b"firn is snow packed grain on grain until it bears its own weight";
    let mut filler = [0; 1024];
    let mut at = 0;
    while at < filler.len() {
        filler[at] = if at % 64 == 63 { b'\n' } else { LINE[at % 64] };
        at += 1;
    }
    filler
}

/// Appends the head of an answer.
pub fn write_head(out: &mut Vec<u8>, status: &str, kind: &str, body_bytes: usize, persistence: Persistence) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_bytes());
    out.extend_from_slice(b"\r\ncontent-type: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\r\ncontent-length: ");
    write_number(out, body_bytes);
    out.extend_from_slice(match persistence {
        Persistence::Open => b"\r\n\r\n".as_slice(),
        Persistence::KeepAlive => b"\r\nconnection: keep-alive\r\n\r\n",
        Persistence::Close => b"\r\nconnection: close\r\n\r\n",
    });
}

/// Appends a whole answer that says only what is wrong.
pub fn write_refusal(out: &mut Vec<u8>, status: Status, persistence: Persistence, is_head: bool) {
    let text = status.text();
    let kind = match status {
        Status::MethodNotAllowed => "text/plain\r\nallow: GET, HEAD",
        _ => "text/plain",
    };
    write_head(out, text, kind, text.len() + 1, persistence);
    if !is_head {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }
}

/// The body of `/id`.
pub fn write_identity(out: &mut Vec<u8>, vm: u32, generation: u64, identity: &Identity) {
    out.extend_from_slice(b"{\"vm\":");
    write_number(out, vm as usize);
    out.extend_from_slice(b",\"generation\":");
    write_number(out, usize::try_from(generation).unwrap_or(usize::MAX));
    out.extend_from_slice(b",\"random\":\"");
    write_hex(out, &identity.random);
    out.extend_from_slice(b"\",\"page\":\"");
    write_hex(out, &identity.page.to_be_bytes());
    out.extend_from_slice(b"\"}\n");
}

fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

fn write_number(out: &mut Vec<u8>, mut number: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_framed() {
        let mut out = Vec::new();
        write_refusal(&mut out, Status::MethodNotAllowed, Persistence::Close, false);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "405 Method Not Allowed\n");
        assert_eq!(
            head,
            "HTTP/1.1 405 Method Not Allowed\r\ncontent-type: text/plain\r\nallow: GET, HEAD\r\n\
             content-length: 23\r\nconnection: close"
        );
    }

    #[test]
    fn identities_are_json() {
        let mut out = Vec::new();
        write_identity(&mut out, 7, 1, &Identity { random: [0xa5; 16], page: 0x00c0_ffee });
        let random = "a5".repeat(16);
        let expected = format!("{{\"vm\":7,\"generation\":1,\"random\":\"{random}\",\"page\":\"00c0ffee\"}}\n");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        write_number(&mut out, usize::MAX);
        assert_eq!(String::from_utf8(out).unwrap(), usize::MAX.to_string());
    }

    #[test]
    fn the_filler_is_lines_of_text() {
        assert!(FILLER.chunks(64).all(|line| line.ends_with(b"\n") && line[..63].is_ascii()));
    }
}
