//! Owns: a file from its temporary name to its own, with the file that had it kept beside it. Must not: know what is in them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, RenameFlags, flock};
use rustix::io::Errno;
use uuid::Uuid;

use super::{Rename, State};
use crate::sys::durable;

/// What follows the name of a file that is being replaced, where it cannot take the temporary one; then a unique part.
const OLD: &str = ".kvmbackup-old-";

/// A hidden name in the same folder.
pub fn beside(target: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(end);
    target.with_file_name(name)
}

/// Gives a file its name. What was there keeps a name beside it: the temporary one, for which the file system exchanges both
/// at once, or, where it cannot (NFS: rename(2)), a third one.
pub fn place(part: &Path, target: &Path, overwrite: bool, rename: Rename) -> io::Result<State> {
    let cannot = |error| matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP);
    match rename(part, target, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(State::New),
        Err(Errno::EXIST) if overwrite => match rename(part, target, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(State::Replaced(part.to_owned())),
            Err(error) if cannot(error) => {}
            Err(error) => return Err(error.into()),
        },
        Err(error) if cannot(error) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(part, target).map(|()| State::New),
        Err(error) => Err(error),
        Ok(_) if overwrite => place_aside(part, target),
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

pub fn place_aside(part: &Path, target: &Path) -> io::Result<State> {
    let old = beside(target, &format!("{OLD}{}", Uuid::new_v4().simple()));
    fs::rename(target, &old)?;
    fs::rename(part, target).inspect_err(|_| put_back(&old, target))?;
    Ok(State::Replaced(old))
}

/// Gives a file that was replaced its name again; what has that name now is gone then.
pub fn put_back(old: &Path, target: &Path) {
    if let Err(error) = fs::rename(old, target) {
        let (path, old) = (target.display(), old.display());
        tracing::error!(%path, %old, %error, "cannot move the replaced file back; it keeps the other name");
    }
}

/// A new file; one that an interrupted restore has left gives way, one that is being written does not.
pub fn create_part(part: &Path) -> io::Result<File> {
    let created = match durable::create_private(part) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !fs::symlink_metadata(part)?.is_file() {
                return Err(error);
            }
            let left = File::open(part)?;
            flock(&left, FlockOperation::NonBlockingLockExclusive)?;
            fs::remove_file(part)?;
            durable::create_private(part)
        }
        result => result,
    };
    let file = created?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    durable::set_mode(&file, 0o600)?;
    Ok(file)
}
