#![no_main]
fuzz::target!("firewall");
