//! Arithmetic of clocks: counters to nanoseconds, calendar to seconds. Pure.

/// Nanoseconds per 2^32 counts of a counter that runs at `hz`.
#[must_use]
pub const fn scale_of(hz: u64) -> u64 {
    ((1_000_000_000u128 << 32) / hz as u128) as u64
}

/// Nanoseconds of that many counts.
#[inline(always)]
#[must_use]
pub const fn to_ns(counts: u64, scale: u64) -> u64 {
    ((counts as u128 * scale as u128) >> 32) as u64
}

/// Counts at `hz` in that many nanoseconds, rounded up, at most `u32::MAX`, at least 1.
#[must_use]
pub const fn counts_for(ns: u64, hz: u64) -> u32 {
    let counts = (ns as u128 * hz as u128).div_ceil(1_000_000_000);
    if counts > u32::MAX as u128 {
        u32::MAX
    } else if counts == 0 {
        1
    } else {
        counts as u32
    }
}

/// Nanoseconds of that many counts at `hz`.
#[must_use]
pub const fn ns_of(counts: u32, hz: u64) -> u64 {
    (counts as u128 * 1_000_000_000 / hz as u128) as u64
}

/// Frequency of a counter that made `counts` while a reference at `reference_hz` made `reference`.
#[must_use]
pub const fn frequency(counts: u64, reference: u64, reference_hz: u64) -> Option<u64> {
    if counts == 0 || reference == 0 {
        return None;
    }
    Some((counts as u128 * reference_hz as u128 / reference as u128) as u64)
}

/// Frequency of the time-stamp counter that a hypervisor's clock page stands for: it gives the factor from counts
/// to nanoseconds as a 32-bit fraction and a shift.
#[must_use]
pub const fn frequency_of_factor(factor: u32, shift: i8) -> Option<u64> {
    if factor == 0 || shift <= -32 || shift >= 32 {
        return None;
    }
    let hz = (1_000_000_000u128 << 32) / factor as u128;
    let hz = if shift < 0 { hz << (-shift) } else { hz >> shift };
    if hz == 0 || hz > u64::MAX as u128 { None } else { Some(hz as u64) }
}

/// A moment of the calendar, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    pub year: u32,
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
}

/// Seconds since 1970 of a date, if it is one and not before that.
///
/// Days are counted from the first of March, so that the leap day is a year's last.
#[must_use]
pub fn unix_seconds(date: Date) -> Option<u64> {
    let Date { year, month, day, hour, minute, second } = date;
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = u64::from(365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1);
    // 719,468 days lie between the first of March of year 0 and the start of 1970.
    let days = days.checked_sub(719_468)?;
    Some(((days * 24 + u64::from(hour)) * 60 + u64::from(minute)) * 60 + u64::from(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_turn_into_nanoseconds() {
        for hz in [1_000_000_000, 2_599_998_123, 3_000_000_000, 24_000_000] {
            let scale = scale_of(hz);
            assert_eq!(to_ns(0, scale), 0);
            let day = to_ns(hz * 86_400, scale);
            let exact = 86_400_000_000_000u64;
            assert!(exact.abs_diff(day) < exact / 1_000_000_000 * 4 + 100_000, "{hz}: {day}");
        }
    }

    #[test]
    fn an_alarm_is_never_early_by_rounding_and_never_out_of_range() {
        assert_eq!(counts_for(0, 1_000_000_000), 1);
        assert_eq!(counts_for(1, 62_500_000), 1);
        assert_eq!(counts_for(1_000_000, 62_500_000), 62_500);
        assert_eq!(counts_for(1_000_001, 62_500_000), 62_501);
        assert_eq!(counts_for(u64::MAX, 1_000_000_000), u32::MAX);
    }

    #[test]
    fn frequencies_come_from_ratios() {
        assert_eq!(frequency(30_000_000, 11_932, 1_193_182), Some(2_999_954_743));
        assert_eq!(frequency(0, 1, 1), None);
        assert_eq!(frequency(1, 0, 1), None);
        // 2.6 GHz as KVM describes it: factor 0xc4ec4ec4 (1/2.6 * 2^33), shift -1.
        let hz = frequency_of_factor(0xc4ec_4ec4, -1).unwrap();
        assert!(hz.abs_diff(2_600_000_000) < 10, "{hz}");
        assert_eq!(frequency_of_factor(0, 0), None);
        assert_eq!(frequency_of_factor(1, 40), None);
    }

    #[test]
    fn dates_are_counted_as_the_world_counts_them() {
        let at = |year, month, day, hour, minute, second| unix_seconds(Date { year, month, day, hour, minute, second });
        assert_eq!(at(1970, 1, 1, 0, 0, 0), Some(0));
        assert_eq!(at(2000, 2, 29, 12, 0, 0), Some(951_825_600));
        assert_eq!(at(2024, 12, 31, 23, 59, 59), Some(1_735_689_599));
        assert_eq!(at(2026, 11, 21, 4, 40, 45), Some(1_795_236_045));
        assert_eq!(at(1969, 12, 31, 0, 0, 0), None);
        assert_eq!(at(2024, 13, 1, 0, 0, 0), None);
        assert_eq!(at(2024, 1, 1, 24, 0, 0), None);
    }
}
