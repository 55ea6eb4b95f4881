//! The swap disk of a machine: a sparse file in its folder, which the emulator makes a virtio disk of and which is
//! gone when the machine has ended.
//!
//! The host's page cache is kept out of it where that can be: a machine that swaps to the host's memory would tell
//! nothing about swapping, and would need the memory it is to save.

use crate::error::{Error, Result};
use crate::machine::files;
use crate::qemu::Kind;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Least size of a swap disk.
pub const MIN_SWAP_BYTES: u64 = 4 << 20;

/// Largest size of a swap disk: what file systems can have in one file.
pub const MAX_SWAP_BYTES: u64 = 8 << 40;

/// Name of the disk inside the emulator.
pub const DRIVE: &str = "swap";

/// What a swap disk is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Its size.
    pub bytes: u64,
    /// Most reads and writes in a second, all together; `None` for as many as there can be.
    pub iops: Option<u32>,
}

/// Whether the host's page cache is between the disk and the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// It is not: the file is opened with `O_DIRECT`.
    None,
    /// It is.
    Writeback,
}

impl Cache {
    /// Its name, to the emulator too.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Writeback => "writeback",
        }
    }
}

/// A machine's swap disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapDisk {
    /// Its size.
    pub bytes: u64,
    /// Most reads and writes in a second; `None` for as many as there can be.
    pub iops: Option<u32>,
    /// Whether the host's page cache is in between.
    pub cache: Cache,
}

/// A buffer as `O_DIRECT` wants it, whatever the blocks of the device below.
#[repr(align(4096))]
struct Block([u8; 4096]);

/// Makes the file in a machine's folder. If it must go through the page cache, says so and why.
///
/// # Errors
/// `Io` if the file cannot be made, or not of that size.
pub fn create(folder: &Path, swap: Swap) -> Result<SwapDisk> {
    let path = folder.join(files::SWAP);
    // What is in VMs is nobody else's business.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    let file = file.map_err(Error::io("create", &path))?;
    file.set_len(swap.bytes).map_err(Error::io("set the size of", &path))?;
    let cache = match read_directly(&path) {
        Ok(()) => Cache::None,
        Err(error) => {
            eprintln!("firn: swap goes through the host's page cache (O_DIRECT is refused: {error})");
            Cache::Writeback
        }
    };
    Ok(SwapDisk { bytes: swap.bytes, iops: swap.iops, cache })
}

/// Whether a file can be read without the page cache: some file systems refuse to open it so, others to read it.
fn read_directly(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path)?;
    let mut block = Block([0; 4096]);
    file.read_exact(&mut block.0)
}

/// Removes the file, if there is one: nobody can use it after the machine has ended.
///
/// # Errors
/// `Io`.
pub fn remove(folder: &Path) -> Result<()> {
    let path = folder.join(files::SWAP);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// The emulator's arguments for it. The file is named relative to the machine's folder, where the emulator runs.
#[must_use]
pub fn arguments(kind: Kind, disk: &SwapDisk) -> Vec<OsString> {
    let device = match kind {
        Kind::Microvm => "virtio-blk-device",
        Kind::Q35 => "virtio-blk-pci",
    };
    // A full host is the kernel's to deal with: the emulator would stop the machine.
    let mut drive = format!(
        "if=none,id={DRIVE},file={},format=raw,cache={},discard=ignore,rerror=report,werror=report",
        files::SWAP,
        disk.cache.name(),
    );
    if let Some(iops) = disk.iops {
        drive.push_str(&format!(",throttling.iops-total={iops}"));
    }
    let device = format!("{device},drive={DRIVE},discard=off,write-zeroes=off");
    ["-drive".to_owned(), drive, "-device".to_owned(), device].into_iter().map(OsString::from).collect()
}

/// How much of the host's disk a file takes.
///
/// # Errors
/// `Io`.
pub fn used_bytes(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let path = folder.join(files::SWAP);
    let metadata = File::open(&path).and_then(|file| file.metadata()).map_err(Error::io("look at", &path))?;
    Ok(metadata.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: SwapDisk = SwapDisk { bytes: 4 << 30, iops: Some(5000), cache: Cache::None };

    fn line(kind: Kind, disk: &SwapDisk) -> String {
        arguments(kind, disk).iter().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn the_emulator_gets_the_disk_as_asked_for() {
        assert_eq!(
            line(Kind::Microvm, &DISK),
            "-drive|if=none,id=swap,file=swap,format=raw,cache=none,discard=ignore,rerror=report,werror=report,\
             throttling.iops-total=5000|-device|virtio-blk-device,drive=swap,discard=off,write-zeroes=off"
        );
        let plain = line(Kind::Q35, &SwapDisk { iops: None, cache: Cache::Writeback, ..DISK });
        assert!(plain.contains("cache=writeback,") && plain.contains("|virtio-blk-pci,"), "{plain}");
        assert!(!plain.contains("throttling"), "{plain}");
    }

    #[test]
    fn the_file_is_sparse_private_and_removed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let disk = create(folder.path(), Swap { bytes: 1 << 30, iops: None }).unwrap();
        let metadata = folder.path().join("swap").metadata().unwrap();
        assert_eq!((disk.bytes, metadata.len()), (1 << 30, 1 << 30));
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert!(used_bytes(folder.path()).unwrap() < 1 << 20, "it takes no room until it is written");
        remove(folder.path()).unwrap();
        assert!(!folder.path().join("swap").exists());
        remove(folder.path()).unwrap();
    }

    #[test]
    fn the_page_cache_is_used_where_the_file_system_wants_it() {
        // Nothing of this kind can be read in blocks of its own choice.
        let refused = read_directly(Path::new("/proc/version")).unwrap_err();
        assert!(refused.raw_os_error().is_some() || refused.kind() == io::ErrorKind::UnexpectedEof, "{refused}");
        let folder = tempfile::tempdir().unwrap();
        let short = folder.path().join("short");
        std::fs::write(&short, b"less than a block").unwrap();
        assert!(read_directly(&short).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let error = create(Path::new("/no/such/folder"), Swap { bytes: 4 << 20, iops: None }).unwrap_err();
        assert!(error.to_string().contains("cannot create /no/such/folder/swap"), "{error}");
    }
}
