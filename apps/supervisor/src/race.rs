//! `race`: how evenly VMs come forward. Each second for some seconds every VM of a range is looked at, and what it has
//! had since the beginning, for each second and each share, is compared by Jain's index: 1 if all had their part, 1/n if
//! one had everything. Source: Jain, Chiu, Hawe, "A Quantitative Measure of Fairness and Discrimination" (1984).
//!
//! Looking takes time itself, so each VM has its own seconds.

use crate::crowd;
use crate::json::Object;
use crate::{Machine, Office};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;
use libos::gate::{Answer, Operation, VmStatus};
use libos::time::{Duration, Instant, sleep_until};

/// Most seconds: what is said of each must fit one line.
pub const MAX_SECONDS: u32 = 8;

/// Most VMs: what each had at first is kept.
pub const MAX_RUNNERS: u32 = 100_000;

/// Most different weights: what is said of each must fit one line.
const MAX_WEIGHTS: usize = 4;

/// What a VM had by a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    at_ns: u64,
    shares: u32,
    time_ns: u64,
    frames: u64,
}

impl Look {
    fn new(at: Instant, status: &VmStatus) -> Self {
        let counters = &status.counters;
        Self {
            at_ns: at.as_nanos(),
            shares: status.shares.max(1),
            time_ns: counters.guest_ns.saturating_add(counters.kernel_ns),
            frames: counters.frames_sent,
        }
    }
}

/// The sums that Jain's index is made of.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    n: u64,
    sum: u128,
    squares: u128,
}

impl Sums {
    /// Adds what a VM had in so many nanoseconds: by the second and share, in thousandths. Nobody has more than a whole
    /// processor, and so all sums fit.
    fn add(&mut self, had: u64, ns: u64, shares: u32) {
        let part = u128::from(had) * 1_000_000_000_000 / u128::from(ns.max(1)) / u128::from(shares);
        self.n += 1;
        self.sum = self.sum.saturating_add(part);
        self.squares = self.squares.saturating_add(part.saturating_mul(part));
    }

    /// The index in millionths; 0 if nobody had anything.
    fn jain_ppm(&self) -> u128 {
        // Halved until it fits: both halves lose alike.
        let (mut sum, mut squares) = (self.sum, self.squares);
        while sum >= 1 << 50 {
            sum >>= 1;
            squares >>= 2;
        }
        match squares.saturating_mul(self.n.into()) {
            0 => 0,
            all => sum * sum * 1_000_000 / all,
        }
    }
}

/// Looks at every VM of a range, in order.
async fn look<M: Machine>(office: &Rc<Office<M>>, vms: Range<u32>) -> Result<Vec<Look>, String> {
    let first = vms.start;
    let found = Rc::new(RefCell::new((alloc::vec![Look::default(); vms.len()], None)));
    let kept = found.clone();
    let note = move |vm: u32, answer| {
        let (looks, problem) = &mut *kept.borrow_mut();
        match answer {
            Ok(Answer::Vm(status)) => looks[(vm - first) as usize] = Look::new(Instant::now(), &status),
            Ok(_) => *problem = Some("race: unexpected answer".into()),
            Err(e) => {
                problem.get_or_insert_with(|| format!("race: vm {vm}: {e}"));
            }
        }
    };
    crowd::ask(office, [vms], |vm| Operation::Inspect { vm }, note).await;
    let (looks, problem) = found.take();
    problem.map_or(Ok(looks), Err)
}

/// Does it. Returns what to print.
///
/// # Errors
/// What to print instead.
pub async fn race<M: Machine>(office: &Rc<Office<M>>, vms: Range<u32>, seconds: u32) -> Result<String, String> {
    let first = look(office, vms.clone()).await?;
    let began = Instant::now();
    let (mut at, mut time, mut frames) = (String::new(), String::new(), String::new());
    let mut last = Vec::new();
    for second in 1..=seconds {
        sleep_until(began + Duration::from_secs(second.into())).await;
        last = look(office, vms.clone()).await?;
        let (mut of_time, mut of_frames) = (Sums::default(), Sums::default());
        for (before, after) in first.iter().zip(&last) {
            let ns = after.at_ns.saturating_sub(before.at_ns);
            of_time.add(after.time_ns.saturating_sub(before.time_ns), ns, after.shares);
            of_frames.add(after.frames.saturating_sub(before.frames), ns, after.shares);
        }
        let comma = if second > 1 { "," } else { "" };
        at.push_str(&format!("{comma}{}", Instant::now().as_nanos().saturating_sub(began.as_nanos()) / 1_000_000));
        time.push_str(&format!("{comma}{}", of_time.jain_ppm()));
        frames.push_str(&format!("{comma}{}", of_frames.jain_ppm()));
    }
    let report = Object::default()
        .number("first", vms.start)
        .number("count", vms.end - vms.start)
        .raw("at_ms", &format!("[{at}]"))
        .raw("time_jain_ppm", &format!("[{time}]"))
        .raw("frames_jain_ppm", &format!("[{frames}]"))
        .raw("weights", &weights(&first, &last)?);
    Ok(format!("race {}", report.finish()))
}

