//! `firn status`, `firn inspect`, `firn ps`: what runs, as the supervisor and the host see it.

use crate::error::{Error, Result};
use crate::machine::{Machine, files};
use crate::net::{Mode, Protocol};
use crate::project::Project;
use crate::{qmp, serial, size};
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long the supervisor may take to answer.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The machine's state: the supervisor's fields, what the emulator counted at the swap disk under `swap_device`, and
/// what the host knows under `host`.
///
/// # Errors
/// `NoMachine`, `Failed` if it does not answer.
pub fn status(project: &Project, name: &str) -> Result<Value> {
    let machine = Machine::open_alive(project, name)?;
    let mut answer = object(&serial::ask(&machine, "status", "status ", TIMEOUT)?)?;
    merge(&mut answer, object(&serial::ask(&machine, "memory", "memory ", TIMEOUT)?)?);
    if machine.record.swap.is_some() {
        answer.insert("swap_device".into(), json!(qmp::swap_statistics(&machine.folder)?));
    }
    answer.insert("host".into(), host(&machine));
    Ok(Value::Object(answer))
}

/// A VM's state: the supervisor's fields, its service and its address.
///
/// # Errors
/// `NoMachine`, `Argument` if there is no such VM, `Failed` if the supervisor does not answer.
pub fn inspect(project: &Project, name: &str, vm: u32) -> Result<Value> {
    let machine = Machine::open_alive(project, name)?;
    check_vm(&machine, vm)?;
    let mut answer = object(&serial::ask(&machine, &format!("vm {vm}"), "vm ", TIMEOUT)?)?;
    for about in ["vm-memory", "vm-time"] {
        let said = serial::ask(&machine, &format!("{about} {vm}"), &format!("{about} "), TIMEOUT)?;
        merge(&mut answer, object(&said)?);
    }
    let record = &machine.record;
    let service = record.services.iter().find(|s| vm >= s.first_vm && vm - s.first_vm < s.count);
    let service = service.map_or("supervisor", |s| s.name.as_str());
    answer.entry("service").or_insert_with(|| service.into());
    answer.entry("ipv4").or_insert_with(|| Ipv4Addr::from(record.network.ipv4_of(vm)).to_string().into());
    Ok(Value::Object(answer))
}

/// Checks that a machine's fleet has a VM of that number.
///
/// # Errors
/// `Argument`.
pub fn check_vm(machine: &Machine, vm: u32) -> Result<()> {
    if vm <= machine.record.vms {
        return Ok(());
    }
    Err(Error::Argument {
        argument: "VM",
        problem: format!("machine {:?} has no VM {vm}", machine.record.name),
        remedy: format!("its VMs are 1 to {}; 0 is the supervisor", machine.record.vms),
    })
}

/// Adds the fields of a later answer. What both have is the later one's: its figures belong together.
fn merge(answer: &mut Map<String, Value>, later: Map<String, Value>) {
    answer.extend(later);
}

fn object(text: &str) -> Result<Map<String, Value>> {
    let value = serde_json::from_str(text).ok();
    value.ok_or_else(|| Error::failed(format!("the supervisor's answer is not a JSON object: {text}"), ""))
}

/// What the host knows of a machine.
#[must_use]
pub fn host(machine: &Machine) -> Value {
    let record = &machine.record;
    let network = &record.network;
    let dotted = |address: [u8; 4]| Ipv4Addr::from(address).to_string();
    let state = if machine.is_alive() { "up".to_owned() } else { machine.meaning().to_string() };
    json!({
        "name": record.name,
        "state": state,
        "machine": record.machine,
        "accel": record.accel,
        "cpus": record.cpus,
        "icount": record.is_counted,
        "memory_bytes": record.memory_bytes,
        "swap": record.swap,
        "started_ms": record.started_ms,
        "fleet": record.fleet,
        "folder": machine.folder,
        "log": machine.file(crate::machine::files::SERIAL_LOG),
        "qemu_pid": record.qemu.pid,
        "holder_pid": record.holder.pid,
        "vms": record.vms,
        "net": record.net,
        "published": record.published,
        "gdb": record.gdb,
        "gdb_script": record.gdb.map(|_| machine.file(files::GDB_SCRIPT)),
        "network": {
            "subnet": format!("{}/{}", dotted(network.subnet), network.prefix_bits),
            "host": dotted(network.host_ipv4),
            "switch": dotted(network.switch_ipv4),
            "first_vm": dotted(network.first_vm),
        },
        "services": record.services,
    })
}

