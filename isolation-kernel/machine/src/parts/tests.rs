//! Many cores at one disk, by random turns: nothing is lost or mixed up, and nobody starves.

use super::*;
use hal::{Mpn, Page, Transfer};
use proptest::prelude::*;
use std::vec::Vec;

/// A disk that ends its requests when it is told to, in any order.
#[derive(Default)]
struct Fake {
    under_way: Vec<(u32, u64, DiskRequest)>,
    ended: Vec<(u32, Completion)>,
    is_read_only: bool,
}

/// Blocks of the disk: a number that three cores do not divide.
const NR_BLOCKS: u64 = 1000;

impl Fake {
    fn in_use(&self) -> usize {
        let pages = self.under_way.iter().map(|(_, _, request)| request.pages.len());
        let ended = self.ended.iter().map(|(_, completion)| completion.pages.len());
        pages.chain(ended).map(|pages| pages + ENVELOPE_DESCRIPTORS).sum()
    }

    /// Ends one of the requests; its first page tells which block it was for.
    fn end(&mut self, n: usize) {
        if self.under_way.is_empty() {
            return;
        }
        let (owner, ticket, request) = self.under_way.remove(n % self.under_way.len());
        self.ended.push((owner, Completion { ticket, pages: request.pages, result: Ok(()) }));
    }
}

impl Driver for Fake {
    fn nr_blocks(&self) -> u64 {
        NR_BLOCKS
    }

    fn free_room(&self) -> usize {
        QUEUE_DESCRIPTORS - self.in_use()
    }

    fn submit(&mut self, owner: u32, ticket: u64, request: DiskRequest) -> Result<(), (DiskError, DiskRequest)> {
        if self.is_read_only && request.transfer == Transfer::Write {
            return Err((DiskError::Io, request));
        }
        if self.free_room() < request.pages.len() + ENVELOPE_DESCRIPTORS {
            return Err((DiskError::QueueFull, request));
        }
        assert!(request.block + request.pages.len() as u64 <= NR_BLOCKS);
        self.under_way.push((owner, ticket, request));
        Ok(())
    }

    fn complete(&mut self) -> Option<(u32, Completion)> {
        (!self.ended.is_empty()).then(|| self.ended.remove(0))
    }

    fn has_work(&mut self) -> bool {
        !self.ended.is_empty()
    }

    fn acknowledge(&mut self) {}
}

/// A request whose pages name its owner and ticket.
fn request(owner: u32, ticket: u32, block: u64, nr_pages: usize, transfer: Transfer) -> DiskRequest {
    let pages = (0..nr_pages).map(|_| Page::new(Mpn(owner << 24 | ticket))).collect();
    DiskRequest { transfer, block, pages }
}

fn is_of(completion: &Completion, owner: u32) -> bool {
    completion.pages.iter().all(|page| u64::from(page.mpn().0) == u64::from(owner) << 24 | completion.ticket)
}

/// All cores at a disk.
struct All {
    shared: SharedDisk<Fake>,
    parts: Vec<Part>,
    begun: Vec<u32>,
    ended: Vec<u32>,
    woken: Vec<u32>,
}

impl All {
    fn new(nr_cores: u32) -> Self {
        let (shared, parts) = SharedDisk::new(Fake::default(), nr_cores);
        let zeros = std::vec![0; nr_cores as usize];
        Self { shared, parts, begun: zeros.clone(), ended: zeros, woken: Vec::new() }
    }

    /// Whether the disk took the request of a core.
    fn submit(&mut self, core: u32, nr_pages: usize) -> bool {
        let ticket = self.begun[core as usize];
        let request = request(core, ticket, u64::from(ticket % 4), nr_pages, Transfer::Read);
        let outcome = match core {
            0 => self.shared.submit(u64::from(ticket), request),
            _ => self.parts[core as usize - 1].submit(u64::from(ticket), request),
        };
        match outcome {
            Ok(()) => self.begun[core as usize] += 1,
            Err((error, back)) => {
                assert_eq!(error, DiskError::QueueFull);
                assert_eq!((back.block, back.pages.len()), (u64::from(ticket % 4), nr_pages));
                assert!(self.begun[core as usize] > self.ended[core as usize], "refused with nothing under way");
                return false;
            }
        }
        true
    }

    /// Takes what has ended for a core.
    fn collect(&mut self, core: u32) {
        loop {
            let woken = &mut self.woken;
            let completion = match core {
                0 => self.shared.complete(|core| woken.push(core)),
                _ => self.parts[core as usize - 1].complete(),
            };
            let Some(completion) = completion else { return };
            assert!(completion.result.is_ok() && is_of(&completion, core));
            self.ended[core as usize] += 1;
        }
    }

