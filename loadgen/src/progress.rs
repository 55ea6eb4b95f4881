//! Progress on stderr: a bar on a terminal, now and then a line elsewhere, nothing if it is to be quiet.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows which of some steps is being taken, and what is done in it: a bar on a terminal, if one is wanted, and a line
/// for each thing that is done elsewhere.
pub struct Steps {
    name: String,
    bar: Option<ProgressBar>,
    is_quiet: bool,
}

impl Steps {
    /// A line for each thing that is done.
    #[must_use]
    pub fn lines(name: &str, is_quiet: bool) -> Self {
        Self { name: name.to_owned(), bar: None, is_quiet }
    }

    /// A bar of that many steps, if there is a terminal.
    #[must_use]
    pub fn bar(name: &str, steps: u64, is_quiet: bool) -> Self {
        let on_terminal = !is_quiet && std::io::stderr().is_terminal();
        let bar = on_terminal.then(|| {
            let bar = new_bar(name, steps, "{prefix} {bar:20.cyan/dim} {pos}/{len} {elapsed:>4} {wide_msg}");
            bar.enable_steady_tick(Duration::from_secs(1));
            bar
        });
        Self { name: name.to_owned(), bar, is_quiet }
    }

    /// Whether nobody else is to show progress: none is wanted, or it would disturb the bar.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.is_quiet || self.bar.is_some()
    }

    /// Says what is being done.
    pub fn say(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None if self.is_quiet => {}
            None => eprintln!("{}: {what}", self.name),
        }
    }

    /// From now on things are done for another purpose.
    pub fn rename(&mut self, name: &str) {
        name.clone_into(&mut self.name);
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("{name:<12}"));
        }
    }

    /// A step has been taken.
    pub fn advance(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// Prints something, above the bar.
    pub fn print(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(name: &str, total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━╸─"));
    bar.set_prefix(name.to_owned());
    bar
}

/// Shows how far something is.
pub struct Progress {
    name: String,
    total: u64,
    bar: Option<ProgressBar>,
    is_quiet: bool,
    next_line: Instant,
}

impl Progress {
    /// Progress of `name`, which ends at `total`.
    #[must_use]
    pub fn new(name: &str, total: u64, is_quiet: bool) -> Self {
        let on_terminal = !is_quiet && std::io::stderr().is_terminal();
        let template = "{prefix:<12} {bar:30.cyan/dim} {elapsed:>4} {msg}";
        let bar = on_terminal.then(|| new_bar(name, total, template));
        Self { name: name.to_owned(), total, bar, is_quiet, next_line: Instant::now() + LINE_EVERY }
    }

    /// It is at `done` of the total; `message` says more.
    pub fn update(&mut self, done: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(done.min(self.total));
            bar.set_message(message());
        } else if !self.is_quiet && Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            eprintln!("{}: {}", self.name, message());
        }
    }

    /// It is over. The bar goes; what was reached is the caller's to print.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
