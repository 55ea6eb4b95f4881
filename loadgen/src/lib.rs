//! Firn's load generator: HTTP load over a range of addresses, reports and plots of it, the demonstration and the
//! benchmarks.
//!
//! | module | what |
//! |---|---|
//! | [`targets`] | the range of addresses |
//! | [`http`] | the load itself, single-threaded and light |
//! | [`arena`] | bots that play on game servers, and measure how even their ticks are |
//! | [`report`] | a run as JSON |
//! | [`human`] | a run as text |
//! | [`plot`] | a run as SVG |
//! | [`machine`] | a machine, through the program `firn` |
//! | [`fleet`] | the fleet file of a machine to be measured |
//! | [`driver`] | a machine under load: booted, asked, loaded, parked, ended |
//! | [`demo`] | the demonstration: web VMs asked, loaded, parked, asked again |
//! | [`bench`] | benchmarks, each with budgets |
//! | [`peer`] | Linux on the same machine |
//! | [`facts`] | versions, host, date |
//! | [`process`] | processor time and file limits of this program |
//! | [`json`] | readable JSON |
//! | [`progress`] | bars and lines on stderr |
//! | [`cli`] | arguments, checked |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod arena;
pub mod bench;
pub mod cli;
pub mod demo;
pub mod driver;
pub mod facts;
pub mod fleet;
pub mod http;
pub mod human;
pub mod json;
pub mod machine;
pub mod peer;
pub mod plot;
pub mod process;
pub mod progress;
pub mod report;
pub mod targets;
