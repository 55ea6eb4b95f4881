//! The `firn` command: reads the command line, does one thing, and prints it.

use clap::Parser;
use firn::builder::Task;
use firn::cli::{Cli, Command, Format, Up};
use firn::error::{Error, Result, STATUS_FAILED};
use firn::fleet::Overrides;
use firn::logs::{Symbolizer, Tail};
use firn::machine::{Machine, files, kept_log};
use firn::project::Project;
use firn::serial::Line;
use firn::{ask, builder, doctor, down, holder, image, namespace, size, status, table, up};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
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
        Command::Build { apps, lint: true, .. } => {
            let apps = builder::Apps::find(&project)?.choose(&apps)?;
            builder::kernel(&project, Task::Lint)?;
            builder::guests(&project, &apps, Task::Lint)?;
        }
        Command::Build { apps, out, format, .. } => build(&project, &apps, out, format)?,
        Command::Image { elf, output } => print(&describe(&image::convert(&elf, &output)?))?,
        Command::Up(request) => return start(&project, request),
        Command::Logs { vm, follow, name } => logs(&project, &name.name, vm, follow)?,
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

fn build(project: &Project, names: &[String], out: Option<PathBuf>, format: Format) -> Result<()> {
    let apps = builder::Apps::find(project)?.choose(names)?;
    let kernel = builder::kernel(project, Task::Build)?;
    builder::guests(project, &apps, Task::Build)?;
    let written = builder::images(project, &apps, &out.unwrap_or_else(|| project.images()))?;
    if format == Format::Json {
        let images: Vec<_> = written
            .iter()
            .map(|w| json!({"image": w.image, "bytes": w.bytes, "pages": w.pages, "symbols": w.symbols}))
            .collect();
        return show(&json!({"kernel": kernel, "images": images}), format);
    }
    let images: String = written.iter().map(describe).collect();
    print(&format!("{}\n{images}", kernel.display()))
}

fn start(project: &Project, request: Up) -> Result<ExitCode> {
    let Up {
        fleet,
        name,
        cpus,
        memory,
        swap,
        swap_iops,
        machine,
        accel,
        icount,
        set,
        kernel_options,
        foreground,
        format,
    } = request;
    let started = up::up(
        project,
        &up::Request {
            fleet,
            name: name.name,
            kind: machine,
            wish: accel,
            is_counted: icount,
            overrides: Overrides { memory_bytes: memory, cpus, swap_bytes: swap, swap_iops, counts: set },
            options: kernel_options,
        },
    )?;
    let seconds = started.started_in.as_secs_f64();
    let machine = &started.machine;
    match format {
        Format::Json => {
            let mut value = status::host(machine);
            value["started_seconds"] = json!(seconds);
            value["accel_reason"] = json!(started.choice.reason);
            print(&format!("{value}\n"))?;
        }
        Format::Table => {
            let record = &machine.record;
            let name = &record.name;
            print(&format!(
                "machine {name}: {} VMs started in {seconds:.1} s ({}, {}, {} processor(s), {}{})\n{}\
                 \nreach them with: firn exec --name {name} -- curl http://{}/\n",
                record.vms,
                record.machine,
                record.accel,
                record.cpus,
                size::format(record.memory_bytes),
                record.swap.map_or_else(String::new, |swap| format!(", swap {}", size::format(swap.bytes))),
                status::services(machine),
                record.services.first().map_or_else(String::new, |s| s.first_ipv4.to_string()),
            ))?;
        }
    }
    if foreground {
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

fn logs(project: &Project, name: &str, vm: Option<u32>, follow: bool) -> Result<()> {
    let machine = Machine::open(project, name);
    if let (Ok(machine), Some(vm)) = (&machine, vm) {
        status::check_vm(machine, vm)?;
    }
    let (path, symbolizer) = match &machine {
        Ok(machine) => (machine.file(files::SERIAL_LOG), Symbolizer::load(&machine.folder, &machine.record)),
        Err(_) if kept_log(project, name).is_file() => (kept_log(project, name), Symbolizer::default()),
        Err(_) => return Err(Error::NoMachine { name: name.to_owned() }),
    };
    let mut tail = Tail::open(&path)?;
    loop {
        let is_last = !follow || !machine.as_ref().is_ok_and(Machine::is_alive);
        for line in tail.lines()? {
            if vm.is_none_or(|vm| Line::parse(&line).vm() == Some(vm)) {
                print(&format!("{}\n", symbolizer.name(&line)))?;
            }
        }
        if is_last {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn exec(project: &Project, name: &str, command: &[OsString]) -> Result<ExitCode> {
    let machine = Machine::open_alive(project, name)?;
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
