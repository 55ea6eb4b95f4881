//! What the fuzz targets have in common: each runs the parser of its name in `parsers`, which says what must hold.

pub use libfuzzer_sys;
pub use parsers;

/// The parser of that name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn parser(name: &str) -> fn(&[u8]) {
    let target = parsers::TARGETS.iter().find(|target| target.name == name);
    target.expect("a target has a parser of its name").run
}

/// A fuzz target.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            static PARSER: std::sync::LazyLock<fn(&[u8])> = std::sync::LazyLock::new(|| $crate::parser($name));
            PARSER(bytes);
        });
    };
}
