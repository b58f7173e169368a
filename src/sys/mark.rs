//! Owns: what tells a file apart from another that took its name. Must not: decide what it means that they differ.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags, makedev, statx};
use serde::{Deserialize, Serialize};

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// A regular file or a block device, whatever its name is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The device of its file system, or the number of the block device.
    device: u64,
    /// Its inode; 0 for a block device, whose node is made anew at each boot.
    inode: u64,
    /// When it was created, where the file system keeps that: an inode may be used again.
    born: Option<(i64, u32)>,
    /// The boot that the device's number is of: another one may number it otherwise.
    boot: String,
}

impl Mark {
    /// The mark of what a path leads to.
    pub fn at(path: &Path) -> io::Result<Mark> {
        open(path).map(|(_, mark)| mark)
    }

    /// Whether both are of the same file.
    pub fn is_same(&self, other: &Mark) -> bool {
        let is_same_device = self.device == other.device || self.boot != other.boot;
        is_same_device && (self.inode, self.born) == (other.inode, other.born)
    }

    /// Whether the file was created before a time, in seconds since the epoch, as far as that is known.
    pub fn is_older_than(&self, time: i64) -> bool {
        self.born.is_some_and(|(seconds, _)| seconds < time)
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.inode != 0
    }
}

/// Opens what a path leads to for reading. Anything else than a regular file or a block device is refused, and not waited for.
pub fn open(path: &Path) -> io::Result<(File, Mark)> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let stat = statx(file.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let boot = std::fs::read_to_string(BOOT)?.trim().to_owned();
    let mark = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => {
            let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
            let born = has_birth.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec));
            Mark { device: makedev(stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino, born, boot }
        }
        FileType::BlockDevice => {
            Mark { device: makedev(stat.stx_rdev_major, stat.stx_rdev_minor), inode: 0, born: None, boot }
        }
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device")),
    };
    Ok((file, mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_mark_and_another_of_its_name_has_another() {
        let dir = tempfile::tempdir().unwrap();
        let [path, moved, link] = ["a", "b", "l"].map(|name| dir.path().join(name));
        std::fs::write(&path, "1").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mark = Mark::at(&path).unwrap();
        std::fs::write(&path, "other bytes").unwrap();
        assert!(Mark::at(&path).unwrap().is_same(&mark) && Mark::at(&link).unwrap().is_same(&mark));
        std::fs::rename(&path, &moved).unwrap();
        std::fs::write(&path, "1").unwrap();
        assert!(!Mark::at(&path).unwrap().is_same(&mark) && Mark::at(&moved).unwrap().is_same(&mark));
        assert!(Mark::at(dir.path()).is_err() && Mark::at(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn a_device_may_have_another_number_after_a_reboot() {
        let mark = Mark { device: 1, inode: 2, born: Some((3, 4)), boot: "a".to_owned() };
        let other = |device, inode, boot: &str| Mark { device, inode, boot: boot.to_owned(), ..mark.clone() };
        assert!(mark.is_same(&other(9, 2, "b")) && !mark.is_same(&other(9, 2, "a")));
        assert!(!mark.is_same(&other(1, 9, "b")) && !mark.is_same(&Mark { born: None, ..mark.clone() }));
    }
}
