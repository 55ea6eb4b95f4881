//! Executes an instruction that is the kernel's.
#![cfg_attr(firn_guest, no_std, no_main)]

hostile::only_in_a_vm!();

#[cfg(firn_guest)]
mod attack {
    use hostile::privileged::{HARMLESS, execute};

    #[libos::main]
    async fn main() {
        let name = libos::arguments::get("name").unwrap_or("hlt");
        libos::log::info!("executing {name}");
        // SAFETY: the kernel is trusted to keep this VM from it: that is what is tested.
        if !unsafe { execute(name) } {
            hostile::failure(format_args!("name={name} is unknown"));
        }
        if HARMLESS.contains(&name) {
            hostile::ok();
        }
        hostile::lived()
    }
}
