#![no_main]
fuzz::target!("resolver");
