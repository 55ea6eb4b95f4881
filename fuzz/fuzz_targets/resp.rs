#![no_main]
fuzz::target!("resp");
