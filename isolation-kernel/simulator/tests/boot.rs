//! Bundles that a machine refuses to boot.

use simulator::bundle::{bundle, test_image};
use simulator::{Cpu, Machine, Op};
use virtual_isa::bundle::BundleError;
use virtual_isa::image::ImageError;
use virtual_isa::instruction::Instruction;
use vm::{BootError, Core};

fn boot(bundle: &[u8], nr_pages: u32) -> Result<(), BootError> {
    let program = |_: &mut Cpu<'_>| Ok(Op::call(Instruction::Terminate, &[0]));
    let (machine, _outside) = Machine::new(nr_pages, Box::new(move |_| Box::new(program)));
    Core::new(machine, bundle).map(|mut core| core.turn())
}

#[test]
fn a_good_bundle_boots() {
    assert_eq!(boot(&bundle(&[test_image()]), 100), Ok(()));
}

#[test]
fn bad_bundles_are_named() {
    let good = bundle(&[test_image()]);
    assert_eq!(boot(&[], 100), Err(BootError::Bundle(BundleError::Truncated)));
    assert_eq!(boot(&good[..good.len() / 2], 100), Err(BootError::Bundle(BundleError::Truncated)));
    assert_eq!(boot(&[0; 5000], 100), Err(BootError::Bundle(BundleError::BadMagic)));
    let mut other_version = good.clone();
    other_version[8] = 77;
    assert_eq!(boot(&other_version, 100), Err(BootError::Bundle(BundleError::BadVersion(77))));
    let mut bad_length = good.clone();
    bad_length[18] = 0xff;
    assert_eq!(boot(&bad_length, 100), Err(BootError::Bundle(BundleError::Truncated)));
    assert_eq!(boot(&bundle(&[]), 100), Err(BootError::NoSupervisor));
    let mut damaged = test_image();
    damaged[9000] ^= 1;
    assert_eq!(boot(&bundle(&[damaged]), 100), Err(BootError::Image(ImageError::BadChecksum)));
    let mut bad_plan = good;
    bad_plan[4096..4200].fill(0xff);
    assert_eq!(boot(&bad_plan, 100), Err(BootError::NoMachinePlan));
}

#[test]
fn a_machine_too_small_says_so() {
    for pages in 0..10 {
        assert_eq!(boot(&bundle(&[test_image()]), pages), Err(BootError::NoMemory), "{pages} pages");
    }
}
