//! One player: pure, so that it is tested without a network or a clock. Times are nanoseconds of the run.

use super::record::Record;
use arena_protocol::{ClientMessage, Counters, Datagram, Direction, Place, Refusal, ServerMessage, Snapshot, TICK_MS};

/// Nanoseconds between two ticks, and between two inputs.
pub const TICK_NS: u64 = TICK_MS as u64 * 1_000_000;

/// Nanoseconds until what was not answered is said again.
const AGAIN_NS: u64 = 250_000_000;

/// Inputs whose time is remembered.
const REMEMBERED: usize = 64;

/// Times that a bot says goodbye, or asks for the counters, before it gives up.
const LAST_TRIES: u32 = 4;

/// What a bot is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It asks to join.
    Joining,
    /// It has a token.
    Entering {
        /// The token.
        token: u64,
    },
    /// It plays.
    Playing {
        /// Its number.
        player: u8,
        /// Its key.
        key: u64,
    },
    /// It says goodbye.
    Leaving {
        /// Its number.
        player: u8,
        /// Its key.
        key: u64,
        /// How often it may say so again.
        tries: u32,
    },
    /// It asks how the server was.
    Asking {
        /// How often it may ask again.
        tries: u32,
    },
    /// It has nothing more to say.
    Over,
}

/// A player that runs after the coin.
#[derive(Debug)]
pub struct Bot {
    nonce: u64,
    phase: Phase,
    next_ns: u64,
    sequence: u32,
    sent_ns: [u64; REMEMBERED],
    acknowledged: u32,
    direction: Direction,
    /// First and last tick seen, and when the last one came.
    ticks: Option<(u32, u32, u64)>,
    /// Whether it ever got in.
    pub has_played: bool,
    /// Why it was not let in, or was put out.
    pub refused: Option<Refusal>,
    /// It was told that it is there no more although it had not left.
    pub was_put_out: bool,
    /// Whether it is the one that asks for the counters, and what they were.
    pub asks: bool,
    /// What the server said of itself.
    pub counters: Option<Counters>,
}

/// Which way from here to there.
fn towards(from: Place, to: Place) -> Direction {
    let sign = |from: u16, to: u16| match from.cmp(&to) {
        std::cmp::Ordering::Less => 1,
        std::cmp::Ordering::Equal => 0,
        std::cmp::Ordering::Greater => -1,
    };
    Direction::new(sign(from.x, to.x), sign(from.y, to.y)).unwrap_or_default()
}

impl Bot {
    /// A bot that begins at a time. `asks`: it asks for the counters in the end.
    #[must_use]
    pub fn new(nonce: u64, begins_ns: u64, asks: bool) -> Self {
        Self {
            nonce,
            phase: Phase::Joining,
            next_ns: begins_ns,
            sequence: 0,
            sent_ns: [0; REMEMBERED],
            acknowledged: 0,
            direction: Direction::default(),
            ticks: None,
            has_played: false,
            refused: None,
            was_put_out: false,
            asks,
            counters: None,
        }
    }

    /// What it is at.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// When it next says something; `None` if never.
    #[must_use]
    pub const fn due_ns(&self) -> Option<u64> {
        if matches!(self.phase, Phase::Over) { None } else { Some(self.next_ns) }
    }

    /// What it says now, if it is time for that.
    pub fn speak(&mut self, now_ns: u64, record: &mut Record) -> Option<Datagram> {
        if self.due_ns().is_none_or(|due| due > now_ns) {
            return None;
        }
        let message = match self.phase {
            Phase::Joining => ClientMessage::Join { nonce: self.nonce },
            Phase::Entering { token } => ClientMessage::Enter { nonce: self.nonce, token },
            Phase::Playing { player, key } => {
                self.sequence += 1;
                self.sent_ns[self.sequence as usize % REMEMBERED] = now_ns;
                record.inputs += 1;
                // Inputs keep their distances, unless this program is late by more than one.
                self.next_ns = (self.next_ns + TICK_NS).max(now_ns);
                let (sequence, direction) = (self.sequence, self.direction);
                return Some(ClientMessage::Input { player, key, sequence, direction }.encode());
            }
            Phase::Leaving { tries: 0, .. } => {
                self.left();
                return None;
            }
            Phase::Leaving { player, key, tries } => {
                self.phase = Phase::Leaving { player, key, tries: tries - 1 };
                ClientMessage::Leave { player, key }
            }
            Phase::Asking { tries: 0 } => {
                self.phase = Phase::Over;
                return None;
            }
            Phase::Asking { tries } => {
                self.phase = Phase::Asking { tries: tries - 1 };
                ClientMessage::Status
            }
            Phase::Over => return None,
        };
        self.next_ns = now_ns + AGAIN_NS;
        Some(message.encode())
    }

