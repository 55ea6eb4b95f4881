//! The heap of a VM under test on the host: the allocator of this crate's tests. What a test allocates [`inside`] comes
//! from such a heap, with the addresses that it would have in a VM; of everything that is live there is a record.

use super::{Heap, PAGE};
use alloc::string::String;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::{Cell, RefCell};
use core::fmt::Write;
use core::ptr;
use std::alloc::System;
use std::backtrace::Backtrace;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::thread_local;

/// What a page that was given back is filled with. Whoever still needs it sees that.
const SCRIBBLE: u8 = 0xa5;

/// The memory of a VM, as the host has it.
pub(crate) struct Vm {
    memory: *mut u8,
    bytes: usize,
    heap: Heap,
    /// What is live, by address.
    live: RefCell<BTreeMap<usize, Allocation>>,
    nr_allocations: Cell<u64>,
    nr_discarded: Cell<usize>,
    /// Whether it is noted who allocates: that takes much longer.
    traces: bool,
}

struct Allocation {
    size: usize,
    number: u64,
    trace: Option<Backtrace>,
}

thread_local! {
    static VM: Cell<*const Vm> = const { Cell::new(ptr::null()) };
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The allocator: a VM's for who is inside, the host's for all others.
struct Either;

#[global_allocator]
static EITHER: Either = Either;

// SAFETY: both keep the contract, and what is given back goes to where it came from.
unsafe impl GlobalAlloc for Either {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(vm) = current().filter(|_| IS_INSIDE.get() && !std::thread::panicking()) else {
            // SAFETY: as the caller promises; the same below.
            return unsafe { System.alloc(layout) };
        };
        // SAFETY: as above.
        let memory = unsafe { vm.heap.alloc(layout) };
        outside(|| vm.note(memory.addr(), layout.size()));
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        match current().filter(|vm| vm.has(memory)) {
            Some(vm) => {
                outside(|| vm.live.borrow_mut().remove(&memory.addr()));
                // SAFETY: as above.
                unsafe { vm.heap.dealloc(memory, layout) }
            }
            // SAFETY: as above.
            None => unsafe { System.dealloc(memory, layout) },
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        match current().filter(|vm| vm.has(memory)) {
            Some(vm) => {
                // SAFETY: as above.
                let moved = unsafe { vm.heap.realloc(memory, layout, new_size) };
                outside(|| {
                    vm.live.borrow_mut().remove(&memory.addr());
                    vm.note(moved.addr(), new_size);
                });
                moved
            }
            // SAFETY: as above.
            None => unsafe { System.realloc(memory, layout, new_size) },
        }
    }
}

fn current<'a>() -> Option<&'a Vm> {
    // SAFETY: it is null, or points to a VM that clears it when it goes.
    unsafe { VM.get().as_ref() }
}

/// Runs as the program of this thread's VM.
pub(crate) fn inside<R>(work: impl FnOnce() -> R) -> R {
    as_said(true, work)
}

/// Runs as the host does, in the midst of the program.
pub(crate) fn outside<R>(work: impl FnOnce() -> R) -> R {
    as_said(false, work)
}

fn as_said<R>(is_inside: bool, work: impl FnOnce() -> R) -> R {
    let before = IS_INSIDE.replace(is_inside);
    let result = work();
    IS_INSIDE.set(before);
    result
}

fn find() -> (*mut u8, *mut u8) {
    current().map_or((ptr::null_mut(), ptr::null_mut()), |vm| (vm.memory, vm.memory.wrapping_add(vm.bytes)))
}

fn discard(from: *mut u8, bytes: usize) {
    assert!(from.addr().is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE));
    // SAFETY: the pages are the heap's, which says that there is nothing in them.
    unsafe { from.write_bytes(SCRIBBLE, bytes) };
    if let Some(vm) = current() {
        vm.nr_discarded.set(vm.nr_discarded.get() + bytes / PAGE);
    }
}

impl Vm {
    /// Makes the VM of this thread. All that is allocated inside must be given back before it goes.
    pub fn new(pages: usize, traces: bool) -> Box<Self> {
        let layout = Self::layout(pages * PAGE);
        // SAFETY: the size is not zero.
        let memory = unsafe { System.alloc(layout) };
        assert!(!memory.is_null());
        // SAFETY: it is that long.
        unsafe { memory.write_bytes(SCRIBBLE, layout.size()) };
        let vm = Box::new(Self {
            memory,
            bytes: layout.size(),
            // SAFETY: the memory is this VM's, and both functions work on the VM of the thread that uses the heap.
            heap: unsafe { Heap::new(find, discard) },
            live: RefCell::default(),
            nr_allocations: Cell::new(0),
            nr_discarded: Cell::new(0),
            traces,
        });
        assert!(VM.replace(&raw const *vm).is_null(), "a thread has one VM");
        vm
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, PAGE).unwrap()
    }

    fn has(&self, memory: *mut u8) -> bool {
        (self.memory.addr()..self.memory.addr() + self.bytes).contains(&memory.addr())
    }

    fn note(&self, address: usize, size: usize) {
        let number = self.nr_allocations.get() + 1;
        self.nr_allocations.set(number);
        let trace = self.traces.then(Backtrace::force_capture);
        self.live.borrow_mut().insert(address, Allocation { size, number, trace });
    }

    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    /// Pages that hold anything.
    pub fn nr_touched(&self) -> usize {
        (0..self.bytes / PAGE).filter(|&page| self.is_touched(page)).count()
    }

    fn is_touched(&self, page: usize) -> bool {
        // SAFETY: the memory is that long, and every byte of it was written.
        let bytes = unsafe { core::slice::from_raw_parts(self.memory.add(page * PAGE), PAGE) };
        bytes.iter().any(|&b| b != SCRIBBLE)
    }

    /// Pages with anything live on them that is smaller than a page.
    pub fn nr_in_use(&self) -> usize {
        let live = self.live.borrow();
        let small = live.iter().filter(|(_, allocation)| allocation.size < PAGE);
        let pages = small.flat_map(|(&address, allocation)| address / PAGE..=(address + allocation.size - 1) / PAGE);
        pages.collect::<BTreeSet<_>>().len()
    }

    /// Pages that were given back, each as often as it was.
    pub fn nr_discarded(&self) -> usize {
        self.nr_discarded.get()
    }

    /// What is live: where, how much, how old, and, if it was noted, who made it.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (address, allocation) in self.live.borrow().iter() {
            let (page, size) = ((address - self.memory.addr()) / PAGE, allocation.size);
            let _ = write!(text, "page {page}: {size} bytes, allocation {}", allocation.number);
            if let Some(trace) = &allocation.trace {
                let trace = alloc::format!("{trace}");
                let ours = trace.lines().skip_while(|line| !line.contains("__rust_alloc"));
                let ours = ours.filter(|line| line.contains("libos::") || line.contains("alloc::"));
                for line in ours.take(12) {
                    let _ = write!(text, "\n    {}", line.trim());
                }
            }
            text.push('\n');
        }
        text
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        VM.set(ptr::null());
        // SAFETY: it was allocated so, and nobody else knows it.
        unsafe { System.dealloc(self.memory, Self::layout(self.bytes)) };
    }
}
