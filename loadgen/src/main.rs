//! The program `loadgen`: arguments in, exit status out.
#![forbid(unsafe_code)]

use clap::Parser;
use loadgen::arena::report::ArenaReport;
use loadgen::bench::{baseline, publish, suite};
use loadgen::cli::arena::ArenaArgs;
use loadgen::cli::machine::{BenchArgs, DemoArgs, Other};
use loadgen::cli::{Cli, Command, Format, HttpArgs};
use loadgen::http::{self, Config, Limit, Mode, Snapshot, Stage};
use loadgen::machine::Failure;
use loadgen::peer::image::Image;
use loadgen::peer::{self, Service};
use loadgen::progress::Progress;
use loadgen::report::HttpReport;
use loadgen::{arena, bench, demo, human, json, plot};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const FAILED: u8 = 1;
const BAD_ARGUMENTS: u8 = 2;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            eprintln!("warning: cannot catch signal {signal}: {error}");
        }
    }
    match cli.command {
        Command::Http(args) => run_http(&args, &stop),
        Command::Arena(args) => run_arena(&args, &stop),
        Command::Demo(args) => run_demo(&args, &stop),
        Command::Bench(args) => run_bench(&args, &stop),
        Command::Peer => make_peers(),
    }
}

fn complain(status: u8, error: impl std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(status)
}

fn run_http(args: &HttpArgs, stop: &AtomicBool) -> ExitCode {
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => return complain(BAD_ARGUMENTS, error),
    };
    // A file that cannot be written is told before the run, not after.
    for (argument, file) in [("--json", &args.json), ("--svg", &args.svg)] {
        if let Some(Err(error)) = file.as_ref().map(std::fs::File::create) {
            let file = file.as_deref().unwrap_or(Path::new(""));
            return complain(
                BAD_ARGUMENTS,
                format!("{argument} {}: {error}; name a file that can be written", file.display()),
            );
        }
    }
    let mut progress = Progress::new(if args.sweep { "sweep" } else { "load" }, total(&config), args.quiet);
    let outcome = http::run(&config, &mut |snapshot| show(&mut progress, &config, snapshot), stop);
    progress.finish();
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error @ http::StartError::TooFewDescriptors { .. }) => return complain(BAD_ARGUMENTS, error),
        Err(error) => return complain(FAILED, error),
    };
    let report = HttpReport::new(&config, &outcome);
    if let Err(error) = write_out(args, &report) {
        return complain(FAILED, error);
    }
    if report.interrupted {
        return ExitCode::from(INTERRUPTED);
    }
    ExitCode::from(if report.is_clean() { 0 } else { FAILED })
}

fn run_arena(args: &ArenaArgs, stop: &AtomicBool) -> ExitCode {
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => return complain(BAD_ARGUMENTS, error),
    };
    let total = u64::try_from(config.duration.as_millis()).unwrap_or(u64::MAX);
    let mut progress = Progress::new("arena", total, args.quiet);
    let observe = &mut |now: arena::Progress| {
        let done = u64::try_from(now.elapsed.as_millis()).unwrap_or(u64::MAX);
        progress.update(done, || {
            format!("{} players, {} snapshots", human::count(now.playing), human::count(now.snapshots))
        });
    };
    let outcome = arena::run(&config, observe, stop);
    progress.finish();
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error @ http::StartError::TooFewDescriptors { .. }) => return complain(BAD_ARGUMENTS, error),
        Err(error) => return complain(FAILED, error),
    };
    let report = ArenaReport::new(&config, &outcome);
    let text = match args.format {
        Format::Human => report.to_text(),
        Format::Json => match json::to_text(&report) {
            Ok(text) => text,
            Err(error) => return complain(FAILED, error),
        },
    };
    // Nobody may be reading; the exit status tells the result all the same.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(if report.interrupted {
        INTERRUPTED
    } else if report.is_clean() {
        0
    } else {
        FAILED
    })
}

