#![no_main]
fuzz::target!("formats");
