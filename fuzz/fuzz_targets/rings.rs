#![no_main]
fuzz::target!("rings");
