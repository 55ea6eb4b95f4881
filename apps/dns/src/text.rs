//! Zones as text, as RFC 1035 writes them: a record a line, `;` before comments, `(` and `)` around what goes on over
//! several lines, `$ORIGIN` and `$TTL`. `$INCLUDE` is not there: there are no files.

use crate::zone::{Data, OwnName, Zone, ZoneError};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use domain::base::name::UncertainName;
use domain::base::{CharStr, Serial, ToName, Ttl};
use domain::rdata::rfc1035::TxtBuilder;
use domain::rdata::{A, Aaaa, Cname, Mx, Ns, Ptr, Soa, Srv};

/// What is wrong with a zone's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// The line, from 1 on; 0 if it is about all of it.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(self.what),
            line => write!(f, "line {line}: {}", self.what),
        }
    }
}

impl core::error::Error for TextError {}

type Result<T> = core::result::Result<T, &'static str>;

/// Reads a zone of this name. Records that do not say so may be remembered for `ttl` seconds.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(text: &str, origin: &str, ttl: u32) -> core::result::Result<Zone, TextError> {
    let at = |line| move |what| TextError { line, what };
    let origin = absolute(origin).map_err(|_| at(0)("the zone's name is none"))?;
    let mut reader = Reader { zone: Zone::new(origin.clone()), origin, owner: None, default_ttl: Ttl::from_secs(ttl) };
    for entry in entries(text) {
        let Entry { line, is_indented, words } = entry.map_err(|line| at(line)("a quote or bracket is not closed"))?;
        reader.read(is_indented, &words).map_err(at(line))?;
    }
    reader.zone.check().map_err(|e: ZoneError| at(0)(e.0))?;
    Ok(reader.zone)
}

/// A name that is meant from the root on, with or without a dot at its end.
fn absolute(text: &str) -> Result<OwnName> {
    let name = UncertainName::<Vec<u8>>::from_chars(text.chars()).map_err(|_| "bad name")?;
    name.into_absolute().map_err(|_| "bad name")
}

/// A record or a directive.
struct Entry {
    line: usize,
    /// Whether it begins with a blank: its owner is the last one's.
    is_indented: bool,
    words: Vec<Word>,
}

/// A word, with its escapes as they are.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    text: String,
    is_quoted: bool,
}

/// The entries of a text; the line, where something is left open.
fn entries(text: &str) -> impl Iterator<Item = core::result::Result<Entry, usize>> {
    let mut lines = text.lines().enumerate().map(|(n, line)| (n + 1, line));
    core::iter::from_fn(move || {
        loop {
            let (number, mut line) = lines.next()?;
            let mut entry = Entry { line: number, is_indented: line.starts_with([' ', '\t']), words: Vec::new() };
            let mut depth = 0usize;
            loop {
                if split(line, &mut entry.words, &mut depth).is_none() {
                    return Some(Err(number));
                }
                if depth == 0 {
                    break;
                }
                match lines.next() {
                    Some((_, next)) => line = next,
                    None => return Some(Err(number)),
                }
            }
            if !entry.words.is_empty() {
                return Some(Ok(entry));
            }
        }
    })
}

/// Splits a line into words, and counts brackets. `None` if a quote or an escape does not end, or there are more
/// brackets closed than opened.
fn split(line: &str, words: &mut Vec<Word>, depth: &mut usize) -> Option<()> {
    let mut chars = line.chars().peekable();
    while let Some(&first) = chars.peek() {
        match first {
            ';' => break,
            '(' | ')' => {
                *depth = if first == '(' { *depth + 1 } else { depth.checked_sub(1)? };
                chars.next();
            }
            '"' => {
                chars.next();
                let mut text = String::new();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => text.extend(['\\', chars.next()?]),
                        other => text.push(other),
                    }
                }
                words.push(Word { text, is_quoted: true });
            }
            blank if blank.is_whitespace() => {
                chars.next();
            }
            _ => {
                let mut text = String::new();
                while let Some(&next) = chars.peek() {
                    if next.is_whitespace() || matches!(next, ';' | '(' | ')' | '"') {
                        break;
                    }
                    text.push(next);
                    chars.next();
                    if next == '\\' {
                        text.push(chars.next()?);
                    }
                }
                words.push(Word { text, is_quoted: false });
            }
        }
    }
    Some(())
}

