//! Commands that read and write values.

use super::{Context, Outcome, Refusal, check_key, count, is, next, next_key, next_number};
use crate::resp::{Arguments, Replies, number};
use crate::store::{Expiry, cost};
use alloc::format;

/// `GET key`
pub(super) fn get(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let Context { store, replies, counters, now, .. } = context;
    match store.get(next_key(arguments)?, *now) {
        Some(value) => {
            replies.reserve(Replies::bulk_bytes(value.len()))?;
            count(&counters.hits);
            replies.bulk(value);
        }
        None => {
            count(&counters.misses);
            replies.nil();
        }
    }
    Ok(())
}

/// `GETDEL key`
pub(super) fn getdel(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let key = next_key(&mut arguments.clone())?;
    get(context, arguments)?;
    context.store.remove(key, context.now);
    Ok(())
}

/// `STRLEN key`
pub(super) fn strlen(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let length = context.store.get(next_key(arguments)?, context.now).map_or(0, <[u8]>::len);
    context.replies.count(length);
    Ok(())
}

/// `MGET key...`
pub(super) fn mget(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let Context { store, replies, counters, now, .. } = context;
    let mut bytes = Replies::bulk_bytes(0);
    for key in arguments.clone() {
        let length = store.get(check_key(key)?, *now).map_or(0, <[u8]>::len);
        bytes = bytes.saturating_add(Replies::bulk_bytes(length));
    }
    replies.reserve(bytes)?;
    replies.array(arguments.len());
    for key in arguments {
        match store.get(key, *now) {
            Some(value) => {
                count(&counters.hits);
                replies.bulk(value);
            }
            None => {
                count(&counters.misses);
                replies.nil();
            }
        }
    }
    Ok(())
}

/// When a value is set, and until when it is there.
struct Options {
    /// Only if the key is there, or only if it is not.
    if_exists: Option<bool>,
    expiry: Expiry,
}

impl Options {
    fn parse(arguments: &mut Arguments<'_>, now: u64) -> Result<Self, Refusal> {
        let mut options = Self { if_exists: None, expiry: Expiry::Never };
        while let Some(word) = arguments.next() {
            let is_first_expiry = options.expiry == Expiry::Never;
            if options.if_exists.is_none() && (is(word, "nx") || is(word, "xx")) {
                options.if_exists = Some(is(word, "xx"));
            } else if is_first_expiry && is(word, "keepttl") {
                options.expiry = Expiry::Keep;
            } else if is_first_expiry && (is(word, "ex") || is(word, "px")) {
                let unit = if is(word, "ex") { 1000 } else { 1 };
                let time = arguments.next().ok_or(Refusal::Syntax)?;
                let time = number(time).ok_or(Refusal::NotInteger)?;
                options.expiry = Expiry::At(deadline(time, unit, now).filter(|_| time > 0).ok_or(Refusal::Expire)?);
            } else {
                return Err(Refusal::Syntax);
            }
        }
        Ok(options)
    }
}

/// When so many units of so many milliseconds are over, if that can be said in 63 bits, as it is told to clients.
pub(super) fn deadline(time: i64, unit: i64, now: u64) -> Option<u64> {
    let now = i64::try_from(now).ok()?;
    let at = time.checked_mul(unit)?.checked_add(now)?;
    Some(u64::try_from(at).unwrap_or(0))
}

/// `SET key value [NX | XX] [EX seconds | PX milliseconds | KEEPTTL]`
pub(super) fn set(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let (key, value) = (next_key(arguments)?, next(arguments)?);
    let options = Options::parse(arguments, context.now)?;
    let Context { store, replies, now, .. } = context;
    if options.if_exists.is_some_and(|wanted| store.contains(key, *now) != wanted) {
        replies.nil();
        return Ok(());
    }
    store.set(key, value, options.expiry, *now)?;
    replies.simple("OK");
    Ok(())
}

/// `SETNX key value`
pub(super) fn setnx(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let (key, value) = (next_key(arguments)?, next(arguments)?);
    let Context { store, replies, now, .. } = context;
    let is_new = !store.contains(key, *now);
    if is_new {
        store.set(key, value, Expiry::Never, *now)?;
    }
    replies.integer(i64::from(is_new));
    Ok(())
}

/// `MSET key value...`: all of them or none. Room is asked for as if all keys were new.
pub(super) fn mset(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    if !arguments.len().is_multiple_of(2) {
        return Err(Refusal::Arity);
    }
    let (mut pairs, mut bytes) = (arguments.clone(), 0usize);
    while let Some(key) = pairs.next() {
        bytes = bytes.saturating_add(cost(check_key(key)?.len(), next(&mut pairs)?.len(), false));
    }
    let Context { store, replies, now, .. } = context;
    if !store.fits(bytes, 0, *now) {
        return Err(Refusal::Full);
    }
    while let Some(key) = arguments.next() {
        store.set(key, next(arguments)?, Expiry::Never, *now)?;
    }
    replies.simple("OK");
    Ok(())
}

/// `APPEND key value`
pub(super) fn append(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let (key, more) = (next_key(arguments)?, next(arguments)?);
    let Context { store, replies, now, .. } = context;
    let old = store.get(key, *now).unwrap_or(&[]);
    let length = old.len().saturating_add(more.len());
    // What does not fit is not even put together.
    let old_cost = old.len();
    if !store.fits(cost(key.len(), length, true), old_cost, *now) {
        return Err(Refusal::Full);
    }
    let value = [store.get(key, *now).unwrap_or(&[]), more].concat();
    store.set(key, &value, Expiry::Keep, *now)?;
    replies.count(length);
    Ok(())
}

/// `INCR key`
pub(super) fn incr(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    add(context, next_key(arguments)?, 1)
}

/// `DECR key`
pub(super) fn decr(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    add(context, next_key(arguments)?, -1)
}

/// `INCRBY key number`
pub(super) fn incrby(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let key = next_key(arguments)?;
    add(context, key, next_number(arguments)?)
}

/// `DECRBY key number`
pub(super) fn decrby(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let key = next_key(arguments)?;
    add(context, key, next_number(arguments)?.checked_neg().ok_or(Refusal::Overflow)?)
}

fn add(context: &mut Context<'_>, key: &[u8], difference: i64) -> Outcome {
    let Context { store, replies, now, .. } = context;
    let old = store.get(key, *now).map_or(Some(0), number).ok_or(Refusal::NotInteger)?;
    let sum = old.checked_add(difference).ok_or(Refusal::Overflow)?;
    store.set(key, format!("{sum}").as_bytes(), Expiry::Keep, *now)?;
    replies.integer(sum);
    Ok(())
}
