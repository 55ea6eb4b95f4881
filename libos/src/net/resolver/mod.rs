//! Names: a resolver that asks a name server, and remembers what it said.

mod cache;
mod message;

use super::{ConnectOptions, Error, SocketAddr, TcpStream, UdpSocket};
use crate::arguments::{self, BadArgument};
use crate::rand;
use crate::time::{Duration, Instant, timeout};
use alloc::vec::Vec;
use cache::Cache;
use core::cell::RefCell;
use core::fmt;
use core::net::IpAddr;
use message::{Family, Name, Reply};

/// The port of name servers.
const PORT: u16 = 53;

/// Bytes of an answer by UDP, and by TCP.
const UDP_BYTES: usize = 512;
const TCP_BYTES: usize = 4096;

#[cfg(feature = "parsers")]
pub mod parsers {
    //! What a resolver reads and writes, for fuzzers.

    use super::message::{self, Family, Name, Reply};
    use alloc::vec::Vec;
    use core::net::IpAddr;

    /// The question for the IPv4 addresses of a name.
    #[must_use]
    pub fn question(id: u16, name: &str) -> Option<Vec<u8>> {
        Name::parse(name).map(|name| message::question(id, &name, Family::V4))
    }

    /// The addresses in an answer to it.
    #[must_use]
    pub fn answer(bytes: &[u8], id: u16, name: &str) -> Option<Vec<IpAddr>> {
        match message::answer(bytes, id, &Name::parse(name)?, Family::V4)? {
            Reply::Addresses(addresses, _) => Some(addresses),
            _ => Some(Vec::new()),
        }
    }
}

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// It is no host name.
    BadName,
    /// There is no such name, or it has no address.
    NoSuchName,
    /// No name server is known: none was given by the argument `dns=`, nor by the host.
    NoServer,
    /// No server answered, or none that did would say.
    NoAnswer,
    /// A socket's error.
    Network(Error),
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName => f.write_str("this is no host name"),
            Self::NoSuchName => f.write_str("there is no such name"),
            Self::NoServer => f.write_str("no name server is known: give one by the argument dns=ADDRESS"),
            Self::NoAnswer => f.write_str("no name server answered"),
            Self::Network(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for ResolveError {}

impl From<Error> for ResolveError {
    fn from(e: Error) -> Self {
        Self::Network(e)
    }
}

/// Whom a resolver asks, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverOptions {
    /// The servers, asked one after the other.
    pub servers: Vec<SocketAddr>,
    /// How long one of them may take.
    pub timeout: Duration,
    /// How often all of them are asked.
    pub attempts: u32,
    /// Answers that are remembered.
    pub cache_entries: usize,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Duration::from_secs(2), attempts: 2, cache_entries: 64 }
    }
}

/// Finds the addresses of names, and remembers them for as long as they say that they are good.
///
/// Addresses in numbers are understood without asking anybody.
///
/// ```
/// # libos::block_on(async {
/// use libos::net::{IpAddr, Resolver, ResolverOptions};
///
/// let resolver = Resolver::new(ResolverOptions {
///     servers: vec![([10, 64, 0, 1], 53).into()],
///     ..ResolverOptions::default()
/// });
/// assert_eq!(resolver.lookup("10.65.0.7").await, Ok(vec![IpAddr::from([10, 65, 0, 7])]));
/// # });
/// ```
///
/// Usually the program's arguments say whom to ask:
///
/// ```no_run
/// # async fn run() -> Result<(), libos::Error> {
/// use libos::net::{ResolveError, Resolver};
///
/// let resolver = Resolver::from_arguments()?;
/// match resolver.lookup("db.example.org").await {
///     Err(ResolveError::NoSuchName) => libos::log::warn!("there is no db yet"),
///     addresses => libos::log::info!("{addresses:?}"),
/// }
/// let stream = resolver.connect("db.example.org", 5432).await?;
/// # Ok(())
/// # }
/// ```
pub struct Resolver {
    options: ResolverOptions,
    cache: RefCell<Cache>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver that asks these servers.
    #[must_use]
    pub const fn new(options: ResolverOptions) -> Self {
        let cache = RefCell::new(Cache::new(options.cache_entries));
        Self { options, cache }
    }

    /// A resolver that asks the server that the argument `dns=` names, an address with or without a port. On the host,
    /// without such an argument, those that the host asks.
    ///
    /// # Errors
    /// If the argument is no address.
    pub fn from_arguments() -> Result<Self, BadArgument> {
        let servers = match arguments::get("dns") {
            Some(value) => alloc::vec![parse_server(value).ok_or(BadArgument { name: "dns", value })?],
            None => default_servers(),
        };
        Ok(Self::new(ResolverOptions { servers, ..ResolverOptions::default() }))
    }

