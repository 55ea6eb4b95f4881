//! Scales: from a figure to a place on an axis, and the ticks that stand there. Pure.

/// How an axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Evenly from 0 to a round figure.
    Linear,
    /// Evenly from 0 to the last value: seconds.
    Time,
    /// A latency in microseconds, by powers of ten.
    Latency,
    /// A count from 1 on, by powers of ten.
    Decades,
    /// Names, one after the other: values are their places in the list.
    Names(&'static [&'static str]),
    /// A share of all, by nines: 90 %, 99 %, 99.9 % at equal distances.
    Nines,
}

/// An axis' range, and how it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    kind: Kind,
    low: f64,
    high: f64,
}

/// A tick: where from 0 to 1, and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Place on the axis, 0 to 1.
    pub at: f64,
    /// Its label.
    pub label: String,
}

impl Scale {
    /// A scale on which all of `values` have a place.
    #[must_use]
    pub fn over(kind: Kind, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = values
            .filter(|v| v.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = match kind {
                Kind::Latency => (100.0, 1000.0),
                Kind::Decades => (1.0, 10.0),
                _ => (0.0, 0.9),
            };
        }
        match kind {
            Kind::Linear => {
                let step = linear_step(high.max(1e-9));
                Self { kind, low: 0.0, high: (high.max(1e-9) / step).ceil() * step }
            }
            Kind::Time => Self { kind, low: 0.0, high: high.max(1e-3) },
            Kind::Latency => {
                let edges = |v: f64, up: bool| {
                    let decade = 10f64.powf(v.max(0.1).log10().floor());
                    let steps = [1.0, 2.0, 5.0, 10.0].map(|m| m * decade);
                    let found = if up {
                        steps.into_iter().find(|&s| s >= v)
                    } else {
                        steps.into_iter().rev().find(|&s| s <= v)
                    };
                    found.unwrap_or(decade)
                };
                let (low, mut high) = (edges(low, false), edges(high, true));
                if high <= low {
                    high = low * 10.0;
                }
                Self { kind, low, high }
            }
            Kind::Decades => {
                let low = 10f64.powf(low.max(1.0).log10().floor());
                Self { kind, low, high: 10f64.powf(high.max(1.0).log10().ceil()).max(low * 10.0) }
            }
            #[expect(clippy::cast_precision_loss, reason = "a few names")]
            Kind::Names(names) => Self { kind, low: -0.5, high: names.len().max(1) as f64 - 0.5 },
            Kind::Nines => Self { kind, low: 0.0, high: nines(high.clamp(0.9, 0.999_999_9)) },
        }
    }

    /// Place of a value from 0 to 1.
    #[must_use]
    pub fn place(&self, value: f64) -> f64 {
        let fraction = match self.kind {
            Kind::Linear | Kind::Time | Kind::Names(_) => (value - self.low) / (self.high - self.low),
            Kind::Latency | Kind::Decades => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            Kind::Nines => nines(value) / self.high,
        };
        fraction.clamp(0.0, 1.0)
    }

