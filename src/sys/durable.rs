//! Owns: files that survive a power cut: written aside, synced, renamed, folder synced; private modes whatever the
//! umask. Must not: know what is in them.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::io::Errno;

use super::step::{self, Step};

/// Creates a file for its owner only; fails if anything, a symbolic link included, has the name.
pub fn create_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    // Nobody else knows of a file that is not returned.
    set_mode(&file, 0o600).inspect_err(|_| drop(fs::remove_file(path)))?;
    Ok(file)
}

/// Sets the mode of a file or folder. Some file systems have a fixed mode for all files and refuse (vfat, exFAT, CIFS). This is accepted
/// if the fixed mode grants the group and others no more than the wanted one.
///
/// # Errors
/// [`Exposed`], if it grants more.
pub fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    let Err(refused) = file.set_permissions(Permissions::from_mode(mode)) else { return Ok(()) };
    let fixed = file.metadata()?.permissions().mode() & 0o777;
    match Errno::from_io_error(&refused) {
        Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) if fixed & 0o077 & !mode == 0 => Ok(()),
        Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, Exposed { fixed }))
        }
        _ => Err(refused),
    }
}

/// A file system gives every file a mode that lets other users in, and refuses to change it.
#[derive(Debug)]
pub struct Exposed {
    fixed: u32,
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the file system refuses chmod, and its mode {:o} gives other users access", self.fixed)
    }
}

impl std::error::Error for Exposed {}

impl Exposed {
    /// Whether this error says so.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Exposed>())
    }
}

/// Creates a folder, and those above it, for their owner only, and makes their names durable: what is synced in a folder whose
/// own name is not may be lost with it. Folders that exist are left as they are.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), create_private_dir)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// Makes the names in a folder durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces a file's contents at one instant: after a crash it holds the old bytes or the new ones.
pub fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(".tmp");
    let aside = dir.join(aside);
    remove(&aside)?;
    let mut file = create_private(&aside)?;
    file.write_all(contents)?;
    file.sync_all()?;
    step::reached(Step::FileReplace)?;
    fs::rename(&aside, path)?;
    sync_dir(dir)
}

/// Removes a file; one that is not there is no error. The folder is not synced.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Whether an error says that nothing has this name, and not that it cannot be seen. A name too long for any file is one.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename)
}

/// Removes a folder with all that is in it, for good; one that is not there is no error.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_dir(path.parent().unwrap_or(Path::new("."))),
    }
}
