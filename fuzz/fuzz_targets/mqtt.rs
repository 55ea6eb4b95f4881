#![no_main]
fuzz::target!("mqtt");
