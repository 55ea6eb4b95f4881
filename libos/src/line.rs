//! Cutting a stream of bytes into lines, with a bound on what an endless one can cost.

use alloc::string::String;
use alloc::vec::Vec;

/// Most bytes of a line; the rest of a longer one is dropped.
pub(crate) const MAX_LINE_BYTES: usize = 1024;

/// Bytes of a line that has not ended yet.
pub(crate) struct LineBuffer {
    bytes: Vec<u8>,
}

impl LineBuffer {
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Adds a byte. Returns the line if it is complete, without its end.
    pub fn push(&mut self, byte: u8) -> Option<String> {
        match byte {
            b'\n' => {
                let mut bytes = core::mem::take(&mut self.bytes);
                if bytes.last() == Some(&b'\r') {
                    bytes.pop();
                }
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            _ if self.bytes.len() >= MAX_LINE_BYTES => None,
            byte => {
                self.bytes.push(byte);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_without_their_ends_and_bounded() {
        let mut buffer = LineBuffer::new();
        let mut lines = Vec::new();
        let mut feed = |bytes: &[u8]| lines.extend(bytes.iter().filter_map(|&b| buffer.push(b)));
        feed(b"status\nvm 7\r\n\nhalf");
        feed(b" a line\n\xff\n");
        feed(&[b'x'; 5000]);
        feed(b"\nafter\n");
        assert_eq!(lines.len(), 7);
        assert_eq!(lines[..5], ["status", "vm 7", "", "half a line", "\u{fffd}"]);
        assert_eq!(lines[5].len(), MAX_LINE_BYTES);
        assert_eq!(lines[6], "after");
    }
}
