//! The emulator's command line.

use crate::machine::files;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;
use virtual_isa::network::Network;

/// Which machine is emulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A small machine with little but virtio devices: boots fastest.
    #[default]
    Microvm,
    /// A PC with PCI Express.
    Q35,
}

/// How instructions of the machine are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By translation.
    Tcg,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Microvm => "microvm",
            Self::Q35 => "q35",
        }
    }
}

impl Accel {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// How the time of a machine goes that counts its instructions, a nanosecond each, when it has nothing to execute. Only
/// translation can count, and only for one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Counting {
    /// It jumps to when there is something: for load from within.
    Jump,
    /// It goes on as the host's does: for load from outside, on which time-outs would fall otherwise.
    Wait,
}

/// What the emulator is to run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which machine.
    pub kind: Kind,
    /// How.
    pub accel: Accel,
    /// Processors.
    pub cpus: u32,
    /// Whether the machine's time counts its instructions, instead of the host's time, and how.
    pub counting: Option<Counting>,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The kernel.
    pub kernel: PathBuf,
    /// The kernel's options.
    pub options: String,
    /// Port of this host at which a debugger finds the machine.
    pub gdb: Option<u16>,
}

/// The part of the command line that every machine has: processor, memory, kernel, how it ends.
#[must_use]
pub fn arguments(setup: &Setup) -> Vec<OsString> {
    let machine = match setup.kind {
        Kind::Microvm => "microvm,acpi=on,pit=on,pic=on,rtc=on",
        Kind::Q35 => "q35",
    };
    let (accel, cpu) = match setup.accel {
        Accel::Kvm => ("kvm", "host"),
        Accel::Tcg if setup.counting.is_some() => ("tcg,thread=single,tb-size=512", "max"),
        Accel::Tcg => ("tcg,thread=multi,tb-size=512", "max"),
    };
    let memory = format!("{}K", setup.memory_bytes / 1024);
    let cpus = processors(setup);
    let fixed = [
        ["-M", machine],
        ["-accel", accel],
        ["-cpu", cpu],
        ["-smp", &cpus],
        ["-m", &memory],
        ["-nodefaults", "-no-user-config"],
        ["-display", "none"],
        ["-no-reboot", "-device"],
        ["isa-debug-exit,iobase=0xf4,iosize=4", "-global"],
        ["virtio-mmio.force-legacy=false", "-kernel"],
    ];
    let mut arguments: Vec<OsString> = fixed.iter().flatten().map(OsString::from).collect();
    arguments.push(setup.kernel.clone().into());
    if let Some(counting) = setup.counting {
        let sleep = match counting {
            Counting::Jump => "shift=0,sleep=off",
            Counting::Wait => "shift=0,sleep=on",
        };
        arguments.extend(["-icount".into(), sleep.into()]);
    }
    if !setup.options.is_empty() {
        arguments.extend(["-append".into(), setup.options.clone().into()]);
    }
    if let Some(port) = setup.gdb {
        arguments.extend(["-gdb".into(), format!("tcp:127.0.0.1:{port}").into()]);
    }
    arguments
}

/// How many processors. Where there can be one only, the translator leaves out memory barriers, as nobody else would see
/// the order; but devices do, which work in another thread: they may miss that there is something for them, and the
/// machine that it has been done. With room for a second processor, which is never there, barriers are kept.
fn processors(setup: &Setup) -> String {
    match (setup.accel, setup.cpus, setup.counting.is_some()) {
        (Accel::Tcg, 1, false) => "1,maxcpus=2".to_owned(),
        (_, cpus, _) => cpus.to_string(),
    }
}

/// The part that machines with VMs have: the bundle, the wire (an option of [`crate::net::netdev`]'s), the sockets. Paths
/// are relative to the machine's folder, in which the emulator runs: sockets allow 107 bytes, and the emulator would split
/// paths at commas.
#[must_use]
pub fn machine_arguments(kind: Kind, netdev: String) -> Vec<OsString> {
    let bus = match kind {
        Kind::Microvm => "virtio-net-device",
        Kind::Q35 => "virtio-net-pci",
    };
    let mac: Vec<String> = Network::SWITCH_MAC.iter().map(|byte| format!("{byte:02x}")).collect();
    let arguments = [
        "-initrd".to_owned(),
        files::BUNDLE.to_owned(),
        "-netdev".to_owned(),
        netdev,
        "-device".to_owned(),
        format!("{bus},netdev=wire,mac={}", mac.join(":")),
        "-chardev".to_owned(),
        format!("pipe,id=serial,path={}", files::SERIAL_PIPES),
        "-serial".to_owned(),
        "chardev:serial".to_owned(),
        "-qmp".to_owned(),
        format!("unix:{},server=on,wait=off", files::QMP_SOCKET),
    ];
    arguments.into_iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(kind: Kind, accel: Accel, counting: Option<Counting>) -> Setup {
        Setup {
            kind,
            accel,
            cpus: 2,
            counting,
            memory_bytes: 2 << 30,
            kernel: "/a b/kernel,1".into(),
            options: "log=debug selftest".into(),
            gdb: Some(1234).filter(|_| kind == Kind::Q35),
        }
    }

    fn line(kind: Kind, accel: Accel, counting: Option<Counting>) -> String {
        let mut all = arguments(&setup(kind, accel, counting));
        all.extend(machine_arguments(kind, "user,id=wire".into()));
        all.iter().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn one_processor_has_room_for_a_second_where_that_keeps_barriers() {
        for (accel, counting, cpus, expected) in [
            (Accel::Tcg, None, 1, "1,maxcpus=2"),
            (Accel::Tcg, None, 2, "2"),
            (Accel::Tcg, Some(Counting::Jump), 1, "1"),
            (Accel::Kvm, None, 1, "1"),
        ] {
            assert_eq!(processors(&Setup { cpus, ..setup(Kind::Microvm, accel, counting) }), expected);
        }
    }

    #[test]
    fn the_command_line_names_what_was_asked_for() {
        let microvm = line(Kind::Microvm, Accel::Tcg, None);
        for part in [
            "-M|microvm,",
            "-accel|tcg",
            "-smp|2|-m|2097152K",
            "|-kernel|/a b/kernel,1|-append|log=debug selftest|",
            "-netdev|user,id=wire|-device|virtio-net-device,netdev=wire,mac=02:f1:ff:00:00:02",
            "-initrd|bundle|",
        ] {
            assert!(microvm.contains(part), "{part} in {microvm}");
        }
        let q35 = line(Kind::Q35, Accel::Kvm, None);
        assert!(q35.contains("-M|q35|-accel|kvm|-cpu|host|") && q35.contains("virtio-net-pci"), "{q35}");
        assert!(q35.contains("|-gdb|tcp:127.0.0.1:1234|") && !microvm.contains("-gdb"), "{q35}");
        assert!(microvm.contains("thread=multi") && !microvm.contains("-icount"), "{microvm}");
        let counted = line(Kind::Microvm, Accel::Tcg, Some(Counting::Jump));
        assert!(counted.contains("thread=single") && counted.contains("|-icount|shift=0,sleep=off|"), "{counted}");
        let waiting = line(Kind::Microvm, Accel::Tcg, Some(Counting::Wait));
        assert!(waiting.contains("thread=single") && waiting.contains("|-icount|shift=0,sleep=on|"), "{waiting}");
    }
}
