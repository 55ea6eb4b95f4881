//! What clients say.
//!
//! | kind | message | bytes behind the four that all have |
//! |---|---|---|
//! | 1 | join | nonce (8), 12 zeros |
//! | 2 | enter | nonce (8), token (8), 8 zeros |
//! | 3 | input | player (1), key (8), sequence (4), dx (1), dy (1) |
//! | 4 | leave | player (1), key (8) |
//! | 5 | status | as many zeros as the answer has bytes |

use crate::datagram::{Datagram, Reader};
use crate::{Counter, Direction};

const JOIN: u8 = 1;
const ENTER: u8 = 2;
const INPUT: u8 = 3;
const LEAVE: u8 = 4;
const STATUS: u8 = 5;

/// Bytes of a request to join: more than those of the challenge.
const JOIN_BYTES: usize = 24;

/// Bytes of a request to enter: as many as those of the welcome.
const ENTER_BYTES: usize = 28;

/// Bytes of a request for the counters: as many as those of the answer.
const STATUS_BYTES: usize = 4 + Counter::COUNT * 8;

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// It wants to play.
    Join {
        /// Any number; the answer has it too.
        nonce: u64,
    },
    /// It has got the challenge.
    Enter {
        /// The same number.
        nonce: u64,
        /// What was in the challenge.
        token: u64,
    },
    /// It wants to move.
    Input {
        /// Its number.
        player: u8,
        /// Its key.
        key: u64,
        /// One more than that of the input before; it may wrap. Older ones are of no use, and are dropped.
        sequence: u32,
        /// Where to, until the next input.
        direction: Direction,
    },
    /// It goes.
    Leave {
        /// Its number.
        player: u8,
        /// Its key.
        key: u64,
    },
    /// It wants to know how the server is.
    Status,
}

impl ClientMessage {
    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Datagram {
        match *self {
            Self::Join { nonce } => {
                let mut out = Datagram::new(JOIN);
                out.put(&nonce.to_le_bytes());
                out.pad_to(JOIN_BYTES);
                out
            }
            Self::Enter { nonce, token } => {
                let mut out = Datagram::new(ENTER);
                out.put(&nonce.to_le_bytes());
                out.put(&token.to_le_bytes());
                out.pad_to(ENTER_BYTES);
                out
            }
            Self::Input { player, key, sequence, direction } => {
                let mut out = Datagram::new(INPUT);
                out.put(&[player]);
                out.put(&key.to_le_bytes());
                out.put(&sequence.to_le_bytes());
                out.put(&direction.dx().to_le_bytes());
                out.put(&direction.dy().to_le_bytes());
                out
            }
            Self::Leave { player, key } => {
                let mut out = Datagram::new(LEAVE);
                out.put(&[player]);
                out.put(&key.to_le_bytes());
                out
            }
            Self::Status => {
                let mut out = Datagram::new(STATUS);
                out.pad_to(STATUS_BYTES);
                out
            }
        }
    }

    /// Reads a message; `None` if it is none of these.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, mut reader) = Reader::open(bytes)?;
        let (message, zeros) = match kind {
            JOIN => (Self::Join { nonce: reader.u64()? }, JOIN_BYTES - 12),
            ENTER => (Self::Enter { nonce: reader.u64()?, token: reader.u64()? }, ENTER_BYTES - 20),
            INPUT => {
                let (player, key, sequence) = (reader.u8()?, reader.u64()?, reader.u32()?);
                let direction = Direction::new(reader.i8()?, reader.i8()?)?;
                (Self::Input { player, key, sequence, direction }, 0)
            }
            LEAVE => (Self::Leave { player: reader.u8()?, key: reader.u64()? }, 0),
            STATUS => (Self::Status, STATUS_BYTES - 4),
            _ => return None,
        };
        reader.end(zeros)?;
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counters, MAX_BYTES, Refusal, ServerMessage};
    use proptest::prelude::*;

    pub fn message() -> impl Strategy<Value = ClientMessage> {
        let direction = (-1..=1i8, -1..=1i8).prop_map(|(dx, dy)| Direction::new(dx, dy).unwrap());
        prop_oneof![
            any::<u64>().prop_map(|nonce| ClientMessage::Join { nonce }),
            any::<(u64, u64)>().prop_map(|(nonce, token)| ClientMessage::Enter { nonce, token }),
            (any::<(u8, u64, u32)>(), direction).prop_map(|((player, key, sequence), direction)| {
                ClientMessage::Input { player, key, sequence, direction }
            }),
            any::<(u8, u64)>().prop_map(|(player, key)| ClientMessage::Leave { player, key }),
            Just(ClientMessage::Status),
        ]
    }

    #[test]
    fn strangers_get_no_more_bytes_than_they_send() {
        let length = |message: ServerMessage| message.encode().bytes().len();
        let join = ClientMessage::Join { nonce: 1 }.encode();
        let enter = ClientMessage::Enter { nonce: 1, token: 2 }.encode();
        assert!(length(ServerMessage::Challenge { nonce: 1, token: 2 }) <= join.bytes().len());
        assert!(length(ServerMessage::Welcome { nonce: 1, key: 2, tick: 3, player: 4 }) <= enter.bytes().len());
        assert!(length(ServerMessage::Refused { nonce: 1, reason: Refusal::Full }) <= enter.bytes().len());
        let status = ClientMessage::Status.encode();
        assert!(length(ServerMessage::Status(Counters::default())) <= status.bytes().len());
    }

    #[test]
    fn a_direction_is_one_of_nine() {
        for (dx, dy) in [(2, 0), (0, -2), (i8::MIN, i8::MAX)] {
            assert_eq!(Direction::new(dx, dy), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(message in message()) {
            prop_assert_eq!(ClientMessage::decode(message.encode().bytes()), Some(message));
        }

        #[test]
        fn one_byte_more_or_less_is_no_message(message in message()) {
            let datagram = message.encode();
            let bytes = datagram.bytes();
            prop_assert_eq!(ClientMessage::decode(&bytes[..bytes.len() - 1]), None);
            prop_assert_eq!(ClientMessage::decode(&[bytes, &[0]].concat()), None);
        }

        /// Any bytes, most of which begin as a message does: nothing panics, and what is decoded is what was sent.
        #[test]
        fn every_message_has_one_encoding(kind in 0..8u8, rest in proptest::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..200)) {
            let bytes = [&[b'A', b'R', crate::VERSION, kind], &rest[..]].concat();
            if let Some(message) = ClientMessage::decode(&bytes) {
                let datagram = message.encode();
                prop_assert_eq!(datagram.bytes(), &bytes[..]);
            }
            prop_assert_eq!(ClientMessage::decode(&rest), None);
            prop_assert!(MAX_BYTES >= 200);
        }
    }
}
