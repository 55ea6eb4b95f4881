//! Reads memory that is the kernel's, or nobody's.
#![cfg_attr(firn_guest, no_std, no_main)]

hostile::only_in_a_vm!();

#[cfg(firn_guest)]
mod attack {
    /// Where the kernel's own text is.
    const KERNEL: u64 = 0xffff_ffff_8000_0000;

    #[libos::main]
    async fn main() {
        let address = match libos::arguments::get("address") {
            None => KERNEL,
            Some(text) => match u64::from_str_radix(text.trim_start_matches("0x"), 16) {
                Ok(address) => address,
                Err(_) => hostile::failure(format_args!("address={text} is not hexadecimal")),
            },
        };
        libos::log::info!("reading {address:#x}");
        // SAFETY: not safe at all: the kernel has to see to it that it ends here.
        let byte = unsafe { core::ptr::read_volatile(address as *const u8) };
        hostile::failure(format_args!("lived, and read {byte:#x}"));
    }
}
