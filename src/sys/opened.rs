//! Owns: reading folders, and regular files in them, where other users may write. Must not: know what lies there.
//!
//! A path there cannot be trusted: it may name a link to /dev/zero, a pipe without a writer or a device, and may be replaced
//! between two calls. So a folder is opened once, and a file is examined before it is opened, because opening a device can
//! already act on it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::owner;

/// A folder that is open. Clones share it.
#[derive(Debug, Clone)]
pub struct Opened(Arc<File>);

impl Opened {
    /// Opens a folder. A link is followed only if it belongs to root or to this user: an operator may move a domain elsewhere
    /// that way, while another user's link could lead root to places that this user cannot reach.
    pub fn open(path: &Path) -> io::Result<Opened> {
        let (found, _) = follow(path)?;
        Ok(Opened(Arc::new(open_again(&found, OFlags::DIRECTORY)?)))
    }

    /// The path by which it is reached, whatever its name is now: proc(5), "/proc/pid/fd".
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// The path of what has the same name in it as this one has in its folder.
    pub fn at(&self, path: &Path) -> PathBuf {
        self.path().join(path.file_name().unwrap_or_default())
    }

    /// Makes the names in it durable.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    /// Opens a regular file in it for reading.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for anything else, with what it is.
    pub fn file(&self, name: &OsStr) -> io::Result<File> {
        regular(&self.0, Path::new(name))
    }

    /// The contents of a regular file in it.
    ///
    /// # Errors
    /// As [`Opened::file`] has them; [`io::ErrorKind::InvalidData`] for a file of more bytes than `limit`, too.
    pub fn read(&self, name: &OsStr, limit: u64) -> io::Result<Vec<u8>> {
        read(self.file(name)?, limit)
    }
}

/// Opens a regular file by its path, in its folder as it is now: [`Opened::open`], [`Opened::file`].
///
/// # Errors
/// Those of both.
pub fn open_file(path: &Path) -> io::Result<File> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    Opened::open(folder)?.file(name)
}

/// The contents of a regular file by its path: [`open_file`], [`Opened::read`].
///
/// # Errors
/// Those of both.
pub fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read(open_file(path)?, limit)
}

/// Opens a regular file or a block device by a path that root knows, in a folder where others may write. A link in its place is
/// followed as one is by [`Opened::open`].
///
/// # Errors
/// As [`Opened::file`] has them.
pub fn open_followed(path: &Path) -> io::Result<File> {
    match follow(path)? {
        (found, FileType::RegularFile | FileType::BlockDevice) => open_again(&found, OFlags::empty()),
        (_, kind) => Err(not_regular(kind)),
    }
}

/// Opens a file that must be a regular one. Nothing else is opened, not even for a moment.
fn regular(folder: impl AsFd, path: &Path) -> io::Result<File> {
    match look(folder, path, OFlags::NOFOLLOW)? {
        (found, FileType::RegularFile, _) => open_again(&found, OFlags::empty()),
        (_, kind, _) => Err(not_regular(kind)),
    }
}

/// What a path leads to, and its kind. A link is followed if it is root's or this user's.
fn follow(path: &Path) -> io::Result<(OwnedFd, FileType)> {
    // The link itself is held, so that what is judged is what is followed.
    let (found, kind, user) = look(CWD, path, OFlags::NOFOLLOW)?;
    if kind != FileType::Symlink {
        return Ok((found, kind));
    }
    if !owner::is_trusted(user) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is a link of another user"));
    }
    let target = readlinkat(&found, "", Vec::new())?;
    let target = PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()));
    match look(CWD, &path.parent().unwrap_or(Path::new(".")).join(target), OFlags::empty()) {
        // Not "nothing there": the operator put it elsewhere, and that place is missing.
        Err(Errno::NOENT) => Err(io::Error::other("it is a dangling symbolic link")),
        result => result.map(|(found, kind, _)| (found, kind)).map_err(io::Error::from),
    }
}

/// Opens what is held, and nothing that replaced it meanwhile: proc(5), "/proc/pid/fd".
fn open_again(held: &OwnedFd, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(openat(CWD, format!("/proc/self/fd/{}", held.as_raw_fd()), flags, Mode::empty())?))
}

