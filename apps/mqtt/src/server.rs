//! All connections, and the broker they share.

use crate::broker::Broker;
use crate::connection;
use crate::settings::Settings;
use alloc::rc::Rc;
use core::cell::RefCell;
use libos::Error;
use libos::arguments::parse_or;
use libos::net::{Ipv6Addr, ListenOptions, TcpListener};
use libos::sync::{Budget, Semaphore};
use libos::task::spawn;
use libos::time::Duration;

/// How long a client may be silent that promises nothing, before it is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(120);

/// What connections share.
#[derive(Debug)]
pub struct Shared {
    /// Limits.
    pub settings: Settings,
    /// Memory for all that is kept.
    pub budget: Budget,
    /// Who gets what.
    pub broker: RefCell<Broker>,
    /// Connections there may be.
    places: Semaphore,
}

/// Serves as the arguments say, for ever.
///
/// # Errors
/// If an argument is bad, or the port is taken.
pub async fn run() -> Result<(), Error> {
    let settings = Settings::from_arguments()?;
    let port = parse_or("port", 1883)?;
    let options = ListenOptions { backlog: 32, half_open: 32, ..ListenOptions::default() };
    let listener = TcpListener::bind_with((Ipv6Addr::UNSPECIFIED, port), options)?;
    libos::log::info!(
        "port {port}: {} clients, {} bytes of messages and sessions, packets of {} bytes",
        settings.max_clients,
        settings.memory,
        settings.max_packet
    );
    serve(listener, settings).await
}

/// Takes connections, for ever, and serves each in a task of its own. One too many is closed at once.
///
/// # Errors
/// What the network says about the listener.
pub async fn serve(listener: TcpListener, settings: Settings) -> Result<(), Error> {
    let budget = Budget::new(settings.memory);
    let shared = Rc::new(Shared {
        settings,
        broker: RefCell::new(Broker::new(settings, budget.clone())),
        budget,
        places: Semaphore::new(settings.max_clients),
    });
    loop {
        let (stream, _) = listener.accept().await?;
        let shared = shared.clone();
        spawn(async move {
            let Some(_place) = shared.places.try_acquire() else { return };
            // Packets are written when there is nothing more to add.
            let _ = stream.set_nodelay(true);
            let _ = stream.set_keepalive(Some(KEEPALIVE));
            stream.set_write_timeout(Some(settings.packet_timeout));
            connection::serve(&stream, &shared).await;
        })
        .detach();
    }
}
