//! What the server says.
//!
//! | kind | message | bytes behind the four that all have |
//! |---|---|---|
//! | 129 | challenge | nonce (8), token (8) |
//! | 130 | welcome | nonce (8), key (8), tick (4), player (1) |
//! | 131 | refused | nonce (8), reason (1) |
//! | 132 | snapshot | tick (4), late (4), acknowledged (4), coin (4), you (1), count (1), count times a player: number (1), score (2), place (4) |
//! | 133 | gone | reason (1) |
//! | 134 | status | the counters (8 each) |

use crate::datagram::{Datagram, Reader};
use crate::{Counter, Counters, MAX_PLAYERS, Place};

const CHALLENGE: u8 = 129;
const WELCOME: u8 = 130;
const REFUSED: u8 = 131;
const SNAPSHOT: u8 = 132;
const GONE: u8 = 133;
const STATUS: u8 = 134;

/// Why a player cannot enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// All seats are taken.
    Full = 1,
    /// Too many players have come from this address.
    Address = 2,
    /// The token is not, or no longer, valid: ask to join again.
    Token = 3,
}

/// Why a player is there no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Gone {
    /// It left.
    Left = 1,
    /// It was silent for too long.
    Silent = 2,
}

/// A player as others see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Player {
    /// Its number, below [`MAX_PLAYERS`].
    pub number: u8,
    /// Coins it has got.
    pub score: u16,
    /// Where it is.
    pub place: Place,
}

/// Players, by rising number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Players {
    list: [Player; MAX_PLAYERS],
    count: usize,
}

impl Players {
    /// Adds one. Returns whether its number was a possible one and above those so far.
    pub fn push(&mut self, player: Player) -> bool {
        let follows = self.as_slice().last().is_none_or(|last| last.number < player.number);
        let is_possible = usize::from(player.number) < MAX_PLAYERS;
        match self.list.get_mut(self.count) {
            Some(place) if follows && is_possible => {
                *place = player;
                self.count += 1;
                true
            }
            _ => false,
        }
    }

    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Player] {
        self.list.get(..self.count).unwrap_or_default()
    }
}

impl PartialEq for Players {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Players {}

/// The field after a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Number of the tick; it may wrap.
    pub tick: u32,
    /// How late the tick was, in microseconds.
    pub late_us: u32,
    /// Sequence of the last input that it is made with.
    pub acknowledged: u32,
    /// Where the coin is.
    pub coin: Place,
    /// Number of the player it is sent to.
    pub you: u8,
    /// The players.
    pub players: Players,
}

/// What the server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerMessage {
    /// Say the token to enter.
    Challenge {
        /// The client's number.
        nonce: u64,
        /// What only who has this message knows.
        token: u64,
    },
    /// You are in.
    Welcome {
        /// The client's number.
        nonce: u64,
        /// What goes into all that the player sends.
        key: u64,
        /// The tick that was last.
        tick: u32,
        /// The player's number.
        player: u8,
    },
    /// You are not let in.
    Refused {
        /// The client's number.
        nonce: u64,
        /// Why.
        reason: Refusal,
    },
    /// The field after a tick.
    Snapshot(Snapshot),
    /// You are there no more.
    Gone(Gone),
    /// How the server is.
    Status(Counters),
}

impl ServerMessage {
    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Datagram {
        match self {
            Self::Challenge { nonce, token } => {
                let mut out = Datagram::new(CHALLENGE);
                out.put(&nonce.to_le_bytes());
                out.put(&token.to_le_bytes());
                out
            }
            Self::Welcome { nonce, key, tick, player } => {
                let mut out = Datagram::new(WELCOME);
                out.put(&nonce.to_le_bytes());
                out.put(&key.to_le_bytes());
                out.put(&tick.to_le_bytes());
                out.put(&[*player]);
                out
            }
            Self::Refused { nonce, reason } => {
                let mut out = Datagram::new(REFUSED);
                out.put(&nonce.to_le_bytes());
                out.put(&[*reason as u8]);
                out
            }
            Self::Snapshot(snapshot) => encode_snapshot(snapshot),
            Self::Gone(reason) => {
                let mut out = Datagram::new(GONE);
                out.put(&[*reason as u8]);
                out
            }
            Self::Status(counters) => {
                let mut out = Datagram::new(STATUS);
                counters.0.iter().for_each(|count| out.put(&count.to_le_bytes()));
                out
            }
        }
    }

    /// Reads a message; `None` if it is none of these.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, mut reader) = Reader::open(bytes)?;
        let message = match kind {
            CHALLENGE => Self::Challenge { nonce: reader.u64()?, token: reader.u64()? },
            WELCOME => {
                let (nonce, key, tick, player) = (reader.u64()?, reader.u64()?, reader.u32()?, reader.u8()?);
                (usize::from(player) < MAX_PLAYERS).then_some(Self::Welcome { nonce, key, tick, player })?
            }
            REFUSED => {
                let nonce = reader.u64()?;
                let all = [Refusal::Full, Refusal::Address, Refusal::Token];
                let word = reader.u8()?;
                Self::Refused { nonce, reason: all.into_iter().find(|&reason| reason as u8 == word)? }
            }
            SNAPSHOT => Self::Snapshot(decode_snapshot(&mut reader)?),
            GONE => {
                let word = reader.u8()?;
                Self::Gone([Gone::Left, Gone::Silent].into_iter().find(|&reason| reason as u8 == word)?)
            }
            STATUS => {
                let mut counters = [0; Counter::COUNT];
                for count in &mut counters {
                    *count = reader.u64()?;
                }
                Self::Status(Counters(counters))
            }
            _ => return None,
        };
        reader.end(0)?;
        Some(message)
    }
}

