//! Loaded images: pages that all VMs of an image share.

use alloc::string::String;
use alloc::vec::Vec;
use hal::{Mpn, NoMemory, Page, Pages, Ppn};
use virtual_isa::image::{Image, Rights, Run};

/// A run of pages in memory. The pages after the loaded ones start as zero.
#[derive(Debug)]
struct LoadedRun {
    run: Run,
    pages: Vec<Page>,
}

/// An image whose contents lie in machine pages. Its pages are never written and never freed.
#[derive(Debug)]
pub struct LoadedImage {
    /// Its name in the bundle.
    pub name: String,
    /// Address of the first instruction.
    pub entry: u64,
    /// First page after it.
    pub end_page: u32,
    runs: Vec<LoadedRun>,
}

/// What an image has at a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImagePage {
    /// Its contents; `None` means zero.
    pub mpn: Option<Mpn>,
    /// What a guest may do with it.
    pub rights: Rights,
}

impl LoadedImage {
    /// An image of which nothing is loaded yet.
    pub fn new(image: &Image<'_>, name: &str) -> Self {
        let runs = image.runs().map(|run| LoadedRun { run, pages: Vec::new() }).collect();
        Self { name: String::from(name), entry: image.entry(), end_page: image.end_page(), runs }
    }

    /// Loads up to `limit` more pages of the image this was made from. Returns whether all are there.
    ///
    /// # Errors
    /// If the machine has no page left; what is loaded stays, and the call can be repeated.
    pub fn load_more<P: Pages>(&mut self, image: &Image<'_>, limit: u32, hw: &mut P) -> Result<bool, NoMemory> {
        let mut left = limit;
        for loaded in &mut self.runs {
            while let Some(page) = next_page(loaded) {
                if left == 0 {
                    return Ok(false);
                }
                let Some(content) = image.content(&loaded.run, page) else { break };
                let machine_page = hw.allocate().ok_or(NoMemory)?;
                hw.write(machine_page.mpn(), 0, content);
                loaded.pages.push(machine_page);
                left = left.saturating_sub(1);
            }
        }
        Ok(true)
    }

    /// Pages it takes.
    pub fn nr_pages(&self) -> u32 {
        let pages = self.runs.iter().map(|run| run.pages.len()).sum::<usize>();
        u32::try_from(pages).unwrap_or(u32::MAX)
    }

    /// The pages it takes and where guests see them.
    pub fn pages(&self) -> impl Iterator<Item = (Ppn, Mpn)> {
        self.runs.iter().flat_map(|loaded| (loaded.run.first_page..).map(Ppn).zip(loaded.pages.iter().map(Page::mpn)))
    }

    /// Gives all pages back: for an image that could not be loaded whole.
    pub fn release<P: Pages>(self, hw: &mut P) {
        for page in self.runs.into_iter().flat_map(|run| run.pages) {
            hw.release(page);
        }
    }

    /// What the image has at a page, if it has that page at all.
    pub fn page(&self, ppn: Ppn) -> Option<ImagePage> {
        let loaded = self.runs.iter().find(|loaded| loaded.run.contains(ppn.0))?;
        let index = ppn.0.checked_sub(loaded.run.first_page)?;
        let mpn = loaded.pages.get(index as usize).map(Page::mpn);
        Some(ImagePage { mpn, rights: loaded.run.rights })
    }
}

fn next_page(loaded: &LoadedRun) -> Option<u32> {
    let done = u32::try_from(loaded.pages.len()).ok()?;
    (done < loaded.run.content_pages).then(|| loaded.run.first_page.saturating_add(done))
}
