//! The store against a model: a map, and a clock that runs.

use kv::store::{Expiry, Full, Store, cost};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Act {
    Set(u8, usize, Expiry),
    Deadline(u8, Option<u64>),
    Remove(u8),
    Wait(u64),
    Expire(usize),
    Clear,
}

fn act() -> impl Strategy<Value = Act> {
    let expiry = prop_oneof![Just(Expiry::Never), Just(Expiry::Keep), (0u64..50).prop_map(Expiry::At)];
    prop_oneof![
        8 => (0u8..20, 0usize..300, expiry).prop_map(|(key, length, expiry)| Act::Set(key, length, expiry)),
        2 => (0u8..20, prop::option::of(0u64..50)).prop_map(|(key, at)| Act::Deadline(key, at)),
        3 => (0u8..20).prop_map(Act::Remove),
        3 => (0u64..20).prop_map(Act::Wait),
        1 => (0usize..4).prop_map(Act::Expire),
        1 => Just(Act::Clear),
    ]
}

type Model = BTreeMap<u8, (usize, Option<u64>)>;

fn used(model: &Model) -> usize {
    model.values().map(|&(length, deadline)| cost(1, length, deadline.is_some())).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn it_agrees_with_a_map(acts in prop::collection::vec(act(), 0..80), limit in 0usize..6000) {
        let (mut store, mut model, mut now) = (Store::new([7; 16], limit), Model::new(), 0);
        for act in acts {
            model.retain(|_, &mut (_, deadline)| deadline.is_none_or(|at| at > now));
            match act {
                Act::Set(key, length, expiry) => {
                    let expiry = if let Expiry::At(after) = expiry { Expiry::At(now + after) } else { expiry };
                    let deadline = match expiry {
                        Expiry::Never => None,
                        Expiry::Keep => model.get(&key).and_then(|&(_, deadline)| deadline),
                        Expiry::At(at) => Some(at),
                    };
                    let old = model.get(&key).map_or(0, |&(length, deadline)| cost(1, length, deadline.is_some()));
                    let new = cost(1, length, deadline.is_some());
                    let fits = new <= old || used(&model) - old + new <= limit;
                    let done = store.set(&[key], &vec![key; length], expiry, now);
                    prop_assert_eq!(done, if fits { Ok(()) } else { Err(Full) });
                    if fits {
                        model.insert(key, (length, deadline));
                    }
                }
                Act::Deadline(key, after) => {
                    let deadline = after.map(|after| now + after);
                    let done = store.set_deadline(&[key], deadline, now);
                    match model.get(&key).copied() {
                        None => prop_assert_eq!(done, Ok(false)),
                        Some((length, old)) => {
                            let grows = old.is_none() && deadline.is_some();
                            let more = cost(1, length, true) - cost(1, length, false);
                            let fits = !grows || used(&model) + more <= limit;
                            prop_assert_eq!(done, if fits { Ok(true) } else { Err(Full) });
                            if fits {
                                model.insert(key, (length, deadline));
                            }
                        }
                    }
                }
                Act::Remove(key) => prop_assert_eq!(store.remove(&[key], now), model.remove(&key).is_some()),
                Act::Wait(time) => now += time,
                Act::Expire(at_most) => {
                    let is_all = store.expire(now, at_most);
                    prop_assert_eq!(is_all, store.next_deadline().is_none_or(|at| at > now));
                }
                Act::Clear => {
                    store.clear();
                    model.clear();
                }
            }
            model.retain(|_, &mut (_, deadline)| deadline.is_none_or(|at| at > now));
            prop_assert!(store.used() <= limit);
            for key in 0..20 {
                let expected = model.get(&key).map(|&(length, _)| vec![key; length]);
                prop_assert_eq!(store.get(&[key], now).map(<[u8]>::to_vec), expected);
                prop_assert_eq!(store.deadline(&[key], now), model.get(&key).map(|&(_, deadline)| deadline));
            }
            prop_assert_eq!(store.keys(now).count(), model.len());
            prop_assert_eq!(store.len(now), model.len());
            prop_assert_eq!(store.used(), used(&model));
            prop_assert_eq!(store.nr_deadlines(), model.values().filter(|(_, deadline)| deadline.is_some()).count());
        }
    }

    /// What is there all the time is seen once, whatever comes and goes between the steps.
    #[test]
    fn a_scan_sees_what_stays_exactly_once(
        stays in prop::collection::btree_set(0u32..500, 0..60),
        comes in prop::collection::vec((500u32..1000, any::<bool>()), 0..60),
        count in 1usize..10,
    ) {
        let mut store = Store::new([3; 16], usize::MAX);
        for key in &stays {
            store.set(&key.to_le_bytes(), b"", Expiry::Never, 0).unwrap();
        }
        let (mut cursor, mut seen, mut comes) = (0, Vec::new(), comes.into_iter());
        loop {
            cursor = store.scan(cursor, count, 0, |key| seen.push(u32::from_le_bytes(key.try_into().unwrap())));
            if cursor == 0 {
                break;
            }
            for (key, is_set) in comes.by_ref().take(3) {
                if is_set {
                    store.set(&key.to_le_bytes(), b"", Expiry::Never, 0).unwrap();
                } else {
                    store.remove(&key.to_le_bytes(), 0);
                }
            }
        }
        let seen: Vec<u32> = seen.into_iter().filter(|key| *key < 500).collect();
        prop_assert_eq!(seen.len(), stays.len());
        prop_assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), stays);
    }
}

#[test]
fn removing_what_is_due_looks_at_nothing_else() {
    let mut store = Store::new([1; 16], usize::MAX);
    for n in 0..10_000u32 {
        store.set(&n.to_le_bytes(), b"x", Expiry::At(1_000 + u64::from(n)), 0).unwrap();
    }
    assert_eq!(store.next_deadline(), Some(1_000));
    assert!(store.expire(999, usize::MAX));
    assert!(!store.expire(1_500, 100), "401 more are due");
    assert_eq!(store.expired(), 100);
    assert!(store.expire(1_500, 401));
    assert_eq!((store.expired(), store.len(1_500), store.next_deadline()), (501, 9_499, Some(1_501)));
}
