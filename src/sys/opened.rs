//! Owns: reading folders, and regular files in them, where other users may write. Must not: know what lies there.
//!
//! A path there cannot be trusted: it may name a link to /dev/zero, a pipe without a writer or a device, and may be replaced
//! between two calls. So a folder is opened once, and a file is examined before it is opened, because opening a device can
//! already act on it.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::owner;

/// Names in a folder that is listed, at most: a guest has one for each of its restore points, and the target one for each guest.
pub const MAX_NAMES: usize = 100_000;

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

    /// What it holds, by name; their paths lead through [`Opened::path`].
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for more than [`MAX_NAMES`]: a part of them would look like all.
    pub fn entries(&self) -> io::Result<Vec<DirEntry>> {
        let found = fs::read_dir(self.path())?.take(MAX_NAMES + 1).collect::<io::Result<Vec<_>>>()?;
        if found.len() > MAX_NAMES {
            let what = format!("it contains more than {MAX_NAMES} files and directories");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(found)
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

/// What a folder holds, by its path: [`Opened::open`], [`Opened::entries`].
///
/// # Errors
/// Those of both.
pub fn entries(path: &Path) -> io::Result<Vec<DirEntry>> {
    Opened::open(path)?.entries()
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

/// The contents of a regular file of root's or this user's that others cannot read or write: one that is obeyed.
///
/// # Errors
/// Those of [`read_file`]; [`io::ErrorKind::PermissionDenied`] if it is another user's, or accessible to others.
pub fn read_private(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_file(path)?;
    let found = file.metadata()?;
    let refused = |what: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    if !owner::is_trusted(found.uid()) {
        return refused("it is owned by another user");
    }
    if found.mode() & 0o077 != 0 {
        return refused("other users may read or write it");
    }
    read(file, limit)
}

/// The contents of a regular file that the operator's configuration names. A link is followed as [`Opened::open`] follows one.
///
/// # Errors
/// Those of [`Opened::read`].
pub fn read_followed(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    match follow(path)? {
        (found, FileType::RegularFile) => read(open_again(&found, OFlags::empty())?, limit),
        (_, kind) => Err(not_regular(kind)),
    }
}

/// The contents of whatever an operator names on the command line, as `/dev/stdin` or a pipe. A writer of a pipe may take its
/// time; nothing waits for one to appear.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for more bytes than `limit`, and for a FIFO that nothing writes to.
pub fn read_named(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty())?);
    let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
    fcntl_setfl(&file, OFlags::empty())?;
    let bytes = read(file, limit)?;
    if kind == FileType::Fifo && bytes.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is a FIFO that nothing writes to"));
    }
    Ok(bytes)
}

/// Bytes of such a file as text.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if they are no UTF-8.
pub fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
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
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is a symbolic link owned by another user"));
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
    // What a file says of its length saves reading it; what it has counts.
    if file.metadata()?.len() <= limit {
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 <= limit {
            return Ok(bytes);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {limit} bytes")))
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
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};
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
            assert_eq!(error.to_string(), "it is a symbolic link owned by another user");
            lchown(at("to-file"), Some(65534), None).unwrap();
            assert_eq!(
                open_followed(&at("to-file")).unwrap_err().to_string(),
                "it is a symbolic link owned by another user"
            );
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
    fn a_file_that_is_obeyed_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "contents").unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o602, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_private(&path, 8).is_ok(), good, "{mode:o}");
        }
        // Only root can give a file away.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if lchown(&path, Some(65534), None).is_ok() {
            assert_eq!(read_private(&path, 8).unwrap_err().to_string(), "it is owned by another user");
        }
    }

    #[test]
    fn what_an_operator_names_may_be_a_pipe_and_nothing_waits_for_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let named = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
        let writes = std::thread::spawn(move || {
            // The reader waits for it: an empty pipe with a writer is not at its end.
            std::thread::sleep(std::time::Duration::from_millis(100));
            io::Write::write_all(&mut writer, b"contents").unwrap();
        });
        assert_eq!(read_named(&named, 8).unwrap(), b"contents");
        writes.join().unwrap();

        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read_named(&fifo, 8).unwrap_err().to_string(), "it is a FIFO that nothing writes to");
        assert_eq!(read_named(Path::new("/dev/zero"), 8).unwrap_err().to_string(), "it is larger than 8 bytes");
        assert!(read_named(dir.path(), 8).is_err());
    }

    #[test]
    fn a_folder_of_too_many_names_is_an_error_and_no_shorter_list() {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        for number in 0..MAX_NAMES {
            fs::write(dir.path().join(number.to_string()), "").unwrap();
        }
        assert_eq!(entries(dir.path()).unwrap().len(), MAX_NAMES);
        fs::write(dir.path().join("one more"), "").unwrap();
        let error = entries(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "it contains more than 100000 files and directories");
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
