//! `probe`: executes what is to be measured, and says how long it took. On a machine that counts instructions that
//! is how many were executed.
//!
//! Arguments: `mode=null` (virtual instructions that do nothing), `mode=yield` (two VMs that take turns), `mode=udp`
//! (datagrams to the next VM and back), `mode=tcp` (bytes over a connection to it and back), `mode=enter`, `miss`, `write1`, `write64` (address spaces of the VM's own),
//! `count=` how often, `bytes=100` of a datagram or of what is sent over a connection.
#![cfg_attr(firn_guest, no_std, no_main)]

#[libos::main]
async fn main() -> Result<(), probe::Error> {
    probe::run().await
}
