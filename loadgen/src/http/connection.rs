//! One TCP connection and the request that is on it. Knows sockets and HTTP, but neither statistics nor what is
//! asked next: that is the engine's.

use super::error::ErrorKind;
use super::response::{End, Parser, Progress};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::SocketAddrV4;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    Closed,
    /// Being established.
    Connecting,
    /// Established, with a request not fully written.
    Sending,
    /// Waiting for a response or its rest.
    Receiving,
    /// Answered; waiting for the server to close, as it was asked to.
    Closing,
    /// Kept, with no request on it.
    Idle,
}

/// What reading led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// The response is not complete.
    More,
    /// The response is complete.
    Complete {
        /// Its status code.
        status: u16,
        /// Whether the connection takes another request.
        keep_alive: bool,
        /// Whether the server has closed it already.
        closed: bool,
    },
    /// There is no response, and will be none.
    Failed(ErrorKind),
}

/// A slot for connections: reused, with its buffers, for one after the other.
#[derive(Debug)]
pub struct Connection {
    stream: Option<TcpStream>,
    parser: Parser,
    /// Where it is in its life.
    pub phase: Phase,
    /// Number of the target it leads to.
    pub target: u32,
    /// Tells this connection from earlier ones of the slot.
    pub generation: u32,
    /// Whether it has been idle, so that the server may have closed it meanwhile.
    pub was_kept: bool,
    /// Bytes of the request written.
    pub written: usize,
    /// When it was opened, in nanoseconds of the run.
    pub opened_ns: u64,
    /// When its present request was to begin; differs from `begun_ns` when a rate is kept.
    pub intended_ns: u64,
    /// When its present request began, connecting included.
    pub begun_ns: u64,
    /// When its present request was written.
    pub sent_ns: u64,
    /// When patience with the present phase ends.
    pub deadline_ns: u64,
    /// Its place in the engine's list of busy or idle slots.
    pub place: usize,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            stream: None,
            parser: Parser::default(),
            phase: Phase::Closed,
            target: 0,
            generation: 0,
            was_kept: false,
            written: 0,
            opened_ns: 0,
            intended_ns: 0,
            begun_ns: 0,
            sent_ns: 0,
            deadline_ns: 0,
            place: 0,
        }
    }
}

impl Connection {
    /// Begins to connect. Readiness is reported with the slot's number and the new generation.
    ///
    /// # Errors
    /// The kind of failure, if it fails at once.
    pub fn open(&mut self, registry: &Registry, slot: u32, to: SocketAddrV4, keep: bool) -> Result<(), ErrorKind> {
        self.close();
        self.generation = self.generation.wrapping_add(1);
        self.was_kept = false;
        let token = token_of(slot, self.generation);
        let stream = connect(registry, token, to, keep).map_err(|error| ErrorKind::of(&error, true))?;
        self.stream = Some(stream);
        self.phase = Phase::Connecting;
        Ok(())
    }

    /// Closes it, if there is one. What has not been read is thrown away.
    pub fn close(&mut self) {
        self.stream = None;
        self.phase = Phase::Closed;
    }

    /// Whether it exists.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether any byte of the present response has come.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.parser.has_begun()
    }

    /// The error that the system holds for it, as a kind.
    #[must_use]
    pub fn pending_error(&self) -> Option<ErrorKind> {
        let error = self.stream.as_ref()?.take_error().ok().flatten()?;
        Some(ErrorKind::of(&error, self.phase == Phase::Connecting))
    }

    /// Makes ready for a response to a new request.
    pub fn begin_request(&mut self) {
        self.parser.reset();
        self.written = 0;
        self.phase = Phase::Sending;
    }

    /// Writes what is left of the request. Says whether all of it is written.
    ///
    /// # Errors
    /// The kind of failure.
    pub fn send(&mut self, request: &[u8]) -> Result<bool, ErrorKind> {
        let Some(stream) = &mut self.stream else { return Err(ErrorKind::Reset) };
        while self.written < request.len() {
            match stream.write(&request[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ErrorKind::of(&error, false)),
            }
        }
        self.phase = Phase::Receiving;
        Ok(true)
    }

    /// Reads what there is of the response. `peer_closed` says that the system has reported the end of the
    /// stream, so that it need not be read for.
    pub fn receive(&mut self, buffer: &mut [u8], peer_closed: bool, body: &mut dyn FnMut(&[u8])) -> Received {
        let Some(stream) = &mut self.stream else { return Received::Failed(ErrorKind::Reset) };
        loop {
            match stream.read(buffer) {
                Ok(0) => return self.end_of_stream(),
                Ok(n) => {
                    // A read that does not fill the buffer has emptied the socket.
                    let drained = n < buffer.len();
                    match self.parser.feed(&buffer[..n], body) {
                        Err(_) => return Received::Failed(ErrorKind::BadResponse),
                        Ok(Progress::Complete) if drained => return self.complete(peer_closed),
                        Ok(_) if drained && peer_closed => return self.end_of_stream(),
                        Ok(_) if drained => return Received::More,
                        Ok(_) => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return if self.parser.is_complete() { self.complete(peer_closed) } else { Received::More };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Received::Failed(ErrorKind::of(&error, false)),
            }
        }
    }

    /// Reads on a connection that owes no response: `Ok(true)` if the server has closed it, an error if it sent
    /// something.
    ///
    /// # Errors
    /// The kind of failure.
    pub fn poll_closed(&mut self) -> Result<bool, ErrorKind> {
        let Some(stream) = &mut self.stream else { return Ok(true) };
        loop {
            match stream.read(&mut [0; 64]) {
                Ok(0) => return Ok(true),
                Ok(_) => return Err(ErrorKind::BadResponse),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ErrorKind::of(&error, false)),
            }
        }
    }

    fn complete(&self, closed: bool) -> Received {
        Received::Complete { status: self.parser.status(), keep_alive: self.parser.keep_alive(), closed }
    }

    fn end_of_stream(&mut self) -> Received {
        match self.parser.end() {
            End::Complete => self.complete(true),
            End::Nothing => Received::Failed(ErrorKind::NoResponse),
            End::Short => Received::Failed(ErrorKind::ShortBody),
        }
    }
}

/// Names a connection to the system.
#[must_use]
pub const fn token_of(slot: u32, generation: u32) -> Token {
    Token(((generation as usize) << 32) | slot as usize)
}

/// The slot and generation of a token.
#[must_use]
pub fn slot_of(token: Token) -> (u32, u32) {
    let word = token.0 as u64;
    (u32::try_from(word & 0xffff_ffff).unwrap_or(0), u32::try_from(word >> 32).unwrap_or(0))
}

/// Begins to connect and asks to hear of it. The system picks the port: it knows which ones are free *for this
/// target*, so thousands of connections a second to many targets do not run out of them.
fn connect(registry: &Registry, token: Token, to: SocketAddrV4, keep: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if keep {
        // A connection with one request has nothing unacknowledged that could delay it.
        socket.set_tcp_nodelay(true)?;
    }
    match socket.connect(&SockAddr::from(to)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    let mut stream = TcpStream::from_std(socket.into());
    registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
    Ok(stream)
}
