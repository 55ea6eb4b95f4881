//! Asking the same of many VMs: as many requests at a time as the gate's ring takes, in the order of their numbers.

use crate::{Machine, Office};
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;
use libos::gate::{Error, Operation};

/// Requests that are under way at a time: about what the request ring holds, so that one trap serves it full. Each
/// costs a task of a few hundred bytes, however many VMs there are.
pub const IN_FLIGHT: u32 = 128;

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Operations that were done.
    pub done: u32,
    /// Operations that were refused.
    pub refused: u32,
    /// Why the last of these was.
    pub why: Option<Error>,
}

struct Crowd {
    left: VecDeque<Range<u32>>,
    tally: Tally,
}

impl Crowd {
    fn next(&mut self) -> Option<u32> {
        loop {
            match self.left.front_mut()?.next() {
                Some(vm) => return Some(vm),
                None => self.left.pop_front(),
            };
        }
    }
}

/// Has the kernel do what `operation` says to every VM of these numbers.
pub async fn each<M: Machine>(
    office: &Rc<Office<M>>,
    vms: impl IntoIterator<Item = Range<u32>>,
    operation: impl Fn(u32) -> Operation<'static> + Copy + 'static,
) -> Tally {
    let left: VecDeque<_> = vms.into_iter().collect();
    let nr_vms = left.iter().map(|range| range.end.saturating_sub(range.start)).sum::<u32>();
    let crowd = Rc::new(RefCell::new(Crowd { left, tally: Tally::default() }));
    let work = |office: Rc<Office<M>>, crowd: Rc<RefCell<Crowd>>| async move {
        loop {
            let next = crowd.borrow_mut().next();
            let Some(vm) = next else { return };
            let result = office.machine.call(operation(vm)).await;
            let tally = &mut crowd.borrow_mut().tally;
            match result {
                Ok(_) => tally.done += 1,
                Err(e) => {
                    tally.refused += 1;
                    tally.why = Some(e);
                }
            }
        }
    };
    let workers: Vec<_> =
        (0..IN_FLIGHT.min(nr_vms)).map(|_| libos::task::spawn(work(office.clone(), crowd.clone()))).collect();
    for worker in workers {
        worker.await;
    }
    crowd.borrow().tally
}
