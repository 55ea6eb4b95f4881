//! Writing one-line JSON objects.

use alloc::string::String;
use core::fmt::{Display, Write};

/// An object that is being written.
pub struct Object {
    text: String,
}

impl Default for Object {
    fn default() -> Self {
        Self { text: String::from("{") }
    }
}

impl Object {
    /// Adds a number or a boolean.
    #[must_use]
    pub fn number(mut self, name: &str, value: impl Display) -> Self {
        self.key(name);
        // Strings take everything.
        let _ = write!(self.text, "{value}");
        self
    }

    /// Adds what is JSON already.
    #[must_use]
    pub fn raw(self, name: &str, json: &str) -> Self {
        self.number(name, json)
    }

    /// Adds a string.
    #[must_use]
    pub fn string(mut self, name: &str, value: &str) -> Self {
        self.key(name);
        self.quote(value);
        self
    }

    /// The object.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }

    fn key(&mut self, name: &str) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        self.quote(name);
        self.text.push(':');
    }

    fn quote(&mut self, value: &str) {
        self.text.push('"');
        for c in value.chars() {
            match c {
                '"' | '\\' => self.text.extend(['\\', c]),
                c if u32::from(c) < 0x20 => {
                    let _ = write!(self.text, "\\u{:04x}", u32::from(c));
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_json() {
        let text = Object::default().string("na\"me", "a\\b\n\u{1}é").number("n", 7).number("yes", true).finish();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["na\"me"], "a\\b\n\u{1}é");
        assert_eq!((value["n"].as_u64(), value["yes"].as_bool()), (Some(7), Some(true)));
        assert_eq!(Object::default().finish(), "{}");
    }
}
