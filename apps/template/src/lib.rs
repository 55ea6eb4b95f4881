//! What the service does: it answers every HTTP request with a greeting.
//!
//! There is nothing about VMs in here. `cargo test` runs the same code on the host, over real sockets.
#![cfg_attr(firn_guest, no_std)]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use libos::net::{Error, TcpListener, TcpStream};
use libos::time::{Duration, timeout};

/// Longest head of a request that is read. A peer can take this much memory, and no more.
const MAX_HEAD_BYTES: usize = 2048;

/// How long a peer may take to send it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes connections, for ever.
///
/// # Errors
/// What the network says about the listener.
pub async fn serve(listener: TcpListener) -> Result<(), Error> {
    loop {
        let (stream, peer) = listener.accept().await?;
        libos::task::spawn(answer(stream, peer.ip().to_string())).detach();
    }
}

/// Answers one request, and closes. What goes wrong with a peer is the peer's business.
async fn answer(stream: TcpStream, peer: String) {
    let Ok(Some(head)) = timeout(PATIENCE, is_whole_head(&stream)).await else { return };
    let (status, body) = match head {
        true => ("200 OK", format!("hello {peer} from a VM of my own\n")),
        false => ("431 Request Header Fields Too Large", format!("at most {MAX_HEAD_BYTES} bytes\n")),
    };
    let length = body.len();
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let _ = stream.write_all(response.as_bytes()).await;
    libos::log::info!("{peer}: {status}");
}

/// Reads to the empty line that ends the head of a request; false if it is too long, `None` if it never comes.
async fn is_whole_head(stream: &TcpStream) -> Option<bool> {
    let mut head = [0; MAX_HEAD_BYTES];
    let mut used = 0;
    while used < head.len() {
        let length = stream.read(&mut head[used..]).await.ok().filter(|&length| length > 0)?;
        used += length;
        if head[..used].windows(4).any(|end| end == b"\r\n\r\n") {
            return Some(true);
        }
    }
    Some(false)
}
