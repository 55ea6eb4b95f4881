//! `mqtt`: a broker.
//!
//! Arguments: `port=1883`, `memory=` bytes of messages, subscriptions and sessions, `clients=` most connections,
//! `packet=` most bytes of a packet, `queue=64` most messages that wait for a client, `retained=256` most topics with a
//! message that is kept. What is not given follows from the VM's memory.
#![cfg_attr(firn_guest, no_std, no_main)]

#[libos::main]
async fn main() -> Result<(), libos::Error> {
    mqtt::run().await
}
