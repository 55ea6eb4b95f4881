//! Says hello, and exits with its argument.
#![cfg_attr(firn_program, no_std, no_main)]

programs::program!(|argument: u64| {
    programs::print("hello\n");
    argument
});
