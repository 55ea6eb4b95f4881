//! Names of topics, and filters: levels between `/`, `+` for one level, `#` for all that follow.

/// Longest name or filter.
pub const MAX_TOPIC_BYTES: usize = 1024;

/// Whether a message can have this topic.
#[must_use]
pub fn is_name(topic: &str) -> bool {
    is_text(topic) && !topic.contains(['+', '#'])
}

/// Whether this can be subscribed to.
#[must_use]
pub fn is_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    let mut is_right = is_text(filter);
    while let Some(level) = levels.next() {
        is_right &= match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            other => !other.contains(['+', '#']),
        };
    }
    is_right
}

fn is_text(text: &str) -> bool {
    (1..=MAX_TOPIC_BYTES).contains(&text.len()) && !text.contains('\0')
}

/// Whether a filter has wildcards.
#[must_use]
pub fn is_wild(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

/// Whether a filter takes messages of a topic. Topics that begin with `$` are the server's own: a wildcard at the
/// beginning does not mean them.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filters, mut levels) = (filter.split('/'), topic.split('/'));
    loop {
        match (filters.next(), levels.next()) {
            (None, None) | (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn filters_take_what_the_standard_says() {
        for (filter, topic) in [
            ("a/b", "a/b"),
            ("a/+", "a/b"),
            ("a/+", "a/"),
            ("+/+", "/a"),
            ("/+", "/a"),
            ("#", "a/b/c"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("a/+/c", "a/b/c"),
            ("$SYS/#", "$SYS/x"),
        ] {
            assert!(is_filter(filter) && is_name(topic) && matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in
            [("a/+", "a"), ("a/+", "a/b/c"), ("+", "/a"), ("a", "A"), ("a/b", "a"), ("#", "$SYS/x"), ("+/x", "$SYS/x")]
        {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
        for filter in ["", "a#", "a/#/b", "#/a", "a+", "a/+b", "a\0"] {
            assert!(!is_filter(filter), "{filter}");
        }
        assert!(!is_name("a/+") && !is_name("#") && !is_name("") && !is_name(&"x".repeat(1025)));
    }

    /// The meaning of a filter, by definition.
    fn model(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            ([], []) | (["#"], _) => true,
            ([first, filter @ ..], [level, topic @ ..]) => (*first == "+" || first == level) && model(filter, topic),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn any_texts_match_or_do_not(filter: String, topic: String) {
            let _ = (is_filter(&filter), is_name(&topic), matches(&filter, &topic));
        }

        #[test]
        fn filters_agree_with_the_definition(filter in "([ab+]?/){1,4}[ab+#]?|[ab+#]", topic in "([ab]?/){1,4}[ab]?|[ab]") {
            prop_assert!(is_filter(&filter) && is_name(&topic));
            let split = |text: &'_ str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
            let (filters, levels) = (split(&filter), split(&topic));
            let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
            let levels: Vec<&str> = levels.iter().map(String::as_str).collect();
            prop_assert_eq!(matches(&filter, &topic), model(&filters, &levels));
        }
    }
}
