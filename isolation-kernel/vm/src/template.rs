//! Templates: what VMs of one image and memory size have in common.
//!
//! The first time that one is asked for, a VM that nobody sees is run up to `ready()`: its pages, its registers
//! and its control page are the template, and are never written again. An image that does anything before
//! `ready()` that another VM or the world could notice, or that takes too long to come to it, has no such point:
//! its VMs boot plainly, each from the beginning.

use crate::console::{Level, log};
use crate::core::{After, Core};
use crate::cores::Message;
use crate::gate::PendingCreate;
use crate::images::LoadedImage;
use crate::lifecycle::{Birth, Identity};
use crate::map::Map;
use crate::memory::{Shared, shared_rights};
use crate::vm::Vm;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;
use hal::{Hardware, LEAF_PAGES, Leaf, Mpn, NoMemory, PAGE_SIZE, Page, Ppn, Registers, Rights, VectorState};
use virtual_isa::layout;

/// Number of a VM that is in no table.
pub const NOBODY: u32 = u32::MAX;

/// How long an image may run before `ready()`.
const MAX_EMBRYO_NS: u64 = 1_000_000_000;

/// Turns in which it may lack memory.
const MAX_STARVED: u32 = 10_000;

/// Pages an image may write before `ready()`.
const MAX_TEMPLATE_PAGES: usize = 4096;

/// Creations that wait for one template; more wait in the supervisor's ring.
pub const MAX_PENDING: usize = 64;

/// What VMs of an image and memory size start from. All cores have the same one.
pub struct Shape {
    /// Its image.
    pub image: u32,
    /// The VMs' memory.
    pub memory_pages: u32,
    /// Where they start.
    pub registers: Registers,
    /// With which vector registers.
    pub vector: VectorState,
    /// What the control page holds, without the zeros at its end.
    pub control: Box<[u8]>,
    /// Pages that were written before `ready()`. They are never written again, and never freed.
    pages: Map<Ppn, Page>,
}

/// A core's template: the shape, and tables of the core's own for it.
pub struct Template {
    shape: Arc<Shape>,
    /// Whether it is what it is going to be.
    is_born: bool,
    /// Tables for what it shows, by the number of their first page; none where there is nothing.
    leaves: Map<u32, Leaf>,
}

impl Deref for Template {
    type Target = Shape;

    fn deref(&self) -> &Shape {
        &self.shape
    }
}

impl Template {
    /// A template from which VMs boot plainly.
    pub fn plain(image: u32, entry: u64, memory_pages: u32) -> Self {
        let registers = Registers::at(entry, layout::STACK_TOP);
        let (vector, pages) = (VectorState::new(), Map::default());
        let shape = Shape { image, memory_pages, registers, vector, control: Box::default(), pages };
        Self { shape: Arc::new(shape), is_born: false, leaves: Map::default() }
    }

    /// The same, for good: nothing is run to make it.
    pub fn born(self) -> Self {
        Self { is_born: true, ..self }
    }

    /// The page it has there, if it has one of its own.
    pub fn page(&self, ppn: Ppn) -> Option<Mpn> {
        self.pages.get(&ppn).map(Page::mpn)
    }

    /// The shape, for another core.
    pub fn shape(&self) -> Arc<Shape> {
        Arc::clone(&self.shape)
    }

    /// Whether VMs can start from it.
    pub const fn is_born(&self) -> bool {
        self.is_born
    }

    /// Pages it has of its own, those of its tables included.
    pub fn nr_pages(&self) -> u32 {
        u32::try_from(self.pages.len().saturating_add(self.leaves.len())).unwrap_or(u32::MAX)
    }

    /// The table for a page and its neighbours, if it shows any of them.
    pub fn leaf(&self, ppn: Ppn) -> Option<&Leaf> {
        self.leaves.get(&(ppn.0 / LEAF_PAGES * LEAF_PAGES))
    }

    /// Makes the tables. Without memory for all of them there are fewer: they save time and are not needed.
    fn make_leaves<H: Hardware>(&mut self, hw: &mut H, image: &LoadedImage) {
        let shape = Arc::clone(&self.shape);
        let own = shape.pages.iter().map(|(&ppn, page)| (ppn, page.mpn()));
        let others = image.pages().filter(|(ppn, _)| !shape.pages.contains_key(ppn));
        for (ppn, mpn) in own.chain(others) {
            let rights = image.page(ppn).map_or(Rights::Read, |page| shared_rights(page.rights));
            let first = ppn.0 / LEAF_PAGES * LEAF_PAGES;
            if !self.leaves.contains_key(&first) {
                let Ok(leaf) = hw.create_leaf(ppn) else { continue };
                self.leaves.insert(first, leaf);
            }
            if let Some(leaf) = self.leaves.get_mut(&first) {
                hw.fill_leaf(leaf, ppn, mpn, rights);
            }
        }
    }
}

/// A VM on its way to becoming a template.
pub struct Embryo<H: Hardware> {
    template: u32,
    vm: Box<Vm<H>>,
    ran_ns: u64,
    /// Times it could not go on for want of memory.
    starved: u32,
    /// Creations that wait for it.
    pub waiting: Vec<PendingCreate>,
}

impl<H: Hardware> Embryo<H> {
    /// Which template it is to become.
    pub const fn template(&self) -> u32 {
        self.template
    }
}

