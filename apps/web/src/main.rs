//! `web`: `GET /`, `/id`, `/healthz` and `/static/` over HTTP/1.1.
//!
//! Arguments: `body=128` bytes of `/`, `port=80`, `head_timeout_ms=5000` for a request's head to be complete,
//! `idle_timeout_ms=60000` between requests, `write_timeout_ms=30000` for a client to take some of an answer,
//! `connections=4096` at a time.
#![cfg_attr(firn_guest, no_std, no_main)]

#[libos::main]
async fn main() -> Result<(), libos::Error> {
    web::run().await
}
