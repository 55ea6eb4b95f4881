//! What the service answers.

use alloc::vec::Vec;
use libos::http::{Response, write_number};

/// Text that fills `/`: lines of 64 bytes.
pub static FILLER: [u8; 1024] = filler_text();

const fn filler_text() -> [u8; 1024] {
    const LINE: &[u8; 64] = b"firn is snow packed grain on grain until it bears its own weight";
    let mut filler = [0; 1024];
    let mut at = 0;
    while at < filler.len() {
        filler[at] = if at % 64 == 63 { b'\n' } else { LINE[at % 64] };
        at += 1;
    }
    filler
}

/// So many bytes of text.
#[must_use]
pub fn filler(bytes: usize) -> Response {
    match FILLER.get(..bytes) {
        Some(text) => Response::bytes("text/plain", text),
        None => Response::pieces("text/plain", bytes, |out| out.extend_from_slice(&FILLER)),
    }
}

/// Which VM this is.
#[must_use]
pub fn identity() -> Response {
    let registers = libos::registers();
    let mut body = Vec::with_capacity(128);
    write_identity(&mut body, registers.vm, registers.generation, &crate::identity::identity());
    Response::bytes("application/json", body)
}

fn write_identity(out: &mut Vec<u8>, vm: u32, generation: u64, identity: &crate::identity::Identity) {
    out.extend_from_slice(b"{\"vm\":");
    write_number(out, u64::from(vm));
    out.extend_from_slice(b",\"generation\":");
    write_number(out, generation);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn identities_are_json() {
        let mut out = Vec::new();
        write_identity(&mut out, 7, u64::MAX, &Identity { random: [0xa5; 16], page: 0x00c0_ffee });
        let (random, generation) = ("a5".repeat(16), u64::MAX);
        let expected =
            format!("{{\"vm\":7,\"generation\":{generation},\"random\":\"{random}\",\"page\":\"00c0ffee\"}}\n");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn the_filler_is_lines_of_text_of_the_asked_length() {
        assert!(FILLER.chunks(64).all(|line| line.ends_with(b"\n") && line[..63].is_ascii()));
        for bytes in [0, 1, 128, 1024, 1025, 1 << 20] {
            assert_eq!(filler(bytes).body().len(), bytes);
        }
    }
}
