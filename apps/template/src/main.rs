//! The program: `firn build` makes a VM of it, `cargo run` a process of this host.
#![cfg_attr(firn_guest, no_std, no_main)]

use libos::net::TcpListener;
use libos::{Context, Error};

#[libos::main]
async fn main() -> Result<(), Error> {
    // `port=8080` among the arguments, for a host on which not everybody may use port 80.
    let port = libos::arguments::parse_or("port", 80)?;
    let listener = TcpListener::bind(([0, 0, 0, 0], port)).context("cannot listen")?;
    libos::log::info!("serving port {port}");
    template::serve(listener).await?;
    Ok(())
}