/// What has been read so far.
struct Reader {
    zone: Zone,
    /// What names without a dot at their end are below.
    origin: OwnName,
    /// The last record's owner.
    owner: Option<OwnName>,
    default_ttl: Ttl,
}

impl Reader {
    fn read(&mut self, is_indented: bool, words: &[Word]) -> Result<()> {
        let mut words = Words(words);
        match words.0.first() {
            Some(first) if first.text.starts_with('$') && !first.is_quoted => {
                words.next()?;
                match first.text.as_str() {
                    "$ORIGIN" => self.origin = self.name(words.next()?)?,
                    "$TTL" => self.default_ttl = ttl(words.next()?).ok_or("bad time")?,
                    _ => return Err("directives are $ORIGIN and $TTL"),
                }
                return words.end();
            }
            _ => {}
        }
        let owner = if is_indented {
            self.owner.clone().ok_or("the first record has no owner")?
        } else {
            self.name(words.next()?)?
        };
        self.owner = Some(owner.clone());
        let mut record_ttl = self.default_ttl;
        // Both may be left out, and come in any order.
        let mut kind = words.next()?;
        for _ in 0..2 {
            if kind.eq_ignore_ascii_case("in") {
                kind = words.next()?;
            } else if let Some(given) = ttl(kind) {
                record_ttl = given;
                kind = words.next()?;
            }
        }
        let data = self.data(kind, &mut words)?;
        words.end()?;
        self.zone.add(owner, record_ttl, data).map_err(|e| e.0)
    }

    fn name(&self, text: &str) -> Result<OwnName> {
        if text == "@" {
            return Ok(self.origin.clone());
        }
        let name = UncertainName::<Vec<u8>>::from_chars(text.chars()).map_err(|_| "bad name")?;
        let name = name.chain(&self.origin).map_err(|_| "the name is too long")?;
        Ok(name.to_name())
    }

    fn data(&self, kind: &str, words: &mut Words<'_>) -> Result<Data> {
        let name = |words: &mut Words<'_>| self.name(words.next()?);
        let is = |word: &str| kind.eq_ignore_ascii_case(word);
        Ok(if is("a") {
            Data::A(A::new(words.parse::<Ipv4Addr>("bad IPv4 address")?))
        } else if is("aaaa") {
            Data::Aaaa(Aaaa::new(words.parse::<Ipv6Addr>("bad IPv6 address")?))
        } else if is("cname") {
            Data::Cname(Cname::new(name(words)?))
        } else if is("ns") {
            Data::Ns(Ns::new(name(words)?))
        } else if is("ptr") {
            Data::Ptr(Ptr::new(name(words)?))
        } else if is("mx") {
            Data::Mx(Mx::new(words.parse("bad preference")?, name(words)?))
        } else if is("srv") {
            let number = |words: &mut Words<'_>| words.parse("bad number");
            Data::Srv(Srv::new(number(words)?, number(words)?, number(words)?, name(words)?))
        } else if is("txt") {
            let mut text = TxtBuilder::<Vec<u8>>::new();
            words.next_string(&mut text)?;
            while !words.0.is_empty() {
                words.next_string(&mut text)?;
            }
            Data::Txt(text.finish().map_err(|_| "the text is too long")?)
        } else if is("soa") {
            let (mname, rname) = (name(words)?, name(words)?);
            let serial = Serial::from(words.parse::<u32>("bad serial number")?);
            let mut time = || ttl(words.next()?).ok_or("bad time");
            Data::Soa(Soa::new(mname, rname, serial, time()?, time()?, time()?, time()?))
        } else {
            return Err("records are A AAAA CNAME MX NS PTR SOA SRV TXT");
        })
    }
}

/// Words that were not read yet.
struct Words<'a>(&'a [Word]);

impl<'a> Words<'a> {
    fn next_word(&mut self) -> Result<&'a Word> {
        let (first, rest) = self.0.split_first().ok_or("something is missing at the end")?;
        self.0 = rest;
        Ok(first)
    }

    fn next(&mut self) -> Result<&'a str> {
        match self.next_word()? {
            Word { is_quoted: true, .. } => Err("text where it does not belong"),
            Word { text, .. } => Ok(text),
        }
    }

    fn parse<T: FromStr>(&mut self, error: &'static str) -> Result<T> {
        self.next()?.parse().map_err(|_| error)
    }

    /// The next word, quoted or not, as a string of a text.
    fn next_string(&mut self, text: &mut TxtBuilder<Vec<u8>>) -> Result<()> {
        let bytes = unescape(&self.next_word()?.text).ok_or("bad escape")?;
        let string = CharStr::from_octets(bytes).map_err(|_| "a string is longer than 255 bytes")?;
        text.append_charstr(&string).map_err(|_| "the text is too long")
    }

    const fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err("more than belongs there") }
    }
}

