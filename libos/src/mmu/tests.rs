//! Address spaces over the fake processor, which checks that no page goes while an entry maps it.

use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::vec::Vec;
use virtual_isa::context;

const RO: Rights = Rights::READ.union(Rights::USER);
const RW: Rights = RO.union(Rights::WRITE);
const RX: Rights = RO.union(Rights::EXECUTE);

#[repr(align(4096))]
struct Image([u8; 3 * PAGE_SIZE]);

static IMAGE: Image = Image([0x90; 3 * PAGE_SIZE]);

fn space(pool: &Pool, limit: usize) -> AddressSpace {
    AddressSpace::new(&Mmu::new().expect("a test has one of these"), pool, limit)
}

/// What one access of a context ends in: the byte there, or the exit. `Some` byte is written.
fn access(space: &mut AddressSpace, right: Right, address: u64, write: Option<u8>) -> Result<u8, Exit> {
    let result = Rc::new(Cell::new(0));
    let seen = result.clone();
    fake::set_program(move |processor, _| {
        let done = match write {
            Some(byte) => processor.write(address, byte).map(|()| byte),
            None => processor.read(address),
        };
        done.map_or_else(
            |exit| exit,
            |byte| {
                seen.set(byte);
                context::Exit::Instruction
            },
        )
    });
    let mut thread = Thread::new(0x1000, 0);
    let exit = match right {
        Right::User => space.enter(&mut thread, u64::MAX),
        // SAFETY: the fake processor performs no virtual instructions.
        Right::Kernel => unsafe { space.enter_privileged(&mut thread, u64::MAX) },
    };
    match exit.unwrap() {
        Exit::Instruction => Ok(result.get()),
        exit => Err(exit),
    }
}

fn read(space: &mut AddressSpace, address: u64) -> Result<u8, Exit> {
    access(space, Right::User, address, None)
}

fn fault(address: u64, access: Access, cause: FaultCause) -> Exit {
    Exit::Fault(Fault { address, access, cause })
}

struct Number;

impl Fill for Number {
    fn fill(&self, page: u64, bytes: &mut [u8; PAGE_SIZE]) -> Result<(), NotFilled> {
        bytes.fill(u8::try_from(page).map_err(|_| NotFilled)?);
        Ok(())
    }
}

#[test]
fn a_context_sees_what_was_mapped_and_nothing_else() {
    let pool = Pool::new(100);
    let mut space = space(&pool, 100);
    space.map(1..3, RW, Backing::Zero).unwrap();
    space.map(3..4, RO, Backing::Filled(Rc::new(Number))).unwrap();
    space.map(4..6, RX, Backing::Image(&IMAGE.0)).unwrap();
    space.map(300..301, RO, Backing::Filled(Rc::new(Number))).unwrap();
    space.map(7..8, RW.difference(Rights::USER), Backing::Zero).unwrap();
    let bytes = [0x1000, 0x2fff, 0x3123, 0x4000, 0x5fff].map(|address| read(&mut space, address).unwrap());
    assert_eq!(bytes, [0, 0, 3, 0x90, 0x90]);
    assert_eq!(space.usage().own_pages, 3, "pages of the image are nobody's");
    assert_eq!(access(&mut space, Right::User, 0x2000, Some(9)), Ok(9));
    fake::lose_entries();
    assert_eq!(read(&mut space, 0x2000), Ok(9), "what is lost is loaded again");

    for address in [0, 0x6000, 0x8000, u64::MAX, 1 << 44] {
        assert_eq!(read(&mut space, address), Err(fault(address, Access::Read, FaultCause::Unmapped)));
    }
    for address in [0x3000, 0x4000] {
        let exit = access(&mut space, Right::User, address, Some(1));
        assert_eq!(exit, Err(fault(address, Access::Write, FaultCause::Protection)));
    }
    assert_eq!(read(&mut space, 0x7000), Err(fault(0x7000, Access::Read, FaultCause::Protection)));
    assert_eq!(access(&mut space, Right::Kernel, 0x7000, Some(5)), Ok(5));
    assert_eq!(read(&mut space, 0x7000), Err(fault(0x7000, Access::Read, FaultCause::Protection)), "loaded or not");
    assert_eq!(read(&mut space, 300 * 4096), Err(fault(300 * 4096, Access::Read, FaultCause::NotFilled)));
}

