//! The command line.

use crate::accel::Wish;
use crate::machine::DEFAULT_NAME;
use crate::net::{Mode, Publish};
use crate::qemu::{Counting, Kind};
use crate::size;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Builds, boots and manages machines of tiny virtual machines.
#[derive(Debug, Parser)]
#[command(name = "firn", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where the state of machines is kept [default: target/firn/machines].
    #[arg(long, global = true, env = "FIRN_STATE", value_name = "FOLDER", hide_env_values = true)]
    pub state: Option<PathBuf>,
}

/// How to print results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Which machine.
#[derive(Clone, Debug, Args)]
pub struct Name {
    /// Name of the machine.
    #[arg(long, default_value = DEFAULT_NAME)]
    pub name: String,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a project for a service.
    New {
        /// The project's folder, which is made; its name is the service's.
        name: PathBuf,
    },
    /// Build the kernel and guest images: those of the project you are in, or of Firn.
    Build {
        /// The apps to build, with the supervisor [default: all].
        apps: Vec<String>,
        /// Where to write the images [default: target/firn/images].
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
        /// Check the code of kernel and guests with clippy instead; a warning is an error.
        #[arg(long, conflicts_with = "out")]
        lint: bool,
        /// How to print what was built.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Turn a guest's ELF file into an image.
    Image {
        /// The ELF file.
        elf: PathBuf,
        /// The image to write; its symbols go beside it.
        #[arg(short, long, value_name = "FILE.img")]
        output: PathBuf,
    },
    /// Boot a machine with a service: what `firn new` made, or an app of Firn's.
    Run(Run),
    /// Boot a machine with the services of a fleet file.
    Up(Up),
    /// Print a machine's log until it ends, each line after the name of its VM, with names for the addresses in reports.
    Logs {
        /// Only what is from or about this VM or service: a number, such as 7, or a name, such as web or web-7.
        vm: Option<String>,
        /// Print what there is, and do not wait for more.
        #[arg(long)]
        no_follow: bool,
        /// Which machine.
        #[command(flatten)]
        name: Name,
    },
    /// Show a machine's state and counters: VMs, memory, and what its swap disk did.
    Status {
        /// Which machine.
        #[command(flatten)]
        name: Name,
        /// How to print it.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show a VM's state and counters, and where its memory is.
    ///
    /// `wake_latency` counts how long it took from waking to running: less than 1.024 us, than 2.048 us, and so on by powers
    /// of two; the last number counts all that took longer.
    Inspect {
        /// Number of the VM.
        vm: u32,
        /// Which machine.
        #[command(flatten)]
        name: Name,
        /// How to print it.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Give the supervisor a command, and print its answer when it is done.
    ///
    /// Its commands: status, memory, vm N, vm-memory N, vm-time N, park N|N-M|all [memory|disk], pause N, start N,
    /// churn FIRST COUNT, storm FIRST COUNT SECONDS, race FIRST-LAST SECONDS, down.
    Ask {
        /// Which machine.
        #[command(flatten)]
        name: Name,
        /// How long it may take, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
        timeout: u32,
        /// The command.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Run a command in a machine's network, where its VMs can be reached.
    Exec {
        /// Which machine.
        #[command(flatten)]
        name: Name,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// End a machine.
    Down {
        /// Which machine.
        #[command(flatten)]
        name: Name,
        /// How to print how it ended.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// List machines.
    Ps {
        /// How to print them.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Say what this host lacks, and how to mend it.
    Doctor {
        /// How to print it.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Hold a machine (`firn up` starts this).
    #[command(hide = true)]
    Hold,
}

/// Options of `firn run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The service: the project you are in or one in this folder, or an app of Firn's.
    pub service: String,
    /// VMs of it [default: what the project says, or 1].
    #[arg(long, value_name = "N")]
    pub count: Option<u32>,
    /// Arguments of each VM of it, instead of the project's.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub args: Option<String>,
    /// An app through which all traffic of the service's VMs goes: a firewall, a proxy. It is started beside it.
    #[arg(long, value_name = "APP")]
    pub gateway: Option<String>,
    /// Arguments of the gateway.
    #[arg(long, value_name = "WORDS", requires = "gateway", allow_hyphen_values = true)]
    pub gateway_args: Option<String>,
    /// Take the images as they are.
    #[arg(long)]
    pub no_build: bool,
    /// End the machine of this name first, if it is up.
    #[arg(long)]
    pub replace: bool,
    /// How VMs are reached.
    #[arg(long, value_enum, default_value_t = Mode::User)]
    pub net: Mode,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineOptions,
}

/// Options of `firn up`.
#[derive(Debug, Args)]
pub struct Up {
    /// The fleet file.
    pub fleet: PathBuf,
    /// VMs of a service, instead of the fleet file's count. Can be given several times.
    #[arg(long, value_name = "SERVICE.count=N", value_parser = parse_count)]
    pub set: Vec<(String, u32)>,
    /// How VMs are reached [default: tap, or user if a port is published].
    #[arg(long, value_enum)]
    pub net: Option<Mode>,
    /// Boot another kernel than Firn's: one that speaks on the console as a supervisor does. For comparisons.
    #[arg(long, hide = true, value_name = "FILE", requires = "initrd")]
    pub kernel: Option<PathBuf>,
    /// What that kernel is given in place of a bundle.
    #[arg(long, hide = true, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Run the fleet's one VM in ring 0 with the machine to itself, without Firn's kernel. For comparisons: nothing is
    /// isolated from it.
    #[arg(long, hide = true, conflicts_with = "kernel")]
    pub bare: bool,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineOptions,
}

/// Options for a machine that is to be booted.
#[derive(Debug, Args)]
pub struct MachineOptions {
    /// Which machine.
    #[command(flatten)]
    pub name: Name,
    /// Publish a port of a service's first VM, such as 8080:80: [ADDRESS:]PORT:[SERVICE:]PORT[/udp]. Can be given several
    /// times.
    #[arg(short, long, value_name = "PORTS")]
    pub publish: Vec<Publish>,
    /// Processors of the machine, instead of the fleet file's.
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// Memory of the machine, such as 2G, instead of the fleet file's.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Size of the machine's swap disk, such as 4G, instead of the fleet file's; 0 for none.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub swap: Option<u64>,
    /// Most reads and writes of the swap disk in a second, instead of the fleet file's; 0 for no limit.
    #[arg(long, value_name = "N")]
    pub swap_iops: Option<u32>,
    /// The emulated machine.
    #[arg(long, value_enum, default_value_t)]
    pub machine: Kind,
    /// How it is executed.
    #[arg(long, value_enum, default_value_t)]
    pub accel: Wish,
    /// Count instructions: a nanosecond of the machine's time is one of its instructions. For measurements. While it has
    /// nothing to execute its time jumps, or with --icount=wait goes on as the host's does.
    #[arg(long, hide = true, value_enum, value_name = "IDLE", num_args = 0..=1, default_missing_value = "jump", require_equals = true)]
    pub icount: Option<Counting>,
    /// Let a debugger look into the machine, at this port of this host.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub gdb: Option<u16>,
    /// Options for the kernel, such as log=debug.
    #[arg(long, value_name = "OPTIONS", default_value = "", allow_hyphen_values = true)]
    pub kernel_options: String,
    /// Stay, print the log, and end the machine when interrupted.
    #[arg(long)]
    pub foreground: bool,
    /// How to print what was started.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

fn parse_size(text: &str) -> Result<u64, String> {
    size::parse(text).map_err(|error| format!("it {error}: {}", size::REMEDY))
}

fn parse_count(text: &str) -> Result<(String, u32), String> {
    let parsed = text.split_once('=').and_then(|(key, count)| {
        let service = key.strip_suffix(".count")?;
        Some((service.to_owned(), count.parse().ok()?))
    });
    parsed.ok_or_else(|| "write it as SERVICE.count=N".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_are_read() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let Command::Up(up) =
            parse("firn up f.toml --memory 2G --swap 4G --swap-iops 5000 --set web.count=9 --machine q35 --accel tcg")
                .unwrap()
                .command
        else {
            panic!("up")
        };
        assert_eq!((up.set, up.net), (vec![("web".into(), 9)], None));
        let machine = up.machine;
        assert_eq!((machine.memory, machine.machine, machine.accel), (Some(2 << 30), Kind::Q35, Wish::Tcg));
        assert_eq!((machine.swap, machine.swap_iops), (Some(4 << 30), Some(5000)));
        for (line, expected) in [
            ("firn up f", None),
            ("firn up --icount f", Some(Counting::Jump)),
            ("firn up f --icount=wait", Some(Counting::Wait)),
        ] {
            let Command::Up(up) = parse(line).unwrap().command else { panic!("up") };
            assert_eq!(up.machine.icount, expected, "{line}");
        }
        let Command::Up(up) = parse("firn up f.toml --swap 0").unwrap().command else { panic!("up") };
        assert_eq!((up.machine.swap, up.machine.swap_iops), (Some(0), None));
        let run = parse("firn run web -p 8080:80 -p 5353:53/udp --gdb 1234 --args body=9").unwrap().command;
        let Command::Run(run) = run else { panic!("run") };
        assert_eq!((run.service.as_str(), run.args.as_deref(), run.net), ("web", Some("body=9"), Mode::User));
        assert_eq!((run.machine.publish.len(), run.machine.gdb), (2, Some(1234)));
        for bad in [
            "firn up",
            "firn up f --swap 5",
            "firn up f --swap-iops -1",
            "firn up f --memory 2",
            "firn up f --set web=9",
            "firn up f --machine pc",
            "firn up f -p 80",
            "firn up f --kernel k",
            "firn up f --initrd i",
            "firn up f --bare --kernel k --initrd i",
            "firn run",
            "firn run web --gdb 0",
            "firn run web --gateway-args x",
            "firn new",
            "firn exec --",
            "firn ask",
            "firn ask --timeout 0 status",
            "firn ask --timeout soon status",
        ] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
        let Command::Exec { command, name } = parse("firn exec --name a -- curl --name b").unwrap().command else {
            panic!("exec")
        };
        assert_eq!((command.len(), name.name.as_str()), (3, "a"));
        let asked = parse("firn ask --name a --timeout 5 park all disk").unwrap().command;
        let Command::Ask { command, timeout, .. } = asked else { panic!("ask") };
        assert_eq!((command, timeout), (vec!["park".into(), "all".into(), "disk".into()], 5));
    }
}
