//! Identifies a file even if another file takes its name. Must not decide what a difference means.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags, makedev, statx};
use serde::{Deserialize, Serialize};

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Identifies a regular file or a block device regardless of its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The device number of its file system, or of the block device itself.
    device: u64,
    /// 0 for a block device, whose node is created again at each boot.
    inode: u64,
    /// Time of creation, if the file system stores it, because inode numbers are reused.
    born: Option<(i64, u32)>,
    /// Id of the boot in which `device` is valid: device numbers may change at a reboot.
    boot: String,
}

impl Mark {
    /// The mark of the file or device at a path.
    pub fn at(path: &Path) -> io::Result<Mark> {
        open(path).map(|(_, mark)| mark)
    }

    /// Whether both marks identify the same file.
    pub fn is_same(&self, other: &Mark) -> bool {
        let is_same_device = self.device == other.device || self.boot != other.boot;
        is_same_device && (self.inode, self.born) == (other.inode, other.born)
    }

    /// Whether the file is known to have been created before a time in seconds since the epoch.
    pub fn is_older_than(&self, time: i64) -> bool {
        self.born.is_some_and(|(seconds, _)| seconds < time)
    }

    /// Whether both marks identify the same file, or the same block device since the same boot. Unlike [`Mark::is_same`],
    /// never takes one block device for another.
    pub fn is_certainly_same(&self, other: &Mark) -> bool {
        self.is_same(other) && (self.is_regular() || self.boot == other.boot)
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.inode != 0
    }
}

/// Opens a regular file or block device for reading. Rejects everything else without waiting for it.
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
    fn a_file_keeps_its_mark_and_its_replacement_has_another() {
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
    fn device_number_is_ignored_after_a_reboot() {
        let mark = Mark { device: 1, inode: 2, born: Some((3, 4)), boot: "a".to_owned() };
        let other = |device, inode, boot: &str| Mark { device, inode, boot: boot.to_owned(), ..mark.clone() };
        assert!(mark.is_same(&other(9, 2, "b")) && !mark.is_same(&other(9, 2, "a")));
        assert!(mark.is_certainly_same(&other(9, 2, "b")) && !mark.is_certainly_same(&other(9, 2, "a")));
        // A block device that was created at this boot may have the number that another one had.
        let device = |boot: &str| Mark { inode: 0, born: None, boot: boot.to_owned(), ..mark.clone() };
        assert!(device("a").is_same(&device("b")) && !device("a").is_certainly_same(&device("b")));
        assert!(device("a").is_certainly_same(&device("a")));
        assert!(!mark.is_same(&other(1, 9, "b")) && !mark.is_same(&Mark { born: None, ..mark.clone() }));
    }
}
