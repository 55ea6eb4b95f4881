//! The argument string: words separated by spaces, by convention `name=value`.
//!
//! ```
//! use libos::arguments::{BadArgument, arguments, get, parse_or};
//!
//! let port: u16 = parse_or("port", 80)?;
//! assert_eq!((port, get("colour")), (80, None));
//! // What was not understood says so itself.
//! let bad = BadArgument { name: "port", value: "http" };
//! assert_eq!(bad.to_string(), "bad argument: port=http");
//! println!("started with {:?}", arguments());
//! # Ok::<(), BadArgument>(())
//! ```

use core::fmt;
use core::str::FromStr;

/// The whole argument string of this VM. On the host: the program's arguments.
#[must_use]
pub fn arguments() -> &'static str {
    #[cfg(firn_guest)]
    return crate::guest::registers::argument_string();
    #[cfg(not(firn_guest))]
    return crate::host::argument_string();
}

/// An argument whose value is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadArgument {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: &'static str,
}

impl fmt::Display for BadArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad argument: {}={}", self.name, self.value)
    }
}

impl core::error::Error for BadArgument {}

/// The value of `name=value` among the arguments; of the last one, if there are several.
#[must_use]
pub fn get(name: &str) -> Option<&'static str> {
    find(arguments(), name)
}

/// The value of `name=value`, parsed, or `default` if there is none.
///
/// # Errors
/// If the value does not parse: whoever started this VM must mend it.
pub fn parse_or<T: FromStr>(name: &'static str, default: T) -> Result<T, BadArgument> {
    match get(name) {
        None => Ok(default),
        Some(value) => value.parse().map_err(|_| BadArgument { name, value }),
    }
}

fn find<'a>(arguments: &'a str, name: &str) -> Option<&'a str> {
    let mut values = arguments.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    values.rfind(|&(found, _)| found == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_name() {
        let arguments = " body=128  port=80 verbose body=4=5 ";
        assert_eq!(find(arguments, "body"), Some("4=5"));
        assert_eq!(find(arguments, "port"), Some("80"));
        assert_eq!(find(arguments, "verbose"), None);
        assert_eq!(find(arguments, "bod"), None);
        assert_eq!(find("", "body"), None);
    }
}
