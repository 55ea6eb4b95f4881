//! A small web server: the service that Firn is measured with.
//!
//! | path | answer |
//! |---|---|
//! | `/` | as many bytes of text as the argument `body=` says |
//! | `/id` | JSON: the VM's number, its generation, the first bytes and the checksum of a page of its own random bytes |
//! | `/healthz` | `ok` |
//! | `/static/` | files of the image: a page, its style and its picture; with conditional requests and ranges |
//!
//! [`pages`] makes the answers, [`identity`] keeps the page of random bytes. The server is [`libos::http`]'s.
#![cfg_attr(firn_guest, no_std)]
#![warn(missing_docs)]

extern crate alloc;

pub mod identity;
pub mod pages;

use libos::Error;
use libos::arguments::{BadArgument, parse_or};
use libos::http::{File, Files, Limits, Request, Response, Router, Server};
use libos::net::{Ipv6Addr, ListenOptions, TcpListener};
use libos::time::Duration;

/// Most bytes of `/`.
pub const MAX_BODY_BYTES: usize = 16 << 20;

/// Connections that may be on their way in.
const BACKLOG: usize = 1024;

/// The files below `/static/`.
static FILES: Files = Files::new(&[
    File::new("index.html", include_bytes!("../static/index.html")),
    File::new("style.css", include_bytes!("../static/style.css")),
    File::new("firn.svg", include_bytes!("../static/firn.svg")),
]);

/// How the service behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of `/`.
    pub body_bytes: usize,
    /// What clients may take.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self { body_bytes: 128, limits: Limits::default() }
    }
}

impl Settings {
    /// What the arguments say.
    ///
    /// # Errors
    /// The argument that is not a number, or too large.
    pub fn from_arguments() -> Result<Self, BadArgument> {
        let default = Self::default();
        let body_bytes = parse_or("body", default.body_bytes)?;
        if body_bytes > MAX_BODY_BYTES {
            let value = libos::arguments::get("body").unwrap_or("");
            return Err(BadArgument { name: "body", value });
        }
        let limits = Limits {
            head_timeout: milliseconds("head_timeout_ms", default.limits.head_timeout)?,
            idle_timeout: milliseconds("idle_timeout_ms", default.limits.idle_timeout)?,
            write_timeout: milliseconds("write_timeout_ms", default.limits.write_timeout)?,
            connections: parse_or("connections", default.limits.connections)?,
            ..default.limits
        };
        Ok(Self { body_bytes, limits })
    }
}

/// The milliseconds that an argument says.
#[inline(never)]
fn milliseconds(name: &'static str, default: Duration) -> Result<Duration, BadArgument> {
    let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
    parse_or(name, default).map(Duration::from_millis)
}

/// The service's routes.
#[must_use]
pub fn router(body_bytes: usize) -> Router {
    Router::new()
        .get("/", move |_: Request| pages::filler(body_bytes))
        .get("/id", |_: Request| pages::identity())
        .get("/healthz", |_: Request| Response::text("ok\n"))
        .get("/static/{*path}", |request: Request| FILES.respond("path", &request))
}

/// Serves as the arguments say, for ever.
///
/// # Errors
/// If an argument is bad, or the port is taken.
pub async fn run() -> Result<(), Error> {
    let settings = Settings::from_arguments()?;
    let port = parse_or("port", 80)?;
    // A crowd that comes at once is let in as fast as it is served, as far as there is memory for its buffers.
    let options = ListenOptions { backlog: BACKLOG, half_open: BACKLOG, ..ListenOptions::default() };
    serve(TcpListener::bind_with((Ipv6Addr::UNSPECIFIED, port), options)?, settings).await
}

/// Takes connections, for ever.
///
/// # Errors
/// What the network says about the listener.
pub async fn serve(listener: TcpListener, settings: Settings) -> Result<(), Error> {
    Ok(Server::new(router(settings.body_bytes)).with_limits(settings.limits).serve(listener).await?)
}