    /// The run is over: it leaves, if it was in.
    pub fn stop(&mut self, now_ns: u64, record: &mut Record) {
        self.close(record);
        self.next_ns = now_ns;
        match self.phase {
            Phase::Playing { player, key } => self.phase = Phase::Leaving { player, key, tries: LAST_TRIES },
            _ => self.left(),
        }
    }

    /// What it has seen of ticks so far is one row: what comes later is another one.
    fn close(&mut self, record: &mut Record) {
        if let Some((first, last, _)) = self.ticks.take() {
            record.expected += u64::from(last.wrapping_sub(first)) + 1;
        }
    }

    fn left(&mut self) {
        self.phase = if self.asks { Phase::Asking { tries: LAST_TRIES } } else { Phase::Over };
    }

    /// Something came.
    pub fn hear(&mut self, bytes: &[u8], now_ns: u64, record: &mut Record) {
        let Some(message) = ServerMessage::decode(bytes) else {
            record.malformed += 1;
            return;
        };
        match (message, self.phase) {
            (ServerMessage::Challenge { nonce, token }, Phase::Joining) if nonce == self.nonce => {
                self.phase = Phase::Entering { token };
                self.next_ns = now_ns;
            }
            (ServerMessage::Welcome { nonce, key, player, .. }, Phase::Entering { .. }) if nonce == self.nonce => {
                self.phase = Phase::Playing { player, key };
                self.has_played = true;
                self.close(record);
                self.refused = None;
                self.next_ns = now_ns;
            }
            (ServerMessage::Refused { nonce, reason }, Phase::Entering { .. }) if nonce == self.nonce => {
                self.refused = Some(reason);
                // A token may just have become too old; a seat may become free.
                self.phase = Phase::Joining;
                self.next_ns = now_ns + AGAIN_NS;
            }
            (ServerMessage::Snapshot(snapshot), Phase::Playing { .. }) => self.see(&snapshot, now_ns, record),
            (ServerMessage::Gone(_), Phase::Playing { .. }) => {
                self.was_put_out = true;
                self.phase = Phase::Joining;
                self.next_ns = now_ns + AGAIN_NS;
            }
            (ServerMessage::Gone(_), Phase::Leaving { .. }) => {
                self.left();
                self.next_ns = now_ns;
            }
            (ServerMessage::Status(counters), Phase::Asking { .. }) => {
                self.counters = Some(counters);
                self.phase = Phase::Over;
            }
            // Late, or twice.
            _ => {}
        }
    }

