//! Finds the processes and loop devices of this host that use a file or block device, by any of its names. Must not know more
//! about guests than the name on QEMU's command line, or judge the results.
//!
//! Locks are not sufficient: a lock belongs to an inode, and a QEMU in its own mount namespace has a different inode for the
//! same block device. Device numbers are the same in all namespaces.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, major, makedev, minor};
use rustix::io::Errno;

/// Identifies a file or block device by what a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileId {
    /// A regular file.
    File {
        /// Device number of its file system.
        device: u64,
        /// Inode number.
        inode: u64,
    },
    /// A block device with this number.
    Block(u64),
}

/// A user of a file or block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// A process that has it open.
    Process {
        /// Process id.
        pid: u32,
        /// Name of the program.
        program: String,
        /// Name of the guest, for a QEMU process.
        guest: Option<String>,
        /// Whether it is open for writing.
        writes: bool,
    },
    /// Name of a loop device that is attached to it.
    Loop(String),
}

impl User {
    /// Whether it may write. A loop device writes only for a process that has the loop device open.
    pub fn writes(&self) -> bool {
        matches!(self, User::Process { writes: true, .. })
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Process { guest: Some(guest), .. } => write!(f, "the running guest {guest}"),
            User::Process { pid, program, .. } => write!(f, "process {pid} ({program})"),
            User::Loop(name) => write!(f, "loop device /dev/{name}"),
        }
    }
}

impl FileId {
    /// Follows links; `None` if the path does not exist or is neither a file nor a block device.
    pub fn of(path: &Path) -> io::Result<Option<FileId>> {
        // Uses cached attributes and asks no server, because a process may have a file open on a hung mount.
        match rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE | StatxFlags::INO) {
            Ok(stat) => Ok(match FileType::from_raw_mode(stat.stx_mode.into()) {
                FileType::BlockDevice => Some(FileId::Block(makedev(stat.stx_rdev_major, stat.stx_rdev_minor))),
                FileType::RegularFile => {
                    Some(FileId::File { device: makedev(stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino })
                }
                _ => None,
            }),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// It and everything that shares bytes with it: what it is on (the disk of a partition, the devices below a volume, the
    /// file of a loop device) and what is on it (partitions, volumes, loop devices). Other partitions of its disk are not
    /// related.
    pub fn related(self) -> BTreeSet<FileId> {
        &self.all(below) | &self.all(above)
    }

    /// It and everything reachable from it with `next`.
    fn all(self, next: fn(FileId) -> Vec<FileId>) -> BTreeSet<FileId> {
        let mut all = BTreeSet::from([self]);
        let mut open = vec![self];
        while let Some(id) = open.pop() {
            let found = next(id).into_iter().filter(|id| all.insert(*id));
            open.extend(found.collect::<Vec<_>>());
        }
        all
    }
}

/// All users of it and of everything that shares bytes with it, except this process. Without root, only processes of the same
/// user are visible. A loop device that it is, or is on, does not count.
pub fn users(of: FileId) -> io::Result<Vec<User>> {
    let (ids, itself) = (&of.related(), of.all(below));
    let mut users = Vec::new();
    for (name, _) in loops().into_iter().filter(|(_, file)| ids.contains(file)) {
        if device_of(&Path::new("/sys/block").join(&name)).is_none_or(|device| !itself.contains(&device)) {
            users.push(User::Loop(name));
        }
    }
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid.filter(|pid| *pid != std::process::id())
            && let Some(writes) = has_open(&entry.path(), ids)
        {
            let (program, guest) = identity(&entry.path());
            users.push(User::Process { pid, program, guest, writes });
        }
    }
    Ok(users)
}

/// Whether a process has one of these open, and whether for writing. `None` also if the process has ended.
fn has_open(process: &Path, ids: &BTreeSet<FileId>) -> Option<bool> {
    let mut found = None;
    for descriptor in fs::read_dir(process.join("fd")).ok()?.flatten() {
        // The link leads to the open file even from another mount namespace, or after the file was removed.
        let id = FileId::of(&descriptor.path()).ok().flatten();
        if id.is_some_and(|id| ids.contains(&id)) {
            let info = fs::read_to_string(process.join("fdinfo").join(descriptor.file_name())).unwrap_or_default();
            found = Some(found == Some(true) || may_write(&info));
        }
    }
    found
}

/// Reads the access mode from the octal flags: proc(5), `/proc/pid/fdinfo`.
fn may_write(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u64::from_str_radix(flags.trim(), 8).ok()).is_none_or(|flags| flags & 3 != 0)
}

