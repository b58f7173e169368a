//! Locks that the kernel releases when the process ends: one against concurrent runs, one for short access to a file. Must
//! not know what they protect.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{FileType, FlockOperation, OFlags, flock};

use super::opened;

/// Number and interval of attempts while other processes only check the lock.
const LOOKS: u32 = 1000;
const LOOK: Duration = Duration::from_millis(10);

/// A lock that is released when this is dropped or the process ends for any reason.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    /// Closing the file is not enough: a child process of another thread has it open, too, between fork and exec.
    fn drop(&mut self) {
        // On an error, closing the file releases the lock.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum Refused {
    /// Another process has locked it. Contains what that process wrote into the file (`pid 123`), if it can be read.
    Held(String),
    /// The file cannot be opened or locked.
    Io(io::Error),
}

/// Takes the lock without waiting. The file stays after the release, because removing it would allow two processes to lock two
/// files with the same name.
pub fn take(path: &Path) -> Result<Lock, Refused> {
    let mut file = open(path).map_err(Refused::Io)?;
    if !take_among_looks(&file).map_err(Refused::Io)? {
        let mut holder = String::new();
        let _ = (&mut file).take(100).read_to_string(&mut holder);
        return Err(Refused::Held(holder.trim().to_owned()));
    }
    // Only for display: whether the file is locked is known to the kernel alone.
    let _ = file.set_len(0).and_then(|()| write!(file, "pid {}", std::process::id()));
    Ok(Lock { file })
}

/// Takes the lock unless another process has locked it exclusively. Processes with a shared lock only check it ([`is_held`])
/// and must not block others. Usually they have released it by the next attempt.
fn take_among_looks(file: &File) -> io::Result<bool> {
    for _ in 0..LOOKS {
        if try_lock(file, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(true);
        }
        if !try_lock(file, FlockOperation::NonBlockingLockShared)? {
            return Ok(false);
        }
        // Otherwise two processes that take the lock would see each other's shared lock.
        flock(file, FlockOperation::Unlock)?;
        thread::sleep(LOOK);
    }
    Ok(false)
}

/// Whether a process has a lock from [`take`]. Disturbs neither that process nor others that take the lock at the same time.
///
/// # Errors
/// If the file exists but cannot be opened or checked.
pub fn is_held(path: &Path) -> io::Result<bool> {
    let file = match opened::open_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    Ok(!try_lock(&file, FlockOperation::NonBlockingLockShared)?)
}

/// Whether the lock was taken.
fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits for the lock without a timeout. Only for locks that are released after a moment.
pub fn wait(path: &Path) -> io::Result<Lock> {
    let file = open(path)?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(Lock { file }),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = options.custom_flags(flags.bits() as i32).open(path);
    let file = opened.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP) => opened::not_regular(FileType::Symlink),
        _ => error,
    })?;
    let found = file.metadata()?;
    if found.is_file() { Ok(file) } else { Err(opened::not_regular(FileType::from_raw_mode(found.mode()))) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn checking_a_lock_does_not_disturb_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_held(&path).unwrap());
        assert!(!path.exists(), "checking must not create a file");
        let lock = take(&path).unwrap();
        assert!(is_held(&path).unwrap());
        assert!(matches!(take(&path), Err(Refused::Held(_))), "checking must not release the lock");
        drop(lock);
        assert!(!is_held(&path).unwrap());
    }

    #[test]
    fn a_lock_can_be_taken_while_another_process_checks_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let look = open(&path).unwrap();
        assert!(try_lock(&look, FlockOperation::NonBlockingLockShared).unwrap());
        thread::scope(|scope| {
            let (sender, taken) = mpsc::channel();
            let path = &path;
            scope.spawn(move || sender.send(take(path)).unwrap());
            taken.recv_timeout(Duration::from_millis(30)).expect_err("the check still has its shared lock");
            // Closing the file is not enough, see [`Lock`].
            flock(&look, FlockOperation::Unlock).unwrap();
            taken.recv().unwrap().unwrap();
        });
    }

    #[test]
    fn a_lock_is_refused_until_it_is_released() {
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
