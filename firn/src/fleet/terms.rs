//! On what terms VMs share the machine: the `[[group]]` tables of a fleet file, and what a service says of its VMs'
//! part of the processors and of the wire.

use super::{Checked, DEFAULT_SHARES, MAX_CPUS, RawService, Source};
use crate::project::check_name;
use crate::size;
use serde::Deserialize;
use std::fmt;
use toml::Spanned;
use virtual_isa::bundle::FIRST_PLANNED_GROUP;
use virtual_isa::gate::{ClassTerms, ProcessorTerms};
use virtual_isa::limits::{MAX_CLASSES, MAX_GROUPS, PROCESSOR_PPM};

/// Most groups of a fleet.
pub const MAX_FLEET_GROUPS: u32 = MAX_GROUPS - FIRST_PLANNED_GROUP;

/// Names of the groups that are always there, by number: no group of a file has one of these.
pub const STANDING_GROUPS: [&str; FIRST_PLANNED_GROUP as usize] = ["supervisor", "default"];

/// Most that a VM can have of the processors, in millionths of one: it runs on one at a time.
const MOST_OF_VM: u32 = PROCESSOR_PPM;

/// Most that a group can have.
const MOST_OF_GROUP: u32 = MAX_CPUS * PROCESSOR_PPM;

/// What a part of a processor looks like, for messages.
const REMEDY: &str = "write a part of one processor in percent, such as \"25%\" or \"12.5%\"";

/// A checked group. Its number is its place in the file, from [`FIRST_PLANNED_GROUP`] on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its part of the processors.
    pub processor: ProcessorTerms,
}

/// A group as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGroup {
    name: Spanned<String>,
    shares: Option<Spanned<u32>>,
    reservation: Option<Spanned<String>>,
    limit: Option<Spanned<String>>,
}

/// Why a text is not a part of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PercentError {
    /// It is not a number followed by `%`.
    Malformed,
    /// It has more than four decimals.
    TooFine,
    /// It is more than all machines have.
    TooLarge,
}

impl fmt::Display for PercentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "is not a part of a processor",
            Self::TooFine => "is too fine: a part of a processor has at most four decimals",
            Self::TooLarge => "is too large",
        })
    }
}

/// Reads a part of a processor in millionths.
fn parse_percent(text: &str) -> Result<u32, PercentError> {
    let number = text.strip_suffix('%').ok_or(PercentError::Malformed)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) {
        return Err(PercentError::Malformed);
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 4 {
        return Err(PercentError::TooFine);
    }
    // A percent is ten thousand millionths: four decimals are whole ones.
    let fraction: u32 = format!("{fraction:0<4}").parse().map_err(|_| PercentError::Malformed)?;
    let whole: u32 = whole.parse().map_err(|_| PercentError::TooLarge)?;
    whole.checked_mul(10_000).and_then(|ppm| ppm.checked_add(fraction)).ok_or(PercentError::TooLarge)
}

/// Writes a part of a processor.
#[must_use]
pub fn percent(ppm: u32) -> String {
    let (whole, fraction) = (ppm / 10_000, format!("{:04}", ppm % 10_000));
    match fraction.trim_end_matches('0') {
        "" => format!("{whole}%"),
        fraction => format!("{whole}.{fraction}%"),
    }
}

/// A part of a processor, at most `most`, or 0 if nothing is said.
fn read_part(source: &Source<'_>, raw: Option<&Spanned<String>>, most: u32, field: &str) -> Checked<u32> {
    let Some(raw) = raw else { return Ok(0) };
    let (text, at) = (raw.get_ref(), raw.span().start);
    let ppm = parse_percent(text).map_err(|e| source.error(at, field, format!("{text:?} {e}"), REMEDY))?;
    if ppm <= most {
        return Ok(ppm);
    }
    let who = if most == MOST_OF_VM { "a VM runs on one processor at a time" } else { "no machine has so many" };
    Err(source.error(at, field, format!("{text:?} is too large: {who}"), format!("give at most {}", percent(most))))
}

