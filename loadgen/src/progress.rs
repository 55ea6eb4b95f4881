//! Progress on stderr: a bar on a terminal, now and then a line elsewhere, nothing if it is to be quiet.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

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
        let bar = on_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("{prefix:<12} {bar:30.cyan/dim} {elapsed:>4} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("━╸─"));
            bar.set_prefix(name.to_owned());
            bar
        });
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
