//! The broker without sockets: who gets what, what is kept, and what happens when there is no room.

use libos::sync::Budget;
use mqtt::Settings;
use mqtt::broker::{Broker, Full, Link, Pressure};
use mqtt::packet::{Message, Qos};
use mqtt::topic;
use proptest::prelude::*;
use std::collections::BTreeMap;

const ONCE: Qos = Qos::AtMostOnce;
const SURE: Qos = Qos::AtLeastOnce;

fn settings() -> Settings {
    Settings { max_clients: 4, max_queue: 8, max_subscriptions: 4, max_retained: 3, ..Settings::for_memory(4 << 20) }
}

fn broker(bytes: usize) -> (Broker, Budget) {
    let budget = Budget::new(bytes);
    (Broker::new(settings(), budget.clone()), budget)
}

fn message<'a>(topic: &'a str, payload: &'a str, qos: Qos, is_retained: bool) -> Message<'a> {
    Message { topic, payload: payload.as_bytes(), qos, is_retained }
}

fn publish(broker: &mut Broker, topic: &str, payload: &str, qos: Qos) -> Pressure {
    broker.publish(&message(topic, payload, qos, false), None).unwrap()
}

fn connect(broker: &mut Broker, client: &str, is_clean: bool) -> Link {
    broker.connect(client, is_clean).unwrap().0
}

/// All that waits for a client: what it says, with its number if there is one and marks for kept and repeated.
fn drain(broker: &mut Broker, link: &Link) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(next) = broker.next(link) {
        let mark = |is: bool, mark: &'static str| if is { mark } else { "" };
        let id = next.id.map(|id| format!("#{id}")).unwrap_or_default();
        let text = String::from_utf8_lossy(&next.message.payload).into_owned();
        all.push(format!("{text}{id}{}{}", mark(next.is_retained, " kept"), mark(next.is_repeated, " again")));
    }
    all
}

#[test]
fn a_message_comes_once_with_the_best_quality_that_was_asked_for() {
    let (mut broker, budget) = broker(100_000);
    let a = connect(&mut broker, "a", true);
    assert_eq!(broker.subscribe(&a, "x/#", ONCE), Some(ONCE));
    assert_eq!(broker.subscribe(&a, "x/y", SURE), Some(SURE));
    assert_eq!(broker.subscribe(&a, "x/#/y", ONCE), None);
    publish(&mut broker, "x/y", "both", SURE);
    publish(&mut broker, "x/z", "wild", SURE);
    publish(&mut broker, "x/y", "once", ONCE);
    publish(&mut broker, "other", "other", ONCE);
    assert_eq!(drain(&mut broker, &a), ["both#1", "wild", "once"]);
    broker.acknowledge(&a, 1);
    broker.unsubscribe(&a, "x/y");
    publish(&mut broker, "x/y", "less", SURE);
    assert_eq!(drain(&mut broker, &a), ["less"]);
    broker.disconnect(&a);
    assert_eq!((budget.left(), broker.nr_sessions()), (100_000, 0), "nothing is left of a clean session");
}

#[test]
fn a_kept_session_has_what_came_meanwhile_and_what_was_not_acknowledged() {
    let (mut broker, _) = broker(100_000);
    let first = connect(&mut broker, "a", false);
    broker.subscribe(&first, "t", SURE);
    publish(&mut broker, "t", "1", SURE);
    publish(&mut broker, "t", "2", SURE);
    assert_eq!(drain(&mut broker, &first), ["1#1", "2#2"]);
    broker.acknowledge(&first, 1);
    broker.disconnect(&first);
    publish(&mut broker, "t", "3", SURE);
    publish(&mut broker, "t", "lost", ONCE);
    let (second, was_there) = broker.connect("a", false).unwrap();
    assert!(was_there);
    assert_eq!(drain(&mut broker, &second), ["2#2 again", "3#3"]);
    // A clean connection forgets it.
    let (third, was_there) = broker.connect("a", true).unwrap();
    assert!(!was_there && !broker.is_current(&second));
    publish(&mut broker, "t", "4", SURE);
    assert_eq!(drain(&mut broker, &third), [""; 0]);
    broker.disconnect(&second);
    assert!(broker.is_current(&third), "the old connection's end is not the new one's");
    broker.disconnect(&third);
    assert!(!broker.connect("a", false).unwrap().1);
}