impl<H: Hardware> Core<'_, H> {
    /// The template of an image and memory size, and whether it is still to be made.
    pub(crate) fn find_template(&mut self, image: u32, memory_pages: u32) -> Result<(u32, bool), NoMemory> {
        let is_it = |t: &Template| t.image == image && t.memory_pages == memory_pages;
        let known = self.templates.iter().position(is_it);
        let at = known.unwrap_or(self.templates.len());
        let index = u32::try_from(at).map_err(|_| NoMemory)?;
        if known.is_none() {
            let entry = self.images.get(image as usize).map_or(0, |image| image.entry);
            self.templates.push(Template::plain(image, entry, memory_pages));
        }
        if self.templates.get(at).is_some_and(|template| template.is_born) {
            return Ok((index, false));
        }
        if self.embryos.iter().any(|embryo| embryo.template == index) {
            return Ok((index, true));
        }
        let birth = Birth {
            number: NOBODY,
            template: index,
            memory_pages,
            minimum_pages: 0,
            shares: 1,
            class: 0,
            arguments: "",
            identity: Identity::Nobody,
        };
        let mut vm = self.create(&birth)?;
        self.endow(&mut vm)?;
        self.embryos.push_back(Embryo { template: index, vm, ran_ns: 0, starved: 0, waiting: Vec::new() });
        Ok((index, true))
    }

    /// Runs the first embryo for a while. Returns whether there is one.
    pub(crate) fn grow_template(&mut self) -> bool {
        let Some(mut embryo) = self.embryos.pop_front() else { return false };
        let before = self.hw.now();
        let after = self.run(&mut embryo.vm);
        self.bill_run_to_supervisor();
        embryo.ran_ns += self.hw.now().since(before);
        match after {
            After::Ready => self.become_template(&mut embryo),
            After::Starve if embryo.starved < MAX_STARVED => {
                embryo.starved += 1;
                self.embryos.push_back(embryo);
                return true;
            }
            After::Resume | After::Yield if embryo.ran_ns < MAX_EMBRYO_NS => {
                self.embryos.push_front(embryo);
                return true;
            }
            // Whoever waits is refused, and it is tried again when somebody asks again.
            After::Starve => {}
            _ => self.boot_plainly(&embryo),
        }
        if let Some(memory) = embryo.vm.memory.take() {
            self.bury(memory);
        }
        for pending in embryo.waiting {
            self.finish_create(&pending, after != After::Starve);
        }
        true
    }

    fn boot_plainly(&mut self, embryo: &Embryo<H>) {
        let Some(template) = self.templates.get_mut(embryo.template as usize) else { return };
        template.is_born = true;
        let Some(image) = self.images.get(template.image as usize) else { return };
        template.make_leaves(&mut self.hw, image);
        self.template_pages += u64::from(template.nr_pages());
        let name = image.name.as_str();
        let why = "does not begin with ready(): each of its VMs boots from the beginning";
        log(&mut self.hw, Level::Warn, format_args!("image {name} {why}"));
        let (index, shape) = (embryo.template, template.shape());
        self.tell_all(|| Message::Template { index, shape: Arc::clone(&shape) });
    }

    fn become_template(&mut self, embryo: &mut Embryo<H>) {
        let too_large = |vm: &Vm<H>| vm.memory.as_ref().is_none_or(|m| m.delta.nr_residents() > MAX_TEMPLATE_PAGES);
        if too_large(&embryo.vm) {
            return self.boot_plainly(embryo);
        }
        let Some(template) = self.templates.get_mut(embryo.template as usize) else { return };
        let Some(memory) = embryo.vm.memory.as_mut() else { return };
        memory.drop_space(&mut self.hw);
        let mut pages = Map::default();
        while let Some(resident) = memory.delta.pop_resident() {
            pages.insert(resident.ppn, resident.page);
        }
        let mut control = [0; PAGE_SIZE];
        self.hw.read(memory.fixed.control.mpn(), 0, &mut control);
        let length = control.iter().rposition(|&byte| byte != 0).map_or(0, |last| last.saturating_add(1));
        template.shape = Arc::new(Shape {
            image: template.image,
            memory_pages: template.memory_pages,
            registers: Registers { rax: 0, ..embryo.vm.registers },
            vector: embryo.vm.vector.take().map_or_else(VectorState::new, |vector| *vector),
            control: control.get(..length).unwrap_or_default().into(),
            pages,
        });
        template.is_born = true;
        if let Some(image) = self.images.get(template.image as usize) {
            template.make_leaves(&mut self.hw, image);
        }
        self.template_pages += u64::from(template.nr_pages());
        let (index, shape) = (embryo.template, template.shape());
        self.tell_all(|| Message::Template { index, shape: Arc::clone(&shape) });
    }

    /// A template has come from another core: its pages are there, and tables are made for them here.
    pub(crate) fn adopt_template(&mut self, index: u32, shape: Arc<Shape>) {
        let at = index as usize;
        while self.templates.len() <= at {
            // Templates come in the order in which they are done, not in that of their numbers.
            self.templates.push(Template::plain(shape.image, shape.registers.rip, shape.memory_pages));
        }
        let (Some(template), Some(image)) = (self.templates.get_mut(at), self.images.get(shape.image as usize)) else {
            return;
        };
        template.shape = shape;
        template.is_born = true;
        template.make_leaves(&mut self.hw, image);
        // The pages are counted where it was made.
        self.template_pages += template.leaves.len() as u64;
    }

    /// What a VM shares with others.
    pub(crate) fn shared(&self, template: u32) -> Option<Shared<'_>> {
        let template = self.templates.get(template as usize)?;
        let image = self.images.get(template.image as usize)?;
        Some(Shared { image, template, zero: self.zero.mpn() })
    }
}