    fn serve(&mut self) {
        let woken = &mut self.woken;
        self.shared.serve(|core| woken.push(core));
    }

    fn held_by(&self, core: u32) -> usize {
        let requests = self.shared.driver.under_way.iter().filter(|(owner, _, _)| *owner == core);
        requests.map(|(_, _, request)| room_for(request)).sum()
    }
}

proptest! {
    /// Every request ends once, with its own pages, on the core that made it; whoever is sent something is woken.
    #[test]
    fn all_requests_come_back(
        nr_cores in 1_u32..9,
        steps in proptest::collection::vec((0_u8..8, 0_u32..9, 1_usize..=MAX_TRANSFER_PAGES, any::<usize>()), 1..400),
    ) {
        let mut all = All::new(nr_cores);
        for (step, core, nr_pages, which) in steps {
            let core = core % nr_cores;
            match step {
                0..4 => { all.submit(core, nr_pages); }
                4 => all.shared.driver.end(which),
                5 => all.serve(),
                _ => all.collect(core),
            }
            prop_assert!(all.shared.driver.in_use() <= QUEUE_DESCRIPTORS);
            let own = all.held_by(0);
            prop_assert!(all.shared.own.len() <= 2 * MAX_REQUESTS);
            prop_assert!(own <= all.shared.in_use);
        }
        for _ in 0..(2 * MAX_REQUESTS + MAX_OPEN * nr_cores as usize) {
            all.serve();
            all.shared.driver.end(0);
            all.shared.driver.end(0);
        }
        all.serve();
        all.woken.sort_unstable();
        for core in 0..nr_cores {
            let is_due = core > 0 && all.parts[core as usize - 1].has_work();
            prop_assert!(!is_due || all.woken.binary_search(&core).is_ok());
            all.collect(core);
        }
        prop_assert_eq!(&all.begun, &all.ended);
        prop_assert!(all.shared.in_use == 0 && all.shared.links.iter().all(|link| link.in_use == 0));
        prop_assert!(!all.shared.has_work(|_| ()));
    }

    /// With all cores asking for as much as they can, each gets about the same.
    #[test]
    fn nobody_starves(nr_cores in 2_u32..9, nr_pages in 1_usize..=MAX_TRANSFER_PAGES, first in 0_u32..9) {
        let mut all = All::new(nr_cores);
        let first = first % nr_cores;
        // One has filled the queue before the others come.
        while all.submit(first, nr_pages) {
            all.serve();
        }
        let before = all.ended.clone();
        for _ in 0..2000 {
            for core in 0..nr_cores {
                while all.submit(core, nr_pages) {}
            }
            all.serve();
            all.shared.driver.end(0);
            for core in 0..nr_cores {
                all.collect(core);
            }
        }
        let gained: Vec<u32> = all.ended.iter().zip(before).map(|(now, before)| now - before).collect();
        let (least, most) = (gained.iter().min().unwrap(), gained.iter().max().unwrap());
        prop_assert!(least * 3 >= *most, "{:?}", gained);
    }
}

#[test]
fn all_cores_reach_all_of_the_disk_and_no_more() {
    let mut all = All::new(3);
    let part = NR_BLOCKS;
    assert!(all.shared.nr_blocks() == part && all.parts.iter().all(|p| p.nr_blocks() == part));
    for (block, nr_pages) in [(part, 1), (part - 1, 2), (u64::MAX, 2), (0, 0), (0, MAX_TRANSFER_PAGES + 1)] {
        let refused = all.shared.submit(0, request(0, 0, block, nr_pages, Transfer::Read));
        assert!(matches!(refused, Err((DiskError::OutOfRange, r)) if r.block == block && r.pages.len() == nr_pages));
        let refused = all.parts[1].submit(0, request(2, 0, block, nr_pages, Transfer::Read));
        assert!(matches!(refused, Err((DiskError::OutOfRange, r)) if r.block == block && r.pages.len() == nr_pages));
    }
    for core in [1_u32, 2] {
        assert!(all.parts[core as usize - 1].submit(7, request(core, 7, part - 1, 1, Transfer::Read)).is_ok());
        all.serve();
        assert_eq!(all.shared.driver.under_way.pop().unwrap().2.block, part - 1);
    }
}

#[test]
fn a_refusal_of_the_device_comes_back_as_an_error() {
    let mut all = All::new(2);
    all.shared.driver.is_read_only = true;
    assert!(all.parts[0].submit(3, request(1, 3, 0, 2, Transfer::Write)).is_ok());
    all.serve();
    let completion = all.parts[0].complete().unwrap();
    assert!(completion.result == Err(DiskError::Io) && completion.ticket == 3 && is_of(&completion, 1));
    assert_eq!(all.woken, [1]);
}
