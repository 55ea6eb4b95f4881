//! The pages of a VM at fixed addresses: register page, control page, rings.

use hal::{Hardware, Mpn, NoMemory, Page, Ppn, Rights};
use virtual_isa::layout;

/// The pages at fixed addresses. All but the control page, which the kernel uses itself, are there from their first
/// use on.
#[derive(Debug)]
pub struct FixedPages {
    /// The register page.
    pub register: Option<Page>,
    /// The control page.
    pub control: Page,
    /// The transmit ring.
    pub transmit: Option<Page>,
    /// The receive ring.
    pub receive: Option<[Page; 2]>,
    /// The gate's rings, of a VM with the privilege bit.
    pub gate: Option<GatePages>,
}

/// The pages of the supervisor gate.
#[derive(Debug)]
pub struct GatePages {
    /// The request ring.
    pub request: Page,
    /// The completion ring.
    pub completion: [Page; 2],
}

/// Takes `N` pages, or none.
pub fn allocate_some<H: Hardware, const N: usize>(hw: &mut H) -> Result<[Page; N], NoMemory> {
    let mut pages = heapless::Vec::<Page, N>::new();
    while !pages.is_full() {
        let Some(page) = hw.allocate() else { break };
        if let Err(page) = pages.push(page) {
            hw.release(page);
        }
    }
    pages.into_array().map_err(|pages| {
        pages.into_iter().for_each(|page| hw.release(page));
        NoMemory
    })
}

impl FixedPages {
    /// Those that a VM starts with.
    ///
    /// # Errors
    /// If the machine has too few pages left; then none is kept.
    pub fn allocate<H: Hardware>(hw: &mut H, privileged: bool) -> Result<Self, NoMemory> {
        let (control, gate) = if privileged {
            let [control, request, one, two] = allocate_some(hw)?;
            (control, Some(GatePages { request, completion: [one, two] }))
        } else {
            let [control] = allocate_some(hw)?;
            (control, None)
        };
        Ok(Self { register: None, control, transmit: None, receive: None, gate })
    }

    /// Makes sure that the receive ring is there.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn need_receive<H: Hardware>(&mut self, hw: &mut H) -> Result<(), NoMemory> {
        if self.receive.is_none() {
            self.receive = Some(allocate_some(hw)?);
        }
        Ok(())
    }

    /// Gives them back.
    pub fn release<H: Hardware>(self, hw: &mut H) {
        let gate = self.gate.map(|gate| (gate.request, gate.completion));
        let (request, completion) =
            gate.map_or((None, None), |(request, completion)| (Some(request), Some(completion)));
        let pairs = [self.receive, completion].into_iter().flatten().flatten();
        let single = [self.register, Some(self.control), self.transmit, request].into_iter().flatten();
        single.chain(pairs).for_each(|page| hw.release(page));
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        let there = |there: bool, pages: u32| if there { pages } else { 0 };
        1u32.saturating_add(there(self.register.is_some(), 1))
            .saturating_add(there(self.transmit.is_some(), 1))
            .saturating_add(there(self.receive.is_some(), 2))
            .saturating_add(there(self.gate.is_some(), 3))
    }

    /// What is at the page of a fixed address.
    pub fn at(&self, ppn: Ppn) -> Option<Fixed> {
        let number = |address: u64, index: u32| page_number(address).saturating_add(index);
        let page = |page: Option<&Page>, rights| page.map_or(Fixed::Absent, |page| Fixed::There(page.mpn(), rights));
        let write = Rights::ReadWrite;
        let nth = |pages: &Option<[Page; 2]>, n: usize| page(pages.as_ref().and_then(|pages| pages.get(n)), write);
        let gate = |of: fn(&GatePages) -> &Page| self.gate.as_ref().map(|gate| page(Some(of(gate)), write));
        match ppn.0 {
            n if n == number(layout::REGISTER_PAGE, 0) => Some(page(self.register.as_ref(), Rights::Read)),
            n if n == number(layout::CONTROL_PAGE, 0) => Some(page(Some(&self.control), write)),
            n if n == number(layout::TRANSMIT_RING, 0) => Some(page(self.transmit.as_ref(), write)),
            n if n == number(layout::RECEIVE_RING, 0) => Some(nth(&self.receive, 0)),
            n if n == number(layout::RECEIVE_RING, 1) => Some(nth(&self.receive, 1)),
            n if n == number(layout::REQUEST_RING, 0) => gate(|gate| &gate.request),
            n if n == number(layout::COMPLETION_RING, 0) => gate(|GatePages { completion: [one, _], .. }| one),
            n if n == number(layout::COMPLETION_RING, 1) => gate(|GatePages { completion: [_, two], .. }| two),
            _ => None,
        }
    }
}

/// A page at a fixed address.
pub enum Fixed {
    /// It is there.
    There(Mpn, Rights),
    /// It comes with its first use.
    Absent,
}

/// Number of the page at an address of the layout, all of which are small.
pub const fn page_number(address: u64) -> u32 {
    let page = layout::page_of(address);
    assert!(page <= u32::MAX as u64);
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    {
        page as u32
    }
}

/// First page of a fixed address.
pub const FIRST_FIXED: u32 = page_number(layout::REGISTER_PAGE);
/// First page after those.
pub const END_FIXED: u32 = page_number(layout::COMPLETION_RING) + layout::COMPLETION_RING_BYTES / 4096;
