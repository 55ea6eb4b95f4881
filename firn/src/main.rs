//! The `firn` command: reads the command line, does one thing, and prints it.

use clap::Parser;
use firn::builder::Task;
use firn::cli::{Cli, Command, Format, MachineOptions, Run, Up};
use firn::error::{Error, Result, STATUS_FAILED};
use firn::fleet::{Fleet, Overrides};
use firn::logs::{Printer, Tail};
use firn::machine::{Machine, files, kept_log};
use firn::net::Mode;
use firn::project::Project;
use firn::up::System;
use firn::{ask, builder, doctor, down, holder, image, namespace, new, run, status, table, up};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.status())
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    if matches!(cli.command, Command::Hold) {
        holder::run()?;
        return Ok(ExitCode::SUCCESS);
    }
    let project = Project::find(cli.state)?;
    match cli.command {
        Command::Build { apps, lint: true, .. } => lint(&project, &apps)?,
        Command::Build { apps, out, format, .. } => show_built(build(&project, &apps, out.as_deref())?, format)?,
        Command::Image { elf, output } => print(&describe(&image::convert(&elf, &output)?))?,
        Command::New { name } => {
            let folder = new::create(&project, &name)?;
            let (folder, service) = (folder.display(), name.file_name().unwrap_or_default().display());
            print(&format!(
                "made {folder}\nnext: cd {folder} && firn run {service} -p 8080:80 && curl http://localhost:8080/\n"
            ))?;
        }
        Command::Run(request) => return run_service(project, request),
        Command::Up(request) => return up(&project, request),
        Command::Logs { vm, no_follow, name } => logs(&project, &name.name, vm.as_deref(), !no_follow)?,
        Command::Status { name, format } => show(&status::status(&project, &name.name)?, format)?,
        Command::Inspect { vm, name, format } => show(&status::inspect(&project, &name.name, vm)?, format)?,
        Command::Ask { name, timeout, command } => {
            let timeout = Duration::from_secs(timeout.into());
            print(&format!("{}\n", ask::ask(&project, &name.name, &command, timeout)?))?;
        }
        Command::Exec { name, command } => return exec(&project, &name.name, &command),
        Command::Down { name, format } => {
            let report = down::down(&project, &name.name)?;
            return finish(&name.name, report, format);
        }
        Command::Ps { format } => list(&project, format)?,
        Command::Doctor { format } => return examine(&project, format),
        Command::Hold => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a text. Who no longer listens to it has had enough.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(Error::io("write", "standard output".as_ref())),
    }
}

fn show(value: &Value, format: Format) -> Result<()> {
    match format {
        Format::Json => print(&format!("{value}\n")),
        Format::Table => print(&table::fields(value)),
    }
}

fn describe(written: &image::Written) -> String {
    format!("{}: {} KiB, {} pages of a VM's memory\n", written.image.display(), written.bytes / 1024, written.pages)
}

fn lint(project: &Project, names: &[String]) -> Result<()> {
    if project.own.is_none() {
        builder::kernel(project, Task::Lint)?;
    }
    let apps = builder::choose(project, names)?;
    apps.iter()
        .filter(|apps| project.own.is_none() || apps.is_own())
        .try_for_each(|apps| builder::guests(project, apps, Task::Lint))
}

/// Builds the kernel and apps, and says where they are.
fn build(project: &Project, names: &[String], out: Option<&Path>) -> Result<(PathBuf, Vec<image::Written>)> {
    let apps = builder::choose(project, names)?;
    let kernel = builder::kernel(project, Task::Build)?;
    let mut written = Vec::new();
    for apps in &apps {
        builder::guests(project, apps, Task::Build)?;
        written.extend(builder::images(apps, out)?);
    }
    Ok((kernel, written))
}

fn show_built((kernel, written): (PathBuf, Vec<image::Written>), format: Format) -> Result<()> {
    if format == Format::Json {
        let images: Vec<_> = written
            .iter()
            .map(|w| {
                json!({"image": w.image, "bytes": w.bytes, "pages": w.pages, "symbols": w.symbols, "program": w.program})
            })
            .collect();
        return show(&json!({"kernel": kernel, "images": images}), format);
    }
    let images: String = written.iter().map(describe).collect();
    print(&format!("{}\n{images}", kernel.display()))
}

/// `firn up`.
fn up(project: &Project, request: Up) -> Result<ExitCode> {
    let overrides = Overrides { counts: request.set, ..overrides(&request.machine) };
    let fleet = Fleet::load(&request.fleet, project, &overrides)?;
    let usual = if request.machine.publish.is_empty() { Mode::Tap } else { Mode::User };
    let system = match request.kernel.zip(request.initrd) {
        Some((kernel, initrd)) => System::Foreign { kernel, initrd },
        None if request.bare => System::Bare,
        None => System::Firn,
    };
    start(project, request.machine, fleet, Purpose { net: request.net.unwrap_or(usual), system, ..Purpose::default() })
}

