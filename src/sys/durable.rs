//! Writes files that survive a power cut (temporary file, sync, rename, directory sync), with private modes regardless of the
//! umask. Must not know their contents.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::io::Errno;

use super::step::{self, Step};

/// Creates a file that only its owner can access. Fails if the name exists, even as a symbolic link.
pub fn create_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    // On an error, only this function knows the file.
    set_mode(&file, 0o600).inspect_err(|_| drop(fs::remove_file(path)))?;
    Ok(file)
}

/// Sets the mode of a file or directory. Some file systems (vfat, exFAT, CIFS) have a fixed mode for all files and reject the
/// change. This is accepted if the fixed mode grants the group and others no more than `mode`.
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

/// The file system has a fixed mode that gives other users access.
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
    /// Whether an error contains [`Exposed`].
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Exposed>())
    }
}

/// Creates a directory and its missing parents with mode 0700, and makes their names durable. Without that, a power cut could
/// lose the directory with synced files in it. Existing directories are not changed.
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

/// Makes the names in a directory durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces the contents of a file atomically: after a crash it has the old contents or the new ones.
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

/// Removes a file, if it exists. Does not sync the directory.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Whether an error means that nothing has this name, not that it cannot be accessed. No file has a name that is too long.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename)
}

/// Removes a directory and its contents durably, if it exists.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_dir(path.parent().unwrap_or(Path::new("."))),
    }
}
