#![no_main]
fuzz::target!("gate");
