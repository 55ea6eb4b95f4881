//! What this process has taken, and what it may.

use crate::http::StartError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Processor time of this thread so far.
#[must_use]
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Raises this process's limit of open files as far as needed.
///
/// # Errors
/// If it may not have so many.
pub fn allow_descriptors(needed: u64) -> Result<(), StartError> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(maximum) = limit.maximum.filter(|&maximum| maximum < needed) {
        // The superuser may go further.
        let raised = Rlimit { current: Some(needed), maximum: Some(needed) };
        return setrlimit(Resource::Nofile, raised)
            .map_err(|_| StartError::TooFewDescriptors { needed, limit: maximum });
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
        .map_err(|error| StartError::Io(error.into()))
}