/// `firn run`.
fn run_service(project: Project, request: Run) -> Result<ExitCode> {
    let project = project.with_own(&request.service);
    let source = run::Source::find(&project, &request)?;
    if !request.no_build {
        build(&project, source.apps(), None)?;
    }
    let of_service = |value| (request.service.clone(), value);
    let overrides = Overrides {
        counts: request.count.into_iter().map(|count| (request.service.clone(), count)).collect(),
        arguments: [(Some(&request.service), &request.args), (request.gateway.as_ref(), &request.gateway_args)]
            .into_iter()
            .filter_map(|(service, words)| Some((service?.clone(), words.clone()?)))
            .collect(),
        gateways: request.gateway.clone().map(of_service).into_iter().collect(),
        ..overrides(&request.machine)
    };
    let fleet = source.fleet(&project, &overrides)?;
    let purpose =
        Purpose { net: request.net, service: Some(request.service), replaces: request.replace, ..Purpose::default() };
    start(&project, request.machine, fleet, purpose)
}

fn overrides(machine: &MachineOptions) -> Overrides {
    Overrides {
        memory_bytes: machine.memory,
        cpus: machine.cpus,
        swap_bytes: machine.swap,
        swap_iops: machine.swap_iops,
        ..Overrides::default()
    }
}

/// What `firn up` and `firn run` say of a machine each in its own way.
#[derive(Default)]
struct Purpose {
    net: Mode,
    service: Option<String>,
    replaces: bool,
    system: System,
}

fn start(project: &Project, options: MachineOptions, fleet: Fleet, purpose: Purpose) -> Result<ExitCode> {
    let started = up::up(
        project,
        up::Request {
            fleet,
            name: options.name.name,
            kind: options.machine,
            wish: options.accel,
            counting: options.icount,
            options: options.kernel_options,
            net: purpose.net,
            publish: options.publish,
            service: purpose.service,
            gdb: options.gdb,
            replaces: purpose.replaces,
            system: purpose.system,
        },
    )?;
    let seconds = started.started_in.as_secs_f64();
    let machine = &started.machine;
    match options.format {
        Format::Json => {
            let mut value = status::host(machine);
            value["started_seconds"] = json!(seconds);
            value["accel_reason"] = json!(started.choice.reason);
            print(&format!("{value}\n"))?;
        }
        Format::Table => print(&status::started(machine, seconds))?,
    }
    if options.foreground {
        let report = up::stay(project, &started)?;
        return finish(&machine.record.name, report, Format::Table);
    }
    Ok(ExitCode::SUCCESS)
}

fn finish(name: &str, report: down::Report, format: Format) -> Result<ExitCode> {
    match format {
        Format::Json => {
            let value = json!({"name": name, "clean": report.is_clean(), "ending": report.to_string()});
            print(&format!("{value}\n"))?;
        }
        Format::Table => print(&format!("machine {name}: {report}\n"))?,
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(STATUS_FAILED) })
}

fn logs(project: &Project, name: &str, who: Option<&str>, follow: bool) -> Result<()> {
    let machine = Machine::open(project, name);
    let (path, printer) = match &machine {
        Ok(machine) => (machine.file(files::SERIAL_LOG), Printer::new(machine)),
        Err(_) if kept_log(project, name).is_file() => (kept_log(project, name), Printer::without_names()),
        Err(_) => return Err(Error::NoMachine { name: name.to_owned() }),
    };
    let printer = match who {
        Some(who) => printer.only(who)?,
        None => printer,
    };
    let mut tail = Tail::open(&path)?;
    loop {
        let is_last = !follow || !machine.as_ref().is_ok_and(Machine::is_alive);
        for line in tail.lines()?.iter().filter_map(|line| printer.line(line)) {
            print(&format!("{line}\n"))?;
        }
        if is_last {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn exec(project: &Project, name: &str, command: &[OsString]) -> Result<ExitCode> {
    let machine = Machine::open_alive(project, name)?;
    if machine.record.net == Mode::User {
        return Err(Error::Argument {
            argument: "COMMAND",
            problem: format!("machine {name:?} has no network namespace: its VMs are reached by published ports"),
            remedy: "`firn ps` names them; --net tap gives a machine a namespace".into(),
        });
    }
    let [program, arguments @ ..] = command else { return Ok(ExitCode::SUCCESS) };
    namespace::enter(machine.record.holder, machine.record.user_namespace)?;
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(Error::Argument {
        argument: "COMMAND",
        problem: format!("cannot run {}: {error}", program.display()),
        remedy: "give a program in the search path, or its path".into(),
    })
}

fn list(project: &Project, format: Format) -> Result<()> {
    let machines = Machine::all(project);
    match format {
        Format::Json => show(&machines.iter().map(status::host).collect(), format),
        Format::Table => print(&status::list(&machines)),
    }
}

fn examine(project: &Project, format: Format) -> Result<ExitCode> {
    let checks = doctor::examine(project);
    match format {
        Format::Json => show(&json!(checks), format)?,
        Format::Table => print(&doctor::text(&checks))?,
    }
    Ok(if doctor::is_healthy(&checks) { ExitCode::SUCCESS } else { ExitCode::from(STATUS_FAILED) })
}