/// Holds what has this name without opening it; its kind and its owner.
fn look(folder: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<(OwnedFd, FileType, u32)> {
    let found = openat(folder, path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let status = fstat(&found)?;
    Ok((found, FileType::from_raw_mode(status.st_mode), status.st_uid))
}

fn read(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// The error for something that is not a regular file.
pub fn not_regular(kind: FileType) -> io::Error {
    let what = match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Directory => "a directory",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Socket => "a socket",
        _ => "of an unknown kind",
    };
    io::Error::new(io::ErrorKind::InvalidData, format!("it is {what}, not a regular file"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{lchown, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_trusted_links_are_followed_and_only_to_folders() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("real")).unwrap();
        fs::write(at("real/inside"), "").unwrap();
        fs::write(at("file"), "").unwrap();
        symlink("real", at("relative")).unwrap();
        symlink(at("real"), at("absolute")).unwrap();
        symlink("file", at("to-file")).unwrap();
        for name in ["real", "relative", "absolute"] {
            let opened = Opened::open(&at(name)).unwrap();
            assert!(opened.at(Path::new("elsewhere/inside")).exists(), "{name}");
        }
        symlink("away", at("dangling")).unwrap();
        let error = Opened::open(&at("dangling")).unwrap_err();
        assert!(error.kind() != io::ErrorKind::NotFound && error.to_string().contains("dangling"), "{error}");
        for name in ["file", "to-file", "missing"] {
            assert!(Opened::open(&at(name)).is_err(), "{name}");
        }
        // Only root can give a link away.
        if lchown(at("absolute"), Some(65534), None).is_ok() {
            let error = Opened::open(&at("absolute")).unwrap_err();
            assert_eq!(error.to_string(), "it is a link of another user");
            lchown(at("to-file"), Some(65534), None).unwrap();
            assert_eq!(open_followed(&at("to-file")).unwrap_err().to_string(), "it is a link of another user");
        }
    }

    #[test]
    fn only_regular_files_are_opened_and_whatever_else_there_is_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let folder = Opened::open(dir.path()).unwrap();
        fs::write(at("file"), "contents").unwrap();
        assert_eq!(folder.read(OsStr::new("file"), 8).unwrap(), b"contents");
        assert_eq!(read_file(&at("file"), 8).unwrap(), b"contents");
        let large = folder.read(OsStr::new("file"), 7).unwrap_err();
        assert_eq!(
            (large.kind(), large.to_string()),
            (io::ErrorKind::InvalidData, "it is larger than 7 bytes".to_owned())
        );
        assert_eq!(folder.file(OsStr::new("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);

        symlink("/dev/zero", at("link")).unwrap();
        symlink("file", at("link-to-file")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::create_dir(at("directory")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for (name, what) in [
            ("link", "a symbolic link"),
            ("link-to-file", "a symbolic link"),
            ("fifo", "a FIFO"),
            ("directory", "a directory"),
            ("socket", "a socket"),
        ] {
            for error in [folder.file(OsStr::new(name)).unwrap_err(), open_file(&at(name)).unwrap_err()] {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert_eq!(error.to_string(), format!("it is {what}, not a regular file"));
            }
        }
        open_followed(&at("link-to-file")).unwrap();
        for (name, what) in [("link", "a character device"), ("fifo", "a FIFO"), ("directory", "a directory")] {
            let error = open_followed(&at(name)).unwrap_err();
            assert_eq!(error.to_string(), format!("it is {what}, not a regular file"));
        }
        let device = open_file(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(device.to_string(), "it is a character device, not a regular file");
    }

    #[test]
    fn a_folder_that_is_replaced_meanwhile_is_read_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("folder/file"), "ours").unwrap();
        let folder = Opened::open(&at("folder")).unwrap();
        fs::rename(at("folder"), at("moved")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("folder/file"), "theirs").unwrap();
        assert_eq!(folder.read(OsStr::new("file"), 100).unwrap(), b"ours");
    }
}
