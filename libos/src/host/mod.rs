//! The libOS on the host: the same interface over real sockets, clocks and a terminal.

pub mod console;
pub mod registers;

use async_executor::LocalExecutor;
use core::future::Future;
use std::process::ExitCode;
use std::string::String;
use std::sync::OnceLock;
use std::vec::Vec;

std::thread_local! {
    static EXECUTOR: &'static LocalExecutor<'static> = std::boxed::Box::leak(std::boxed::Box::new(LocalExecutor::new()));
}

/// Runs a future to its end, with everything it spawns beside it: for tests.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    EXECUTOR.with(|executor| async_io::block_on(executor.run(future)))
}

pub(crate) fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> async_task::Task<T> {
    EXECUTOR.with(|executor| executor.spawn(future))
}

/// Runs `main`.
pub fn run(main: impl Future<Output: crate::start_up::Outcome>) -> ExitCode {
    // A second logger is refused: then somebody has set one up already.
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(level_of(argument_string()));
    }
    ExitCode::from(block_on(async { crate::start_up::Outcome::report(main.await) }))
}

fn level_of(arguments: &str) -> log::LevelFilter {
    let level = arguments.split_ascii_whitespace().filter_map(|word| word.strip_prefix("log=")).next_back();
    level.and_then(|level| level.parse().ok()).unwrap_or(log::LevelFilter::Info)
}

/// The program's arguments as one string.
pub(crate) fn argument_string() -> &'static str {
    static ARGUMENTS: OnceLock<String> = OnceLock::new();
    ARGUMENTS.get_or_init(|| std::env::args().skip(1).collect::<Vec<_>>().join(" "))
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            std::eprintln!("{} {}: {}", record.level().as_str().to_ascii_lowercase(), record.target(), record.args());
        }
    }

    fn flush(&self) {}
}

pub(crate) mod clock {
    //! The host's clocks.

    use core::future::Future;
    use core::pin::Pin;
    use core::task::{Context, Poll};
    use std::sync::OnceLock;
    use std::time::{Duration, Instant, SystemTime};

    fn start() -> Instant {
        static START: OnceLock<Instant> = OnceLock::new();
        *START.get_or_init(Instant::now)
    }

    pub fn now_ns() -> u64 {
        // From 1 on: 0 would mean "no deadline" in a VM.
        u64::try_from(start().elapsed().as_nanos()).unwrap_or(u64::MAX - 1) + 1
    }

    pub fn epoch_ns() -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    #[derive(Debug)]
    pub struct Timer(Option<async_io::Timer>);

    impl Timer {
        pub const fn new() -> Self {
            Self(None)
        }

        pub fn poll_until(&mut self, deadline_ns: u64, context: &mut Context<'_>) -> Poll<()> {
            let now = now_ns();
            if now >= deadline_ns {
                return Poll::Ready(());
            }
            let timer = self.0.get_or_insert_with(|| async_io::Timer::after(Duration::from_nanos(deadline_ns - now)));
            Pin::new(timer).poll(context).map(|_| ())
        }
    }
}

pub(crate) mod entropy {
    //! The host's random bytes.

    use crate::rand::Generator;
    use core::cell::RefCell;

    std::thread_local! {
        static GENERATOR: RefCell<Generator> = const { RefCell::new(Generator::new()) };
    }

    pub fn with_generator<R>(work: impl FnOnce(&mut Generator) -> R) -> R {
        GENERATOR.with(|generator| work(&mut generator.borrow_mut()))
    }

    pub fn seed(seed: &mut [u8; 32]) {
        getrandom::fill(seed).expect("the host has random bytes");
    }
}
