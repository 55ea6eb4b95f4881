//! `firn up`: starts a machine and waits until the VMs of its fleet have been started.

use crate::accel::{self, Choice, Wish};
use crate::builder::SUPERVISOR;
use crate::error::{Error, Result};
use crate::fleet::{Fleet, terms};
use crate::logs::{Printer, SUPERVISOR_PROGRAM, Tail, service_program};
use crate::machine::{self, Machine, Process, Record, ServiceRecord, ending, files, write_json};
use crate::net::{self, Mode, Publish, Published};
use crate::project::{Project, check_name};
use crate::qemu::{Accel, Counting, Kind, Setup};
use crate::serial::Line;
use crate::{bundle, down, gdb, holder, host, qemu, swap};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use virtual_isa::PAGE_SIZE;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it runs.
    pub fleet: Fleet,
    /// Name of the machine.
    pub name: String,
    /// The emulated machine.
    pub kind: Kind,
    /// How it is to be executed.
    pub wish: Wish,
    /// Whether its time is to count its instructions, and how.
    pub counting: Option<Counting>,
    /// Further options for the kernel.
    pub options: String,
    /// How its VMs are reached.
    pub net: Mode,
    /// Ports that lead to VMs.
    pub publish: Vec<Publish>,
    /// The service meant by ports that name none.
    pub service: Option<String>,
    /// Port at which a debugger finds it.
    pub gdb: Option<u16>,
    /// Whether a machine of that name that is up is to be ended first.
    pub replaces: bool,
    /// What it boots.
    pub system: System,
}

/// What a machine boots. Whatever it is speaks on the console as a supervisor does.
#[derive(Clone, Debug, Default)]
pub enum System {
    /// Firn's kernel.
    #[default]
    Firn,
    /// The fleet's one VM in ring 0, without a kernel below it.
    Bare,
    /// Another kernel, on the machine that Firn's would have.
    Foreign {
        /// The kernel.
        kernel: PathBuf,
        /// What it is given in place of a bundle.
        initrd: PathBuf,
    },
}

/// A machine that is up.
#[derive(Debug)]
pub struct Up {
    /// The machine.
    pub machine: Machine,
    /// How it is executed, and why.
    pub choice: Choice,
    /// From starting the emulator to the last VM's start.
    pub started_in: Duration,
    /// Becomes true when this process is told to end.
    stop: Arc<AtomicBool>,
}

/// Checks everything, starts the machine, and waits for its VMs. If it fails, nothing is left running.
///
/// # Errors
/// Bad input and what this host lacks before anything has started; `Failed` after that.
pub fn up(project: &Project, mut request: Request) -> Result<Up> {
    check_name(&request.name).map_err(|problem| Error::Argument {
        argument: "--name",
        problem: format!("{:?} {problem}", request.name),
        remedy: "a name is 1 to 32 letters, digits, '-' and '_'".into(),
    })?;
    if request.counting.is_some() {
        check_counted(request.wish, request.fleet.cpus)?;
    }
    if matches!(request.system, System::Bare) {
        check_bare(&request.fleet)?;
    }
    check_net(&mut request)?;
    let built = Built::find(project, &request.system)?;
    host::qemu()?;
    if request.replaces && Machine::open(project, &request.name).is_ok_and(|machine| machine.is_alive()) {
        down::down(project, &request.name)?;
    }
    let _lock = machine::lock(project, &request.name)?;
    if Machine::open(project, &request.name).is_ok_and(|machine| machine.is_alive()) {
        return Err(Error::AlreadyUp { name: request.name });
    }
    let ports = net::resolve(&request.publish, &request.fleet, request.service.as_deref())?;
    machine::clear_away(project, &request.name)?;
    let choice = match (request.counting.is_some(), request.gdb) {
        (true, _) => Choice { accel: Accel::Tcg, reason: "instructions are counted".into() },
        (_, Some(_)) if request.wish == Wish::Auto => Choice { accel: Accel::Tcg, reason: "for the debugger".into() },
        _ => accel::choose(project, request.wish, request.kind)?,
    };
    eprintln!("firn: acceleration {} ({})", choice.accel.name(), choice.reason);
    let bundle = match &request.system {
        System::Firn | System::Bare => bundle::encode(&request.fleet, &request.name, &built.supervisor)?,
        System::Foreign { initrd, .. } => fs::read(initrd).map_err(Error::io("read", initrd))?,
    };
    let folder = project.machines.join(&request.name);
    prepare(&folder, &request, &built, &bundle)?;
    let stop = on_signals()?;
    let begun = Instant::now();
    let machine = start(&request, &choice, ports, folder.clone()).inspect_err(|_| {
        // What could not be started has no log worth keeping.
        let _ = fs::remove_dir_all(&folder);
    })?;
    match wait(&machine, begun, &stop) {
        Ok(()) => Ok(Up { machine, choice, started_in: begun.elapsed(), stop }),
        Err(error) => {
            down::force(&machine);
            machine::clear_away(project, &request.name)?;
            Err(error.naming(&machine::kept_log(project, &request.name)))
        }
    }
}

