//! An authoritative name server: answers for the names of one zone, refuses all others, asks nobody.
//!
//! [`text`] reads a zone, [`zone`] keeps it and looks names up, [`mod@answer`] makes an answer of a query's bytes,
//! [`server`] has the sockets. Messages are read and written by the `domain` crate.
#![cfg_attr(firn_guest, no_std)]
#![warn(missing_docs)]

extern crate alloc;

pub mod answer;
pub mod server;
pub mod settings;
pub mod text;
pub mod zone;

pub use answer::{Transport, answer};
pub use server::{run, serve_tcp, serve_udp};
pub use settings::Settings;
pub use zone::Zone;
