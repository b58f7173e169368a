//! Owns: the lock that keeps two runs apart. Must not: wait for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};

/// A lock that is held until this is dropped, or the process ends in any way.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why the lock was not had.
#[derive(Debug)]
pub enum Refused {
    /// Somebody else holds it: what they wrote into it (a process id), as far as it can be read.
    Held(String),
    /// The file cannot be opened or locked.
    Io(io::Error),
}

/// Takes the lock at once or not at all. The file stays when the lock is released: removing it would let two holders
/// lock two files of one name.
pub fn take(path: &Path) -> Result<Lock, Refused> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(Refused::Io)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _ = (&mut file).take(100).read_to_string(&mut holder);
            return Err(Refused::Held(holder.trim().to_owned()));
        }
        Err(error) => return Err(Refused::Io(error.into())),
    }
    // For people only: whether it is held is the kernel's knowledge.
    let _ = file.set_len(0).and_then(|()| write!(file, "pid {}", std::process::id()));
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_taker_is_refused_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = take(&path).unwrap();
        match take(&path) {
            Err(Refused::Held(holder)) => assert_eq!(holder, format!("pid {}", std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(first);
        take(&path).unwrap();
    }
}