#[test]
fn memory_is_limited_by_space_and_by_pool() {
    let (mmu, pool) = (Mmu::new().unwrap(), Pool::new(5));
    let mut one = AddressSpace::new(&mmu, &pool, 3);
    one.map(1..100, RW, Backing::Zero).unwrap();
    for page in 1..4 {
        assert_eq!(read(&mut one, page * 4096), Ok(0));
    }
    assert_eq!(read(&mut one, 4 * 4096), Err(fault(4 * 4096, Access::Read, FaultCause::Limit)));
    assert_eq!(read(&mut one, 4096), Ok(0), "what it has it keeps");
    let shared = SharedMemory::try_new(&pool, 1).unwrap();
    assert_eq!(one.map(200..201, RW, Backing::Shared(shared)), Err(MapError::OverLimit));

    let mut two = AddressSpace::new(&mmu, &pool, 3);
    two.map(1..100, RW, Backing::Zero).unwrap();
    assert_eq!((read(&mut two, 4096), read(&mut two, 8192)), (Ok(0), Ok(0)), "the shared page has gone back");
    assert_eq!(read(&mut two, 3 * 4096), Err(fault(3 * 4096, Access::Read, FaultCause::NoMemory)));
    drop(one);
    assert_eq!(read(&mut two, 3 * 4096), Ok(0));
    drop(two);
    assert_eq!((pool.used(), fake::nr_entries()), (0, 0));
}

#[test]
fn shared_memory_is_the_same_in_all_spaces() {
    let (mmu, pool) = (Mmu::new().unwrap(), Pool::new(10));
    assert!(Mmu::new().is_none(), "there is one");
    let [mut one, mut two] = [4, 4].map(|limit| AddressSpace::new(&mmu, &pool, limit));
    let shared = SharedMemory::try_new(&pool, 2).unwrap();
    one.map(10..12, RW, Backing::Shared(shared.clone())).unwrap();
    two.map(20..21, RO, Backing::Shared(shared)).unwrap();
    assert_eq!(access(&mut one, Right::User, 10 * 4096 + 7, Some(42)), Ok(42));
    assert_eq!(read(&mut two, 20 * 4096 + 7), Ok(42));
    assert_eq!(one.usage().shared_pages, 2);
    drop(one);
    assert_eq!(read(&mut two, 20 * 4096 + 7), Ok(42), "as long as anybody has it");
    two.unmap(20..21).unwrap();
    assert_eq!((two.usage().shared_pages, pool.used()), (0, 0));
}

#[test]
fn copies_go_across_pages_as_far_as_the_rights_go() {
    let pool = Pool::new(10);
    let mut space = space(&pool, 10);
    space.map(1..3, RW, Backing::Zero).unwrap();
    space.map(3..4, RO, Backing::Zero).unwrap();
    let bytes: Vec<u8> = (0..200).collect();
    space.write(0x2000 - 100, &bytes).unwrap();
    let mut back = [0; 200];
    space.read(0x2000 - 100, &mut back).unwrap();
    assert_eq!(&back[..], &bytes[..]);
    assert_eq!(read(&mut space, 0x2000), Ok(100), "contexts see it");
    let fault = |address, access, cause| Err(Fault { address, access, cause });
    assert_eq!(space.write(0x2fff, &[1, 2]), fault(0x3000, Access::Write, FaultCause::Protection));
    assert_eq!(space.read(0x3fff, &mut [0; 2]), fault(0x4000, Access::Read, FaultCause::Unmapped));
    assert_eq!(space.read(u64::MAX, &mut [0; 2]), fault(u64::MAX, Access::Read, FaultCause::Unmapped));
    assert_eq!(space.read(u64::MAX, &mut []), Ok(()));
}

