//! The entities that compete, and the tree that orders those of one queue.
//!
//! [`Nodes`] is a slab in chunks: entities have numbers that stay, and growing moves nothing. The trees are AVL trees
//! by virtual time; each node knows the earliest deadline below it, so that the earliest among the eligible is one
//! way down. No operation on a tree takes more than its depth, which is at most 1.44 log2 of what is in it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use hal::NoMemory;

/// No node.
pub(super) const NONE: u32 = u32::MAX;

/// Nodes in a chunk.
const CHUNK: usize = 128;

/// What an entity does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The place is free.
    Free,
    /// Does not compete.
    Asleep,
    /// Has been removed, and owes something.
    Gone,
    /// Competes and waits: it is in its queue's tree.
    Waiting,
    /// Competes and has the processor.
    Running,
}

/// An entity: a VM, or a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// Its virtual time: what it has received for its weight.
    pub time: i128,
    /// Virtual time by which its request is served in a fluid system.
    pub deadline: i128,
    /// The earliest deadline in the subtree of which this is the root.
    earliest: i128,
    pub weight: u32,
    /// Number of the VM or group.
    pub owner: u32,
    /// Number of the group a VM is in; [`NONE`] for a group.
    pub group: u32,
    left: u32,
    right: u32,
    height: u8,
    pub state: State,
}

impl Node {
    const NIL: Self = Self {
        time: 0,
        deadline: i128::MAX,
        earliest: i128::MAX,
        weight: 1,
        owner: NONE,
        group: NONE,
        left: NONE,
        right: NONE,
        height: 0,
        state: State::Free,
    };

    /// An entity that sleeps.
    pub const fn new(owner: u32, group: u32, weight: u32, time: i128) -> Self {
        Self { time, weight, owner, group, state: State::Asleep, ..Self::NIL }
    }
}

/// All entities.
#[derive(Debug)]
pub(super) struct Nodes {
    chunks: Vec<Box<[Node]>>,
    /// First free place; they are linked by `left`.
    free: u32,
    /// What stands at every number at which there is nothing.
    nil: Node,
    /// What is written at such a number goes here, and is never read.
    void: Node,
}

