//! The server's rules, one by one, and under whatever comes.

use super::*;
use proptest::prelude::*;

fn address(host: u8, port: u16) -> SocketAddr {
    ([10, 0, 0, host], port).into()
}

fn say(arena: &mut Arena, from: SocketAddr, message: ClientMessage, now: Instant) -> Option<ServerMessage> {
    let answer = arena.receive(from, message.encode().bytes(), now)?;
    Some(ServerMessage::decode(answer.bytes()).expect("answers are messages"))
}

/// Joins. Returns the player's number and key, or why not.
fn join(arena: &mut Arena, from: SocketAddr, nonce: u64, now: Instant) -> Result<(u8, u64), Refusal> {
    let Some(ServerMessage::Challenge { token, .. }) = say(arena, from, ClientMessage::Join { nonce }, now) else {
        panic!("no challenge");
    };
    match say(arena, from, ClientMessage::Enter { nonce, token }, now) {
        Some(ServerMessage::Welcome { player, key, .. }) => Ok((player, key)),
        Some(ServerMessage::Refused { reason, .. }) => Err(reason),
        other => panic!("{other:?}"),
    }
}

fn input((player, key): (u8, u64), sequence: u32) -> ClientMessage {
    ClientMessage::Input { player, key, sequence, direction: Direction::new(1, 0).unwrap() }
}

fn snapshot(arena: &mut Arena, player: u8, now: Instant) -> Snapshot {
    let (_, datagram) = arena.update(usize::from(player), now).unwrap();
    match ServerMessage::decode(datagram.bytes()) {
        Some(ServerMessage::Snapshot(snapshot)) => snapshot,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_player_joins_moves_and_leaves() {
    let now = Instant::now();
    let mut arena = Arena::new(Settings::default(), now);
    let here = address(1, 1000);
    let me = join(&mut arena, here, 7, now).unwrap();
    assert_eq!(say(&mut arena, here, input(me, 5), now), None);
    arena.tick(now, now, 0);
    let first = snapshot(&mut arena, me.0, now);
    arena.tick(now, now + Duration::from_micros(250), 2);
    let second = snapshot(&mut arena, me.0, now);
    assert_eq!((first.tick, second.tick, second.late_us, second.acknowledged), (1, 4, 250, 5));
    let x = |snapshot: &Snapshot| snapshot.players.as_slice()[0].place.x;
    assert!(x(&second) > x(&first) || x(&second) == arena_protocol::SIDE);
    let leave = ClientMessage::Leave { player: me.0, key: me.1 };
    assert_eq!(say(&mut arena, here, leave, now), Some(ServerMessage::Gone(Gone::Left)));
    assert_eq!((arena.players(), say(&mut arena, here, leave, now)), (0, None));
    let counters = arena.counters();
    let counts = [Counter::Ticks, Counter::Missed, Counter::LatestUs, Counter::Joined, Counter::Left, Counter::BadKeys];
    assert_eq!(counts.map(|counter| counters.get(counter)), [2, 2, 250, 1, 1, 1]);
}

#[test]
fn nobody_enters_plays_or_leaves_for_another() {
    let now = Instant::now();
    let mut arena = Arena::new(Settings::default(), now);
    let (here, there) = (address(1, 1000), address(2, 1000));
    let Some(ServerMessage::Challenge { token, .. }) = say(&mut arena, here, ClientMessage::Join { nonce: 7 }, now)
    else {
        panic!("no challenge");
    };
    // A token of one address is of no use at another.
    let refused = ServerMessage::Refused { nonce: 7, reason: Refusal::Token };
    assert_eq!(say(&mut arena, there, ClientMessage::Enter { nonce: 7, token }, now), Some(refused));
    let me = join(&mut arena, here, 7, now).unwrap();
    for (from, player) in [(there, me), (here, (me.0, me.1 ^ 1)), (here, (me.0 + 1, me.1)), (here, (200, me.1))] {
        say(&mut arena, from, input(player, 1), now);
        let leave = ClientMessage::Leave { player: player.0, key: player.1 };
        assert_eq!(say(&mut arena, from, leave, now), None);
    }
    assert_eq!((arena.players(), arena.counters().get(Counter::Inputs)), (1, 0));
    assert_eq!((arena.counters().get(Counter::BadKeys), arena.counters().get(Counter::BadTokens)), (8, 1));
}

#[test]
fn an_answer_that_was_lost_is_given_again_and_a_new_beginning_is_one() {
    let now = Instant::now();
    let mut arena = Arena::new(Settings::default(), now);
    let first = join(&mut arena, address(1, 1000), 7, now).unwrap();
    assert_eq!(join(&mut arena, address(1, 1000), 7, now), Ok(first));
    let anew = join(&mut arena, address(1, 1000), 8, now).unwrap();
    assert_eq!((anew.0, arena.players()), (first.0, 1));
    assert_ne!(anew.1, first.1);
}

#[test]
fn there_are_so_many_seats_and_so_many_for_one_address() {
    let now = Instant::now();
    let mut arena = Arena::new(Settings { players: 3, per_address: 2, ..Settings::default() }, now);
    assert!(join(&mut arena, address(1, 1), 1, now).is_ok());
    assert!(join(&mut arena, address(1, 2), 1, now).is_ok());
    assert_eq!(join(&mut arena, address(1, 3), 1, now), Err(Refusal::Address));
    assert!(join(&mut arena, address(2, 1), 1, now).is_ok());
    assert_eq!(join(&mut arena, address(3, 1), 1, now), Err(Refusal::Full));
    let counters = arena.counters();
    assert_eq!((counters.get(Counter::RefusedAddress), counters.get(Counter::RefusedFull)), (1, 1));
}

#[test]
fn old_inputs_and_too_many_are_dropped() {
    let now = Instant::now();
    let mut arena = Arena::new(Settings::default(), now);
    let here = address(1, 1);
    let me = join(&mut arena, here, 1, now).unwrap();
    for sequence in [u32::MAX, u32::MAX - 1, u32::MAX, 0, 1, 2, 3, 4] {
        say(&mut arena, here, input(me, sequence), now);
    }
    let counts = |arena: &Arena| {
        [Counter::Inputs, Counter::Stale, Counter::Throttled].map(|counter| arena.counters().get(counter))
    };
    assert_eq!(counts(&arena), [4, 2, 2]);
    arena.tick(now, now, 0);
    assert_eq!(snapshot(&mut arena, me.0, now).acknowledged, 2);
    say(&mut arena, here, input(me, 3), now);
    assert_eq!(counts(&arena), [5, 2, 2]);
}

#[test]
fn who_is_silent_for_too_long_is_told_and_goes() {
    let now = Instant::now();
    let mut arena = Arena::new(Settings { silence: Duration::from_secs(2), ..Settings::default() }, now);
    let me = join(&mut arena, address(1, 1), 1, now).unwrap();
    let other = join(&mut arena, address(1, 2), 1, now).unwrap();
    say(&mut arena, address(1, 2), input(other, 1), now + Duration::from_secs(1));
    let later = now + Duration::from_millis(2001);
    let (to, gone) = arena.update(usize::from(me.0), later).unwrap();
    assert_eq!((to, ServerMessage::decode(gone.bytes())), (address(1, 1), Some(ServerMessage::Gone(Gone::Silent))));
    assert!(arena.update(usize::from(me.0), later).is_none());
    assert_eq!(snapshot(&mut arena, other.0, later).players.as_slice().len(), 1);
    assert_eq!((arena.players(), arena.counters().get(Counter::TimedOut)), (1, 1));
}

/// What somebody may do: some of it with tokens and keys that were given to some address.
#[derive(Clone, Debug)]
enum Act {
    Join(u8, u64),
    Enter(u8, u64, usize),
    Input(u8, usize, u32),
    Leave(u8, usize),
    Bytes(u8, Vec<u8>),
    Tick(u16),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..6u8, 0..3u64).prop_map(|(from, nonce)| Act::Join(from, nonce)),
        (0..6u8, 0..3u64, 0..8usize).prop_map(|(from, nonce, token)| Act::Enter(from, nonce, token)),
        (0..6u8, 0..8usize, any::<u32>()).prop_map(|(from, key, sequence)| Act::Input(from, key, sequence)),
        (0..6u8, 0..8usize).prop_map(|(from, key)| Act::Leave(from, key)),
        (0..6u8, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(from, bytes)| Act::Bytes(from, bytes)),
        (0..3000u16).prop_map(Act::Tick),
    ]
}