#[test]
fn what_is_taken_away_is_gone_at_once() {
    let pool = Pool::new(10);
    let mut space = space(&pool, 10);
    space.map(1..6, RW, Backing::Zero).unwrap();
    for page in 1..6 {
        access(&mut space, Right::User, page * 4096, Some(7)).unwrap();
    }
    space.unmap(3..4).unwrap();
    assert_eq!(read(&mut space, 3 * 4096), Err(fault(3 * 4096, Access::Read, FaultCause::Unmapped)));
    space.protect(1..3, RX).unwrap();
    let exit = access(&mut space, Right::User, 4096, Some(1));
    assert_eq!(exit, Err(fault(4096, Access::Write, FaultCause::Protection)));
    assert_eq!(read(&mut space, 4096), Ok(7), "what it holds stays");
    space.protect(1..3, RW).unwrap();
    assert_eq!(access(&mut space, Right::User, 4096, Some(1)), Ok(1));
    assert_eq!(space.protect(2..5, RO), Err(MapError::NotMapped));
    space.map(3..4, RW, Backing::Zero).unwrap();
    assert_eq!(read(&mut space, 3 * 4096), Ok(0), "a new page");
    assert_eq!((space.usage().own_pages, pool.used()), (5, 5));
}

#[test]
fn more_spaces_than_asids_keep_their_memory_apart() {
    let pool = Pool::new(1000);
    let mmu = Mmu::new().unwrap();
    let mut spaces: Vec<_> = (0..600).map(|_| AddressSpace::new(&mmu, &pool, 2)).collect();
    for (n, space) in spaces.iter_mut().enumerate() {
        space.map(1..2, RW, Backing::Zero).unwrap();
        assert_eq!(access(space, Right::User, 0x1000, Some(n.to_le_bytes()[0])), Ok(n.to_le_bytes()[0]));
    }
    for round in 0..2 {
        for (n, space) in spaces.iter_mut().enumerate() {
            assert_eq!(read(space, 0x1000), Ok(n.to_le_bytes()[0]), "round {round}");
        }
    }
}

#[test]
fn what_cannot_be_mapped_is_refused_and_changes_nothing() {
    let pool = Pool::new(10);
    let mut space = space(&pool, 10);
    space.map(10..20, RO, Backing::Image(&[])).unwrap_err();
    let end = virtual_isa::tlb::VIRTUAL_PAGES;
    for pages in [0..1, 5..5, end..end + 1, end - 1..end + 1] {
        assert_eq!(space.map(pages.clone(), RW, Backing::Zero), Err(MapError::BadRange), "{pages:?}");
        assert_eq!(space.unmap(pages.clone()), Err(MapError::BadRange), "{pages:?}");
        assert_eq!(space.protect(pages.clone(), RW), Err(MapError::BadRange), "{pages:?}");
    }
    let backing = Backing::Image(&IMAGE.0);
    assert_eq!(space.map(1..2, RW | Rights::EXECUTE, Backing::Zero), Err(MapError::BadRights));
    assert_eq!(space.map(1..2, Rights::WRITE, Backing::Zero), Err(MapError::BadRights));
    assert_eq!(space.map(1..2, RW, backing.clone()), Err(MapError::BadRights), "the image cannot be written");
    assert_eq!(space.map(1..5, RO, backing.clone()), Err(MapError::BadBacking));
    assert_eq!(space.map(1..2, RO, Backing::Image(&IMAGE.0[1..])), Err(MapError::BadBacking));
    let shared = SharedMemory::try_new(&pool, 1).unwrap();
    assert_eq!(space.map(1..3, RO, Backing::Shared(shared)), Err(MapError::BadBacking));
    space.map(1..4, RX, backing).unwrap();
    assert_eq!(space.protect(2..3, RW), Err(MapError::BadRights));
    assert_eq!(space.map(3..5, RW, Backing::Zero), Err(MapError::Overlap));
    assert_eq!(space.usage().areas, 1);
    for n in 1..MAX_AREAS as u64 {
        space.map(10 * n..10 * n + 5, RW, Backing::Zero).unwrap();
    }
    assert_eq!(space.map(5..6, RW, Backing::Zero), Err(MapError::TooManyAreas));
    assert_eq!(space.unmap(12..13), Err(MapError::TooManyAreas));
    assert_eq!(space.protect(12..13, RO), Err(MapError::TooManyAreas));
    assert_eq!(space.usage().areas, MAX_AREAS);
    let mut thread = Thread::new(u64::MAX, 0);
    assert_eq!(space.enter(&mut thread, u64::MAX), Err(virtual_isa::instruction::InstructionError::BadArgument));
}