/// Checks that VMs can be reached as asked for, and sets the address that the host has then.
fn check_net(request: &mut Request) -> Result<()> {
    match request.net {
        Mode::Tap if !request.publish.is_empty() => {
            return Err(Error::Argument {
                argument: "--publish",
                problem: "with --net tap, VMs are reached by their own addresses".into(),
                remedy: "leave one of the two out".into(),
            });
        }
        Mode::Tap => {
            host::iproute()?;
            host::tun()?;
            // All ports of a new namespace are free.
            return Ok(());
        }
        Mode::User => request.fleet.network.host_mac = net::user_host_mac(&request.fleet.network),
    }
    let Some(port) = request.gdb else { return Ok(()) };
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|error| Error::Argument {
        argument: "--gdb",
        problem: format!("cannot use port {port}: {error}"),
        remedy: "choose another port of this host".into(),
    })
}

/// Checks that the instructions of such a machine can be counted.
fn check_counted(wish: Wish, cpus: u32) -> Result<()> {
    let (problem, remedy) = if cpus > 1 {
        (format!("instructions cannot be counted with {cpus} processors"), "give --cpus 1")
    } else if wish == Wish::Kvm {
        ("instructions cannot be counted under KVM".into(), "leave --accel out, or give --accel tcg")
    } else {
        return Ok(());
    };
    Err(Error::Argument { argument: "--icount", problem, remedy: remedy.into() })
}

/// Checks that a fleet is what can run without isolation: one VM, on one processor, and nothing to swap.
fn check_bare(fleet: &Fleet) -> Result<()> {
    let problem = match (fleet.nr_vms(), fleet.cpus, fleet.swap) {
        (1, 1, None) => return Ok(()),
        (1, 1, Some(_)) => "a program that runs alone has no use for a swap disk".to_owned(),
        (1, cpus, _) => format!("a program that runs alone has one processor, and not {cpus}"),
        (vms, ..) => format!("a program runs alone, and the fleet has {vms} VMs"),
    };
    let remedy = "give it a fleet of one VM, on one processor, without a swap disk".into();
    Err(Error::Argument { argument: "--bare", problem, remedy })
}

/// A flag that becomes true when this process is told to end, which it then does in its own way.
fn on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signal_hook::flag::register(signal as i32, Arc::clone(&stop))
            .map_err(|e| Error::failed(format!("cannot wait for signals: {e}"), ""))?;
    }
    Ok(stop)
}

/// What must have been built.
struct Built {
    kernel: PathBuf,
    supervisor: PathBuf,
}

impl Built {
    fn find(project: &Project, system: &System) -> Result<Self> {
        let kernel = match system {
            System::Firn => project.kernel(),
            System::Bare => project.bare(),
            System::Foreign { kernel, .. } => kernel.clone(),
        };
        let built = Self { kernel, supervisor: project.image(SUPERVISOR) };
        for (what, file) in [("kernel", &built.kernel), ("supervisor image", &built.supervisor)] {
            if !file.is_file() {
                return Err(Error::Missing {
                    what: format!("there is no {what} {}", file.display()),
                    remedy: "build it with `firn build`".into(),
                });
            }
        }
        Ok(built)
    }
}

