//! Owns: locks that end with their holder: one that keeps two runs apart, one for a moment over a file. Must not: know what
//! they guard.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{FileType, FlockOperation, OFlags, flock};

use super::opened;

/// How often a lock that is only looked at is tried again, and after which time.
const LOOKS: u32 = 1000;
const LOOK: Duration = Duration::from_millis(10);

/// A lock that is held until this is dropped, or the process ends in any way.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    /// To close the file is not enough: a process that another thread is about to start has it, too, until it executes its program.
    fn drop(&mut self) {
        // A lock that cannot be let go ends with the file.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
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
    let mut file = open(path).map_err(Refused::Io)?;
    if !take_among_looks(&file).map_err(Refused::Io)? {
        let mut holder = String::new();
        let _ = (&mut file).take(100).read_to_string(&mut holder);
        return Err(Refused::Held(holder.trim().to_owned()));
    }
    // For people only: whether it is held is the kernel's knowledge.
    let _ = file.set_len(0).and_then(|()| write!(file, "pid {}", std::process::id()));
    Ok(Lock { file })
}

/// Takes the lock unless somebody holds it for himself. Those who share it only look ([`is_held`]), and must refuse nobody: as a
/// rule they are gone at the next try.
fn take_among_looks(file: &File) -> io::Result<bool> {
    for _ in 0..LOOKS {
        if try_lock(file, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(true);
        }
        if !try_lock(file, FlockOperation::NonBlockingLockShared)? {
            return Ok(false);
        }
        // Or two who take it would be looks to each other.
        flock(file, FlockOperation::Unlock)?;
        thread::sleep(LOOK);
    }
    Ok(false)
}

/// Whether somebody holds a lock that [`take`] gave. Disturbs neither the holder nor who takes it meanwhile.
///
/// # Errors
/// When the file is there and cannot be opened, or the system refuses to tell.
pub fn is_held(path: &Path) -> io::Result<bool> {
    let file = match opened::open_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    Ok(!try_lock(&file, FlockOperation::NonBlockingLockShared)?)
}

/// Whether the lock was had.
fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes the lock as soon as all others have let go. It is for moments: nothing ends the wait but that.
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
    fn a_look_sees_a_holder_and_leaves_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_held(&path).unwrap());
        assert!(!path.exists(), "a look makes no lock");
        let lock = take(&path).unwrap();
        assert!(is_held(&path).unwrap());
        assert!(matches!(take(&path), Err(Refused::Held(_))), "it is still held");
        drop(lock);
        assert!(!is_held(&path).unwrap());
    }

    #[test]
    fn who_takes_it_while_others_look_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let look = open(&path).unwrap();
        assert!(try_lock(&look, FlockOperation::NonBlockingLockShared).unwrap());
        thread::scope(|scope| {
            let (sender, taken) = mpsc::channel();
            let path = &path;
            scope.spawn(move || sender.send(take(path)).unwrap());
            taken.recv_timeout(Duration::from_millis(30)).expect_err("the look is not over");
            // To close the file is not enough, see [`Lock`].
            flock(&look, FlockOperation::Unlock).unwrap();
            taken.recv().unwrap().unwrap();
        });
    }

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