fn write_out(args: &HttpArgs, report: &HttpReport) -> Result<(), String> {
    let json = json::to_text(report).map_err(|error| error.to_string())?;
    if let Some(file) = &args.json {
        std::fs::write(file, &json).map_err(|error| format!("--json {}: {error}", file.display()))?;
    }
    if let Some(file) = &args.svg {
        let svg = plot::of_http(report).to_svg();
        std::fs::write(file, svg).map_err(|error| format!("--svg {}: {error}", file.display()))?;
    }
    let text = match args.format {
        Format::Human => human::http(report),
        Format::Json => json,
    };
    // Nobody may be reading; the exit status tells the result all the same.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// What the progress of a run counts to.
fn total(config: &Config) -> u64 {
    match (config.mode, config.limit) {
        (Mode::Sweep { .. }, _) => u64::from(config.targets.count()),
        (_, Limit::Requests(n)) => n,
        (_, Limit::Duration(duration)) => u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
    }
}

fn show(progress: &mut Progress, config: &Config, snapshot: Snapshot) {
    let Snapshot { stage, elapsed, ok, failed } = snapshot;
    let per_s = |n: u64| human::rate(n as f64 / elapsed.as_secs_f64().max(0.001));
    if stage == Stage::Connecting {
        let count = config.targets.count();
        return progress.update(0, || {
            format!("{} of {} connections, {failed} failed", human::count(ok), human::count(count.into()))
        });
    }
    match (config.mode, config.limit) {
        (Mode::Sweep { .. }, _) => {
            let count = human::count(config.targets.count().into());
            progress.update(ok, || format!("{} of {count} answered", human::count(ok)));
        }
        (_, Limit::Requests(_)) => {
            progress.update(ok + failed, || format!("{} requests/s, {failed} failed", per_s(ok)))
        }
        (_, Limit::Duration(_)) => {
            let done = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            progress.update(done, || format!("{} requests/s, {failed} failed", per_s(ok)));
        }
    }
}

/// The program `firn`: the one given, or the one beside this program.
fn find_firn(given: Option<&PathBuf>) -> Result<PathBuf, ExitCode> {
    let beside = || std::env::current_exe().map(|program| program.with_file_name("firn"));
    match given.cloned().map_or_else(beside, Ok) {
        Ok(firn) if firn.is_file() => Ok(firn),
        Ok(firn) => {
            let remedy = "build it with `cargo build --release -p firn`";
            Err(complain(BAD_ARGUMENTS, format!("there is no program {}; {remedy}", firn.display())))
        }
        Err(error) => Err(complain(FAILED, error)),
    }
}

/// The exit status of what has no result, after saying why.
fn give_up(failure: Failure) -> ExitCode {
    let status = match failure {
        Failure::BadInput(_) => BAD_ARGUMENTS,
        Failure::Failed(_) => FAILED,
        Failure::Interrupted => INTERRUPTED,
    };
    complain(status, failure)
}

/// Prints a summary and what failed.
fn conclude(summary: &str, failures: &[String]) -> ExitCode {
    // Nobody may be reading; the exit status tells the result all the same.
    let _ = std::io::stdout().write_all(summary.as_bytes());
    for failure in failures {
        eprintln!("error: {failure}");
    }
    ExitCode::from(if failures.is_empty() { 0 } else { FAILED })
}

fn run_demo(args: &DemoArgs, stop: &AtomicBool) -> ExitCode {
    let options = match args.options() {
        Ok(options) => options,
        Err(error) => return complain(BAD_ARGUMENTS, error),
    };
    let firn = match find_firn(args.firn.as_ref()) {
        Ok(firn) => firn,
        Err(status) => return status,
    };
    let report = match demo::run(&options, &firn, stop) {
        Ok(report) => report,
        Err(failure) => return give_up(failure),
    };
    let plot = options.report.with_file_name("plot.svg");
    let mut text = report.summary();
    text.push_str(&format!("  {:<22}{}, {}\n", "report", options.report.display(), plot.display()));
    if options.keep {
        text.push_str(&demo::how_to_reach(&report, &firn));
    }
    conclude(&text, &report.failures)
}

/// Makes the images of the Linux that Firn is compared with.
fn make_peers() -> ExitCode {
    let mut text = String::new();
    for service in [Service::Web, Service::Nginx] {
        match Image::make(Path::new(peer::FOLDER), service) {
            Ok(Image { kernel, initrd, version, .. }) => {
                text.push_str(&format!("Linux {version}: {}, {}\n", kernel.display(), initrd.display()));
            }
            Err(failure) => return give_up(failure),
        }
    }
    conclude(&text, &[])
}

fn run_bench(args: &BenchArgs, stop: &AtomicBool) -> ExitCode {
    if args.scenarios.iter().any(|name| name == "list") {
        return conclude(&bench::list(), &[]);
    }
    let other = args.other();
    let chosen = if other.is_some() { Ok(Vec::new()) } else { suite::choose(&args.scenarios) };
    let (scenarios, options) = match chosen.and_then(|chosen| Ok((chosen, args.options()?))) {
        Ok(both) => both,
        Err(error) => return complain(BAD_ARGUMENTS, error),
    };
    if other == Some(Other::Publish) {
        return publish::publish(&args.book, &options).map_or_else(give_up, |text| conclude(&text, &[]));
    }
    let firn = match find_firn(args.firn.as_ref()) {
        Ok(firn) => firn,
        Err(status) => return status,
    };
    let done = match other {
        Some(Other::Baseline) => baseline::store(&args.baseline, &options, &firn, stop).map(|text| (text, Vec::new())),
        Some(Other::Compare) => baseline::compare(&args.baseline, &options, &firn, stop)
            .map(|baseline::Comparison { text, failures }| (text, failures)),
        Some(Other::Publish) | None => {
            suite::run(&scenarios, &options, &firn, stop).map(|outcome| (outcome.summary(), outcome.failures()))
        }
    };
    match done {
        Ok((text, failures)) => conclude(&text, &failures),
        Err(failure) => give_up(failure),
    }
}
