//! The smallest useful service: it greets whoever connects to port 80.
#![cfg_attr(firn_guest, no_std, no_main)]

use libos::net::{Error, TcpListener, TcpStream};

#[libos::main]
async fn main() -> Result<(), Error> {
    let listener = TcpListener::bind(([0, 0, 0, 0], 80))?;
    loop {
        let (stream, peer) = listener.accept().await?;
        libos::log::info!("{peer} is here");
        libos::task::spawn(greet(stream)).detach();
    }
}

async fn greet(stream: TcpStream) {
    let _ = stream.write_all(b"hello from a VM of my own\n").await;
}
