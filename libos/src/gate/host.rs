//! The gate on the host: there is none.

use super::{Answer, Error, Event, Operation};

/// Asks the kernel for an operation and waits for its end.
///
/// # Errors
/// Always `NotPermitted` on the host.
pub async fn call(_operation: Operation<'_>) -> Result<Answer, Error> {
    Err(Error::NotPermitted)
}

/// Waits for the next event. On the host none ever comes.
pub async fn next_event() -> Event {
    core::future::pending().await
}
