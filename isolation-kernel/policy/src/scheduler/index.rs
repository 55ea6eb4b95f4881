//! Which VM is which entity: made when a VM first comes, dropped when it sleeps and has nothing to remember.

use super::heap::is_before;
use super::nodes::{NONE, Node, State};
use super::queue::scaled;
use super::{Claim, EnqueueError, INDEX_CHUNK, Scheduler, members, members_of};
use alloc::vec::Vec;
use hal::NoMemory;

impl Scheduler {
    /// The entity of a VM, which is made if there is none.
    pub(super) fn entity(&mut self, vm: u32, claim: &Claim) -> Result<u32, EnqueueError> {
        let group = claim.group.0;
        let known = self.entity_of(vm);
        let now = members_of(&self.groups, group).ok_or(EnqueueError::NoGroup)?.now();
        let node = self.nodes.at_mut(known);
        if node.group == group && known != NONE {
            if node.state == State::Gone && is_before(node.time, now) {
                node.time = now;
            }
            return Ok(known);
        }
        if known != NONE {
            self.forget(vm, known);
        }
        let place = *self.index_place(vm)?;
        debug_assert_eq!(place, NONE);
        let shares = claim.terms.shares.max(1);
        members(&mut self.groups, group).ok_or(EnqueueError::NoGroup)?.queue.admit()?;
        let node = self.nodes.add(Node::new(vm, group, shares, now));
        if node.is_err() {
            self.retire(group);
        }
        *self.index_place(vm)? = node?;
        Ok(node?)
    }

    /// Drops an entity.
    pub(super) fn forget(&mut self, vm: u32, node: u32) {
        self.sleep(vm);
        self.stop_paying(node);
        self.retire(self.nodes.at(node).group);
        self.nodes.release(node);
        if let Ok(place) = self.index_place(vm) {
            *place = NONE;
        }
    }

    /// A group has one entity less.
    fn retire(&mut self, group: u32) {
        if let Some(members) = members(&mut self.groups, group) {
            members.queue.forget();
        }
    }

    /// Looks at one entity, and drops it if it sleeps and has nothing to remember. So nobody's time is ever so far
    /// behind that it would seem to be ahead.
    pub(super) fn drop_forgotten(&mut self) {
        self.hand = if (self.hand as usize) < self.nodes.capacity() { self.hand + 1 } else { 0 };
        let node = self.nodes.at(self.hand);
        if !matches!(node.state, State::Asleep | State::Gone) {
            return;
        }
        let Some(queue) = members_of(&self.groups, node.group) else { return };
        let owed = scaled(node.owed_ns, node.weight);
        let is_paid = !is_before(queue.now(), node.time.wrapping_add(owed));
        if is_paid && node.bounds.is_settled(self.now) {
            self.forget(node.owner, self.hand);
        }
    }

    /// The entity of a VM, most often the one that runs.
    #[inline(always)]
    pub(super) fn entity_of(&self, vm: u32) -> u32 {
        match self.running {
            Some(running) if running.vm == vm => running.node,
            _ => self.node_of(vm),
        }
    }

    #[inline(always)]
    pub(super) fn node_of(&self, vm: u32) -> u32 {
        let chunk = self.index.get(vm as usize / INDEX_CHUNK).and_then(Option::as_ref);
        chunk.and_then(|chunk| chunk.get(vm as usize % INDEX_CHUNK)).copied().unwrap_or(NONE)
    }

    /// Where a VM's entity is noted.
    pub(super) fn index_place(&mut self, vm: u32) -> Result<&mut u32, NoMemory> {
        let at = vm as usize / INDEX_CHUNK;
        if at >= self.index.len() {
            self.index.try_reserve(at - self.index.len() + 1).map_err(|_| NoMemory)?;
            self.index.resize_with(at + 1, || None);
        }
        let chunk = self.index.get_mut(at).ok_or(NoMemory)?;
        if chunk.is_none() {
            let mut places = Vec::new();
            places.try_reserve_exact(INDEX_CHUNK).map_err(|_| NoMemory)?;
            places.resize(INDEX_CHUNK, NONE);
            *chunk = Some(places.into_boxed_slice().try_into().map_err(|_| NoMemory)?);
        }
        chunk.as_mut().and_then(|chunk| chunk.get_mut(vm as usize % INDEX_CHUNK)).ok_or(NoMemory)
    }
}
