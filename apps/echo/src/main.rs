//! Echo (RFC 862): what comes to port 7, by TCP or UDP, goes back.
#![cfg_attr(firn_guest, no_std, no_main)]

use echo::{serve_tcp, serve_udp};
use libos::net::{TcpListener, UdpSocket};

#[libos::main]
async fn main() -> Result<(), echo::Error> {
    let port = libos::arguments::parse_or("port", 7)?;
    let socket = UdpSocket::bind(([0, 0, 0, 0], port))?;
    libos::task::spawn(serve_udp(socket)).detach();
    serve_tcp(TcpListener::bind(([0, 0, 0, 0], port))?).await?;
    Ok(())
}
