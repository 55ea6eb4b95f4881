//! How fast a VM may send: two token buckets, one for frames and one for their bytes.

use crate::bucket::{Bucket, Rate};
use hal::Nanos;

/// What a VM may send at once after a pause: as much as its rate allows in this time, and at least one frame.
pub const BURST_NS: u64 = 50_000_000;

/// A VM that has sent too much waits at least so long, so that it is looked after in batches. Much less than
/// [`BURST_NS`]: tokens that come in meanwhile are not lost.
pub const MIN_WAIT_NS: u64 = 1_000_000;

/// The buckets of a VM. They start full.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    frames: Option<Bucket>,
    bytes: Option<Bucket>,
}

/// A bucket for a rate, 0 for none.
fn bucket(per_second: u32, least: u32, now: Nanos) -> Option<Bucket> {
    let burst = u64::from(per_second) * BURST_NS / 1_000_000_000;
    let burst = u32::try_from(burst).unwrap_or(u32::MAX).max(least);
    (per_second > 0).then(|| Bucket::new(Rate { per_second, burst }, now))
}

impl Pace {
    /// The buckets for so many frames and bytes in a second, 0 for no bound; `None` if neither has one. No frame is
    /// longer than `longest`.
    #[must_use]
    pub fn new(frames_per_s: u32, bytes_per_s: u32, longest: u32, now: Nanos) -> Option<Self> {
        let pace = Self { frames: bucket(frames_per_s, 1, now), bytes: bucket(bytes_per_s, longest, now) };
        (pace.frames.is_some() || pace.bytes.is_some()).then_some(pace)
    }

    /// Whether a frame may go now.
    ///
    /// # Errors
    /// When to ask again: it may go then.
    pub fn check(&mut self, bytes: u32, now: Nanos) -> Result<(), Nanos> {
        let frames_at = self.frames.as_mut().map_or(now, |bucket| bucket.ready_at(1, now));
        let bytes_at = self.bytes.as_mut().map_or(now, |bucket| bucket.ready_at(bytes, now));
        let at = frames_at.max(bytes_at);
        if at <= now { Ok(()) } else { Err(at.max(now.after(MIN_WAIT_NS))) }
    }

    /// A frame has gone.
    pub fn spend(&mut self, bytes: u32, now: Nanos) {
        if let Some(bucket) = &mut self.frames {
            bucket.take(1, now);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes, now);
        }
    }

    /// Whether it is as if nothing had been sent yet.
    #[must_use]
    pub fn is_full(&self, now: Nanos) -> bool {
        let is_full = |bucket: Option<Bucket>| bucket.is_none_or(|mut bucket| bucket.is_full(now));
        is_full(self.frames) && is_full(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONGEST: u32 = 1514;

    #[test]
    fn no_rate_is_no_bound() {
        assert!(Pace::new(0, 0, LONGEST, Nanos(0)).is_none());
    }

    #[test]
    fn however_slow_a_frame_goes_some_time() {
        let mut pace = Pace::new(0, 1, LONGEST, Nanos(0)).unwrap();
        assert_eq!(pace.check(LONGEST, Nanos(0)), Ok(()));
        pace.spend(LONGEST, Nanos(0));
        assert!(!pace.is_full(Nanos(0)));
        let at = pace.check(LONGEST, Nanos(0)).unwrap_err();
        assert_eq!(at, Nanos(u64::from(LONGEST) * 1_000_000_000));
        assert_eq!(pace.check(LONGEST, at), Ok(()));
        assert!(pace.is_full(at));
    }

    proptest! {
        /// Sends as soon as it may: what goes in ten seconds is what the rates allow, within a percent.
        #[test]
        fn a_greedy_sender_gets_its_rate(
            frames_per_s in 100u32..20_000,
            bytes_per_s in 200_000u32..20_000_000,
            lengths in proptest::collection::vec(14u32..=LONGEST, 1..20),
        ) {
            const NS: u64 = 10_000_000_000;
            let mut pace = Pace::new(frames_per_s, bytes_per_s, LONGEST, Nanos(0)).unwrap();
            let (mut now, mut frames, mut bytes, mut waits) = (Nanos(0), 0u64, 0u64, 0u64);
            for length in lengths.into_iter().cycle() {
                while let Err(at) = pace.check(length, now) {
                    prop_assert!(at.since(now) >= MIN_WAIT_NS);
                    now = at;
                    waits += 1;
                }
                if now >= Nanos(NS) {
                    break;
                }
                pace.spend(length, now);
                (frames, bytes) = (frames + 1, bytes + u64::from(length));
            }
            let most = (10 * u64::from(frames_per_s), 10 * u64::from(bytes_per_s));
            prop_assert!(frames * 100 <= most.0 * 101 && bytes * 100 <= most.1 * 101, "{frames}, {bytes} of {most:?}");
            prop_assert!(frames * 100 >= most.0 * 99 || bytes * 100 >= most.1 * 99, "{frames}, {bytes} of {most:?}");
            prop_assert!(waits <= NS / MIN_WAIT_NS);
        }
    }
}
