//! A small HTTP/1.1 server, over any stream.
//!
//! | path | answer |
//! |---|---|
//! | `/` | as many bytes of text as the argument `body=` says |
//! | `/id` | JSON: the VM's number, its generation, the first bytes and the checksum of a page of its own random bytes |
//! | `/healthz` | `ok` |
//!
//! [`request`] reads heads, [`response`] writes answers, [`connection`] speaks with one client, [`identity`] keeps the
//! page.
#![cfg_attr(firn_guest, no_std)]
#![warn(missing_docs)]

extern crate alloc;

pub mod connection;
pub mod identity;
pub mod request;
pub mod response;

use libos::Error;
use libos::arguments::{BadArgument, parse_or};
use libos::net::{Ipv6Addr, TcpListener};
use libos::time::Duration;

/// Most bytes of `/`.
pub const MAX_BODY_BYTES: usize = 16 << 20;

/// How the service behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of `/`.
    pub body_bytes: usize,
    /// Time for a head, from its first byte to its last, and for a body.
    pub head_timeout: Duration,
    /// Time for the first byte of the next request.
    pub idle_timeout: Duration,
    /// Time for the client to take some of an answer.
    pub write_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            body_bytes: 128,
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// What the arguments say.
    ///
    /// # Errors
    /// The argument that is not a number, or too large.
    pub fn from_arguments() -> Result<Self, BadArgument> {
        let default = Self::default();
        let milliseconds = |name, default: Duration| {
            let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
            parse_or(name, default).map(Duration::from_millis)
        };
        let body_bytes = parse_or("body", default.body_bytes)?;
        if body_bytes > MAX_BODY_BYTES {
            let value = libos::arguments::get("body").unwrap_or("");
            return Err(BadArgument { name: "body", value });
        }
        Ok(Self {
            body_bytes,
            head_timeout: milliseconds("head_timeout_ms", default.head_timeout)?,
            idle_timeout: milliseconds("idle_timeout_ms", default.idle_timeout)?,
            write_timeout: milliseconds("write_timeout_ms", default.write_timeout)?,
        })
    }
}

/// Serves as the arguments say, for ever.
///
/// # Errors
/// If an argument is bad, or the port is taken.
pub async fn run() -> Result<(), Error> {
    let settings = Settings::from_arguments()?;
    let port = parse_or("port", 80)?;
    serve(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?, settings).await
}

/// Takes connections, for ever, and serves each in a task of its own.
///
/// # Errors
/// What the network says about the listener.
pub async fn serve(listener: TcpListener, settings: Settings) -> Result<(), Error> {
    loop {
        let (stream, _) = listener.accept().await?;
        // Answers are written whole: there is nothing to wait for.
        let _ = stream.set_nodelay(true);
        libos::task::spawn(async move {
            let _ = connection::serve(&stream, &settings).await;
        })
        .detach();
    }
}
