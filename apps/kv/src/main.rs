//! `kv`: strings by key over RESP2, for every client of Redis.
//!
//! Arguments: `port=6379`, `maxmemory=` bytes of keys and values with their bookkeeping, `clients=` most connections,
//! `buffers=` bytes for requests and replies that are large, `idle_timeout_ms=300000` between requests,
//! `request_timeout_ms=30000` for a request to be complete and for a reply to be taken. What is not given follows from
//! the VM's memory.
#![cfg_attr(firn_guest, no_std, no_main)]

#[libos::main]
async fn main() -> Result<(), libos::Error> {
    kv::run().await
}
