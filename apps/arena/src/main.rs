//! `arena`: a game server for up to 32 players, over UDP.
//!
//! Arguments: `port=7777`, `players=32`, `per_address=32` of them from one IP address, `silence_ms=5000` until a silent
//! player is taken to be gone.
#![cfg_attr(firn_guest, no_std, no_main)]

#[libos::main]
async fn main() -> Result<(), libos::Error> {
    arena::run().await
}