fn identity(process: &Path) -> (String, Option<String>) {
    let program = fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let name = words.windows(2).find(|pair| pair[0] == "-name").map(|pair| pair[1].to_string());
    (program, name.map(|name| guest_name(&name)))
}

/// The name in `guest=NAME,debug-threads=on`, where commas in the name are doubled.
fn guest_name(option: &str) -> String {
    let option = option.strip_prefix("guest=").unwrap_or(option);
    let mut name = String::new();
    let mut rest = option.chars().peekable();
    while let Some(c) = rest.next() {
        if c == ',' && rest.next_if_eq(&',').is_none() {
            break;
        }
        name.push(c);
    }
    name
}

/// The attached loop devices, each with its file.
fn loops() -> Vec<(String, FileId)> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let attached = |device: fs::DirEntry| {
        let name = device.file_name().into_string().ok().filter(|name| name.starts_with("loop"))?;
        let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        Some((name, FileId::of(Path::new(file.trim_end_matches('\n'))).ok().flatten()?))
    };
    devices.filter_map(attached).collect()
}

/// What a device is on.
fn below(id: FileId) -> Vec<FileId> {
    let FileId::Block(number) = id else { return Vec::new() };
    let folder = sysfs(number);
    let mut found = devices_in(&folder.join("slaves"));
    if folder.join("partition").exists() {
        found.extend(fs::canonicalize(&folder).ok().and_then(|folder| device_of(folder.parent()?)));
    }
    let file = fs::read_to_string(folder.join("loop/backing_file")).ok();
    found.extend(file.and_then(|file| FileId::of(Path::new(file.trim_end_matches('\n'))).ok().flatten()));
    found
}

/// What is on a file or device.
fn above(id: FileId) -> Vec<FileId> {
    let on_file = loops().into_iter().filter(|(_, file)| *file == id);
    let mut found: Vec<FileId> =
        on_file.filter_map(|(name, _)| device_of(&Path::new("/sys/block").join(name))).collect();
    if let FileId::Block(number) = id {
        let folder = sysfs(number);
        found.extend(devices_in(&folder.join("holders")));
        let parts = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(parts.filter(|part| part.join("partition").exists()).filter_map(|part| device_of(&part)));
    }
    found
}

fn sysfs(number: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number)))
}

fn devices_in(folder: &Path) -> Vec<FileId> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| device_of(&entry.path())).collect()
}

/// The device of a directory in sysfs, from its file `dev` (`8:1`).
fn device_of(folder: &Path) -> Option<FileId> {
    let text = fs::read_to_string(folder.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(FileId::Block(makedev(major.parse().ok()?, minor.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_with_an_open_file_is_found_by_any_name_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| dir.path().join(name));
        fs::write(&file, "x").unwrap();
        fs::hard_link(&file, &link).unwrap();
        let mut reader = Command::new("sleep").arg("600").stdin(fs::File::open(&link).unwrap()).spawn().unwrap();
        let both = fs::File::options().read(true).write(true).open(&file).unwrap();
        let mut writer = Command::new("sleep").arg("600").stdin(both).stdout(Stdio::null()).spawn().unwrap();
        let id = FileId::of(&file).unwrap().unwrap();
        let found = users(id).unwrap();
        for child in [&mut reader, &mut writer] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let mut writes: Vec<_> = found
            .iter()
            .map(|user| match user {
                User::Process { pid, writes, .. } => (*pid, *writes),
                User::Loop(name) => panic!("{name}"),
            })
            .collect();
        writes.sort_by_key(|(_, writes)| *writes);
        assert_eq!(writes, [(reader.id(), false), (writer.id(), true)]);
        assert_eq!(users(id).unwrap(), []);
        assert_eq!(FileId::of(&dir.path().join("none")).unwrap(), None);
        assert_eq!(FileId::of(dir.path()).unwrap(), None);
    }

    #[test]
    fn the_guest_name_is_read_from_the_command_line_of_qemu() {
        for (option, name) in [("guest=web,debug-threads=on", "web"), ("a b", "a b"), ("guest=a,,b,x=y", "a,b")] {
            assert_eq!(guest_name(option), name);
        }
    }
}
