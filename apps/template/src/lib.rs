//! What the service does: it greets whoever asks over HTTP.
//!
//! There is nothing about VMs in here. `cargo test` runs the same code on the host, over real sockets.
#![cfg_attr(firn_guest, no_std)]

extern crate alloc;

use alloc::format;
use libos::http::{Limits, Request, Response, Router, Server};
use libos::net::{Error, TcpListener};

/// What is where. `HEAD`, unknown paths, wrong methods and bad requests are answered by the router and the server.
#[must_use]
pub fn router() -> Router {
    Router::new().get("/", greet).get("/hello/{name}", greet)
}

/// Takes connections, for ever, and serves each in a task of its own.
///
/// # Errors
/// What the network says about the listener.
pub async fn serve(listener: TcpListener) -> Result<(), Error> {
    // What a client may take of this VM. Those that are not named are as usual: times, sizes of heads and bodies.
    let limits = Limits { connections: 100, ..Limits::new() };
    Server::new(router()).with_limits(limits).serve(listener).await
}

/// Greets. A handler that has to wait for something is an `async fn`, and may return whatever can be a response.
fn greet(request: Request) -> Response {
    let name = request.parameter("name").unwrap_or("you");
    libos::log::info!("{} is asked for", request.path());
    Response::text(format!("hello {name} from a VM of my own\n"))
}
