//! A run as text for people.

use crate::report::{HttpReport, Summary};
use std::fmt::Write;

/// A latency with a unit that fits.
#[must_use]
pub fn latency(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} µs"),
        us if us < 10_000.0 => format!("{:.2} ms", us / 1e3),
        us if us < 100_000.0 => format!("{:.1} ms", us / 1e3),
        us if us < 1_000_000.0 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A count with separators, as 12,345.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A whole number in groups of three digits, of one that is not negative.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a conversion from f64 saturates")]
pub fn whole(n: f64) -> String {
    count(n.round() as u64)
}

/// A rate, rounded.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded on purpose")]
pub fn rate(per_s: f64) -> String {
    if per_s < 100.0 { format!("{per_s:.1}") } else { count(per_s.round() as u64) }
}

fn line(out: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "  {name:<16}{value}");
}

fn summary(s: &Summary) -> String {
    if s.count == 0 {
        return "none".to_owned();
    }
    let [p50, p90, p99, p999, max] = [s.p50_us, s.p90_us, s.p99_us, s.p999_us, s.max_us].map(latency);
    format!("p50 {p50} · p90 {p90} · p99 {p99} · p99.9 {p999} · max {max}")
}

/// The report as text of several lines.
#[must_use]
pub fn http(report: &HttpReport) -> String {
    let mut out = String::new();
    let config = &report.config;
    let connections = if config.keep_alive { "kept connections" } else { "a new connection each" };
    let _ = writeln!(
        out,
        "{} targets from {}:{}{}, {}, at most {} at once, {} loop",
        count(u64::from(config.count)),
        config.first,
        config.port,
        config.path,
        match config.targets.as_str() {
            "random" => format!("chosen at random, {connections}"),
            "all" => format!("in turn, {connections}"),
            "kept" => "one kept connection to each, chosen at random".to_owned(),
            _ => "each once".to_owned(),
        },
        config.connections,
        config.r#loop,
    );
    let requests = &report.requests;
    let retried =
        if requests.retried > 0 { format!(" · {} attempts repeated", count(requests.retried)) } else { String::new() };
    line(
        &mut out,
        "requests",
        &format!(
            "{} answered · {} failed{retried} · {:.2} s",
            count(requests.ok),
            count(requests.failed),
            report.elapsed_s
        ),
    );
    if report.sweep.is_none() {
        line(&mut out, "throughput", &format!("{} requests/s", rate(requests.per_s)));
    }
    line(&mut out, "latency", &summary(&report.latency.total));
    if let Some(corrected) = &report.latency.corrected {
        line(&mut out, "since due", &summary(corrected));
    }
    if !config.keep_alive {
        line(&mut out, "  connecting", &summary(&report.latency.connect));
        line(&mut out, "  responding", &summary(&report.latency.response));
    }
    targets(&mut out, report);
    sweep(&mut out, report);
    for (kind, n) in report.errors.iter().filter(|&(_, &n)| n > 0) {
        line(&mut out, "error", &format!("{kind}: {}", count(*n)));
    }
    if report.errors.get("local").is_some_and(|&n| n > 0) {
        line(
            &mut out,
            "note",
            "local errors: this computer ran out of ports, descriptors or memory; lower --connections",
        );
    }
    notes(&mut out, report);
    out
}

fn targets(out: &mut String, report: &HttpReport) {
    let t = &report.targets;
    let not_asked = t.count - t.asked;
    let mut text = format!("{} asked", count(u64::from(t.asked)));
    if not_asked > 0 {
        let _ = write!(text, " · {} not asked", count(u64::from(not_asked)));
    }
    let _ = write!(text, " · {} never answered", count(u64::from(t.never_answered)));
    if report.sweep.is_none() {
        let _ = write!(text, " · {} to {} answers each", t.answers_min, t.answers_max);
    }
    line(out, "targets", &text);
    if let Some((first, others)) = t.never_answered_first.split_first() {
        let mut list = first.to_string();
        for address in others.iter().take(4) {
            let _ = write!(list, ", {address}");
        }
        if t.never_answered > 5 {
            list.push_str(", ...");
        }
        line(out, "never answered", &list);
    }
}

fn sweep(out: &mut String, report: &HttpReport) {
    let Some(sweep) = &report.sweep else { return };
    if let Some(seconds) = sweep.all_answered_s {
        line(out, "all answered", &format!("after {seconds:.3} s"));
    }
    if let Some(identity) = &sweep.identity {
        let text = format!(
            "{} answers · {} different VMs · {} different random values · {} from the wrong VM",
            count(u64::from(identity.answers)),
            count(u64::from(identity.distinct_vms)),
            count(u64::from(identity.distinct_random)),
            identity.wrong_vm,
        );
        line(out, "identity", &text);
        for wrong in &identity.wrong_vm_first {
            let text = format!("target {}: VM {} answered, not VM {}", wrong.target, wrong.answered, wrong.expected);
            line(out, "wrong VM", &text);
        }
    }
}

fn notes(out: &mut String, report: &HttpReport) {
    if report.requests.behind > 0 {
        let text = format!(
            "{} requests due were not begun: {} connections cannot carry this rate",
            count(report.requests.behind),
            report.config.connections
        );
        line(out, "note", &text);
    }
    if report.connections.not_closed > 0 {
        line(
            out,
            "note",
            &format!("{} connections were not closed by the server", count(report.connections.not_closed)),
        );
    }
    if report.requests.resent > 0 {
        let text = format!("{} requests were sent again, the server had closed", count(report.requests.resent));
        line(out, "note", &text);
    }
    if report.loadgen.busy > 0.9 && report.elapsed_s > 0.5 {
        line(out, "note", "the load generator was busy nearly all the time: these may be its own limits");
    }
    if report.interrupted {
        line(out, "note", "stopped before its end");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_easy_to_read() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(rate(12.34), "12.3");
        assert_eq!(rate(4021.4), "4,021");
        assert_eq!(latency(12.0), "12 µs");
        assert_eq!(latency(1234.0), "1.23 ms");
        assert_eq!(latency(250_000.0), "250 ms");
        assert_eq!(latency(2_500_000.0), "2.50 s");
    }
}
