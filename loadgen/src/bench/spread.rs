//! Medians, and how far figures lie apart.

use serde::{Deserialize, Serialize};

/// A figure whose middle half lies further apart than this part of its median is noisy.
pub const NOISY: f64 = 0.1;

/// Fewest runs of which that can be said.
pub const FEWEST: usize = 3;

/// How far several values lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The least and the greatest.
    pub range: (f64, f64),
    /// The first and the third quartile: between them lies the middle half.
    pub quartiles: (f64, f64),
    /// How many values there are.
    pub runs: usize,
}

impl Spread {
    /// Of these values; nothing of fewer than two.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let values = sorted(values);
        let range = values.first().copied().zip(values.last().copied()).filter(|_| values.len() > 1)?;
        let quartiles = quantile(&values, 0.25).zip(quantile(&values, 0.75))?;
        Some(Self { range, quartiles, runs: values.len() })
    }

    /// Whether the values lie too far apart for their median to be relied on.
    #[must_use]
    pub fn is_noisy(&self, median: f64) -> bool {
        let (first, third) = self.quartiles;
        self.runs >= FEWEST && third - first > NOISY * median.abs()
    }
}

/// The median of what can be had; nothing of nothing.
#[must_use]
pub fn median(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

fn sorted(values: impl IntoIterator<Item = Option<f64>>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().flatten().collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The value below which that part of sorted values lies, in between two of them where need be.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places in a list"
)]
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = part * last as f64;
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    let (low, high) = (sorted[below], sorted[above]);
    Some(low + (high - low) * (place - below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_what_there_is() {
        assert_eq!(median([Some(3.0), None, Some(1.0), Some(2.0)]), Some(2.0));
        assert_eq!(median([Some(1.0), Some(2.0)]), Some(1.5));
        assert_eq!(median([None, None]), None);
    }

    #[test]
    fn quartiles_hold_the_middle_half() {
        let spread = Spread::of([5.0, 1.0, 3.0, 2.0, 4.0].map(Some)).unwrap();
        assert_eq!((spread.range, spread.quartiles, spread.runs), ((1.0, 5.0), (2.0, 4.0), 5));
        assert_eq!(Spread::of([Some(1.0), Some(2.0)]).unwrap().quartiles, (1.25, 1.75));
        assert_eq!(Spread::of([Some(1.0), None]), None);
    }

    #[test]
    fn what_lies_apart_by_more_than_a_tenth_is_noisy() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied().map(Some)).unwrap();
        assert!(!spread(&[95.0, 100.0, 104.9]).is_noisy(100.0));
        assert!(spread(&[95.0, 100.0, 116.0]).is_noisy(100.0));
        assert!(!spread(&[10.0, 100.0]).is_noisy(55.0), "of two nothing can be said");
        assert!(!spread(&[0.0, 0.0, 0.0]).is_noisy(0.0), "what never changes is not noisy");
    }
}
