//! Writes to its own text and other pages that are read-only.
#![cfg_attr(firn_guest, no_std, no_main)]

hostile::only_in_a_vm!();

#[cfg(firn_guest)]
mod attack {
    use virtual_isa::layout::{IMAGE_BASE, REGISTER_PAGE};

    static CONSTANT: [u8; 16] = [7; 16];

    #[libos::main]
    async fn main() {
        let what = libos::arguments::get("what").unwrap_or("text");
        let address = match what {
            "text" => IMAGE_BASE as *mut u8,
            "rodata" => CONSTANT.as_ptr().cast_mut(),
            "registers" => REGISTER_PAGE as *mut u8,
            "null" => core::ptr::without_provenance_mut(8),
            _ => hostile::failure(format_args!("what={what} is unknown")),
        };
        libos::log::info!("writing to {address:p}");
        // SAFETY: not safe at all: the kernel has to see to it that it ends here.
        unsafe { core::ptr::write_volatile(core::hint::black_box(address), 0xcc) };
        hostile::lived()
    }
}
