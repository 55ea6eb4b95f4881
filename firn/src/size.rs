//! Sizes of memory as people write them: `"512K"`, `"4M"`, `"2G"`.

use std::fmt;
use virtual_isa::PAGE_SIZE;

/// Why a text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// It is not a number followed by `K`, `M` or `G`, or 0.
    Malformed,
    /// It is larger than any machine.
    TooLarge,
    /// It is not a multiple of the page size.
    NotPages,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("is not a size"),
            Self::TooLarge => f.write_str("is too large"),
            Self::NotPages => write!(f, "is not a multiple of the page size, {PAGE_SIZE} bytes"),
        }
    }
}

/// What a size looks like, for messages.
pub const REMEDY: &str = "write a whole number and a unit, such as \"512K\", \"4M\" or \"2G\"";

/// Reads a size in bytes, of whole pages.
///
/// # Errors
/// See [`SizeError`].
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let bytes = parse_any(text)?;
    if bytes.is_multiple_of(PAGE_SIZE as u64) { Ok(bytes) } else { Err(SizeError::NotPages) }
}

/// Reads a size in bytes, which need not be whole pages. Nothing is `"0"`, without a unit.
///
/// # Errors
/// `Malformed`, `TooLarge`.
pub fn parse_any(text: &str) -> Result<u64, SizeError> {
    if text == "0" {
        return Ok(0);
    }
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or(SizeError::Malformed)?;
    let (digits, unit) = text.split_at(unit_at);
    let shift = match unit {
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => return Err(SizeError::Malformed),
    };
    if digits.is_empty() {
        return Err(SizeError::Malformed);
    }
    let number: u64 = digits.parse().map_err(|_| SizeError::TooLarge)?;
    number.checked_mul(1 << shift).ok_or(SizeError::TooLarge)
}

/// Writes a size in the largest unit that divides it.
#[must_use]
pub fn format(bytes: u64) -> String {
    for (shift, unit) in [(30, "G"), (20, "M"), (10, "K")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        for (text, bytes) in [("4K", 4096), ("4M", 4 << 20), ("4MiB", 4 << 20), ("16G", 16 << 30), ("0K", 0), ("0", 0)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse_any("5K"), Ok(5 << 10));
        assert_eq!(format(4 << 20), "4M");
        assert_eq!(format(3 << 9), "1536");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "4", "00", "M", "-4M", "4 M", "4m", "4MB", "0x4M", "4.5M", "M4"] {
            assert_eq!(parse(text), Err(SizeError::Malformed), "{text}");
        }
        assert_eq!(parse("1K"), Err(SizeError::NotPages));
        assert_eq!(parse("99999999999999999999G"), Err(SizeError::TooLarge));
        assert_eq!(parse("17179869184G"), Err(SizeError::TooLarge));
    }
}
