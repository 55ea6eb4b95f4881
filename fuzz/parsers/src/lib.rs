//! Every parser of ours that reads what a stranger wrote, as a function of any bytes: it must come back, and what it says
//! must hold together. Fuzzers run them (`fuzz/fuzz_targets`), and so does a test of this crate, from the examples that
//! each has beside it.
//!
//! [`services`] has those of the guests, [`kernel`] those of the kernel and its formats.

pub mod kernel;
pub mod services;

/// A parser under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its fuzz target.
    pub name: &'static str,
    /// Reads any bytes, and panics if something does not hold.
    pub run: fn(&[u8]),
    /// Inputs that go far: what a fuzzer begins with.
    pub examples: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 15] = [
    Target { name: "http_head", run: services::http_head, examples: services::http_examples },
    Target { name: "http_stream", run: services::http_stream, examples: services::http_examples },
    Target { name: "http_range", run: services::http_range, examples: services::range_examples },
    Target { name: "proxy_heads", run: services::proxy_heads, examples: services::proxy_examples },
    Target { name: "proxy_chunks", run: services::proxy_chunks, examples: services::chunk_examples },
    Target { name: "resp", run: services::resp, examples: services::resp_examples },
    Target { name: "dns", run: services::dns, examples: services::dns_examples },
    Target { name: "resolver", run: services::resolver, examples: services::resolver_examples },
    Target { name: "mqtt", run: services::mqtt, examples: services::mqtt_examples },
    Target { name: "arena", run: services::arena, examples: services::arena_examples },
    Target { name: "firewall", run: services::firewall, examples: kernel::packet_examples },
    Target { name: "frames", run: kernel::frames, examples: kernel::frame_examples },
    Target { name: "rings", run: kernel::rings, examples: kernel::ring_examples },
    Target { name: "formats", run: kernel::formats, examples: kernel::format_examples },
    Target { name: "gate", run: kernel::gate, examples: kernel::gate_examples },
];
