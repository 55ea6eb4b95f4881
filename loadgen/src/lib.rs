//! Firn's load generator: HTTP load over a range of addresses, reports and plots of it, and the demonstration.
//!
//! | module | what |
//! |---|---|
//! | [`targets`] | the range of addresses |
//! | [`http`] | the load itself, single-threaded and light |
//! | [`report`] | a run as JSON |
//! | [`human`] | a run as text |
//! | [`plot`] | a run as SVG |
//! | [`demo`] | a machine built, booted, loaded, measured and ended |
//! | [`json`] | readable JSON |
//! | [`progress`] | bars and lines on stderr |
//! | [`cli`] | arguments, checked |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod cli;
pub mod demo;
pub mod http;
pub mod human;
pub mod json;
pub mod plot;
pub mod progress;
pub mod report;
pub mod targets;
