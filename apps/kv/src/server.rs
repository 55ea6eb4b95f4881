//! All connections, and the keys they share.

use crate::commands::{Counters, count};
use crate::connection;
use crate::settings::Settings;
use crate::store::Store;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use libos::Error;
use libos::arguments::parse_or;
use libos::net::{Ipv6Addr, ListenOptions, TcpListener};
use libos::sync::{Budget, Notify};
use libos::task::{select, spawn, yield_now};
use libos::time::{Duration, Instant, sleep_until};

/// Keys that are removed in one go when they are due.
const SWEEP_KEYS: usize = 64;

/// Least time between two sweeps: keys that are due one after the other are removed together.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

/// What connections share.
#[derive(Debug)]
pub struct Shared {
    /// Limits.
    pub settings: Settings,
    /// The keys.
    pub store: RefCell<Store>,
    /// What is counted.
    pub counters: Counters,
    /// Bytes for large requests and replies.
    pub(crate) buffers: Budget,
    /// The sweeper is to look again: something expires earlier than it thinks.
    sweep: Notify,
    /// When the sweeper is to wake up.
    sweep_at: Cell<Option<u64>>,
}

impl Shared {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            store: RefCell::new(Store::new(libos::rand::bytes(), settings.max_memory)),
            counters: Counters::default(),
            buffers: Budget::new(settings.buffer_bytes),
            sweep: Notify::default(),
            sweep_at: Cell::new(None),
        }
    }

    /// Sees to it that keys are removed when they are due. To be called after commands.
    pub(crate) fn look_after_deadlines(&self) {
        let next = self.store.borrow().next_deadline();
        if next.is_some_and(|next| self.sweep_at.get().is_none_or(|known| next < known)) {
            self.sweep_at.set(next);
            self.sweep.notify_one();
        }
    }

    /// Removes keys when they are due, for ever. Takes no time when nothing is.
    async fn sweep(&self) {
        loop {
            let earlier = self.sweep.notified();
            let next = self.store.borrow().next_deadline();
            self.sweep_at.set(next);
            match next {
                None => earlier.await,
                Some(next) => {
                    let at = Instant::from_nanos(next.saturating_mul(1_000_000));
                    select(earlier, sleep_until(at)).await;
                }
            }
            while !self.store.borrow_mut().expire(now_ms(), SWEEP_KEYS) {
                yield_now().await;
            }
            libos::time::sleep(SWEEP_PAUSE).await;
        }
    }
}

/// Milliseconds of the machine's clock.
pub(crate) fn now_ms() -> u64 {
    Instant::now().as_nanos() / 1_000_000
}

/// One of the connections there may be.
struct Place(Rc<Shared>);

impl Place {
    fn take(shared: &Rc<Shared>) -> Option<Self> {
        let clients = &shared.counters.clients;
        if clients.get() >= shared.settings.max_clients {
            count(&shared.counters.refused);
            return None;
        }
        count(&shared.counters.connections);
        clients.set(clients.get() + 1);
        Some(Self(shared.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let clients = &self.0.counters.clients;
        clients.set(clients.get() - 1);
    }
}

/// Serves as the arguments say, for ever.
///
/// # Errors
/// If an argument is bad, or the port is taken.
pub async fn run() -> Result<(), Error> {
    let settings = Settings::from_arguments()?;
    let port = parse_or("port", 6379)?;
    let options = ListenOptions { backlog: 32, half_open: 32, ..ListenOptions::default() };
    let listener = TcpListener::bind_with((Ipv6Addr::UNSPECIFIED, port), options)?;
    libos::log::info!(
        "port {port}: {} bytes of data, {} clients, {} bytes for large requests and replies",
        settings.max_memory,
        settings.max_clients,
        settings.buffer_bytes
    );
    serve(listener, settings).await
}

/// Takes connections, for ever, and serves each in a task of its own.
///
/// # Errors
/// What the network says about the listener.
pub async fn serve(listener: TcpListener, settings: Settings) -> Result<(), Error> {
    let shared = Rc::new(Shared::new(settings));
    let sweeper = shared.clone();
    // Ends with this future.
    let _sweeper = spawn(async move { sweeper.sweep().await });
    loop {
        let (stream, _) = listener.accept().await?;
        // Replies are written when there is nothing more to add.
        let _ = stream.set_nodelay(true);
        stream.set_write_timeout(Some(settings.request_timeout));
        let Some(place) = Place::take(&shared) else {
            let refused = stream.write(b"-ERR max number of clients reached\r\n");
            let _ = libos::time::timeout(Duration::ZERO, refused).await;
            continue;
        };
        spawn(async move { connection::serve(&stream, &place.0).await }).detach();
    }
}
