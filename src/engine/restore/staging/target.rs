//! Owns: whether a file may be written under a name, or over what has it. Must not: write.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use crate::engine::Error;

/// Nothing may be there, or, with `overwrite`, a regular file that no running guest has open.
pub fn check_target(target: &Path, overwrite: bool) -> Result<(), Error> {
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("access", target)(error)),
        Ok(status) if overwrite && status.is_file() => {
            let file = File::options().read(true).write(true).open(target).map_err(Error::file("open", target))?;
            check_unused(&file, target)
        }
        Ok(status) if status.is_file() => Err(Error::Exists { path: target.to_owned() }),
        Ok(_) => Err(obstacle(target)),
    }
}

/// What is there is no file that could be replaced.
pub fn obstacle(path: &Path) -> Error {
    let what = match (fs::read_link(path), path.is_dir()) {
        (Ok(to), _) => format!("a symbolic link to {}", to.display()),
        (_, true) => "a folder".to_owned(),
        (_, false) => "not a regular file".to_owned(),
    };
    Error::Rejected {
        message: format!("{}: {what} is in the way and is never replaced", path.display()),
        hint: Some("Move it away, or restore to another directory: --to DIR".to_owned()),
    }
}

/// QEMU locks some bytes of each image it has open (`docs/system/qemu-block-drivers.rst.inc` of QEMU, "Disk image file
/// locking"); a lock on the whole file collides with them.
pub fn check_unused(file: &File, path: &Path) -> Result<(), Error> {
    match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Error::Rejected {
            message: format!("{}: in use by a running guest or another program", path.display()),
            hint: Some("Shut the guest down first, or restore elsewhere: --to".to_owned()),
        }),
        // A file system without locks cannot tell.
        _ => Ok(()),
    }
}