fn encode_snapshot(snapshot: &Snapshot) -> Datagram {
    let mut out = Datagram::new(SNAPSHOT);
    out.put(&snapshot.tick.to_le_bytes());
    out.put(&snapshot.late_us.to_le_bytes());
    out.put(&snapshot.acknowledged.to_le_bytes());
    out.put_place(snapshot.coin);
    let players = snapshot.players.as_slice();
    out.put(&[snapshot.you, u8::try_from(players.len()).unwrap_or(0)]);
    for player in players {
        out.put(&[player.number]);
        out.put(&player.score.to_le_bytes());
        out.put_place(player.place);
    }
    out
}

fn decode_snapshot(reader: &mut Reader<'_>) -> Option<Snapshot> {
    let (tick, late_us, acknowledged) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let coin = reader.place()?;
    let (you, count) = (reader.u8()?, reader.u8()?);
    let mut players = Players::default();
    for _ in 0..count {
        let (number, score, place) = (reader.u8()?, reader.u16()?, reader.place()?);
        if !players.push(Player { number, score, place }) {
            return None;
        }
    }
    let is_there = players.as_slice().iter().any(|player| player.number == you);
    is_there.then_some(Snapshot { tick, late_us, acknowledged, coin, you, players })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MAX_BYTES, SIDE, VERSION};
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    fn place() -> impl Strategy<Value = Place> {
        (0..=SIDE, 0..=SIDE).prop_map(|(x, y)| Place { x, y })
    }

    fn snapshot() -> impl Strategy<Value = Snapshot> {
        let all: Vec<u8> = (0..32).collect();
        let players = subsequence(all, 1..=32).prop_flat_map(|numbers| {
            let one =
                |number: u8| (any::<u16>(), place()).prop_map(move |(score, place)| Player { number, score, place });
            numbers.into_iter().map(one).collect::<Vec<_>>()
        });
        (any::<(u32, u32, u32)>(), place(), players, any::<prop::sample::Index>()).prop_map(
            |((tick, late_us, acknowledged), coin, list, you)| {
                let mut players = Players::default();
                assert!(list.iter().all(|&player| players.push(player)));
                Snapshot { tick, late_us, acknowledged, coin, you: you.get(&list).number, players }
            },
        )
    }

    fn message() -> impl Strategy<Value = ServerMessage> {
        let refusals = prop_oneof![Just(Refusal::Full), Just(Refusal::Address), Just(Refusal::Token)];
        prop_oneof![
            any::<(u64, u64)>().prop_map(|(nonce, token)| ServerMessage::Challenge { nonce, token }),
            (any::<(u64, u64, u32)>(), 0..32u8).prop_map(|((nonce, key, tick), player)| ServerMessage::Welcome {
                nonce,
                key,
                tick,
                player
            }),
            (any::<u64>(), refusals).prop_map(|(nonce, reason)| ServerMessage::Refused { nonce, reason }),
            snapshot().prop_map(ServerMessage::Snapshot),
            prop_oneof![Just(Gone::Left), Just(Gone::Silent)].prop_map(ServerMessage::Gone),
            any::<[u64; Counter::COUNT]>().prop_map(|counts| ServerMessage::Status(Counters(counts))),
        ]
    }

    #[test]
    fn a_full_field_fits() {
        let mut snapshot = Snapshot { coin: Place { x: SIDE, y: SIDE }, ..Snapshot::default() };
        for number in 0..32 {
            assert!(snapshot.players.push(Player { number, score: u16::MAX, place: snapshot.coin }));
        }
        assert!(!snapshot.players.push(Player { number: 32, ..Player::default() }));
        let datagram = ServerMessage::Snapshot(snapshot).encode();
        assert_eq!(datagram.bytes().len(), 22 + 32 * 7);
        assert!(datagram.bytes().len() <= MAX_BYTES);
        assert_eq!(ServerMessage::decode(datagram.bytes()), Some(ServerMessage::Snapshot(snapshot)));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(message in message()) {
            let datagram = message.encode();
            prop_assert_eq!(ServerMessage::decode(datagram.bytes()), Some(message));
            let bytes = datagram.bytes();
            prop_assert_eq!(ServerMessage::decode(&bytes[..bytes.len() - 1]), None);
        }

        #[test]
        fn every_message_has_one_encoding(kind in 127..136u8, rest in proptest::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..250)) {
            let bytes = [&[b'A', b'R', VERSION, kind], &rest[..]].concat();
            if let Some(message) = ServerMessage::decode(&bytes) {
                let datagram = message.encode();
                prop_assert_eq!(datagram.bytes(), &bytes[..]);
            }
        }
    }
}
