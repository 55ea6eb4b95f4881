#![no_main]
fuzz::target!("dns");
