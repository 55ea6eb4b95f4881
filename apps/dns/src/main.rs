//! `dns`: answers for one zone.
//!
//! Arguments: `zone=example.org` the zone's name, `ttl=3600` for records without one, `port=53`, `clients=64` most TCP
//! connections, `idle_timeout_ms=10000` between their queries; then, if the zone is not the image's own, a `|` before
//! each record: `zone=example.org | @ SOA ns1 admin 1 3600 600 86400 60 | @ NS ns1 | ns1 A 10.65.0.1`.
#![cfg_attr(firn_guest, no_std, no_main)]

#[libos::main]
async fn main() -> Result<(), libos::Error> {
    dns::run().await
}
