//! An HTTP/1.1 reverse proxy in front of other VMs.
//!
//! | module | what |
//! |---|---|
//! | [`head`] | heads: read, judged, and written anew for the other side |
//! | [`chunks`] | chunked bodies |
//! | [`body`] | bodies on their way |
//! | [`backends`] | which back end is next, which are well, which connections are free |
//! | [`proxy`] | the same with sockets, and checks |
//! | [`client`] | one client's connection |
//! | [`settings`] | what the arguments say |
#![cfg_attr(firn_guest, no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod backends;
pub mod body;
pub mod chunks;
pub mod client;
pub mod head;
pub mod proxy;
pub mod settings;

pub use settings::Settings;

use alloc::rc::Rc;
use alloc::sync::Arc;
use client::Client;
use libos::Error;
use libos::arguments::parse_or;
use libos::net::{Ipv6Addr, ListenOptions, TcpListener};
use libos::sync::Semaphore;
use libos::time::{Duration, sleep};
use libos::{memory, task};
use proxy::Proxy;

/// What a client's connection takes beside its sockets' buffers, at most: two heads and two pieces of bodies.
const CONNECTION_BYTES: usize = 48 * 1024;

/// How long nothing is accepted after an error: the host may have no room for another connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Buffers of a client's connection: they take memory as far as they are used.
const LISTEN: ListenOptions =
    ListenOptions { backlog: 128, half_open: 128, receive_bytes: 8 * 1024, transmit_bytes: 16 * 1024 };

/// Serves as the arguments say, for ever.
///
/// # Errors
/// If an argument is bad, or the port is taken.
pub async fn run() -> Result<(), Error> {
    let settings = Settings::from_arguments()?;
    let port = parse_or("port", 80)?;
    let listener = TcpListener::bind_with((Ipv6Addr::UNSPECIFIED, port), LISTEN)?;
    libos::log::info!("{} back ends behind port {port}", settings.backends.len());
    serve(listener, settings).await;
    Ok(())
}

/// Serves clients, for ever.
pub async fn serve(listener: TcpListener, settings: Settings) {
    let clients = Arc::new(Semaphore::new(settings.connections.max(1)));
    let proxy = Rc::new(Proxy::new(settings));
    if !proxy.settings.health.interval.is_zero() {
        for number in 0..proxy.settings.backends.len() {
            let proxy = Rc::clone(&proxy);
            task::spawn(async move { proxy.check(number).await }).detach();
        }
    }
    loop {
        let place = clients.acquire_arc().await;
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                libos::log::warn!("cannot accept: {e}");
                sleep(PAUSE).await;
                continue;
            }
        };
        // Better fewer connections than none: a program whose memory is used up ends.
        if !memory::allows(CONNECTION_BYTES) {
            continue;
        }
        let proxy = Rc::clone(&proxy);
        task::spawn(async move {
            Client::new(&proxy, &stream, peer.ip()).serve().await;
            drop(place);
        })
        .detach();
    }
}
