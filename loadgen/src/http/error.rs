//! What can go wrong with one request, as kinds that are counted.

use serde::{Deserialize, Serialize};
use std::io;

/// The kinds of failure. The order is that of [`ErrorKind::ALL`] and of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The target refused the connection.
    ConnectRefused,
    /// No connection was established in time.
    ConnectTimedOut,
    /// The network says that there is no way to the target.
    Unreachable,
    /// The response was not complete in time.
    TimedOut,
    /// The target reset the connection.
    Reset,
    /// The target closed the connection without a byte of a response.
    NoResponse,
    /// The status was not one of success (2xx).
    BadStatus,
    /// What came was not an HTTP response, or not the one asked for.
    BadResponse,
    /// The response was cut short.
    ShortBody,
    /// This computer's fault: out of ports, file descriptors or memory.
    Local,
}

impl ErrorKind {
    /// Number of kinds.
    pub const COUNT: usize = Self::ALL.len();

    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::ConnectRefused,
        Self::ConnectTimedOut,
        Self::Unreachable,
        Self::TimedOut,
        Self::Reset,
        Self::NoResponse,
        Self::BadStatus,
        Self::BadResponse,
        Self::ShortBody,
        Self::Local,
    ];

    /// The kind of a socket's error. `connecting` says that the connection was not established yet.
    #[must_use]
    pub fn of(error: &io::Error, connecting: bool) -> Self {
        use io::ErrorKind as K;
        match error.kind() {
            K::ConnectionRefused => Self::ConnectRefused,
            K::TimedOut if connecting => Self::ConnectTimedOut,
            K::TimedOut => Self::TimedOut,
            K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown => Self::Unreachable,
            K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::NotConnected => Self::Reset,
            _ => Self::Local,
        }
    }

    /// Name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimedOut => "connect_timed_out",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Reset => "reset",
            Self::NoResponse => "no_response",
            Self::BadStatus => "bad_status",
            Self::BadResponse => "bad_response",
            Self::ShortBody => "short_body",
            Self::Local => "local",
        }
    }
}