    fn see(&mut self, snapshot: &Snapshot, now_ns: u64, record: &mut Record) {
        record.snapshots += 1;
        record.late.record(u64::from(snapshot.late_us) * 1000);
        match self.ticks {
            None => self.ticks = Some((snapshot.tick, snapshot.tick, now_ns)),
            Some((first, last, came_ns)) => {
                let ticks = snapshot.tick.wrapping_sub(last);
                if ticks == 0 || ticks > u32::MAX / 2 {
                    record.out_of_order += 1;
                    return;
                }
                let between = now_ns.saturating_sub(came_ns);
                record.between.record(between);
                record.jitter.record(between.abs_diff(u64::from(ticks).saturating_mul(TICK_NS)));
                self.ticks = Some((first, snapshot.tick, now_ns));
            }
        }
        let news = snapshot.acknowledged.wrapping_sub(self.acknowledged);
        let under_way = self.sequence.wrapping_sub(snapshot.acknowledged);
        if news > 0 && news < u32::MAX / 2 && (under_way as usize) < REMEMBERED {
            self.acknowledged = snapshot.acknowledged;
            record.response.record(now_ns.saturating_sub(self.sent_ns[snapshot.acknowledged as usize % REMEMBERED]));
        }
        if let Some(me) = snapshot.players.as_slice().iter().find(|player| player.number == snapshot.you) {
            self.direction = towards(me.place, snapshot.coin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arena_protocol::{Gone, Player, Players};

    const MS: u64 = 1_000_000;

    fn said(bot: &mut Bot, now_ns: u64, record: &mut Record) -> Option<ClientMessage> {
        ClientMessage::decode(bot.speak(now_ns, record)?.bytes())
    }

    fn hear(bot: &mut Bot, message: ServerMessage, now_ns: u64, record: &mut Record) {
        bot.hear(message.encode().bytes(), now_ns, record);
    }

    fn snapshot(tick: u32, acknowledged: u32) -> ServerMessage {
        let mut players = Players::default();
        assert!(players.push(Player { number: 3, score: 0, place: Place { x: 5, y: 5 } }));
        let coin = Place { x: 9, y: 5 };
        ServerMessage::Snapshot(Snapshot { tick, late_us: 7, acknowledged, coin, you: 3, players })
    }

    #[test]
    fn a_bot_joins_plays_measures_and_leaves() {
        let (mut bot, mut record) = (Bot::new(77, 10, true), Record::default());
        assert_eq!(said(&mut bot, 9, &mut record), None);
        assert_eq!(said(&mut bot, 10, &mut record), Some(ClientMessage::Join { nonce: 77 }));
        assert_eq!(said(&mut bot, 11, &mut record), None);
        assert_eq!(said(&mut bot, 10 + AGAIN_NS, &mut record), Some(ClientMessage::Join { nonce: 77 }), "again");
        hear(&mut bot, ServerMessage::Challenge { nonce: 78, token: 5 }, 20, &mut record);
        assert_eq!(bot.phase(), Phase::Joining, "another one's");
        hear(&mut bot, ServerMessage::Challenge { nonce: 77, token: 5 }, 20, &mut record);
        assert_eq!(said(&mut bot, 20, &mut record), Some(ClientMessage::Enter { nonce: 77, token: 5 }));
        hear(&mut bot, ServerMessage::Welcome { nonce: 77, key: 9, tick: 100, player: 3 }, 0, &mut record);
        let still = Direction::default();
        let input = |sequence, direction| Some(ClientMessage::Input { player: 3, key: 9, sequence, direction });
        assert_eq!(said(&mut bot, 0, &mut record), input(1, still));
        // Ticks 101, 102 (7 ms late), 104 (on time again), and 103, which was overtaken.
        for (tick, at_ms) in [(101, 50), (102, 107), (104, 200), (103, 201)] {
            hear(&mut bot, snapshot(tick, 1), at_ms * MS, &mut record);
        }
        assert_eq!(said(&mut bot, 201 * MS, &mut record), input(2, Direction::new(1, 0).unwrap()));
        assert_eq!((record.snapshots, record.out_of_order, record.inputs), (4, 1, 2));
        let near = |histogram: &hdrhistogram::Histogram<u64>, value: u64| histogram.equivalent(histogram.max(), value);
        assert_eq!((record.between.histogram().len(), record.response.histogram().len()), (2, 1));
        assert!(near(record.between.histogram(), 93 * MS) && near(record.response.histogram(), 50 * MS));
        assert!(near(record.jitter.histogram(), 7 * MS));
        bot.stop(300 * MS, &mut record);
        assert_eq!(record.expected, 4);
        assert_eq!(said(&mut bot, 300 * MS, &mut record), Some(ClientMessage::Leave { player: 3, key: 9 }));
        hear(&mut bot, ServerMessage::Gone(Gone::Left), 301 * MS, &mut record);
        assert_eq!(said(&mut bot, 301 * MS, &mut record), Some(ClientMessage::Status));
        hear(&mut bot, ServerMessage::Status(Counters::default()), 302 * MS, &mut record);
        assert_eq!((bot.due_ns(), bot.counters), (None, Some(Counters::default())));
    }

    #[test]
    fn who_is_refused_or_put_out_tries_again_and_who_gets_no_answer_ends() {
        let (mut bot, mut record) = (Bot::new(77, 0, false), Record::default());
        hear(&mut bot, ServerMessage::Challenge { nonce: 77, token: 5 }, 0, &mut record);
        hear(&mut bot, ServerMessage::Refused { nonce: 77, reason: Refusal::Full }, 0, &mut record);
        assert_eq!((bot.phase(), bot.refused, bot.has_played), (Phase::Joining, Some(Refusal::Full), false));
        hear(&mut bot, ServerMessage::Challenge { nonce: 77, token: 5 }, 0, &mut record);
        hear(&mut bot, ServerMessage::Welcome { nonce: 77, key: 9, tick: 100, player: 3 }, 0, &mut record);
        hear(&mut bot, ServerMessage::Gone(Gone::Silent), 0, &mut record);
        assert_eq!((bot.phase(), bot.has_played, bot.was_put_out), (Phase::Joining, true, true));
        bot.hear(b"AR", 0, &mut record);
        assert_eq!(record.malformed, 1);
        bot.stop(0, &mut record);
        assert_eq!((bot.due_ns(), record.expected), (None, 0));

        let mut bot = Bot::new(77, 0, true);
        bot.phase = Phase::Playing { player: 3, key: 9 };
        bot.stop(0, &mut record);
        let mut now_ns = 0;
        while let Some(due_ns) = bot.due_ns() {
            now_ns = due_ns;
            bot.speak(now_ns, &mut record);
        }
        assert_eq!(now_ns, 2 * u64::from(LAST_TRIES) * AGAIN_NS, "every time it has asked so often");
    }
}