/// What VMs of each weight had in all: of processor time each second on average, and frames.
fn weights(first: &[Look], last: &[Look]) -> Result<String, String> {
    let mut by_shares: BTreeMap<u32, (u64, u64, u64)> = BTreeMap::new();
    for (before, after) in first.iter().zip(last) {
        let ns = u128::from(after.at_ns.saturating_sub(before.at_ns).max(1));
        let by_second = |had: u64| u64::try_from(u128::from(had) * 1_000_000_000 / ns).unwrap_or(u64::MAX);
        let (vms, time, frames) = by_shares.entry(after.shares).or_default();
        *vms += 1;
        *time = time.saturating_add(by_second(after.time_ns.saturating_sub(before.time_ns)));
        *frames = frames.saturating_add(by_second(after.frames.saturating_sub(before.frames)));
    }
    if by_shares.len() > MAX_WEIGHTS {
        return Err(format!(
            "race: the VMs have {} different weights, at most {MAX_WEIGHTS} can be told",
            by_shares.len()
        ));
    }
    let mut text = String::from("[");
    for (n, (shares, (vms, time, frames))) in by_shares.into_iter().enumerate() {
        let of_weight = Object::default()
            .number("shares", shares)
            .number("vms", vms)
            .number("time_ns_per_s", time)
            .number("frames_per_s", frames);
        text.push_str(&format!("{}{}", if n > 0 { "," } else { "" }, of_weight.finish()));
    }
    text.push(']');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jain(had: &[(u64, u32)]) -> u128 {
        let mut sums = Sums::default();
        had.iter().for_each(|&(had, shares)| sums.add(had, 1_000_000_000, shares));
        sums.jain_ppm()
    }

    #[test]
    fn the_index_is_one_if_all_have_their_part_and_small_if_one_has_all() {
        assert_eq!(jain(&[(100, 100), (200, 200), (400, 400)]), 1_000_000);
        assert_eq!(jain(&[(400, 1), (0, 1), (0, 1), (0, 1)]), 250_000);
        assert_eq!((jain(&[]), jain(&[(0, 1)])), (0, 0));
        // (1 + 1 + 0.5)^2 / (3 * (1 + 1 + 0.25))
        assert_eq!(jain(&[(100, 100), (200, 200), (200, 400)]), 925_925);
    }

    #[test]
    fn large_and_many_figures_fit() {
        let all: Vec<(u64, u32)> = (0..MAX_RUNNERS).map(|_| (1_000_000_000, 1)).collect();
        assert!((999_990..=1_000_000).contains(&jain(&all)), "{}", jain(&all));
        let one: Vec<(u64, u32)> = (0..1000).map(|n| (if n == 0 { 1_000_000_000 } else { 0 }, 1)).collect();
        assert_eq!(jain(&one), 1000);
    }

    #[test]
    fn the_longest_answer_fits_the_console() {
        let look = |shares, at_ns| Look { at_ns, shares, time_ns: at_ns * 64, frames: u64::MAX >> 20 };
        let first: Vec<Look> = (0..4).map(|n| look(u32::MAX - n, 0)).collect();
        let last: Vec<Look> = (0..4).map(|n| look(u32::MAX - n, 1 << 40)).collect();
        let seconds: usize = ["100000,", "1000000,", "1000000,"].iter().map(|word| word.len()).sum();
        let text = weights(&first, &last).unwrap();
        let whole = text.len() + seconds * MAX_SECONDS as usize + 120;
        assert!(whole <= virtual_isa::limits::MAX_CONSOLE_BYTES, "{whole}");
        let five: Vec<Look> = (0..5).map(|n| look(n + 1, 1)).collect();
        assert!(weights(&five, &five).unwrap_err().contains("5 different weights"));
    }
}