/// Reservation and limit, which fit each other.
fn read_parts(
    source: &Source<'_>,
    reservation: Option<&Spanned<String>>,
    limit: Option<&Spanned<String>>,
    most: u32,
    field: impl Fn(&str) -> String,
) -> Checked<(u32, u32)> {
    let reservation_ppm = read_part(source, reservation, most, &field("reservation"))?;
    let limit_ppm = read_part(source, limit, most, &field("limit"))?;
    let Some(limit) = limit else { return Ok((reservation_ppm, 0)) };
    let at = limit.span().start;
    if limit_ppm == 0 {
        let remedy = "leave it out for no limit, or give more";
        return Err(source.error(at, &field("limit"), "with a limit of nothing it would never run", remedy));
    }
    if reservation_ppm > limit_ppm {
        let problem = format!("{} is less than the reservation, {}", percent(limit_ppm), percent(reservation_ppm));
        return Err(source.error(at, &field("limit"), problem, "give a limit that the reservation fits into"));
    }
    Ok((reservation_ppm, limit_ppm))
}

/// The groups of a file.
pub(super) fn read_groups(source: &Source<'_>, raw: &[Spanned<RawGroup>]) -> Checked<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for group in raw {
        let raw = group.get_ref();
        let (name, at) = (raw.name.get_ref(), raw.name.span().start);
        let field = |key: &str| format!("group {name:?}: {key}");
        if groups.len() >= MAX_FLEET_GROUPS as usize {
            let problem = format!("there are more than {MAX_FLEET_GROUPS} groups");
            return Err(source.error(at, &field("name"), problem, "have fewer groups, each with more services"));
        }
        check_name(name).map_err(|problem| {
            let remedy = "a name is 1 to 32 letters, digits, '-' and '_'";
            source.error(at, &field("name"), format!("the name {problem}"), remedy)
        })?;
        if STANDING_GROUPS.contains(&name.as_str()) {
            let problem = format!("the group {name:?} is always there");
            return Err(source.error(at, &field("name"), problem, "give the group another name"));
        }
        if groups.iter().any(|other| other.name == *name) {
            return Err(source.error(
                at,
                &field("name"),
                "another group has this name",
                "give each group its own name",
            ));
        }
        let shares = read_shares(source, raw.shares.as_ref(), &field("shares"))?;
        let (reservation_ppm, limit_ppm) =
            read_parts(source, raw.reservation.as_ref(), raw.limit.as_ref(), MOST_OF_GROUP, field)?;
        groups.push(Group { name: name.clone(), processor: ProcessorTerms { shares, reservation_ppm, limit_ppm } });
    }
    Ok(groups)
}

/// A weight.
pub(super) fn read_shares(source: &Source<'_>, raw: Option<&Spanned<u32>>, field: &str) -> Checked<u32> {
    let Some(raw) = raw else { return Ok(DEFAULT_SHARES) };
    if *raw.get_ref() == 0 {
        let at = raw.span().start;
        return Err(source.error(at, field, "zero shares would never run", "give 1 or more; 100 is usual"));
    }
    Ok(*raw.get_ref())
}

/// The terms of a service's VMs.
pub(super) fn read_terms(source: &Source<'_>, raw: &RawService, groups: &[Group]) -> Checked<ClassTerms> {
    let name = raw.name.get_ref();
    let field = |key: &str| format!("service {name:?}: {key}");
    let (reservation_ppm, limit_ppm) =
        read_parts(source, raw.reservation.as_ref(), raw.limit.as_ref(), MOST_OF_VM, field)?;
    Ok(ClassTerms {
        group: read_group(source, raw, groups, &field("group"))?,
        reservation_ppm,
        limit_ppm,
        frames_per_s: raw.frames_per_s.unwrap_or(0),
        bytes_per_s: read_bytes(source, raw.bytes_per_s.as_ref(), &field("bytes_per_s"))?,
    })
}

