//! `proxy`: an HTTP/1.1 reverse proxy.
//!
//! Arguments: `backends=10.65.0.2,10.65.0.3:8080` (needed), `port=80`, `policy=round-robin` or `least`, `check=/` the
//! path of health checks, `check_ms=2000` between them (0: none), `fall=3`, `rise=2`, and more in the book.
#![cfg_attr(firn_guest, no_std, no_main)]

#[libos::main]
async fn main() -> Result<(), libos::Error> {
    proxy::run().await
}
