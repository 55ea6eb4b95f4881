//! Clocks, sleeping and timeouts. In a VM, reading the clock takes no trap.
//!
//! ```
//! # libos::block_on(async {
//! use libos::time::{Duration, Instant, sleep, timeout};
//!
//! let begun = Instant::now();
//! sleep(Duration::from_millis(2)).await;
//! assert!(begun.elapsed() >= Duration::from_millis(2));
//! let never = core::future::pending::<()>();
//! assert!(timeout(Duration::from_millis(2), never).await.is_err());
//! # });
//! ```

pub use core::time::Duration;

#[cfg(firn_guest)]
use crate::guest::clock as platform;
#[cfg(not(firn_guest))]
use crate::host::clock as platform;
use core::fmt;
use core::future::Future;
use core::ops::{Add, AddAssign, Sub};
use core::pin::Pin;
use core::task::{Context, Poll};
use pin_project_lite::pin_project;

/// A point of the machine's monotonic clock.
///
/// ```
/// use libos::time::{Duration, Instant};
///
/// let now = Instant::now();
/// let later = now + Duration::from_secs(1);
/// assert_eq!(later - now, Duration::from_secs(1));
/// assert_eq!(now - later, Duration::ZERO);
/// assert_eq!(Instant::from_nanos(now.as_nanos()), now);
/// ```
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

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    /// Saturates at the clock's beginning.
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Zero if the other one is later.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The wall clock: time since 1970 in UTC. It is read once when the machine starts, and runs as fast as the machine's
/// clock does; nothing sets it later.
///
/// ```
/// let year = 1970 + libos::time::since_epoch().as_secs() / (365 * 24 * 3600 + 6 * 3600);
/// assert!(year >= 2024);
/// ```
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
///
/// ```
/// # libos::block_on(async {
/// use libos::time::{Duration, Instant, Sleep, sleep_until};
///
/// let soon = Instant::now() + Duration::from_millis(2);
/// let sleep: Sleep = sleep_until(soon);
/// assert_eq!(sleep.deadline(), soon);
/// sleep.await;
/// assert!(Instant::now() >= soon);
/// # });
/// ```
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

pin_project! {
    /// A future with a bound on its time: what [`timeout`] and [`timeout_at`] return.
    #[derive(Debug)]
    #[must_use = "a future does nothing unless it is awaited"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        limit: Limit,
    }
}

/// When a future has to be done.
#[derive(Debug)]
enum Limit {
    /// So long after it was first found not to be: most are done at once, and need no clock and no timer.
    After(Duration),
    At(Sleep),
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(value) = this.future.poll(context) {
            return Poll::Ready(Ok(value));
        }
        if let Limit::After(duration) = *this.limit {
            *this.limit = Limit::At(sleep(duration));
        }
        match this.limit {
            Limit::At(sleep) => Pin::new(sleep).poll(context).map(|()| Err(Elapsed)),
            Limit::After(_) => Poll::Pending,
        }
    }
}

/// Runs a future for at most that long, and drops it then. It fails with [`Elapsed`] if the time was over first.
///
/// ```
/// # libos::block_on(async {
/// use libos::time::{Duration, Elapsed, timeout};
///
/// let never = core::future::pending::<()>();
/// assert_eq!(timeout(Duration::from_millis(2), never).await, Err(Elapsed));
/// assert_eq!(timeout(Duration::from_secs(9), async { 7 }).await, Ok(7));
/// # });
/// ```
pub const fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { future, limit: Limit::After(duration) }
}

/// Runs a future until that point in time at most, and drops it then. It fails with [`Elapsed`] if the time came first.
///
/// ```
/// # libos::block_on(async {
/// use libos::time::{Duration, Instant, timeout_at};
///
/// let soon = Instant::now() + Duration::from_millis(2);
/// assert!(timeout_at(soon, core::future::pending::<()>()).await.is_err());
/// assert!(Instant::now() >= soon);
/// # });
/// ```
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout { future, limit: Limit::At(sleep_until(deadline)) }
}

/// What becomes of the ticks of an [`Interval`] that came and nobody waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissedTicks {
    /// They come at once, one after the other: the number of ticks is right.
    #[default]
    Burst,
    /// They are left out: ticks stay multiples of the period from the first one.
    Skip,
    /// The next tick is a period from now: never two at less than a period.
    Delay,
}

/// A clock that ticks at a fixed rate.
///
/// ```
/// # libos::block_on(async {
/// use libos::time::{Duration, Interval, Timeout, interval, timeout};
///
/// let mut ticks: Interval = interval(Duration::from_millis(1));
/// ticks.tick().await;
/// // A tick that does not come in time is still to come.
/// let next: Timeout<_> = timeout(Duration::ZERO, ticks.tick());
/// let _ = next.await;
/// ticks.tick().await;
/// # });
/// ```
#[derive(Debug)]
pub struct Interval {
    next: Instant,
    period: Duration,
    missed: MissedTicks,
}

/// An [`Interval`] whose first tick is one period from now.
///
/// ```
/// # libos::block_on(async {
/// use libos::time::{Duration, MissedTicks, interval};
///
/// let mut ticks = interval(Duration::from_millis(1)).with_missed(MissedTicks::Skip);
/// let first = ticks.tick().await;
/// assert!(ticks.tick().await - first >= Duration::from_millis(1));
/// # });
/// ```
///
/// # Panics
/// If the period is zero.
#[must_use]
pub fn interval(period: Duration) -> Interval {
    assert!(!period.is_zero(), "the period of an interval must not be zero");
    Interval { next: Instant::now() + period, period, missed: MissedTicks::Burst }
}

impl Interval {
    /// Says what becomes of ticks that are missed.
    #[must_use]
    pub const fn with_missed(mut self, missed: MissedTicks) -> Self {
        self.missed = missed;
        self
    }

    /// Waits for the next tick, and returns when it was due.
    pub async fn tick(&mut self) -> Instant {
        let due = self.next;
        sleep_until(due).await;
        self.next = self.after(due, Instant::now());
        due
    }

    fn after(&self, due: Instant, now: Instant) -> Instant {
        let next = due + self.period;
        match self.missed {
            MissedTicks::Burst => next,
            MissedTicks::Delay => next.max(now + self.period),
            MissedTicks::Skip if next > now => next,
            MissedTicks::Skip => {
                let missed = (now - due).as_nanos() / self.period.as_nanos();
                let whole = u64::try_from(missed * self.period.as_nanos()).unwrap_or(u64::MAX);
                due + Duration::from_nanos(whole) + self.period
            }
        }
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
    fn missed_ticks_burst_are_skipped_or_put_off() {
        let period = Duration::from_nanos(10);
        let after = |missed, now| Interval { next: Instant(0), period, missed }.after(Instant(20), Instant(now)).0;
        for (now, burst, skip, delay) in [(20, 30, 30, 30), (29, 30, 30, 39), (30, 30, 40, 40), (57, 30, 60, 67)] {
            assert_eq!(after(MissedTicks::Burst, now), burst);
            assert_eq!(after(MissedTicks::Skip, now), skip, "{now}");
            assert_eq!(after(MissedTicks::Delay, now), delay);
        }
    }

    #[test]
    fn instants_saturate() {
        assert_eq!(Instant(u64::MAX - 1) + Duration::MAX, Instant(u64::MAX));
        assert_eq!(Instant(1) - Instant(2), Duration::ZERO);
        assert!(since_epoch() > Duration::from_secs(1_700_000_000));
    }
}
