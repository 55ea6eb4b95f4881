//! `taskos`: an operating system as a guest. The arguments are in [`taskos::Settings`].
#![cfg_attr(firn_guest, no_std, no_main)]

#[libos::main]
async fn main() -> Result<(), taskos::Error> {
    taskos::run(taskos::PROGRAMS).await
}