impl Nodes {
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE, nil: Node::NIL, void: Node::NIL }
    }

    /// Places there are.
    pub fn capacity(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    pub fn at(&self, id: u32) -> &Node {
        self.chunks.get(id as usize / CHUNK).and_then(|chunk| chunk.get(id as usize % CHUNK)).unwrap_or(&self.nil)
    }

    pub fn at_mut(&mut self, id: u32) -> &mut Node {
        match self.chunks.get_mut(id as usize / CHUNK).and_then(|chunk| chunk.get_mut(id as usize % CHUNK)) {
            Some(node) => node,
            None => &mut self.void,
        }
    }

    /// Makes room for one more chunk of entities.
    pub fn grow(&mut self) -> Result<(), NoMemory> {
        let first = u32::try_from(self.capacity()).map_err(|_| NoMemory)?;
        let last = u32::try_from(self.capacity() + CHUNK).map_err(|_| NoMemory)?;
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK).map_err(|_| NoMemory)?;
        self.chunks.try_reserve(1).map_err(|_| NoMemory)?;
        chunk.resize(CHUNK, Node::NIL);
        self.chunks.push(chunk.into_boxed_slice());
        for id in (first..last).rev() {
            self.link_free(id);
        }
        Ok(())
    }

    pub fn add(&mut self, node: Node) -> Result<u32, NoMemory> {
        if self.free == NONE {
            self.grow()?;
        }
        let id = self.free;
        self.free = self.at(id).left;
        *self.at_mut(id) = node;
        Ok(id)
    }

    pub fn release(&mut self, id: u32) {
        self.link_free(id);
    }

    fn link_free(&mut self, id: u32) {
        *self.at_mut(id) = Node { left: self.free, ..Node::NIL };
        self.free = id;
    }

    fn key(&self, id: u32) -> (i128, u32) {
        (self.at(id).time, id)
    }

    /// Brings a node's height and earliest deadline up to date.
    fn pull(&mut self, id: u32) {
        let node = self.at(id);
        let (left, right) = (self.at(node.left), self.at(node.right));
        let height = left.height.max(right.height).saturating_add(1);
        let earliest = node.deadline.min(left.earliest).min(right.earliest);
        let node = self.at_mut(id);
        (node.height, node.earliest) = (height, earliest);
    }

    fn rotate_right(&mut self, id: u32) -> u32 {
        let top = self.at(id).left;
        self.at_mut(id).left = self.at(top).right;
        self.at_mut(top).right = id;
        self.pull(id);
        self.pull(top);
        top
    }

    fn rotate_left(&mut self, id: u32) -> u32 {
        let top = self.at(id).right;
        self.at_mut(id).right = self.at(top).left;
        self.at_mut(top).left = id;
        self.pull(id);
        self.pull(top);
        top
    }

    /// Rebalances a tree whose subtrees are balanced and differ by at most two, and returns its root.
    fn balance(&mut self, id: u32) -> u32 {
        let (left, right) = (self.at(id).left, self.at(id).right);
        let height = |id: u32| self.at(id).height;
        if height(left) > height(right).saturating_add(1) {
            if height(self.at(left).right) > height(self.at(left).left) {
                self.at_mut(id).left = self.rotate_left(left);
            }
            return self.rotate_right(id);
        }
        if height(right) > height(left).saturating_add(1) {
            if height(self.at(right).left) > height(self.at(right).right) {
                self.at_mut(id).right = self.rotate_right(right);
            }
            return self.rotate_left(id);
        }
        self.pull(id);
        id
    }

    /// Puts an entity into a tree and returns the new root.
    pub fn insert(&mut self, root: u32, id: u32) -> u32 {
        if root == NONE {
            let node = self.at_mut(id);
            (node.left, node.right) = (NONE, NONE);
            self.pull(id);
            return id;
        }
        if self.key(id) < self.key(root) {
            self.at_mut(root).left = self.insert(self.at(root).left, id);
        } else {
            self.at_mut(root).right = self.insert(self.at(root).right, id);
        }
        self.balance(root)
    }

    /// Takes an entity out of a tree that it is in, and returns the new root.
    pub fn remove(&mut self, root: u32, id: u32) -> u32 {
        if root == NONE {
            return NONE;
        }
        let (left, right) = (self.at(root).left, self.at(root).right);
        if root == id {
            if right == NONE {
                return left;
            }
            let (rest, first) = self.take_first(right);
            let node = self.at_mut(first);
            (node.left, node.right) = (left, rest);
            return self.balance(first);
        }
        if self.key(id) < self.key(root) {
            self.at_mut(root).left = self.remove(left, id);
        } else {
            self.at_mut(root).right = self.remove(right, id);
        }
        self.balance(root)
    }

    /// Takes the first entity out of a tree; returns the new root and the entity.
    fn take_first(&mut self, root: u32) -> (u32, u32) {
        let left = self.at(root).left;
        if left == NONE {
            return (self.at(root).right, root);
        }
        let (rest, first) = self.take_first(left);
        self.at_mut(root).left = rest;
        (self.balance(root), first)
    }

    /// The entity with the earliest deadline among those whose time is not past `now`; if there is none such, the
    /// first one.
    pub fn earliest(&self, root: u32, now: i128) -> u32 {
        let (mut at, mut best, mut deadline, mut is_tree) = (root, NONE, i128::MAX, false);
        let mut first = NONE;
        while at != NONE {
            let node = self.at(at);
            if node.time > now {
                first = at;
                at = node.left;
                continue;
            }
            // All to the left of it is eligible too.
            if node.deadline < deadline || best == NONE {
                (best, deadline, is_tree) = (at, node.deadline, false);
            }
            let below = self.at(node.left).earliest;
            if below < deadline {
                (best, deadline, is_tree) = (node.left, below, true);
            }
            at = node.right;
        }
        while is_tree && best != NONE && self.at(best).deadline != deadline {
            let node = self.at(best);
            best = if self.at(node.left).earliest == deadline { node.left } else { node.right };
        }
        if best == NONE { first } else { best }
    }

    /// Whether every node of a tree is in order, balanced, and knows the earliest deadline below it.
    #[cfg(test)]
    pub fn is_sound(&self, root: u32) -> bool {
        if root == NONE {
            return true;
        }
        let node = self.at(root);
        let (left, right) = (self.at(node.left), self.at(node.right));
        let is_ordered = (node.left == NONE || self.key(node.left) < self.key(root))
            && (node.right == NONE || self.key(root) < self.key(node.right));
        is_ordered
            && left.height.abs_diff(right.height) <= 1
            && node.height == left.height.max(right.height) + 1
            && node.earliest == node.deadline.min(left.earliest).min(right.earliest)
            && self.is_sound(node.left)
            && self.is_sound(node.right)
    }
}
