//! Copies in memory of what is on the swap disk anyway.

use super::{Handle, Place};
use crate::core::Core;
use hal::Hardware;

/// Packs read back ahead of use that are remembered.
const MAX_CACHED: usize = 1024;

impl<H: Hardware> Core<'_, H> {
    /// Remembers that a pack's copy in memory can be dropped, and drops the oldest if too many are remembered.
    pub(crate) fn note_cached(&mut self, handle: Handle) {
        self.swap.cached.push_back(handle);
        if self.swap.cached.len() > MAX_CACHED {
            self.drop_cached();
        }
    }

    /// Drops the oldest copy of what is on disk anyway. False if there is none.
    pub(crate) fn drop_cached(&mut self) -> bool {
        for _ in 0..self.swap.cached.len() {
            let Some(handle) = self.swap.cached.pop_front() else { break };
            if self.vms.get(handle.vm).is_some_and(|vm| vm.awaited.is_some() && vm.awaited == handle.pack) {
                // Its VM would only have it read once more.
                self.swap.cached.push_back(handle);
                continue;
            }
            let Some(pack) = self.pack(handle) else { continue };
            if !matches!(pack.disk, Place::Stored(_)) || pack.pages.is_empty() {
                continue;
            }
            let pages = core::mem::take(&mut pack.pages);
            self.swap.release_pages(&mut self.hw, pages);
            return true;
        }
        false
    }
}
