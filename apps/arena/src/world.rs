//! The game: players run over a square field, and whoever reaches the coin has it. Then it lies somewhere else.
//!
//! Pure: moves in, places out. Where coins come to lie is the caller's choice.

use arena_protocol::{Direction, MAX_PLAYERS, Place, Player, Players, SIDE};

/// How far a player gets in one tick, along each axis.
const STEP: u16 = 100;

/// How near the coin has to be, along each axis.
const REACH: u16 = 150;

/// A player on the field.
#[derive(Clone, Copy, Debug, Default)]
struct Runner {
    place: Place,
    score: u16,
    direction: Direction,
}

/// The field.
#[derive(Debug, Default)]
pub struct World {
    runners: [Option<Runner>; MAX_PLAYERS],
    coin: Place,
}

/// A place of the field, each as likely as the others to a few parts in a million.
fn any_place(random: u64) -> Place {
    let side = u64::from(SIDE) + 1;
    let coordinate = |bits: u64| u16::try_from((bits & 0xffff_ffff) % side).unwrap_or(SIDE);
    Place { x: coordinate(random), y: coordinate(random >> 32) }
}

/// A coordinate after one step, which ends at the border.
fn step(at: u16, direction: i8) -> u16 {
    match direction {
        1 => at.saturating_add(STEP).min(SIDE),
        -1 => at.saturating_sub(STEP),
        _ => at,
    }
}

impl World {
    /// A player comes, or comes again, and stands still.
    pub fn enter(&mut self, number: usize, random: u64) {
        if let Some(place) = self.runners.get_mut(number) {
            *place = Some(Runner { place: any_place(random), ..Runner::default() });
        }
    }

    /// A player goes.
    pub fn leave(&mut self, number: usize) {
        if let Some(place) = self.runners.get_mut(number) {
            *place = None;
        }
    }

    /// A player turns.
    pub fn turn(&mut self, number: usize, direction: Direction) {
        if let Some(Some(runner)) = self.runners.get_mut(number) {
            runner.direction = direction;
        }
    }

    /// All move, and who reaches the coin has it; of several, the one with the lowest number.
    pub fn tick(&mut self, random: impl FnOnce() -> u64) {
        for runner in self.runners.iter_mut().flatten() {
            runner.place.x = step(runner.place.x, runner.direction.dx());
            runner.place.y = step(runner.place.y, runner.direction.dy());
        }
        let coin = self.coin;
        let is_near = |place: Place| place.x.abs_diff(coin.x) <= REACH && place.y.abs_diff(coin.y) <= REACH;
        if let Some(first) = self.runners.iter_mut().flatten().find(|runner| is_near(runner.place)) {
            first.score = first.score.saturating_add(1);
            self.coin = any_place(random());
        }
    }

    /// Where the coin is.
    #[must_use]
    pub const fn coin(&self) -> Place {
        self.coin
    }

    /// All players.
    #[must_use]
    pub fn players(&self) -> Players {
        let mut players = Players::default();
        for (number, runner) in self.runners.iter().enumerate() {
            if let (Some(runner), Ok(number)) = (runner, u8::try_from(number)) {
                players.push(Player { number, score: runner.score, place: runner.place });
            }
        }
        players
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_player_that_reaches_the_coin_has_it_and_the_next_lies_elsewhere() {
        let mut world = World::default();
        world.enter(3, 500);
        let at = world.players().as_slice()[0].place;
        assert_eq!((at, world.coin()), (Place { x: 500, y: 0 }, Place::default()));
        world.turn(3, Direction::new(-1, 0).unwrap());
        for _ in 0..3 {
            world.tick(|| unreachable!("nobody is near it"));
        }
        world.tick(|| 7 << 32 | 9000);
        let player = world.players().as_slice()[0];
        assert_eq!((player.number, player.score, player.place.x), (3, 1, 100));
        assert_eq!(world.coin(), Place { x: 9000, y: 7 });
        world.leave(3);
        assert!(world.players().as_slice().is_empty());
    }

    proptest! {
        /// Whatever they do, players stay on the field, and every coin that is gone is somebody's.
        #[test]
        fn players_stay_on_the_field(
            randoms in proptest::collection::vec(any::<u64>(), 40),
            moves in proptest::collection::vec((0..40usize, -1..=1i8, -1..=1i8, 0..10u8), 0..400),
        ) {
            let mut world = World::default();
            let mut coins = 0u32;
            for (n, (number, dx, dy, what)) in moves.into_iter().enumerate() {
                let random = randoms[n % randoms.len()];
                match what {
                    0 => world.enter(number, random),
                    _ => world.turn(number, Direction::new(dx, dy).unwrap()),
                }
                let before: u32 = world.players().as_slice().iter().map(|player| u32::from(player.score)).sum();
                let mut moved = 0;
                world.tick(|| { moved += 1; random });
                let after: u32 = world.players().as_slice().iter().map(|player| u32::from(player.score)).sum();
                prop_assert_eq!(after - before, moved);
                coins += moved;
                prop_assert!(world.players().as_slice().iter().all(|player| player.place.x <= SIDE && player.place.y <= SIDE));
                prop_assert!(world.coin().x <= SIDE && world.coin().y <= SIDE);
            }
            prop_assert!(coins <= 400);
        }
    }
}
