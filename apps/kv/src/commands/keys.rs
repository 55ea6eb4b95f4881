//! Commands about keys: which there are, and for how long.

use super::strings::deadline;
use super::{Context, Outcome, Refusal, check_key, is, next, next_key, next_number};
use crate::glob;
use crate::resp::{Arguments, Replies, number};
use alloc::vec::Vec;

/// Most keys that one `SCAN` looks at.
const MAX_SCAN: usize = 1000;

/// Longest pattern: it may be looked at once for each byte of every key.
const MAX_PATTERN_BYTES: usize = 256;

/// `DEL key...`, `UNLINK key...`
pub(super) fn del(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    arguments.clone().try_for_each(|key| check_key(key).map(drop))?;
    let removed = arguments.filter(|key| context.store.remove(key, context.now)).count();
    context.replies.count(removed);
    Ok(())
}

/// `EXISTS key...`
pub(super) fn exists(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    arguments.clone().try_for_each(|key| check_key(key).map(drop))?;
    let found = arguments.filter(|key| context.store.contains(key, context.now)).count();
    context.replies.count(found);
    Ok(())
}

/// `TYPE key`
pub(super) fn kind(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let is_there = context.store.contains(next_key(arguments)?, context.now);
    context.replies.simple(if is_there { "string" } else { "none" });
    Ok(())
}

/// `EXPIRE key seconds`
pub(super) fn expire(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    expire_in(context, arguments, 1000)
}

/// `PEXPIRE key milliseconds`
pub(super) fn pexpire(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    expire_in(context, arguments, 1)
}

fn expire_in(context: &mut Context<'_>, arguments: &mut Arguments<'_>, unit: i64) -> Outcome {
    let (key, time) = (next_key(arguments)?, next_number(arguments)?);
    let deadline = deadline(time, unit, context.now).ok_or(Refusal::Expire)?;
    // A time that is over removes the key.
    let was_there = if deadline <= context.now {
        context.store.remove(key, context.now)
    } else {
        context.store.set_deadline(key, Some(deadline), context.now)?
    };
    context.replies.integer(i64::from(was_there));
    Ok(())
}

/// `PERSIST key`
pub(super) fn persist(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let key = next_key(arguments)?;
    let expires = context.store.deadline(key, context.now).flatten().is_some();
    if expires {
        context.store.set_deadline(key, None, context.now)?;
    }
    context.replies.integer(i64::from(expires));
    Ok(())
}

/// `TTL key`, rounded to the next second.
pub(super) fn ttl(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    time_left(context, arguments, |milliseconds| milliseconds.saturating_add(500) / 1000)
}

/// `PTTL key`
pub(super) fn pttl(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    time_left(context, arguments, |milliseconds| milliseconds)
}

fn time_left(context: &mut Context<'_>, arguments: &mut Arguments<'_>, round: fn(i64) -> i64) -> Outcome {
    let now = context.now;
    context.replies.integer(match context.store.deadline(next_key(arguments)?, now) {
        None => -2,
        Some(None) => -1,
        Some(Some(deadline)) => round(i64::try_from(deadline.saturating_sub(now)).unwrap_or(i64::MAX)),
    });
    Ok(())
}

/// `DBSIZE`
pub(super) fn dbsize(context: &mut Context<'_>, _: &mut Arguments<'_>) -> Outcome {
    context.replies.count(context.store.len(context.now));
    Ok(())
}

/// `FLUSHALL [ASYNC | SYNC]`, `FLUSHDB` the same.
pub(super) fn flush(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    if arguments.len() > 1 || arguments.any(|word| !is(word, "async") && !is(word, "sync")) {
        return Err(Refusal::Syntax);
    }
    context.store.clear();
    context.replies.simple("OK");
    Ok(())
}

fn check_pattern(pattern: &[u8]) -> Result<&[u8], Refusal> {
    let is_short = pattern.len() <= MAX_PATTERN_BYTES;
    is_short.then_some(pattern).ok_or(Refusal::Other("ERR the pattern is longer than 256 bytes"))
}

/// `KEYS pattern`
pub(super) fn keys(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let pattern = check_pattern(next(arguments)?)?;
    let Context { store, replies, now, .. } = context;
    let found = || store.keys(*now).filter(|key| glob::matches(pattern, key));
    let (mut count, mut bytes) = (0, Replies::bulk_bytes(0));
    for key in found() {
        count += 1;
        bytes += Replies::bulk_bytes(key.len());
    }
    replies.reserve(bytes)?;
    replies.array(count);
    found().for_each(|key| replies.bulk(key));
    Ok(())
}

/// `SCAN cursor [MATCH pattern] [COUNT number] [TYPE kind]`
pub(super) fn scan(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let cursor = core::str::from_utf8(next(arguments)?).ok().and_then(|text| text.parse::<u64>().ok());
    let cursor = cursor.ok_or(Refusal::Other("ERR invalid cursor"))?;
    let (mut pattern, mut count, mut has_strings) = (None, 10, true);
    while let Some(word) = arguments.next() {
        let value = arguments.next().ok_or(Refusal::Syntax)?;
        if is(word, "match") {
            pattern = Some(check_pattern(value)?);
        } else if is(word, "count") {
            let number = number(value).ok_or(Refusal::NotInteger)?;
            count = usize::try_from(number).ok().filter(|&n| n > 0).ok_or(Refusal::Syntax)?.min(MAX_SCAN);
        } else if is(word, "type") {
            has_strings = is(value, "string");
        } else {
            return Err(Refusal::Syntax);
        }
    }
    let Context { store, replies, now, .. } = context;
    // The two heads and the next cursor.
    let mut bytes = 3 * Replies::bulk_bytes(0);
    let mut found: Vec<&[u8]> = Vec::new();
    let next = store.scan(cursor, count, *now, |key| {
        if has_strings && pattern.is_none_or(|pattern| glob::matches(pattern, key)) {
            bytes += Replies::bulk_bytes(key.len());
            found.push(key);
        }
    });
    replies.reserve(bytes)?;
    replies.array(2);
    replies.bulk(alloc::format!("{next}").as_bytes());
    replies.array(found.len());
    found.iter().for_each(|key| replies.bulk(key));
    Ok(())
}
