//! The back ends of a proxy, with connections to them and what is done about their health.

use crate::Settings;
use crate::backends::{Backends, Change};
use crate::body::Input;
use crate::head::{Parsed, read_response};
use alloc::format;
use core::cell::RefCell;
use libos::net::{ConnectOptions, Error, TcpStream};
use libos::time::{Duration, Instant, timeout};

/// Bytes that a back end may have on its way to us.
const RECEIVE_BYTES: usize = 16 * 1024;

/// A proxy: what all its tasks share.
#[derive(Debug)]
pub struct Proxy {
    /// How it behaves.
    pub settings: Settings,
    backends: RefCell<Backends<TcpStream>>,
}

/// A request under way to a back end.
pub struct Lease<'a> {
    proxy: &'a Proxy,
    /// Which back end.
    pub number: usize,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.proxy.backends.borrow_mut().release(self.number);
    }
}

impl Proxy {
    /// A proxy with these back ends.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let keep = (settings.keep, settings.keep_for);
        let backends = Backends::new(&settings.backends, settings.policy, settings.health, keep);
        Self { settings, backends: RefCell::new(backends) }
    }

    /// How many back ends are up.
    #[must_use]
    pub fn up(&self) -> usize {
        self.backends.borrow().up()
    }

    /// The back end for the next request.
    pub fn pick(&self, tried: u64) -> Option<Lease<'_>> {
        let number = self.backends.borrow_mut().pick(tried, Instant::now())?;
        Some(Lease { proxy: self, number })
    }

    /// A free connection that its back end has not closed yet, as far as one can know.
    pub async fn take(&self, number: usize) -> Option<TcpStream> {
        loop {
            let stream = self.backends.borrow_mut().take(number, Instant::now())?;
            // One on which something has come, if only its end, is of no use.
            if timeout(Duration::ZERO, stream.readable()).await.is_err() {
                return Some(stream);
            }
        }
    }

    /// A connection is free again.
    pub fn put(&self, number: usize, stream: TcpStream) {
        self.backends.borrow_mut().put(number, stream, Instant::now());
    }

    /// Connects to a back end.
    ///
    /// # Errors
    /// What the network says.
    pub async fn connect(&self, number: usize) -> Result<TcpStream, Error> {
        let address = self.backends.borrow().address(number).ok_or(Error::BadAddress)?;
        let timeout = self.settings.connect_timeout;
        let options = ConnectOptions { timeout, receive_bytes: RECEIVE_BYTES, ..ConnectOptions::default() };
        let stream = TcpStream::connect_with(address, options).await?;
        // Pieces are as large as they are.
        let _ = stream.set_nodelay(true);
        stream.set_write_timeout(Some(self.settings.stall_timeout));
        Ok(stream)
    }

    /// A check or a request succeeded or failed.
    pub fn note(&self, number: usize, is_well: bool) {
        let mut backends = self.backends.borrow_mut();
        let change = backends.note(number, is_well, Instant::now());
        let (Some(address), up, count) = (backends.address(number), backends.up(), backends.count()) else { return };
        match change {
            Change::Same => {}
            Change::Down => libos::log::warn!("{address} is down, {up} of {count} are up"),
            Change::Up => libos::log::info!("{address} is up, {up} of {count} are up"),
        }
    }

    /// Looks after one back end, for ever.
    pub async fn check(&self, number: usize) {
        // Not all at the same time.
        let interval = u64::try_from(self.settings.health.interval.as_millis()).unwrap_or(u64::MAX);
        libos::time::sleep(Duration::from_millis(libos::rand::below(interval.max(1)))).await;
        loop {
            let is_well = timeout(self.settings.connect_timeout, self.is_well(number)).await.unwrap_or(false);
            self.note(number, is_well);
            self.backends.borrow_mut().sweep(Instant::now());
            let pause = self.backends.borrow().pause(number);
            libos::time::sleep(pause).await;
        }
    }

    /// Whether a back end answers a check with success, or by sending elsewhere.
    async fn is_well(&self, number: usize) -> bool {
        let Ok(stream) = self.connect(number).await else { return false };
        let (Ok(address), path) = (stream.peer_addr(), self.settings.check_path) else { return false };
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: firn-proxy\r\nconnection: close\r\n\r\n");
        if stream.write_all(request.as_bytes()).await.is_err() {
            return false;
        }
        let mut input = Input::default();
        loop {
            match read_response(input.bytes(), false) {
                Parsed::Complete(head, _) if head.status >= 200 => return head.status < 400,
                Parsed::Complete(_, length) => input.consume(length),
                Parsed::Refused(_) => return false,
                Parsed::Partial if matches!(input.fill(&stream).await, Ok(true)) => {}
                Parsed::Partial => return false,
            }
        }
    }
}
