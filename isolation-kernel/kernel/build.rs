//! Gives the linker the kernel's link script, when the kernel is what is being built.

fn main() {
    println!("cargo:rerun-if-changed=kernel.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    for argument in [&format!("-T{folder}/kernel.ld"), "-zmax-page-size=4096", "-znorelro", "--fatal-warnings"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
