//! Echo (RFC 862): what comes to port 7, by TCP or UDP, goes back.
#![cfg_attr(firn_guest, no_std, no_main)]

use echo::{serve_tcp, serve_udp};
use libos::net::{Ipv6Addr, TcpListener, UdpSocket};

#[libos::main]
async fn main() -> Result<(), libos::Error> {
    let port = libos::arguments::parse_or("port", 7)?;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
    libos::task::spawn(serve_udp(socket)).detach();
    serve_tcp(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?).await?;
    Ok(())
}
