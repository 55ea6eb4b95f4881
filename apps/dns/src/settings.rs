//! The arguments, and the limits that they change.

use crate::text;
use crate::zone::Zone;
use alloc::string::String;
use alloc::vec::Vec;
use core::str::FromStr;
use libos::Error;
use libos::time::Duration;

/// The zone of an image whose arguments name no records.
const OWN_ZONE: &str = include_str!("../zone.txt");

/// How the service behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub port: u16,
    /// Name of the zone.
    pub zone: String,
    /// Seconds that records may be remembered which do not say so themselves.
    pub ttl: u32,
    /// Most TCP connections.
    pub max_clients: usize,
    /// Time for the first byte of the next query over TCP.
    pub idle_timeout: Duration,
    /// Time for a query over TCP to be complete, and for the client to take some of an answer.
    pub query_timeout: Duration,
    /// Records, a line each; the image's own if `None`.
    pub records: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: 53,
            zone: "example.org".into(),
            ttl: 3600,
            max_clients: 64,
            idle_timeout: Duration::from_secs(10),
            query_timeout: Duration::from_secs(5),
            records: None,
        }
    }
}

impl Settings {
    /// Reads an argument string. What stands behind a `|` is a record: only what is before the first one is looked at
    /// for settings.
    ///
    /// # Errors
    /// The setting that is none, or not what it should be.
    pub fn parse(arguments: &str) -> Result<Self, Error> {
        let (head, records) = match arguments.split_once('|') {
            Some((head, records)) => (head, Some(records.split('|').map(str::trim).collect::<Vec<_>>().join("\n"))),
            None => (arguments, None),
        };
        let mut settings = Self { records, ..Self::default() };
        for word in head.split_ascii_whitespace() {
            let bad = || Error::new(alloc::format!("bad argument: {word}"));
            let (name, value) = word.split_once('=').ok_or_else(bad)?;
            match name {
                "port" => settings.port = number(value).ok_or_else(bad)?,
                "zone" => settings.zone = value.into(),
                "ttl" => settings.ttl = number(value).ok_or_else(bad)?,
                "clients" => settings.max_clients = number(value).ok_or_else(bad)?,
                "idle_timeout_ms" => settings.idle_timeout = Duration::from_millis(number(value).ok_or_else(bad)?),
                _ => return Err(bad()),
            }
        }
        Ok(settings)
    }

    /// The zone: from the arguments, or from the image.
    ///
    /// # Errors
    /// What is wrong with it, and on which line.
    pub fn read_zone(&self) -> Result<Zone, Error> {
        let text = self.records.as_deref().unwrap_or(OWN_ZONE);
        text::parse(text, &self.zone, self.ttl).map_err(|e| Error::new(alloc::format!("zone {}: {e}", self.zone)))
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_not_looked_at_for_settings() {
        let settings = Settings::parse("port=5353 zone=a.test | @ TXT port=1 |  b A 10.0.0.1").unwrap();
        assert_eq!((settings.port, settings.zone.as_str()), (5353, "a.test"));
        assert_eq!(settings.records.as_deref(), Some("@ TXT port=1\nb A 10.0.0.1"));
        assert!(Settings::parse("prot=53").is_err() && Settings::parse("port=65536").is_err());
        assert!(Settings::parse("verbose").is_err());
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
    }

    #[test]
    fn the_images_own_zone_is_one() {
        Settings::default().read_zone().unwrap();
    }
}
