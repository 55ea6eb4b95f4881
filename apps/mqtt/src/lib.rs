//! An MQTT 3.1.1 broker: quality of service 0 and 1, retained messages, wildcards, sessions that are kept, last wills.
//!
//! [`packet`] reads and writes packets, [`topic`] knows names and filters, [`broker`] has sessions and decides who gets
//! what, with no socket and no clock in it; [`connection`] speaks with one client, [`server`] has all of them.
//!
//! Whatever is kept for clients is charged to one [`budget`]: messages once, however many wait for them, and each
//! place in a queue, each subscription, each session.
#![cfg_attr(firn_guest, no_std)]
#![warn(missing_docs)]

extern crate alloc;

pub mod broker;
pub mod connection;
pub mod packet;
pub mod server;
pub mod session;
pub mod settings;
pub mod topic;

pub use server::{run, serve};
pub use settings::Settings;