#[test]
fn kept_messages_are_there_for_those_who_come_later() {
    let (mut broker, budget) = broker(100_000);
    let keep = |broker: &mut Broker, topic: &str, text: &str| {
        broker.publish(&message(topic, text, SURE, true), None).unwrap();
    };
    for (topic, text) in [("k/1", "old"), ("k/1", "one"), ("k/2", "two"), ("k/3", "three"), ("k/4", "too many")] {
        keep(&mut broker, topic, text);
    }
    assert_eq!(broker.counters().refused, 1);
    let a = connect(&mut broker, "a", true);
    broker.subscribe(&a, "k/+", ONCE);
    assert_eq!(drain(&mut broker, &a), ["one kept", "two kept", "three kept"]);
    keep(&mut broker, "k/1", "new");
    assert_eq!(drain(&mut broker, &a), ["new"], "not kept for those who were there");
    for topic in ["k/1", "k/2", "k/3"] {
        keep(&mut broker, topic, "");
    }
    broker.disconnect(&a);
    assert_eq!(budget.left(), 100_000);
}

#[test]
fn a_slow_client_costs_itself_and_whoever_publishes_hears_of_it() {
    let (mut broker, _) = broker(100_000);
    let (slow, quick) = (connect(&mut broker, "slow", true), connect(&mut broker, "quick", true));
    broker.subscribe(&slow, "t", SURE);
    broker.subscribe(&quick, "t", SURE);
    for n in 0..10 {
        let pressure = publish(&mut broker, "t", &n.to_string(), SURE);
        assert_eq!(pressure, if n >= 5 { Pressure::High } else { Pressure::Low });
        assert_eq!(drain(&mut broker, &quick).len(), 1);
        broker.acknowledge(&quick, n + 1);
    }
    assert_eq!((broker.counters().dropped, drain(&mut broker, &slow).len()), (2, 8));
    // Nobody waits for himself.
    for n in 0..8 {
        let own = broker.publish(&message("t", &n.to_string(), ONCE, false), Some(&slow)).unwrap();
        drain(&mut broker, &quick);
        assert_eq!(own, Pressure::Low);
    }
}

#[test]
fn no_more_than_so_many_are_under_way_at_once() {
    let mut settings = settings();
    settings.max_queue = 100;
    let mut broker = Broker::new(settings, Budget::new(100_000));
    let a = connect(&mut broker, "a", true);
    broker.subscribe(&a, "t", SURE);
    for n in 0..40 {
        publish(&mut broker, "t", &n.to_string(), SURE);
    }
    assert_eq!(drain(&mut broker, &a).len(), 16);
    broker.acknowledge(&a, 3);
    broker.acknowledge(&a, 99);
    assert_eq!(drain(&mut broker, &a), ["16#17"]);
}

#[test]
fn full_memory_refuses_and_sessions_that_were_left_make_room() {
    let (mut broker, budget) = broker(5_000);
    let a = connect(&mut broker, "a", true);
    broker.subscribe(&a, "t", SURE);
    let left = budget.left();
    assert_eq!(broker.publish(&message("t", &"x".repeat(left), SURE, false), None), Err(Full));
    assert_eq!((budget.left(), broker.counters().refused), (left, 1));
    // What nobody wants needs no memory.
    assert_eq!(broker.publish(&message("u", &"x".repeat(left), SURE, false), None), Ok(Pressure::Low));
    broker.disconnect(&a);
    // Eight sessions may be kept, but not in so little memory; the oldest go first.
    for client in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        let link = connect(&mut broker, client, false);
        broker.disconnect(&link);
    }
    assert!(broker.nr_sessions() < 8);
    assert!(broker.connect("8", false).unwrap().1 && !broker.connect("1", false).unwrap().1);
    let mut links: Vec<Link> = Vec::new();
    let full = (0..8).find_map(|n| match broker.connect(&format!("new{n}"), true) {
        Ok((link, _)) => {
            links.push(link);
            None
        }
        Err(full) => Some(full),
    });
    assert_eq!(full, Some(Full), "those who are connected stay");
    assert!(links.iter().all(|link| broker.is_current(link)));
}