    /// All addresses of a name, those of IPv4 first.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = name.parse() {
            return Ok(alloc::vec![address]);
        }
        let name = Name::parse(name).ok_or(ResolveError::BadName)?;
        let mut addresses = self.ask(&name, Family::V4).await?;
        addresses.extend(self.ask(&name, Family::V6).await?);
        if addresses.is_empty() { Err(ResolveError::NoSuchName) } else { Ok(addresses) }
    }

    /// Connects to a name: to the first of its addresses that answers.
    ///
    /// # Errors
    /// See [`ResolveError`]. If no address answers, what the last one said.
    pub async fn connect(&self, name: &str, port: u16) -> Result<TcpStream, ResolveError> {
        let mut last = ResolveError::NoSuchName;
        for address in self.lookup(name).await? {
            match TcpStream::connect((address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = ResolveError::Network(e),
            }
        }
        Err(last)
    }

    /// The addresses of one kind.
    async fn ask(&self, name: &Name, family: Family) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(known) = self.cache.borrow().find(name, family, Instant::now().as_nanos()) {
            return Ok(known.to_vec());
        }
        if self.options.servers.is_empty() {
            return Err(ResolveError::NoServer);
        }
        let mut last = ResolveError::NoAnswer;
        for _ in 0..self.options.attempts {
            for &server in &self.options.servers {
                match timeout(self.options.timeout, exchange(server, name, family)).await {
                    Ok(Ok(Reply::Addresses(addresses, seconds))) => {
                        self.keep(name, family, &addresses, seconds);
                        return Ok(addresses);
                    }
                    Ok(Ok(Reply::NoSuchName)) => {
                        self.keep(name, family, &[], u32::MAX);
                        return Ok(Vec::new());
                    }
                    Ok(Ok(Reply::Truncated | Reply::Failed)) | Err(_) => {}
                    Ok(Err(e)) => last = ResolveError::Network(e),
                }
            }
        }
        Err(last)
    }

    fn keep(&self, name: &Name, family: Family, addresses: &[IpAddr], seconds: u32) {
        self.cache.borrow_mut().keep(name, family, addresses, seconds, Instant::now().as_nanos());
    }
}

/// Asks one server, by UDP, and by TCP if the answer is too long for that. Each question has a number and a port of its
/// own that nobody can guess.
async fn exchange(server: SocketAddr, name: &Name, family: Family) -> Result<Reply, Error> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    let id = u16::from_le_bytes(rand::bytes());
    let question = message::question(id, name, family);
    socket.send_to(&question, server).await?;
    let mut bytes = [0; UDP_BYTES];
    let reply = loop {
        let (length, from) = socket.recv_from(&mut bytes).await?;
        // Strangers and nonsense do not end the waiting.
        if from == server
            && let Some(reply) = message::answer(&bytes[..length], id, name, family)
        {
            break reply;
        }
    };
    if reply == Reply::Truncated { exchange_tcp(server, id, &question, name, family).await } else { Ok(reply) }
}

async fn exchange_tcp(
    server: SocketAddr,
    id: u16,
    question: &[u8],
    name: &Name,
    family: Family,
) -> Result<Reply, Error> {
    let options = ConnectOptions { receive_bytes: TCP_BYTES, ..ConnectOptions::default() };
    let stream = TcpStream::connect_with(server, options).await?;
    let mut request = Vec::with_capacity(question.len() + 2);
    request.extend_from_slice(&u16::try_from(question.len()).unwrap_or(0).to_be_bytes());
    request.extend_from_slice(question);
    stream.write_all(&request).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > TCP_BYTES {
        return Ok(Reply::Failed);
    }
    let mut bytes = alloc::vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(message::answer(&bytes, id, name, family).unwrap_or(Reply::Failed))
}

fn parse_server(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| SocketAddr::new(address, PORT)))
}

/// What the host has in `/etc/resolv.conf`.
#[cfg(not(firn_guest))]
fn default_servers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines().filter_map(|line| parse_server(line.strip_prefix("nameserver")?.trim())).collect()
}

/// A VM is told by its argument, or not at all.
#[cfg(firn_guest)]
const fn default_servers() -> Vec<SocketAddr> {
    Vec::new()
}

#[cfg(all(test, not(firn_guest)))]
mod tests;