proptest! {
    /// Nobody is answered with more than was sent, there are never more players than seats, and each has an address
    /// of its own.
    #[test]
    fn whatever_comes_the_rules_hold(acts in proptest::collection::vec(act(), 0..200)) {
        let mut now = Instant::now();
        let mut arena = Arena::new(Settings { players: 4, per_address: 2, silence: Duration::from_secs(2) }, now);
        let (mut tokens, mut keys) = (vec![0], vec![(0, 0)]);
        for act in acts {
            let (from, datagram) = match act {
                Act::Join(from, nonce) => (from, ClientMessage::Join { nonce }.encode().bytes().to_vec()),
                Act::Enter(from, nonce, n) => {
                    (from, ClientMessage::Enter { nonce, token: tokens[n % tokens.len()] }.encode().bytes().to_vec())
                }
                Act::Input(from, n, sequence) => (from, input(keys[n % keys.len()], sequence).encode().bytes().to_vec()),
                Act::Leave(from, n) => {
                    let (player, key) = keys[n % keys.len()];
                    (from, ClientMessage::Leave { player, key }.encode().bytes().to_vec())
                }
                Act::Bytes(from, bytes) => (from, bytes),
                Act::Tick(ms) => {
                    now += Duration::from_millis(ms.into());
                    arena.tick(now, now, 0);
                    let sent: Vec<_> = (0..MAX_PLAYERS).filter_map(|number| arena.update(number, now)).collect();
                    for (_, datagram) in &sent {
                        prop_assert!(ServerMessage::decode(datagram.bytes()).is_some());
                    }
                    continue;
                }
            };
            // Two ports of each of three addresses.
            let answer = arena.receive(address(from / 2, u16::from(from % 2) + 1), &datagram, now);
            if let Some(answer) = answer {
                prop_assert!(answer.bytes().len() <= datagram.len());
                match ServerMessage::decode(answer.bytes()) {
                    Some(ServerMessage::Challenge { token, .. }) => tokens.push(token),
                    Some(ServerMessage::Welcome { player, key, .. }) => keys.push((player, key)),
                    Some(_) => {}
                    None => prop_assert!(false, "an answer that is no message"),
                }
            }
            prop_assert!(arena.players() <= 4);
            let mut addresses: Vec<_> = arena.seats.iter().flatten().map(|seat| seat.address).collect();
            prop_assert_eq!(addresses.len(), arena.world.players().as_slice().len());
            addresses.sort();
            addresses.dedup();
            prop_assert_eq!(addresses.len(), arena.players());
            for host in 0..3 {
                prop_assert!(addresses.iter().filter(|address| address.ip() == super::tests::address(host, 0).ip()).count() <= 2);
            }
        }
    }
}
