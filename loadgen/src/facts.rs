//! On what something was measured: versions, the host, the day.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// On what this was measured: the programs' versions, the host.
#[must_use]
pub fn versions() -> BTreeMap<String, String> {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let read = |file: &str| std::fs::read_to_string(file).ok();
    let cpu = read("/proc/cpuinfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let commit = output("git", &["rev-parse", "HEAD"]).map(|commit| {
        let is_clean = output("git", &["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
        if is_clean { commit } else { format!("{commit} with changes") }
    });
    let memory = read("/proc/meminfo").and_then(|text| {
        let kib: u64 = text.lines().next()?.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(format!("{} MiB", kib / 1024))
    });
    let cpus = std::thread::available_parallelism().ok().map(|n| n.to_string());
    [
        ("loadgen", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("commit", commit),
        ("qemu", output("qemu-system-x86_64", &["--version"]).map(first_line)),
        ("host_kernel", read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned())),
        ("host_cpu", cpu),
        ("host_cpus", cpus),
        ("host_memory", memory),
        ("rustc", output("rustc", &["--version"])),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.unwrap_or_else(|| "unknown".to_owned())))
    .collect()
}

/// The part of the host's processors that is taken during that time; nothing if the host does not say.
#[must_use]
pub fn host_busy(during: Duration) -> Option<f64> {
    let before = processor_times(&std::fs::read_to_string("/proc/stat").ok()?)?;
    std::thread::sleep(during);
    let after = processor_times(&std::fs::read_to_string("/proc/stat").ok()?)?;
    let (idle, all) = (after.0.checked_sub(before.0)?, after.1.checked_sub(before.1)?);
    #[expect(clippy::cast_precision_loss, reason = "hundredths of seconds")]
    (all > 0).then(|| 1.0 - idle as f64 / all as f64)
}

/// What all processors spent idle, and altogether, since the host's start.
fn processor_times(stat: &str) -> Option<(u64, u64)> {
    let times = stat.lines().next()?.strip_prefix("cpu ")?;
    // The last two, of guests, are in the others already.
    let times: Vec<u64> = times.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let idle = times.get(3)? + times.get(4)?;
    Some((idle, times.iter().sum()))
}

/// The present day and time in UTC, as 2024-02-29T13:07:00Z.
#[must_use]
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    utc(since.as_secs())
}

/// Seconds since 1970 as a date and time (days to date after Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Counted from 1 March of the year 0, so that the leap day is the last of a year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_212_020, "2024-02-29T13:07:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }

    #[test]
    fn what_others_take_is_read() {
        let stat = "cpu  100 0 50 800 40 0 5 5 7 0\ncpu0 1 2 3\n";
        assert_eq!(processor_times(stat), Some((840, 1000)));
        assert_eq!(processor_times("cpu  1 2\n"), None);
        assert_eq!(processor_times("intr 1"), None);
        assert!(host_busy(Duration::from_millis(60)).is_some_and(|busy| (0.0..=1.0).contains(&busy)));
    }

    #[test]
    fn the_facts_are_there() {
        let facts = versions();
        for name in ["loadgen", "commit", "qemu", "host_kernel", "host_cpu", "host_cpus", "host_memory", "rustc"] {
            assert!(facts.contains_key(name), "{name}");
        }
    }
}
