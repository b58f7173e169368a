//! Owns: a domain's folder that stays the same one while something is done in it, whatever is put in its place meanwhile. Must not:
//! know what lies in it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use crate::sys::owner;

/// A folder that is open. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Opened(Arc<File>);

impl Opened {
    /// Opens a folder. A link in its place is followed if it is root's or this user's: so an operator puts a domain elsewhere.
    /// Anybody else's would lead who acts as root to where its maker may not go himself.
    pub(super) fn open(path: &Path) -> io::Result<Opened> {
        // The link itself is held, so that what is judged is what is followed.
        let found = openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let status = fstat(&found)?;
        let (target, nofollow) = match FileType::from_raw_mode(status.st_mode) {
            FileType::Symlink if owner::is_trusted(status.st_uid) => {
                let target = readlinkat(&found, "", Vec::new())?;
                let target = PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()));
                (path.parent().unwrap_or(Path::new(".")).join(target), OFlags::empty())
            }
            FileType::Symlink => {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is a link of another user"));
            }
            _ => (path.to_owned(), OFlags::NOFOLLOW),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | nofollow;
        let leads_nowhere = |error| match error {
            // Not "nothing there": the operator put the folder elsewhere, and that place is missing.
            Errno::NOENT if nofollow.is_empty() => io::Error::other("it is a link to a folder that does not exist"),
            error => error.into(),
        };
        let opened = openat(CWD, &target, flags, Mode::empty()).map_err(leads_nowhere)?;
        Ok(Opened(Arc::new(File::from(opened))))
    }

    /// The path by which it is reached, whatever its name is now: proc(5), "/proc/pid/fd".
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// The path of what has the same name in it as this one has in its folder.
    pub(super) fn at(&self, path: &Path) -> PathBuf {
        self.path().join(path.file_name().unwrap_or_default())
    }

    /// Makes the names in it durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{lchown, symlink};

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
        assert!(error.kind() != io::ErrorKind::NotFound && error.to_string().contains("does not exist"), "{error}");
        for name in ["file", "to-file", "missing"] {
            assert!(Opened::open(&at(name)).is_err(), "{name}");
        }
        // Only root can give a link away.
        if lchown(at("absolute"), Some(65534), None).is_ok() {
            let error = Opened::open(&at("absolute")).unwrap_err();
            assert_eq!(error.to_string(), "it is a link of another user");
        }
    }
}
