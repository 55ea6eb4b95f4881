//! What an entity has at most and at least, in time of the clock.
//!
//! Both are virtual clocks (L. Zhang, "Virtual Clock", SIGCOMM 1990): one number each, which use moves on by its
//! length divided by the rate. A limit is thus a token bucket that holds what comes in in one [`WINDOW_NS`]; a
//! reservation says when its owner is due again, as a constant-bandwidth server does (L. Abeni, G. Buttazzo, RTSS
//! 1998).

/// Over this time a limit is kept: in any so long a time an entity gets no more than twice what its limit allows, and in
/// the long run no more than that. In nanoseconds.
pub const WINDOW_NS: u64 = 100_000_000;

/// Millionths in a whole.
const MILLION: u64 = 1_000_000;

/// How an entity competes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its weight among its like. At least 1.
    pub shares: u32,
    /// What it has at least, in millionths of a processor, if it wants it.
    pub reservation_ppm: u32,
    /// What it has at most, in millionths of a processor; 0 for no limit.
    pub limit_ppm: u32,
}

impl Terms {
    /// Shares, and neither reservation nor limit.
    #[must_use]
    pub const fn shares(shares: u32) -> Self {
        Self { shares, reservation_ppm: 0, limit_ppm: 0 }
    }
}

/// Limit and reservation of an entity, and how far it has used them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    limit_ppm: u32,
    pub reservation_ppm: u32,
    /// When the bucket of the limit is full again.
    full_at: u64,
    /// When it is due.
    pub due_at: u64,
}

impl Bounds {
    pub const NONE: Self = Self { limit_ppm: 0, reservation_ppm: 0, full_at: 0, due_at: 0 };

    /// Whether there are any.
    pub const fn is_none(&self) -> bool {
        self.limit_ppm | self.reservation_ppm == 0
    }

    /// Whether they are those of some terms.
    pub const fn is(&self, terms: &Terms) -> bool {
        self.limit_ppm == terms.limit_ppm && self.reservation_ppm == terms.reservation_ppm
    }

    /// Takes other terms. What was used stays used.
    pub fn set(&mut self, terms: &Terms, now: u64) {
        if self.limit_ppm != terms.limit_ppm {
            let used = u128::from(self.full_at.saturating_sub(now)) * u128::from(self.limit_ppm);
            let time = used.checked_div(u128::from(terms.limit_ppm)).unwrap_or(0);
            self.full_at = now.saturating_add(u64::try_from(time).unwrap_or(u64::MAX));
        }
        (self.limit_ppm, self.reservation_ppm) = (terms.limit_ppm, terms.reservation_ppm);
    }

    /// It has used so much.
    pub fn charge(&mut self, ns: u64, quantum_ns: u64, now: u64) {
        if self.limit_ppm != 0 {
            self.full_at = self.full_at.max(now).saturating_add(at_rate(ns, self.limit_ppm));
        }
        if self.reservation_ppm != 0 {
            // What it got beyond its reservation does not count against it.
            let latest = now.saturating_add(at_rate(ns.max(quantum_ns), self.reservation_ppm));
            self.due_at = self.due_at.saturating_add(at_rate(ns, self.reservation_ppm)).min(latest);
        }
    }

    /// It comes to compete: what it did not want is lost.
    pub fn wake(&mut self, now: u64) {
        self.due_at = self.due_at.max(now);
    }

    /// When it may run again, if it has had all that its limit allows. Half a bucket must be there, or it would be
    /// held again at once.
    pub fn held_until(&self, now: u64) -> Option<u64> {
        let is_empty = self.limit_ppm != 0 && self.full_at > now.saturating_add(WINDOW_NS);
        is_empty.then(|| self.full_at.saturating_sub(WINDOW_NS / 2))
    }

    /// How long it may run before that.
    pub fn allowance_ns(&self, now: u64) -> u64 {
        if self.limit_ppm == 0 {
            return u64::MAX;
        }
        let window = now.saturating_add(WINDOW_NS).saturating_sub(self.full_at).min(WINDOW_NS);
        window * u64::from(self.limit_ppm) / MILLION
    }

    /// Whether there is nothing to remember of it.
    pub const fn is_settled(&self, now: u64) -> bool {
        self.limit_ppm == 0 || self.full_at <= now
    }
}

/// How long a time comes to at a rate.
fn at_rate(ns: u64, ppm: u32) -> u64 {
    ns.saturating_mul(MILLION) / u64::from(ppm.max(1))
}
