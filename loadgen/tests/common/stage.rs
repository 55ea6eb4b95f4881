//! A stage for `loadgen demo` and `loadgen bench`: a script in the place of `firn`, loopback servers in that of VMs.

use super::{Behaviour, Servers};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Stands for `firn`: keeps a diary of what it was asked, and a file as long as its machine is up.
const SCRIPT: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/diary"
named() { while [ $# -gt 0 ]; do if [ "$1" = --name ]; then echo "$2"; return; fi; shift; done; echo none; }
machine='{"name":"'$(named "$@")'","state":"up","machine":"microvm","accel":"tcg","started_ms":'$(date +%s%3N)',"services":[{"first_vm":1,"first_ipv4":"FIRST"}]'
case $1 in
build) exit BUILD ;;
ps) if [ -f "$here/up" ]; then echo "[$(cat "$here/up")}]"; else echo '[]'; fi ;;
up) echo "$machine" > "$here/up"; sleep 0.3
    if [ UP != 0 ]; then rm "$here/up"; exit UP; fi
    echo "$(cat "$here/up"),\"started_seconds\":0.3}" ;;
exec) if [ DIES = 1 ]; then sleep 0.6; rm "$here/up"; exec sleep 30; fi
    shift 4; exec "$@" ;;
status) echo '{"free_pages":1000,"total_pages":5000,"private_pages":30,"table_pages":12,"ended":0,"parked":COUNT,"parked_on_disk":ON_DISK,"idle_ns":7,"uptime_ns":'$(date +%s%N)'}' ;;
inspect) now=$(($(date +%s%3N) % 1000000000))
    echo "{\"instructions\":$now,\"guest_ns\":$((now * 500000)),\"kernel_ns\":7}" ;;
ask) echo "$@" > "$here/asked"
    case " $* " in
    *" race "*) echo 'race {"first":2,"count":3,"at_ms":[1001],"time_jain_ppm":[RACE],"frames_jain_ppm":[RACE],"weights":[{"shares":100,"vms":3,"time_ns_per_s":9000000,"frames_per_s":6}]}' ;;
    *" storm "*) echo 'storm {"first":2,"count":200,"rounds":7,"created":1400}' ;;
    *) echo "parked COUNT VMs" ;;
    esac ;;
logs) echo 'kernel     | [    0.200000] info  firn: ready'; echo 'supervisor | [    0.700000] fleet demo: COUNT VMs started' ;;
down) rm -f "$here/up"; echo '{"ending":"ENDING"}'; exit DOWN ;;
esac
"#;

/// A folder with the script, and servers.
pub struct Stage {
    folder: tempfile::TempDir,
    /// The servers that stand for VMs.
    pub servers: Servers,
}

impl Stage {
    /// Servers that behave so, and a script with these settings.
    pub fn new(behaviours: &[Behaviour], settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let servers = Servers::start(behaviours);
        let mut script = SCRIPT.replace("FIRST", &servers.first.to_string());
        script = script.replace("COUNT", &servers.count.to_string());
        let usual = [
            ("BUILD", "0"),
            ("UP", "0"),
            ("DOWN", "0"),
            ("ENDING", "well"),
            ("ON_DISK", "2"),
            ("DIES", "0"),
            ("RACE", "995000"),
        ];
        for (name, value) in settings.iter().chain(&usual) {
            script = script.replace(name, value);
        }
        let firn = folder.path().join("firn");
        fs::write(&firn, script).unwrap();
        fs::set_permissions(&firn, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, servers }
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `loadgen demo` with these arguments, on this stage.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.loadgen("demo", &["--vms", &self.servers.count.to_string()]);
        if !arguments.contains(&"--seconds") {
            command.args(["--seconds", "0.6"]);
        }
        command.arg("--report").arg(self.path("out/report.json")).args(arguments);
        command
    }

    /// Runs it.
    pub fn run(&self, arguments: &[&str]) -> (i32, Output) {
        let output = self.command(arguments).output().unwrap();
        (output.status.code().unwrap(), output)
    }

    /// A subcommand of the program, quiet and on this stage.
    pub fn loadgen(&self, subcommand: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command.arg(subcommand).args(arguments).arg("--quiet");
        command.args(["--port", &self.servers.port.to_string()]).arg("--firn").arg(self.path("firn"));
        command
    }

    /// What the script was asked, whole lines.
    pub fn whole_diary(&self) -> Vec<String> {
        fs::read_to_string(self.path("diary")).unwrap().lines().map(str::to_owned).collect()
    }

    /// What the script was asked: the first words.
    pub fn diary(&self) -> Vec<String> {
        let diary = fs::read_to_string(self.path("diary")).unwrap();
        let first = |line: &str| line.split(' ').next().unwrap().to_owned();
        diary.lines().map(first).filter(|word| word != "ps").collect()
    }
}