fn read_group(source: &Source<'_>, raw: &RawService, groups: &[Group], field: &str) -> Checked<u32> {
    let Some(group) = &raw.group else { return Ok(ClassTerms::DEFAULT.group) };
    let name = group.get_ref();
    let place = groups.iter().position(|group| group.name == *name);
    if let Some(place) = place.and_then(|place| u32::try_from(place).ok()) {
        return Ok(FIRST_PLANNED_GROUP + place);
    }
    let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    let remedy = match names.as_slice() {
        [] => format!("add a [[group]] with name = {name:?}, or leave `group` out"),
        names => format!("the groups are: {}; add a [[group]] for another", names.join(", ")),
    };
    Err(source.error(group.span().start, field, format!("there is no group {name:?}"), remedy))
}

fn read_bytes(source: &Source<'_>, raw: Option<&Spanned<String>>, field: &str) -> Checked<u32> {
    let Some(raw) = raw else { return Ok(0) };
    let (text, at) = (raw.get_ref(), raw.span().start);
    let bytes = size::parse_any(text).map_err(|e| source.error(at, field, format!("{text:?} {e}"), size::REMEDY))?;
    u32::try_from(bytes).map_err(|_| {
        let remedy = "give less than \"4G\", or \"0\" for no limit";
        source.error(at, field, format!("{text:?} in a second is too large"), remedy)
    })
}

/// Checks that a machine has a class for each of the different terms.
pub(super) fn check_classes<'t>(source: &Source<'_>, terms: impl Iterator<Item = &'t ClassTerms>) -> Checked<()> {
    let mut different: Vec<&ClassTerms> = Vec::new();
    for terms in terms.filter(|terms| **terms != ClassTerms::DEFAULT) {
        if !different.contains(&terms) {
            different.push(terms);
        }
    }
    if different.len() < MAX_CLASSES as usize {
        return Ok(());
    }
    let problem = format!("services have {} different sets of terms", different.len());
    let remedy = format!("at most {} can differ in group, reservation, limit or rates", MAX_CLASSES - 1);
    Err(source.whole("service", problem, remedy))
}

/// The name of a group of a fleet with these groups.
#[must_use]
pub fn group_name(groups: &[Group], number: u32) -> &str {
    let planned = number.checked_sub(FIRST_PLANNED_GROUP).and_then(|place| groups.get(place as usize));
    planned.map_or_else(|| STANDING_GROUPS.get(number as usize).copied().unwrap_or("?"), |group| group.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_processor_are_read_and_written() {
        for (text, ppm) in [
            ("25%", 250_000),
            ("150%", 1_500_000),
            ("0%", 0),
            ("12.5%", 125_000),
            ("0.0001%", 1),
            ("6400%", 64_000_000),
        ] {
            assert_eq!(parse_percent(text), Ok(ppm), "{text}");
            assert_eq!(percent(ppm), text);
        }
        assert_eq!(parse_percent("1.50000%"), Ok(15_000));
        for text in ["", "%", "25", "-5%", "25 %", "1.%", ".5%", "1e3%", "0x1%", "1.5.5%", "+5%", "\u{0665}%"] {
            assert_eq!(parse_percent(text), Err(PercentError::Malformed), "{text}");
        }
        assert_eq!(parse_percent("0.00001%"), Err(PercentError::TooFine));
        assert_eq!(parse_percent("429497%"), Err(PercentError::TooLarge));
        assert_eq!(parse_percent("99999999999%"), Err(PercentError::TooLarge));
    }

    #[test]
    fn groups_have_names_by_their_numbers() {
        let processor = ProcessorTerms { shares: 1, reservation_ppm: 0, limit_ppm: 0 };
        let groups = [Group { name: "a".into(), processor }, Group { name: "b".into(), processor }];
        let names: Vec<&str> = (0..5).map(|number| group_name(&groups, number)).collect();
        assert_eq!(names, ["supervisor", "default", "a", "b", "?"]);
    }
}
