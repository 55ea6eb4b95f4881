//! A listener's connections, each served by a task of its own.

use super::{Limits, Router, serve_stream};
use crate::memory;
use crate::net::{self, TcpListener};
use crate::sync::Notify;
use crate::task;
use crate::time::{Duration, sleep};
use alloc::rc::Rc;
use core::cell::Cell;

/// How long nothing is accepted after an error: the host may have no room for another connection.
const PAUSE: Duration = Duration::from_millis(50);

/// What a connection takes beside its socket and its bodies, at most: a task, a head, an answer.
const CONNECTION_BYTES: usize = 16 * 1024;

/// A router, and what clients may take.
///
/// ```no_run
/// # async fn run() -> Result<(), libos::net::Error> {
/// use libos::http::{Limits, Request, Response, Router, Server};
/// use libos::net::TcpListener;
///
/// let limits = Limits { body_bytes: 1 << 20, connections: 100, ..Limits::new() };
/// let router = Router::new().get("/", |_: Request| Response::text("it works"));
/// let listener = TcpListener::bind(([0, 0, 0, 0], 80))?;
/// Server::new(router).with_limits(limits).serve(listener).await
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    router: Router,
    limits: Limits,
}

/// What the tasks of a server share.
struct Shared {
    server: Server,
    connections: Cell<usize>,
    ended: Notify,
}

/// A connection counts as one for as long as this is there.
struct Place(Rc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.ended.notify_one();
    }
}

impl Server {
    /// Serves these routes, with the usual limits.
    #[must_use]
    pub const fn new(router: Router) -> Self {
        Self { router, limits: Limits::new() }
    }

    /// Other limits.
    #[must_use]
    pub const fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Takes connections, for ever, and serves each in a task of its own. Dropping the future ends the taking, and
    /// leaves connections that are open to end by themselves.
    ///
    /// # Errors
    /// If the listener is no more.
    pub async fn serve(self, listener: TcpListener) -> Result<(), net::Error> {
        let most = self.limits.connections.max(1);
        let shared = Rc::new(Shared { server: self, connections: Cell::new(0), ended: Notify::new() });
        loop {
            while shared.connections.get() >= most {
                shared.ended.notified().await;
            }
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(net::Error::Closed) => return Err(net::Error::Closed),
                Err(e) => {
                    log::warn!("cannot accept: {e}");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            // Better fewer connections than none: a program whose memory is used up ends.
            if !memory::allows(CONNECTION_BYTES) {
                continue;
            }
            shared.connections.set(shared.connections.get() + 1);
            let place = Place(shared.clone());
            // Answers are written whole: there is nothing to wait for.
            let _ = stream.set_nodelay(true);
            task::spawn(async move {
                let server = &place.0.server;
                // Whatever ends it is the client's business.
                let _ = serve_stream(&stream, &server.router, &server.limits).await;
            })
            .detach();
        }
    }
}
