//! Gives the linker the kernel's link script, when the kernel is what is being built; or `bare`, beside it, which lies
//! in memory as the kernel does.

fn main() {
    println!("cargo:rerun-if-changed=../kernel/kernel.ld");
    println!("cargo:rerun-if-changed=../kernel/build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    for argument in
        [&format!("-T{folder}/../kernel/kernel.ld"), "-zmax-page-size=4096", "-znorelro", "--fatal-warnings"]
    {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
