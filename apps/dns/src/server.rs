//! Sockets: datagrams one after the other, connections beside each other.

use crate::answer::{Transport, answer};
use crate::settings::Settings;
use crate::zone::Zone;
use alloc::rc::Rc;
use alloc::vec::Vec;
use libos::Error;
use libos::net::{self, Ipv6Addr, ListenOptions, TcpListener, TcpStream, UdpOptions, UdpSocket};
use libos::sync::Semaphore;
use libos::task::{spawn, yield_now};
use libos::time::{timeout, timeout_at};

/// Longest query that is read. A name has at most 255 bytes; what makes queries longer is of no use here.
const MAX_QUERY_BYTES: usize = 1024;

/// Datagrams after which others have their turn.
const TURN: usize = 32;

/// Serves as the arguments say, for ever.
///
/// # Errors
/// If an argument or the zone is bad, or the port is taken.
pub async fn run() -> Result<(), Error> {
    let settings = Settings::parse(libos::arguments())?;
    let zone = Rc::new(settings.read_zone()?);
    let address = (Ipv6Addr::UNSPECIFIED, settings.port);
    // Askers do not wait for each other: room for a burst of theirs.
    let socket = UdpSocket::bind_with(address, UdpOptions { datagrams: 64, bytes: 8192 })?;
    let listener = TcpListener::bind_with(address, ListenOptions { backlog: 32, half_open: 32, ..Default::default() })?;
    libos::log::info!("zone {}, {} names, port {}", zone.origin(), zone.nr_names(), settings.port);
    spawn(serve_udp(socket, zone.clone())).detach();
    serve_tcp(listener, zone, settings).await
}

/// Answers datagrams, for ever. An answer that cannot be sent is lost, as datagrams are.
pub async fn serve_udp(socket: UdpSocket, zone: Rc<Zone>) {
    let mut bytes = [0; MAX_QUERY_BYTES];
    loop {
        for _ in 0..TURN {
            if let Ok((length, from)) = socket.recv_from(&mut bytes).await
                && let Some(answer) = answer(&zone, bytes.get(..length).unwrap_or(&[]), Transport::Udp)
            {
                let _ = socket.send_to(&answer, from).await;
            }
        }
        yield_now().await;
    }
}

/// Takes connections, for ever, and serves each in a task of its own. One too many is closed at once.
///
/// # Errors
/// What the network says about the listener.
pub async fn serve_tcp(listener: TcpListener, zone: Rc<Zone>, settings: Settings) -> Result<(), Error> {
    let places = Rc::new(Semaphore::new(settings.max_clients));
    let settings = Rc::new(settings);
    loop {
        let (stream, _) = listener.accept().await?;
        let (places, zone, settings) = (places.clone(), zone.clone(), settings.clone());
        spawn(async move {
            let Some(_place) = places.try_acquire() else { return };
            // What goes wrong with a client is the client's business.
            let _ = serve_stream(&stream, &zone, &settings).await;
        })
        .detach();
    }
}

/// Answers queries on a stream, in their order, until the client goes, is silent for too long, or sends what is none.
async fn serve_stream(stream: &TcpStream, zone: &Zone, settings: &Settings) -> Result<(), net::Error> {
    let _ = stream.set_nodelay(true);
    stream.set_write_timeout(Some(settings.query_timeout));
    loop {
        timeout(settings.idle_timeout, stream.readable()).await??;
        let deadline = libos::time::Instant::now() + settings.query_timeout;
        let Some(query) = timeout_at(deadline, read_query(stream)).await?? else { return Ok(()) };
        let Some(answer) = answer(zone, &query, Transport::Tcp) else { return Ok(()) };
        drop(query);
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
    }
}

/// The next query; `None` at the end of the stream, and for one that is too long to be one.
async fn read_query(stream: &TcpStream) -> Result<Option<Vec<u8>>, net::Error> {
    let mut length = [0; 2];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_QUERY_BYTES {
        return Ok(None);
    }
    let mut query = alloc::vec![0; length];
    stream.read_exact(&mut query).await?;
    Ok(Some(query))
}
