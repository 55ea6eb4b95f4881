//! Patterns of keys: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a character that is meant as it is.

/// Whether a pattern matches all of a text. Takes at most the product of their lengths in steps: at a mismatch only
/// the last `*` is tried again, one byte further.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: behind the last `*`, and the text's byte that it takes next.
    let mut retry = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        let step = match (pattern.get(p..), text.get(t)) {
            (Some([]) | None, None) => return true,
            (Some(rest @ [_, ..]), Some(&byte)) => one(rest, byte),
            _ => None,
        };
        match (step, &mut retry) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after, from))) if *from < text.len() => {
                *from += 1;
                (p, t) = (*after, *from);
            }
            (None, _) => return false,
        }
    }
}

/// Matches one byte with the first element of a pattern that is not empty. Returns the element's length.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (literal == byte).then_some(2),
        [b'[', ref class @ ..] => set(class, byte).map(|length| length + 1),
        [literal, ..] => (literal == byte).then_some(1),
        [] => None,
    }
}

/// Matches one byte with what follows a `[`. A set that does not end, ends with the pattern. Returns its length, with
/// the `]`.
fn set(class: &[u8], byte: u8) -> Option<usize> {
    let is_inverted = class.first() == Some(&b'^');
    let mut at = usize::from(is_inverted);
    let mut is_in = false;
    loop {
        match class.get(at..).unwrap_or(&[]) {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                is_in |= *literal == byte;
                at += 2;
            }
            [first, b'-', last, ..] => {
                is_in |= (*first.min(last)..=*first.max(last)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                is_in |= *literal == byte;
                at += 1;
            }
        }
    }
    (is_in != is_inverted).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_mean_what_clients_expect() {
        let yes: &[(&str, &str)] = &[
            ("", ""),
            ("*", ""),
            ("*", "anything"),
            ("h?llo", "hello"),
            ("h*llo", "heeeello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
            ("h[a-c]llo", "hbllo"),
            ("h[c-a]llo", "hbllo"),
            ("a\\*b", "a*b"),
            ("[\\]]", "]"),
            ("*:*:z", "a:b:y:z"),
            ("a[bc", "ab"),
            ("***a", "bba"),
        ];
        let no: &[(&str, &str)] =
            &[("", "a"), ("a", ""), ("?", ""), ("h[^e]llo", "hello"), ("a\\*b", "axb"), ("*a", "ab"), ("a*b*c", "acb")];
        for (pattern, text) in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in no {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let pattern = [&b"*a".repeat(200)[..], b"b"].concat();
        assert!(!matches(&pattern, &[b'a'; 10_000]));
    }

    /// The meaning of `*`, `?` and letters, by definition.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|n| model(rest, &text[n..])),
            [b'?', rest @ ..] => !text.is_empty() && model(rest, &text[1..]),
            [letter, rest @ ..] => text.first() == Some(letter) && model(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_pattern(pattern: Vec<u8>, text: Vec<u8>) {
            let _ = matches(&pattern, &text);
        }

        #[test]
        fn stars_and_questions_agree_with_the_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), model(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