/// `\"` is a quote, `\065` the byte 65.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        if !rest.first()?.is_ascii_digit() {
            bytes.push(*rest.first()?);
            rest = rest.get(1..)?;
            continue;
        }
        let (digits, after) = rest.split_at_checked(3)?;
        bytes.push(core::str::from_utf8(digits).ok()?.parse().ok()?);
        rest = after;
    }
    Some(bytes)
}

/// Seconds, or numbers with units: `1h30m`.
fn ttl(text: &str) -> Option<Ttl> {
    let (mut seconds, mut number, mut has_digits) = (0u32, 0u32, false);
    for byte in text.bytes() {
        let unit = match byte.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = number.checked_mul(10)?.checked_add(u32::from(digit - b'0'))?;
                has_digits = true;
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        if !has_digits {
            return None;
        }
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        (number, has_digits) = (0, false);
    }
    if text.is_empty() {
        return None;
    }
    seconds.checked_add(number).filter(|&all| i32::try_from(all).is_ok()).map(Ttl::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOA: &str = "@ SOA ns1 admin 1 2 3 4 5\n";

    fn error(records: &str) -> (usize, &'static str) {
        let error = parse(&[SOA, records].concat(), "example.org", 60).unwrap_err();
        (error.line, error.what)
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (records, what) in [
            ("a A 10.0.0", "bad IPv4 address"),
            ("a AAAA 10.0.0.1", "bad IPv6 address"),
            ("a A", "something is missing at the end"),
            ("a A 10.0.0.1 x", "more than belongs there"),
            ("a HINFO x y", "records are A AAAA CNAME MX NS PTR SOA SRV TXT"),
            ("a TXT \"x", "a quote or bracket is not closed"),
            ("a TXT (x", "a quote or bracket is not closed"),
            ("a TXT x)", "a quote or bracket is not closed"),
            ("a TXT \\999", "bad escape"),
            ("a..b A 10.0.0.1", "bad name"),
            ("a MX 65536 b", "bad preference"),
            ("a.example.com. A 10.0.0.1", "the owner is not in the zone"),
            ("a A 10.0.0.1\na CNAME b", "a CNAME stands beside other records"),
            ("a CNAME b\na CNAME c", "a CNAME stands beside other records"),
            ("@ SOA ns1 admin 1 2 3 4 5", "a second SOA"),
            ("a SOA ns1 admin 1 2 3 4 5", "a SOA that is not at the zone's top"),
            ("$INCLUDE x", "directives are $ORIGIN and $TTL"),
            ("$TTL x", "bad time"),
            ("\"a\" A 10.0.0.1", "text where it does not belong"),
        ] {
            let (line, said) = error(records);
            assert_eq!(said, what, "{records}");
            assert!(line == 2 || line == 3, "{records}: {line}");
        }
        assert_eq!(parse("a A 10.0.0.1", "x", 1).unwrap_err().what, "the zone has no SOA");
        assert_eq!(parse("  A 10.0.0.1", "x", 1).unwrap_err().what, "the first record has no owner");
        assert_eq!(parse("", "a..b", 1).unwrap_err().line, 0);
    }

    #[test]
    fn times_have_units() {
        let seconds = |text| ttl(text).map(|ttl: Ttl| ttl.as_secs());
        assert_eq!(seconds("90"), Some(90));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(seconds("2W"), Some(1_209_600));
        for text in ["", "h", "1x", "99999999999", "2147483648", "-1"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn any_text_is_a_zone_or_an_error(text: String) {
            let _ = parse(&text, "example.org", 60);
        }

        #[test]
        fn nearly_zones_are_zones_or_errors(
            words in prop::collection::vec("[a-z@*.]{1,4}|A|TXT|MX|NS|SOA|SRV|[0-9]{1,3}|\"|\\(|\\)|\n| |\\\\|\\$TTL|1\\.2\\.3\\.4", 0..40)
        ) {
            let _ = parse(&words.join(" "), "example.org", 60);
        }
    }
}
