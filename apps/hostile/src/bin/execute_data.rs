//! Jumps into memory that is not text.
#![cfg_attr(firn_guest, no_std, no_main)]

hostile::only_in_a_vm!();

#[cfg(firn_guest)]
mod attack {
    extern crate alloc;

    use alloc::boxed::Box;
    use core::hint::black_box;
    use core::sync::atomic::AtomicU8;

    /// `ret`.
    const RETURN: u8 = 0xc3;

    static DATA: AtomicU8 = AtomicU8::new(RETURN);
    static CONSTANT: [u8; 16] = [RETURN; 16];

    #[libos::main]
    async fn main() {
        let what = libos::arguments::get("what").unwrap_or("stack");
        let on_stack = black_box([RETURN; 16]);
        let on_heap = black_box(Box::new([RETURN; 16]));
        let address = match what {
            "stack" => on_stack_of(&on_stack),
            "heap" => on_heap.as_ptr().addr(),
            "data" => DATA.as_ptr().addr(),
            "rodata" => CONSTANT.as_ptr().addr(),
            "null" => 0x10,
            "kernel" => 0xffff_ffff_8000_0000,
            _ => hostile::failure(format_args!("what={what} is unknown")),
        };
        libos::log::info!("jumping to {address:#x}");
        // SAFETY: not safe at all: the kernel has to see to it that it ends here.
        unsafe { core::arch::asm!("call {}", in(reg) address, clobber_abi("C")) };
        hostile::lived()
    }

    /// A task's own variables are on the heap; this one is on the stack.
    fn on_stack_of(bytes: &[u8; 16]) -> usize {
        let copy: [u8; 16] = black_box(*bytes);
        // It is dead when this returns, but still there, as far as the next call.
        black_box(&copy).as_ptr().addr() & !0xfff
    }
}