/// Fills the machine's folder. It keeps the kernel and the symbols, so that the log can be read even after a new
/// build.
fn prepare(folder: &Path, request: &Request, built: &Built, bundle: &[u8]) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let file = folder.join(files::BUNDLE);
    fs::write(&file, bundle).map_err(Error::io("write", &file))?;
    fs::copy(&built.kernel, folder.join(files::KERNEL)).map_err(Error::io("copy", &built.kernel))?;
    let services = request.fleet.services.iter().enumerate().map(|(n, s)| (s.image.as_path(), service_program(n)));
    for (image, name) in services.chain([(built.supervisor.as_path(), SUPERVISOR_PROGRAM.to_owned())]) {
        let program = folder.join(name);
        for extension in ["sym", "elf"] {
            keep(&image.with_extension(extension), &program.with_extension(extension));
        }
    }
    match request.gdb {
        Some(port) => gdb::prepare(folder, port, &request.fleet),
        None => Ok(()),
    }
}

/// Keeps a file as it is now, whatever is built later: builds replace files, they do not change them. An image of one's
/// own need not have any of them.
fn keep(file: &Path, kept: &Path) {
    let _ = fs::hard_link(file, kept).or_else(|_| fs::copy(file, kept).map(drop));
}

fn start(request: &Request, choice: &Choice, ports: Vec<Published>, folder: PathBuf) -> Result<Machine> {
    let fleet = &request.fleet;
    let setup = Setup {
        kind: request.kind,
        accel: choice.accel,
        cpus: fleet.cpus,
        counting: request.counting,
        memory_bytes: fleet.memory_bytes,
        kernel: files::KERNEL.into(),
        options: request.options.clone(),
        gdb: request.gdb,
    };
    let swap = fleet.swap.map(|swap| swap::create(&folder, swap)).transpose()?;
    let mut arguments = qemu::arguments(&setup);
    arguments.extend(qemu::machine_arguments(request.kind, net::netdev(request.net, &fleet.network, &ports)));
    arguments.extend(swap.iter().flat_map(|disk| swap::arguments(request.kind, disk)));
    let started = holder::start(&folder, Some(&fleet.network).filter(|_| request.net == Mode::Tap), arguments)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = Record {
        name: request.name.clone(),
        fleet: fs::canonicalize(&fleet.file).unwrap_or_else(|_| fleet.file.clone()),
        machine: request.kind.name().to_owned(),
        accel: choice.accel.name().to_owned(),
        cpus: fleet.cpus,
        memory_bytes: fleet.memory_bytes,
        is_counted: request.counting.is_some(),
        swap,
        started_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        holder: started.holder,
        qemu: started.qemu,
        user_namespace: started.user_namespace,
        net: request.net,
        published: ports,
        gdb: request.gdb,
        network: fleet.network,
        vms: fleet.nr_vms(),
        services: fleet.services.iter().map(|s| service_record(fleet, s)).collect(),
    };
    let kill = |process: Process| process.signal(Signal::SIGKILL);
    write_json(&folder.join(files::RECORD), &record).inspect_err(|_| kill(started.qemu))?;
    Ok(Machine { folder, record })
}

fn service_record(fleet: &Fleet, service: &crate::fleet::Service) -> ServiceRecord {
    ServiceRecord {
        name: service.name.clone(),
        image: service.image.clone(),
        count: service.count,
        first_vm: service.first_vm,
        first_ipv4: fleet.network.ipv4_of(service.first_vm).into(),
        memory_bytes: u64::from(service.memory_pages) * PAGE_SIZE as u64,
        minimum_bytes: u64::from(service.minimum_pages) * PAGE_SIZE as u64,
        shares: service.shares,
        group: terms::group_name(&fleet.groups, service.terms.group).to_owned(),
        reservation_ppm: service.terms.reservation_ppm,
        limit_ppm: service.terms.limit_ppm,
        frames_per_s: service.terms.frames_per_s,
        bytes_per_s: service.terms.bytes_per_s,
        gateway: service.gateway,
        arguments: service.arguments.clone(),
    }
}

/// How long the VMs of a fleet may take to start, on a slow host.
fn patience(vms: u32) -> Duration {
    Duration::from_secs(60) + Duration::from_millis(100) * vms
}