    /// The ticks.
    #[must_use]
    pub fn ticks(&self) -> Vec<Tick> {
        let at = |value: f64, label: String| Tick { at: self.place(value), label };
        match self.kind {
            Kind::Linear | Kind::Time => {
                let step = linear_step(self.high);
                let mut ticks = Vec::new();
                let mut n = 0.0;
                while n * step <= self.high * 1.000_001 {
                    ticks.push(at(n * step, linear_label(n * step, step)));
                    n += 1.0;
                }
                ticks
            }
            Kind::Latency => {
                let few = (self.high / self.low).log10() <= 2.5;
                let steps: &[f64] = if few { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let mut ticks = Vec::new();
                let mut decade = 10f64.powf(self.low.log10().floor());
                while decade <= self.high * 1.01 {
                    for value in steps.iter().map(|m| m * decade) {
                        if value >= self.low * 0.999 && value <= self.high * 1.001 {
                            ticks.push(at(value, latency_label(value)));
                        }
                    }
                    decade *= 10.0;
                }
                ticks
            }
            Kind::Decades => {
                let mut ticks = Vec::new();
                let mut decade = self.low;
                while decade <= self.high * 1.001 {
                    ticks.push(at(decade, crate::human::whole(decade)));
                    decade *= 10.0;
                }
                ticks
            }
            #[expect(clippy::cast_precision_loss, reason = "a few names")]
            Kind::Names(names) => {
                names.iter().enumerate().map(|(place, name)| at(place as f64, (*name).to_owned())).collect()
            }
            Kind::Nines => {
                let named = [(0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")];
                let more = [(0.99999, "99.999"), (0.999_999, "99.9999")];
                let fits = |&&(value, _): &&(f64, &str)| nines(value) <= self.high * 1.001;
                named.iter().chain(&more).filter(fits).map(|&(value, label)| at(value, label.to_owned())).collect()
            }
        }
    }
}

fn nines(share: f64) -> f64 {
    -(1.0 - share.clamp(0.0, 0.999_999_9)).log10()
}

/// A step of 1, 2 or 5 times a power of ten that divides `high` into about five.
fn linear_step(high: f64) -> f64 {
    let rough = high / 5.0;
    let decade = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * decade).find(|&s| s >= rough * 0.999).unwrap_or(decade)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and positive here")]
fn linear_label(value: f64, step: f64) -> String {
    if step >= 1.0 {
        crate::human::count(value.round() as u64)
    } else {
        format!("{value:.*}", (-step.log10()).ceil().clamp(0.0, 6.0) as usize)
    }
}

fn latency_label(us: f64) -> String {
    let trimmed = |v: f64| format!("{}", (v * 1000.0).round() / 1000.0);
    match us {
        us if us < 999.5 => format!("{} µs", trimmed(us)),
        us if us < 999_500.0 => format!("{} ms", trimmed(us / 1e3)),
        us => format!("{} s", trimmed(us / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(kind: Kind, values: &[f64]) -> Vec<String> {
        Scale::over(kind, values.iter().copied()).ticks().into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn ticks_are_round_figures() {
        assert_eq!(labels(Kind::Linear, &[0.0, 4600.0]), ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]);
        assert_eq!(labels(Kind::Linear, &[0.9]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(Kind::Time, &[0.0, 10.2]), ["0", "5", "10"]);
        assert_eq!(labels(Kind::Latency, &[300.0, 4000.0]), ["200 µs", "500 µs", "1 ms", "2 ms", "5 ms"]);
        assert_eq!(labels(Kind::Latency, &[30.0, 2e6]), ["100 µs", "1 ms", "10 ms", "100 ms", "1 s"]);
        assert_eq!(labels(Kind::Decades, &[1.0, 2.0, 10_000.0]), ["1", "10", "100", "1,000", "10,000"]);
        assert_eq!(labels(Kind::Decades, &[]), ["1", "10"]);
        assert_eq!(labels(Kind::Names(&["a", "b"]), &[0.0, 1.0]), ["a", "b"]);
        assert_eq!(labels(Kind::Nines, &[0.0, 0.9991]), ["0", "50", "90", "99", "99.9"]);
    }

    proptest! {
        #[test]
        fn every_value_has_a_place_and_order_is_kept(
            kind in prop_oneof![Just(Kind::Linear), Just(Kind::Time), Just(Kind::Latency), Just(Kind::Nines),
                Just(Kind::Decades), Just(Kind::Names(&["a", "b", "c"]))],
            values in proptest::collection::vec(0.0f64..1e9, 0..20),
        ) {
            let values: Vec<f64> =
                values.into_iter().map(|v| if kind == Kind::Nines { v / 1e9 } else { v }).collect();
            let scale = Scale::over(kind, values.iter().copied());
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            let places: Vec<f64> = sorted.iter().map(|&v| scale.place(v)).collect();
            prop_assert!(places.iter().all(|p| (0.0..=1.0).contains(p)));
            prop_assert!(places.windows(2).all(|w| w[0] <= w[1]));
            let ticks = scale.ticks();
            prop_assert!((2..=12).contains(&ticks.len()), "{} ticks", ticks.len());
            prop_assert!(ticks.windows(2).all(|w| w[0].at < w[1].at));
        }
    }
}
