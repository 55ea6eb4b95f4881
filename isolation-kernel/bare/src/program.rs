//! The program's pages: as the ISA lays out a VM's memory, but all there from the start.

use crate::plan::Only;
use alloc::vec::Vec;
use core::ops::Range;
use hal::{Mpn, NoMemory, Page, Pages, Ppn, Processor, Rights};
use machine::{Alone, Machine};
use virtual_isa::PAGE_SIZE;
use virtual_isa::image::{Image, Rights as ImageRights};
use virtual_isa::layout::{self, page_of};
use virtual_isa::register::{Features, RegisterPage};

/// The memory of the program, by the number of the page. There is none below the stack.
pub struct Memory(Vec<Option<Page>>);

/// Part of a range of addresses that lies in one page.
pub struct Piece {
    /// The page.
    pub page: Mpn,
    /// Offset in it.
    pub offset: usize,
    /// Which bytes of the range these are.
    pub bytes: Range<usize>,
}

impl Memory {
    /// Takes the pages, fills and maps them.
    ///
    /// # Errors
    /// If the machine has too few.
    pub fn load(machine: &mut Machine, alone: &mut Alone, only: &Only<'_>) -> Result<Self, NoMemory> {
        let mut pages = Vec::new();
        pages.try_reserve_exact(only.memory_pages as usize).map_err(|_| NoMemory)?;
        for number in 0..only.memory_pages {
            if u64::from(number) < page_of(layout::STACK_BOTTOM) {
                pages.push(None);
                continue;
            }
            let page = machine.allocate().ok_or(NoMemory)?;
            let (rights, content) = at(&only.image, number);
            if let Some(content) = content {
                machine.write(page.mpn(), 0, content);
            }
            alone.map(machine, Ppn(number), page.mpn(), rights)?;
            pages.push(Some(page));
        }
        let memory = Self(pages);
        let registers = register_page(machine, only).to_bytes();
        if let Some(page) = memory.at(layout::REGISTER_PAGE) {
            machine.write(page, 0, &registers);
        }
        Ok(memory)
    }

    /// The page at an address, if there is one.
    pub fn at(&self, address: u64) -> Option<Mpn> {
        let number = usize::try_from(page_of(address)).ok()?;
        self.0.get(number)?.as_ref().map(Page::mpn)
    }

    /// First address above it.
    pub const fn end(&self) -> u64 {
        (self.0.len() * PAGE_SIZE) as u64
    }

    /// The pages at consecutive addresses.
    pub fn pages_at<const N: usize>(&self, address: u64) -> Option<[Mpn; N]> {
        let mut pages = heapless::Vec::<Mpn, N>::new();
        for n in 0..N {
            pages.push(self.at(address + (n * PAGE_SIZE) as u64)?).ok()?;
        }
        pages.into_array().ok()
    }

    /// The pieces that a range of addresses is made of, one after the other; `None` for what is not the program's.
    pub fn pieces(&self, address: u64, length: usize) -> impl Iterator<Item = Option<Piece>> + '_ {
        let mut done = 0;
        core::iter::from_fn(move || {
            if done >= length {
                return None;
            }
            let Some(here) = address.checked_add(done as u64) else {
                done = length;
                return Some(None);
            };
            let offset = usize::try_from(here % PAGE_SIZE as u64).unwrap_or(0);
            let bytes = done..length.min(done + PAGE_SIZE - offset);
            done = bytes.end;
            Some(self.at(here).map(|page| Piece { page, offset, bytes }))
        })
    }
}

/// What the program may do with a page, and what is in it at first.
fn at<'i>(image: &Image<'i>, page: u32) -> (Rights, Option<&'i [u8]>) {
    if u64::from(page) == page_of(layout::REGISTER_PAGE) {
        return (Rights::Read, None);
    }
    let Some(run) = image.runs().find(|run| run.contains(page)) else { return (Rights::ReadWrite, None) };
    let rights = match run.rights {
        ImageRights::Read => Rights::Read,
        ImageRights::ReadWrite => Rights::ReadWrite,
        ImageRights::ReadExecute => Rights::ReadExecute,
    };
    (rights, image.content(&run, page))
}

fn register_page(machine: &Machine, only: &Only<'_>) -> RegisterPage {
    let mut features = Features::TSC;
    features.set(Features::AVX, machine.has_avx());
    let clock = machine.clock();
    RegisterPage {
        generation: 1,
        features: features.bits(),
        memory_pages: only.memory_pages,
        base_tsc: clock.base_tsc,
        base_ns: clock.base_ns,
        scale: clock.scale,
        epoch_ns: clock.epoch_ns,
        ..RegisterPage::new(&only.network, only.vm, only.arguments)
    }
}
