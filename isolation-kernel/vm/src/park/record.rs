//! The record of a parked VM: its form, and how its pages are written and read.

use crate::contexts::{context_of, registers_of};
use crate::pack::{Packer, Span, Squeezed, Writer};
use crate::swap::Stored;
use crate::tlb::Entered;
use alloc::string::String;
use alloc::vec::Vec;
use hal::{Hardware, Nanos, NoMemory, PAGE_SIZE, Page};
use serde::{Deserialize, Serialize};
use virtual_isa::context::{CONTEXT_WORDS, Context};
use virtual_isa::tlb::Right;

/// Version of the record's encoding.
pub(super) const VERSION: u8 = 2;

/// The contents of a page.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Body {
    Filled(u64),
    Bare,
    At { at: u16, length: u16 },
}

/// All that makes a VM besides its pages.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub version: u8,
    pub vm: u32,
    pub registers: [u64; CONTEXT_WORDS],
    pub vector: Option<Body>,
    pub indices: [u32; 5],
    pub arguments: String,
    pub control: Body,
    pub receive: Option<[Body; 2]>,
    /// Pages that are in this head.
    pub head: Vec<(u32, Body)>,
    /// Pages that are in other packs, by the packs' place in `packs`.
    pub cold: Vec<(u32, u32, u16, u16)>,
    pub packs: Vec<ColdPack>,
    /// The context that it is in. Its TLB is empty when it wakes.
    pub entered: Option<EnteredRecord>,
}

/// A context that a VM is in.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EnteredRecord {
    asid: u16,
    is_kernel: bool,
    deadline: u64,
    own: [u64; CONTEXT_WORDS],
}

impl EnteredRecord {
    pub fn of(entered: &Entered) -> Self {
        let &Entered { asid, right, deadline: Nanos(deadline), ref own } = entered;
        Self { asid, is_kernel: right == Right::Kernel, deadline, own: context_of(own).to_words() }
    }

    pub const fn entered(&self) -> Entered {
        let right = if self.is_kernel { Right::Kernel } else { Right::User };
        Entered {
            asid: self.asid,
            right,
            deadline: Nanos(self.deadline),
            own: registers_of(&Context::from_words(self.own)),
        }
    }
}

/// A pack besides the head.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ColdPack {
    pub number: u32,
    pub epoch: u64,
    pub live: u32,
    /// Where on disk; a pack that was not there is kept with the stub.
    pub stored: Option<Stored>,
}

/// Compresses a page into a pack that is being written.
pub(super) fn write_page<H: Hardware>(
    hw: &mut H,
    packer: &mut Packer,
    writer: &mut Writer,
    page: &Page,
) -> Result<Body, NoMemory> {
    Ok(match packer.squeeze(hw, page.mpn()) {
        Squeezed::Filled(word) => Body::Filled(word),
        Squeezed::Bytes(bytes) => {
            let Span { at, length } = writer.push(hw, bytes)?;
            Body::At { at, length }
        }
    })
}

/// Fills a page as a record says. False if what it names is no page.
pub(super) fn read_page<H: Hardware>(hw: &mut H, packer: &mut Packer, head: &[Page], body: Body, page: &Page) -> bool {
    match body {
        Body::Filled(0) | Body::Bare => true,
        Body::Filled(word) => {
            hw.write(page.mpn(), 0, [word.to_le_bytes(); PAGE_SIZE / 8].as_flattened());
            true
        }
        Body::At { at, length } => packer.unpack(hw, head, Span { at, length }, page.mpn()),
    }
}
