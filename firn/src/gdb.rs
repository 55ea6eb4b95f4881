//! `--gdb`: a script that leads gdb to a machine, with the symbols of kernel and guests, and a command for a breakpoint
//! in one VM.
//!
//! VMs of one image have their text at the same addresses, so that a breakpoint there is everybody's. What tells VMs
//! apart is the register page, which is at the same address in all of them and has the VM's number: the breakpoint's
//! condition.

use crate::builder::SUPERVISOR;
use crate::error::{Error, Result};
use crate::fleet::Fleet;
use crate::logs::{SUPERVISOR_PROGRAM, service_program};
use crate::machine::files;
use std::fmt::Write as _;
use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use virtual_isa::layout::REGISTER_PAGE;
use virtual_isa::register::RegisterPage;

/// A program that runs in VMs, and where it is for as long as the machine is up.
struct Program {
    name: String,
    elf: PathBuf,
}

/// Writes the script into a machine's folder, in which the programs are.
///
/// # Errors
/// `Io`.
pub fn prepare(folder: &Path, port: u16, fleet: &Fleet) -> Result<()> {
    let services = fleet.services.iter().enumerate().map(|(n, service)| (service.name.clone(), service_program(n)));
    let programs = services.chain([(SUPERVISOR.to_owned(), SUPERVISOR_PROGRAM.to_owned())]);
    let programs = programs.map(|(name, elf)| Program { name, elf: folder.join(elf) });
    // Of an image of one's own there may be no program.
    let programs: Vec<_> = programs.filter(|program| program.elf.is_file()).collect();
    let file = folder.join(files::GDB_SCRIPT);
    fs::write(&file, script(folder, port, &programs)).map_err(Error::io("write", &file))
}

/// The script.
fn script(folder: &Path, port: u16, programs: &[Program]) -> String {
    let kernel = quoted(&folder.join(files::KERNEL));
    let vm_at = REGISTER_PAGE + offset_of!(RegisterPage, vm) as u64;
    let mut text = format!(
        "# Symbols of a Firn machine, and commands for its VMs: `help user-defined`.\n\
         set confirm off\n\
         set pagination off\n\
         set language rust\n\
         file {kernel}\n",
    );
    let mut command = |name: &str, document: &str, body: &str| {
        // Writing to a String cannot fail.
        let _ = write!(text, "define {name}\n{body}end\ndocument {name}\n{document}\nend\n");
    };
    command(
        "firn-break",
        "Stop where a VM gets to a place: firn-break VM LOCATION. Of all VMs that run this code only this one stops.",
        &format!("break $arg1 if *({vm_at:#x} as *const u32) == $arg0\n"),
    );
    command(
        "firn-vm",
        "Print the number of the VM whose memory is to be seen.",
        &format!("print *({vm_at:#x} as *const u32)\n"),
    );
    for Program { name, elf } in programs {
        // All guests lie at the same addresses: the symbols of one at a time.
        let body = format!("symbol-file\nsymbol-file {kernel}\nadd-symbol-file {}\n", quoted(elf));
        command(
            &format!("firn-symbols-{name}"),
            &format!("Read the symbols of {name}, and forget other guests'."),
            &body,
        );
    }
    if let Some(first) = programs.first() {
        let _ = writeln!(text, "firn-symbols-{}", first.name);
    }
    let _ = writeln!(text, "target remote 127.0.0.1:{port}");
    text
}

/// A path as a word of gdb's.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{path}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_names_programs_and_the_place_of_the_vms_number() {
        let programs =
            ["web", "supervisor"].map(|name| Program { name: name.into(), elf: format!("/a b/{name}.elf").into() });
        let script = script(Path::new("/a b"), 1234, &programs);
        assert!(
            script.contains("file \"/a b/kernel\"\n") && script.ends_with("target remote 127.0.0.1:1234\n"),
            "{script}"
        );
        assert!(script.contains("break $arg1 if *(0x1000c as *const u32) == $arg0\n"), "{script}");
        assert!(
            script.contains("define firn-symbols-supervisor\n") && script.contains("\nfirn-symbols-web\n"),
            "{script}"
        );
        assert_eq!(script.matches("\nend\n").count(), 8, "{script}");
        assert_eq!(quoted(Path::new("a\"b\\")), r#""a\"b\\""#);
    }
}
