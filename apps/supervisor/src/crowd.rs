//! Asking the same of many VMs: as many requests at a time as the gate's ring takes, in the order of their numbers.

use crate::{Machine, Office};
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Range;
use libos::gate::{Answer, Error, Operation};

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

/// VMs that are still to be asked, and what is done with an answer.
struct Crowd<F> {
    left: VecDeque<Range<u32>>,
    note: F,
}

impl<F> Crowd<F> {
    fn next(&mut self) -> Option<u32> {
        loop {
            match self.left.front_mut()?.next() {
                Some(vm) => return Some(vm),
                None => self.left.pop_front(),
            };
        }
    }
}

/// Asks the kernel what `operation` says for every VM of these numbers, and has every answer noted as it comes.
pub async fn ask<M: Machine>(
    office: &Rc<Office<M>>,
    vms: impl IntoIterator<Item = Range<u32>>,
    operation: impl Fn(u32) -> Operation<'static> + Copy + 'static,
    note: impl FnMut(u32, Result<Answer, Error>) + 'static,
) {
    let left: VecDeque<_> = vms.into_iter().collect();
    let nr_vms = left.iter().map(|range| range.end.saturating_sub(range.start)).sum::<u32>();
    let crowd = Rc::new(RefCell::new(Crowd { left, note }));
    let workers: Vec<_> = (0..IN_FLIGHT.min(nr_vms))
        .map(|_| {
            let (office, crowd) = (office.clone(), crowd.clone());
            libos::task::spawn(async move {
                loop {
                    let next = crowd.borrow_mut().next();
                    let Some(vm) = next else { return };
                    let answer = office.machine.call(operation(vm)).await;
                    (crowd.borrow_mut().note)(vm, answer);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await;
    }
}

/// Has the kernel do what `operation` says to every VM of these numbers.
pub async fn each<M: Machine>(
    office: &Rc<Office<M>>,
    vms: impl IntoIterator<Item = Range<u32>>,
    operation: impl Fn(u32) -> Operation<'static> + Copy + 'static,
) -> Tally {
    let tally = Rc::new(Cell::new(Tally::default()));
    let kept = tally.clone();
    let note = move |_, answer: Result<Answer, Error>| {
        let Tally { done, refused, why } = kept.get();
        kept.set(match answer {
            Ok(_) => Tally { done: done + 1, refused, why },
            Err(e) => Tally { done, refused: refused + 1, why: Some(e) },
        });
    };
    ask(office, vms, operation, note).await;
    tally.get()
}

/// Stops and destroys every VM of these numbers. Those that are not there are refused, as is right.
pub async fn clear<M: Machine>(office: &Rc<Office<M>>, vms: Range<u32>) {
    each(office, [vms.clone()], |vm| Operation::Stop { vm }).await;
    each(office, [vms], |vm| Operation::Destroy { vm }).await;
}
