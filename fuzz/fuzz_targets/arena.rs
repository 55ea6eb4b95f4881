#![no_main]
fuzz::target!("arena");
