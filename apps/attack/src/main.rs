//! `attack`: takes all it can get of something, for a benchmark to see what its neighbours lose.
//!
//! Arguments: `mode=` one of those of [`attack::Mode`], `target=` the address to flood, `period_ms=100` between wakes.
#![cfg_attr(firn_guest, no_std, no_main)]

#[libos::main]
async fn main() -> Result<(), attack::Error> {
    attack::run().await
}