/// What has been started, for people, and what they can do with it.
#[must_use]
pub fn started(machine: &Machine, seconds: f64) -> String {
    let record = &machine.record;
    let name = &record.name;
    let mut text = format!(
        "machine {name}: {} VM{} started in {seconds:.1} s ({}, {}, {} processor(s), {}{})\n{}\n",
        record.vms,
        if record.vms == 1 { "" } else { "s" },
        record.machine,
        record.accel,
        record.cpus,
        size::format(record.memory_bytes),
        record.swap.map_or_else(String::new, |swap| format!(", swap {}", size::format(swap.bytes))),
        services(machine),
    );
    for port in &record.published {
        text.push_str(&format!("published: {port}\n"));
    }
    let first = record.services.first().map_or_else(String::new, |s| s.first_ipv4.to_string());
    let tcp = record.published.iter().find(|port| port.protocol == Protocol::Tcp);
    match (record.net, tcp) {
        (Mode::Tap, _) => text.push_str(&format!("reach them with: firn exec --name {name} -- curl http://{first}/\n")),
        (Mode::User, Some(port)) => text.push_str(&format!("reach it with: curl http://{}/\n", port.from)),
        (Mode::User, None) if record.published.is_empty() => {
            text.push_str("nothing can reach them: publish a port, such as -p 8080:80, or give --net tap\n");
        }
        (Mode::User, None) => {}
    }
    if record.gdb.is_some() {
        let script = machine.file(files::GDB_SCRIPT);
        // The port is where the emulator is.
        let inside = if record.net == Mode::Tap { format!("firn exec --name {name} -- ") } else { String::new() };
        text.push_str(&format!("debug it with: {inside}gdb -x {}\n", script.display()));
    }
    text
}

/// The services of a machine, for people.
#[must_use]
pub fn services(machine: &Machine) -> String {
    let mut rows = vec![
        ["SERVICE", "VMS", "FIRST", "ADDRESSES", "MEMORY", "GROUP", "SHARES", "GATEWAY"].map(String::from).to_vec(),
    ];
    for service in &machine.record.services {
        let last = service.first_vm + service.count - 1;
        let last_address = Ipv4Addr::from(machine.record.network.ipv4_of(last));
        let addresses = match service.count {
            1 => service.first_ipv4.to_string(),
            _ => format!("{} to {last_address}", service.first_ipv4),
        };
        rows.push(vec![
            service.name.clone(),
            service.count.to_string(),
            service.first_vm.to_string(),
            addresses,
            size::format(service.memory_bytes),
            service.group.clone(),
            service.shares.to_string(),
            service.gateway.map_or_else(String::new, |vm| format!("VM {vm}")),
        ]);
    }
    crate::table::columns(&rows)
}

/// All machines, for people.
#[must_use]
pub fn list(machines: &[Machine]) -> String {
    let mut rows =
        vec![["NAME", "STATE", "VMS", "CPUS", "MEMORY", "ACCEL", "FLEET", "PORTS"].map(String::from).to_vec()];
    for machine in machines {
        let record = &machine.record;
        rows.push(vec![
            record.name.clone(),
            if machine.is_alive() { "up".to_owned() } else { machine.meaning().to_string() },
            record.vms.to_string(),
            record.cpus.to_string(),
            size::format(record.memory_bytes),
            record.accel.clone(),
            record.fleet.display().to_string(),
            record.published.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        ]);
    }
    crate::table::columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_answers_become_one() {
        let mut answer = object(r#"{"fleet":"web","free_pages":7,"vms":3}"#).unwrap();
        merge(&mut answer, object(r#"{"free_pages":6,"reserve_pages":2}"#).unwrap());
        let text = Value::Object(answer).to_string();
        assert_eq!(text, r#"{"fleet":"web","free_pages":6,"vms":3,"reserve_pages":2}"#);
    }

    #[test]
    fn answers_that_are_no_objects_are_refused() {
        for text in ["", "7", "[]", "{\"vms\":", "unknown"] {
            assert!(object(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_statistics_of_the_disk_have_their_names() {
        let statistics = qmp::DiskStatistics { reads: 1, writes: 2, read_bytes: 3, write_bytes: 4 };
        assert_eq!(json!(statistics), json!({"reads": 1, "writes": 2, "read_bytes": 3, "write_bytes": 4}));
    }
}
