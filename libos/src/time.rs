//! Clocks, sleeping and timeouts. In a VM, reading the clock takes no trap.

pub use core::time::Duration;

#[cfg(firn_guest)]
use crate::guest::clock as platform;
#[cfg(not(firn_guest))]
use crate::host::clock as platform;
use core::fmt;
use core::future::{Future, poll_fn};
use core::ops::{Add, Sub};
use core::pin::{Pin, pin};
use core::task::{Context, Poll};

/// A point of the machine's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(platform::now_ns())
    }

    /// The point that many nanoseconds after the machine's clock was 0.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the machine's clock was 0.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since then; zero if it has not come yet.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates: a deadline too far away never comes.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Zero if the other one is later.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The wall clock: time since 1970 in UTC.
#[must_use]
pub fn since_epoch() -> Duration {
    Duration::from_nanos(platform::epoch_ns())
}

/// Sleeps for a while.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// Sleeps until a point in time.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, timer: platform::Timer::new() }
}

/// A future that is done at a point in time.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep {
    deadline: Instant,
    timer: platform::Timer,
}

impl Sleep {
    /// When it is done.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        self.timer.poll_until(deadline.as_nanos(), context)
    }
}

/// The time was over before the future was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("timed out")
    }
}

impl core::error::Error for Elapsed {}

/// Runs a future for at most that long, and drops it then.
///
/// # Errors
/// [`Elapsed`] if the time was over first.
pub async fn timeout<T>(duration: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    timeout_at(Instant::now() + duration, future).await
}

/// Runs a future until that point in time at most, and drops it then.
///
/// # Errors
/// [`Elapsed`] if the time came first.
pub async fn timeout_at<T>(deadline: Instant, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep_until(deadline));
    poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(value));
        }
        sleep.as_mut().poll(context).map(|()| Err(Elapsed))
    })
    .await
}

/// A clock that ticks at a fixed rate. Ticks that were missed come at once, one after the other.
#[derive(Debug)]
pub struct Interval {
    next: Instant,
    period: Duration,
}

/// An [`Interval`] whose first tick is one period from now.
///
/// # Panics
/// If the period is zero.
#[must_use]
pub fn interval(period: Duration) -> Interval {
    assert!(!period.is_zero(), "the period of an interval must not be zero");
    Interval { next: Instant::now() + period, period }
}

impl Interval {
    /// Waits for the next tick, and returns when it was due.
    pub async fn tick(&mut self) -> Instant {
        let due = self.next;
        sleep_until(due).await;
        self.next = due + self.period;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{block_on, task};

    #[test]
    fn sleeping_takes_at_least_as_long_as_asked() {
        block_on(async {
            let start = Instant::now();
            let early = task::spawn(async {
                sleep(Duration::from_millis(5)).await;
                Instant::now()
            });
            sleep(Duration::from_millis(20)).await;
            assert!(start.elapsed() >= Duration::from_millis(20));
            assert!(early.await - start >= Duration::from_millis(5));
        });
    }

    #[test]
    fn a_timeout_ends_what_never_ends_and_nothing_else() {
        block_on(async {
            let never = timeout(Duration::from_millis(5), core::future::pending::<()>());
            assert_eq!(never.await, Err(Elapsed));
            assert_eq!(timeout(Duration::from_secs(3600), async { 7 }).await, Ok(7));
            assert_eq!(timeout(Duration::ZERO, async { 7 }).await, Ok(7));
        });
    }

    #[test]
    fn an_interval_ticks_at_its_rate() {
        block_on(async {
            let mut interval = interval(Duration::from_millis(2));
            let first = interval.tick().await;
            let second = interval.tick().await;
            assert_eq!(second - first, Duration::from_millis(2));
            assert!(Instant::now() >= second);
        });
    }

    #[test]
    fn instants_saturate() {
        assert_eq!(Instant(u64::MAX - 1) + Duration::MAX, Instant(u64::MAX));
        assert_eq!(Instant(1) - Instant(2), Duration::ZERO);
        assert!(since_epoch() > Duration::from_secs(1_700_000_000));
    }
}