/// Waits until the supervisor says that all VMs have been started.
fn wait(machine: &Machine, begun: Instant, stop: &AtomicBool) -> std::result::Result<(), NotStarted> {
    let record = &machine.record;
    let end = begun + patience(record.vms);
    let log = machine.file(files::SERIAL_LOG);
    let mut tail = None;
    let mut errors = Vec::new();
    loop {
        // In this order: what a machine says before it ends is in the log when its end is seen.
        let ended = ending(&machine.folder);
        if tail.is_none() {
            tail = Tail::open(&log).ok();
        }
        let lines = tail.as_mut().map(Tail::lines).transpose().ok().flatten().unwrap_or_default();
        for line in &lines {
            match Line::parse(line) {
                Line::Vm { vm: 0, text } if is_started(text, &record.name) => return Ok(()),
                Line::Vm { vm: 0, text } if text.starts_with("error:") => {
                    return Err(NotStarted(format!("the supervisor says {text}")));
                }
                Line::Kernel { text, .. } if text.starts_with("vm 0 ended") => {
                    return Err(NotStarted(format!("the supervisor failed: {text}")));
                }
                Line::Kernel { level: "error", text } => errors.push(text.to_owned()),
                _ => {}
            }
        }
        if let Some(ended) = ended {
            return Err(NotStarted(describe_end(machine, &ended.meaning().to_string(), &errors)));
        }
        if !record.holder.is_alive() && ending(&machine.folder).is_none() {
            return Err(NotStarted("the machine's holder was killed".into()));
        }
        if stop.load(Ordering::Relaxed) {
            return Err(NotStarted("interrupted; the machine was ended".into()));
        }
        if Instant::now() >= end {
            let seconds = patience(record.vms).as_secs();
            return Err(NotStarted(format!("the {} VMs were not all started within {seconds} s", record.vms)));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether the supervisor says that the fleet of that name has been started.
fn is_started(text: &str, name: &str) -> bool {
    let rest = text.strip_prefix("fleet ").and_then(|rest| rest.strip_prefix(name));
    rest.is_some_and(|rest| rest.starts_with(": ") && rest.ends_with(" started"))
}

fn describe_end(machine: &Machine, meaning: &str, errors: &[String]) -> String {
    let said = fs::read_to_string(machine.file(files::EMULATOR_LOG)).unwrap_or_default();
    let mut problem = format!("the machine ended before its VMs were started: {meaning}");
    for line in errors.iter().map(String::as_str).chain(said.lines()).take(8) {
        problem.push_str("\n  ");
        problem.push_str(line.trim_end());
    }
    problem
}

/// Why the VMs did not start.
struct NotStarted(String);

impl NotStarted {
    fn naming(self, log: &Path) -> Error {
        Error::failed(self.0, format!("the machine's log is in {}", log.display()))
    }
}

/// Prints a machine's log until it ends, or until this process is told to end: then the machine is powered off.
///
/// # Errors
/// `Io`, and those of [`down::down`].
pub fn stay(project: &Project, up: &Up) -> Result<down::Report> {
    let machine = &up.machine;
    let printer = Printer::new(machine);
    let mut tail = Tail::open(&machine.file(files::SERIAL_LOG))?;
    loop {
        let is_over = !machine.is_alive() || up.stop.load(Ordering::Relaxed);
        for line in tail.lines()?.iter().filter_map(|line| printer.line(line)) {
            // Who no longer listens may still want the machine.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
        if is_over {
            return down::down(project, &machine.record.name);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fleets_own_word_counts() {
        assert!(is_started("fleet web: 1000 VMs started", "web"));
        assert!(is_started("fleet web: 1 VM started", "web"));
        assert!(!is_started("fleet web2: 1000 VMs started", "web"));
        assert!(!is_started("fleet web: 10 VMs to go", "web"));
        assert!(!is_started("error: fleet web: 1 VMs started", "web"));
    }

    #[test]
    fn only_one_translated_processor_is_counted() {
        assert!(check_counted(Wish::Auto, 1).is_ok() && check_counted(Wish::Tcg, 1).is_ok());
        for (wish, cpus, words) in [(Wish::Auto, 2, "with 2 processors"), (Wish::Kvm, 1, "under KVM")] {
            let error = check_counted(wish, cpus).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.status(), crate::error::STATUS_BAD_INPUT);
        }
    }

    #[test]
    fn patience_grows_with_the_fleet() {
        assert_eq!(patience(0).as_secs(), 60);
        assert_eq!(patience(1000).as_secs(), 160);
    }
}