#[derive(Clone, Debug)]
enum Step {
    Map(u64, u64, Rights),
    Protect(u64, u64, Rights),
    Unmap(u64, u64),
    Access(u64, Option<u8>),
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    let rights = prop_oneof![Just(RO), Just(RW), Just(RX)];
    let pages = (1u64..20, 1u64..6);
    prop_oneof![
        (pages.clone(), rights.clone()).prop_map(|((at, n), rights)| Step::Map(at, n, rights)),
        (pages.clone(), rights).prop_map(|((at, n), rights)| Step::Protect(at, n, rights)),
        pages.prop_map(|(at, n)| Step::Unmap(at, n)),
        (1u64..26, any::<Option<u8>>()).prop_map(|(page, byte)| Step::Access(page, byte)),
        (1u64..26, any::<Option<u8>>()).prop_map(|(page, byte)| Step::Access(page, byte)),
        Just(Step::Lose),
    ]
}

proptest! {
    /// The model: rights and byte of each page.
    #[test]
    fn agrees_with_a_model_of_pages(steps in proptest::collection::vec(step(), 1..80)) {
        let pool = Pool::new(100);
        let mut space = space(&pool, 100);
        let mut model = [None::<(Rights, u8)>; 30];
        let at = |at: u64, n: u64| usize::try_from(at).unwrap()..usize::try_from(at + n).unwrap();
        for step in steps {
            match step {
                Step::Map(page, n, rights) => {
                    let pages = &mut model[at(page, n)];
                    let is_free = pages.iter().all(Option::is_none);
                    prop_assert_eq!(space.map(page..page + n, rights, Backing::Zero).is_ok(), is_free);
                    if is_free {
                        pages.fill(Some((rights, 0)));
                    }
                }
                Step::Protect(page, n, rights) => {
                    let pages = &mut model[at(page, n)];
                    let is_mapped = pages.iter().all(Option::is_some);
                    prop_assert_eq!(space.protect(page..page + n, rights).is_ok(), is_mapped);
                    if is_mapped {
                        pages.iter_mut().flatten().for_each(|page| page.0 = rights);
                    }
                }
                Step::Unmap(page, n) => {
                    prop_assert!(space.unmap(page..page + n).is_ok());
                    model[at(page, n)].fill(None);
                }
                Step::Access(page, byte) => {
                    let address = page * 4096 + page;
                    let kind = if byte.is_some() { Access::Write } else { Access::Read };
                    let expected = match &mut model[usize::try_from(page).unwrap()] {
                        None => Err(fault(address, kind, FaultCause::Unmapped)),
                        Some((rights, _)) if !rights.allow(kind) => Err(fault(address, kind, FaultCause::Protection)),
                        Some((_, held)) => {
                            *held = byte.unwrap_or(*held);
                            Ok(*held)
                        }
                    };
                    prop_assert_eq!(access(&mut space, Right::User, address, byte), expected);
                }
                Step::Lose => fake::lose_entries(),
            }
        }
    }
}
