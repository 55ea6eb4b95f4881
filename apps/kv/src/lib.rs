//! A key-value store that speaks RESP2, the protocol of Redis: strings, their expiry, and what clients ask of a server.
//!
//! [`resp`] reads requests and writes replies, [`store`] keeps keys, [`commands`] says what each command does,
//! [`connection`] speaks with one client, [`server`] has all of them.
//!
//! Everything is bounded: bytes of data, connections, bytes of requests and replies under way, the time each may take.
//! What does not fit is refused with an error that says so, and has changed nothing.
#![cfg_attr(firn_guest, no_std)]
#![warn(missing_docs)]

extern crate alloc;

pub mod commands;
pub mod connection;
pub mod glob;
pub mod resp;
pub mod server;
pub mod settings;
pub mod store;

pub use server::{run, serve};
pub use settings::Settings;
