//! How the proxy behaves, as its arguments say.

use crate::backends::{HealthTerms, MAX_BACKENDS, Policy};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use libos::Error;
use libos::arguments::{self, BadArgument, parse_or};
use libos::time::Duration;

/// How the proxy behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The servers behind.
    pub backends: Vec<SocketAddr>,
    /// Which of them is next.
    pub policy: Policy,
    /// When they are down.
    pub health: HealthTerms,
    /// Path that checks ask for.
    pub check_path: &'static str,
    /// Clients at a time; more wait.
    pub connections: usize,
    /// Free connections kept to each back end.
    pub keep: usize,
    /// For how long: less than the back ends keep them.
    pub keep_for: Duration,
    /// Time for a request's head, from its first byte on.
    pub head_timeout: Duration,
    /// Time from one request to the next.
    pub idle_timeout: Duration,
    /// Time to connect to a back end, and for a check.
    pub connect_timeout: Duration,
    /// Time from a request to the head of its answer.
    pub response_timeout: Duration,
    /// Time in which some of a body has to come, and to be taken.
    pub stall_timeout: Duration,
}

impl Settings {
    /// The usual ones, with these back ends.
    #[must_use]
    pub fn new(backends: Vec<SocketAddr>) -> Self {
        Self {
            backends,
            policy: Policy::default(),
            health: HealthTerms::default(),
            check_path: "/",
            connections: 256,
            keep: 8,
            keep_for: Duration::from_secs(20),
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
        }
    }

    /// What the arguments say.
    ///
    /// # Errors
    /// The argument that is not as it should be.
    pub fn from_arguments() -> Result<Self, Error> {
        let Some(list) = arguments::get("backends") else {
            return Err(Error::new("no back ends: give backends=ADDRESS[:PORT],..."));
        };
        let usual = Self::new(read_backends(list).ok_or(BadArgument { name: "backends", value: list })?);
        let check_path = arguments::get("check").unwrap_or(usual.check_path);
        if !check_path.starts_with('/') || !check_path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadArgument { name: "check", value: check_path }.into());
        }
        Ok(Self {
            policy: parse_or("policy", usual.policy)?,
            health: HealthTerms {
                fall: positive("fall", usual.health.fall)?,
                rise: positive("rise", usual.health.rise)?,
                interval: milliseconds("check_ms", usual.health.interval)?,
                most: milliseconds("check_most_ms", usual.health.most)?,
            },
            check_path,
            connections: parse_or("connections", usual.connections)?.max(1),
            keep: parse_or("keep", usual.keep)?.min(64),
            keep_for: milliseconds("keep_ms", usual.keep_for)?,
            head_timeout: milliseconds("head_timeout_ms", usual.head_timeout)?,
            idle_timeout: milliseconds("idle_timeout_ms", usual.idle_timeout)?,
            connect_timeout: milliseconds("connect_timeout_ms", usual.connect_timeout)?,
            response_timeout: milliseconds("response_timeout_ms", usual.response_timeout)?,
            stall_timeout: milliseconds("stall_timeout_ms", usual.stall_timeout)?,
            ..usual
        })
    }
}

fn milliseconds(name: &'static str, default: Duration) -> Result<Duration, BadArgument> {
    let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
    parse_or(name, default).map(Duration::from_millis)
}

fn positive(name: &'static str, default: u32) -> Result<u32, BadArgument> {
    match parse_or(name, default)? {
        0 => Err(BadArgument { name, value: "0" }),
        value => Ok(value),
    }
}

/// Addresses with or without a port, which is 80 then, separated by commas; `None` if one is none, or there are none or
/// too many.
fn read_backends(list: &str) -> Option<Vec<SocketAddr>> {
    let read = |word: &str| match (word.parse(), word.parse::<IpAddr>()) {
        (Ok(address), _) => Some(address),
        (_, Ok(ip)) => Some(SocketAddr::new(ip, 80)),
        _ => None,
    };
    let all: Option<Vec<_>> = list.split(',').map(read).collect();
    all.filter(|all| all.len() <= MAX_BACKENDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_ends_are_addresses_with_or_without_ports() {
        let wanted: Vec<SocketAddr> = vec![
            ([10, 65, 0, 2], 80).into(),
            ([10, 65, 0, 3], 8080).into(),
            "[::1]:80".parse().unwrap(),
            "[fd00::2]:81".parse().unwrap(),
        ];
        assert_eq!(read_backends("10.65.0.2,10.65.0.3:8080,::1,[fd00::2]:81"), Some(wanted));
        for bad in ["", "10.65.0.2,", "web:80", "10.65.0.2:99999", "10.65.0.2 10.65.0.3"] {
            assert_eq!(read_backends(bad), None, "{bad}");
        }
        assert_eq!(read_backends(&vec!["10.0.0.1"; 65].join(",")), None);
    }
}