#[derive(Clone, Debug)]
enum Act {
    Connect(u8, bool),
    Disconnect(u8),
    Subscribe(u8, String, bool),
    Unsubscribe(u8, String),
    Publish(String, bool, bool),
    Drain(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let filter = || "[ab+]/[ab+]|#|a/#";
    prop_oneof![
        (0u8..4, any::<bool>()).prop_map(|(client, is_clean)| Act::Connect(client, is_clean)),
        (0u8..4).prop_map(Act::Disconnect),
        (0u8..4, filter(), any::<bool>()).prop_map(|(client, filter, sure)| Act::Subscribe(client, filter, sure)),
        (0u8..4, filter()).prop_map(|(client, filter)| Act::Unsubscribe(client, filter)),
        ("[ab]/[ab]", any::<bool>(), any::<bool>()).prop_map(|(topic, sure, kept)| Act::Publish(topic, sure, kept)),
        (0u8..4).prop_map(Act::Drain),
    ]
}

/// What a client should have: its connection, its filters, how many messages wait.
#[derive(Default)]
struct Model {
    link: Option<Link>,
    is_kept: bool,
    filters: BTreeMap<String, bool>,
    waiting: usize,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn everybody_gets_what_is_his_and_all_memory_comes_back(acts in prop::collection::vec(act(), 0..80)) {
        let budget = Budget::new(1 << 20);
        let settings = Settings { max_queue: 1000, max_subscriptions: 100, ..settings() };
        let mut broker = Broker::new(settings, budget.clone());
        let mut models: [Model; 4] = Default::default();
        for (n, act) in acts.iter().enumerate() {
            match act {
                Act::Connect(client, is_clean) => {
                    let model = &mut models[usize::from(*client)];
                    let was_kept = model.is_kept && !is_clean;
                    if !was_kept {
                        *model = Model::default();
                    }
                    let (link, was_there) = broker.connect(&client.to_string(), *is_clean).unwrap();
                    prop_assert_eq!(was_there, was_kept);
                    (model.link, model.is_kept) = (Some(link), !is_clean);
                    // Nothing is acknowledged here: what was sent and sure comes again.
                }
                Act::Disconnect(client) => {
                    let model = &mut models[usize::from(*client)];
                    if let Some(link) = model.link.take() {
                        broker.disconnect(&link);
                        if !model.is_kept {
                            *model = Model::default();
                        }
                    }
                }
                Act::Subscribe(client, filter, sure) => {
                    let model = &mut models[usize::from(*client)];
                    let Some(link) = &model.link else { continue };
                    let qos = if *sure { SURE } else { ONCE };
                    prop_assert_eq!(broker.subscribe(link, filter, qos), Some(qos));
                    model.filters.insert(filter.clone(), *sure);
                    // Kept messages come, too: they are taken out of the count.
                    model.waiting = 0;
                    while let Some(next) = broker.next(link) {
                        if let Some(id) = next.id {
                            broker.acknowledge(link, id);
                        }
                    }
                }
                Act::Unsubscribe(client, filter) => {
                    let model = &mut models[usize::from(*client)];
                    let Some(link) = &model.link else { continue };
                    broker.unsubscribe(link, filter);
                    model.filters.remove(filter);
                }
                Act::Publish(topic, sure, kept) => {
                    let qos = if *sure { SURE } else { ONCE };
                    broker.publish(&message(topic, &n.to_string(), qos, *kept), None).unwrap();
                    for model in &mut models {
                        let best = model.filters.iter().filter(|(filter, _)| topic::matches(filter, topic));
                        let best = best.map(|(_, sure)| *sure).max();
                        let waits = best.is_some_and(|best| model.link.is_some() || (best && *sure));
                        model.waiting += usize::from(waits);
                    }
                }
                Act::Drain(client) => {
                    let model = &mut models[usize::from(*client)];
                    let Some(link) = &model.link else { continue };
                    let mut count = 0;
                    while let Some(next) = broker.next(link) {
                        count += 1;
                        if let Some(id) = next.id {
                            broker.acknowledge(link, id);
                        }
                    }
                    prop_assert_eq!(count, model.waiting);
                    model.waiting = 0;
                }
            }
        }
        drop(broker);
        prop_assert_eq!(budget.left(), 1 << 20);
    }
}
