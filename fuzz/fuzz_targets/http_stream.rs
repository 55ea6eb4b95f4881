#![no_main]
fuzz::target!("http_stream");
