//! The supervisor VM: the first image of the boot bundle, with the privilege bit.
//!
//! It starts what the bundle's launch plan says, keeps a record of what ended, and answers the console commands
//! `status`, `vm N` and `down`.
#![cfg_attr(firn_guest, no_std, no_main)]

#[libos::main]
async fn main() -> Result<(), libos::gate::Error> {
    supervisor::run(supervisor::Gate).await
}
