//! `web`: `GET /`, `GET /id`, `GET /healthz` over HTTP/1.1.
//!
//! Arguments: `body=128` bytes of `/`, `port=80`, `head_timeout_ms=5000` for a request's head to be complete,
//! `idle_timeout_ms=60000` between requests.
#![cfg_attr(firn_guest, no_std, no_main)]

#[libos::main]
async fn main() -> Result<(), libos::Error> {
    web::run().await
}
