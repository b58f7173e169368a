//! Implements restic's lock protocol. Must not remove the lock of another running process.
//!
//! A lock is an object. A shared lock is written first; then the other locks are read again, because another process
//! may have written an exclusive lock at the same time. A thread refreshes the lock every five minutes, because restic
//! treats locks older than half an hour as abandoned. Indexes and snapshots refer to packs that another process may remove
//! without the lock, so they are stored with [`Locked::save`].

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chrono::{DateTime, Local, Utc};
use serde::{Deserialize, Serialize};

use super::{Error, Id, Kind, Object, Repository};
use crate::sys::signals::Cancel;
use crate::sys::{host, process};

/// The name of this host in our locks. To test whether a process on its own host exists, `restic unlock` sends it
/// SIGHUP, which would end our run. If the name differs from that of the host, restic considers only the age of the
/// lock. The name also distinguishes our locks from restic's.
fn host_name() -> String {
    format!("{} (kvmbackup)", host::node_name())
}

/// Age at which restic treats a lock as abandoned. Live processes refresh theirs every five minutes.
const ABANDONED: Duration = Duration::from_secs(30 * 60);

/// The times of the lock protocol.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Delay before the other locks are read again.
    pub second_look: Duration,
    /// Interval between refreshes of a lock.
    pub refresh: Duration,
    /// Age at which a lock that could not be refreshed counts as lost: before other processes treat it as abandoned.
    pub give_up: Duration,
    /// Maximum wait for the release of another process's exclusive lock.
    pub wait: Duration,
}

impl Timing {
    /// The times of restic, with this maximum wait.
    pub fn waiting(wait: Duration) -> Timing {
        let seconds = Duration::from_secs;
        // The tests take thousands of locks, on file systems where a new file is visible at once.
        let second_look = Duration::from_millis(if cfg!(debug_assertions) { 10 } else { 200 });
        Timing { second_look, refresh: seconds(300), give_up: seconds(22 * 60 + 30), wait }
    }
}

/// The contents of a lock.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    time: DateTime<Utc>,
    exclusive: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
}

impl Stored {
    fn ours() -> Stored {
        let (hostname, username) = (host_name(), "root".to_owned());
        Stored { time: Utc::now(), exclusive: false, hostname, username, pid: std::process::id(), uid: 0, gid: 0 }
    }

    fn holder(&self) -> String {
        let since = self.time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S %z");
        format!("process {} of user {} on {} since {since}", self.pid, self.username, self.hostname)
    }

    /// Whether its process no longer exists, as far as this host knows, or has not refreshed it for too long.
    fn is_stale(&self) -> bool {
        let age = Utc::now() - self.time;
        let too_old = age.to_std().is_ok_and(|age| age > ABANDONED);
        let of_restic_here = self.hostname == host::node_name();
        too_old || self.is_left_by_us() || (of_restic_here && !process::may_have_written(self.pid, "restic", self.time))
    }

    /// Whether this program wrote the lock on this host and its process no longer exists.
    fn is_left_by_us(&self) -> bool {
        self.hostname == host_name()
            && self.pid != std::process::id()
            && !Path::new("/proc").join(self.pid.to_string()).exists()
    }
}

/// A shared lock. It is removed when it is dropped.
#[derive(Debug)]
pub struct SharedLock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A repository as long as its lock is not lost. Clones share the lock, but only [`SharedLock`] keeps it.
#[derive(Debug, Clone)]
pub struct Locked(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    repository: Repository,
    timing: Timing,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    id: Id,
    written: Instant,
    lost: Option<String>,
    is_over: bool,
}

impl SharedLock {
    /// Takes a shared lock. Waits up to `timing.wait` while another process has an exclusive lock.
    ///
    /// # Errors
    /// [`Error::Locked`] with the process that has the lock; [`Error::Stopped`].
    pub fn take(repository: &Repository, timing: Timing, cancel: &Cancel) -> Result<SharedLock, Error> {
        let deadline = Instant::now() + timing.wait;
        let mut pause = Duration::from_millis(500).min(timing.wait);
        loop {
            match SharedLock::try_take(repository, timing) {
                Err(Error::Locked { .. }) if Instant::now() < deadline => {}
                result => return result,
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(10));
            if let Some(signal) = cancel.signal() {
                return Err(Error::Stopped { signal });
            }
        }
    }

    fn try_take(repository: &Repository, timing: Timing) -> Result<SharedLock, Error> {
        expect_no_exclusive(repository)?;
        let id = repository.save(Kind::Lock, &Stored::ours())?;
        let written = Instant::now();
        thread::sleep(timing.second_look);
        if let Err(error) = expect_no_exclusive(repository) {
            repository.remove(Object::new(Kind::Lock, id))?;
            return Err(error);
        }
        let state = Mutex::new(State { id, written, lost: None, is_over: false });
        let shared = Arc::new(Shared { repository: repository.clone(), timing, state, ended: Condvar::new() });
        let mut lock = SharedLock { shared, thread: None };
        let shared = lock.shared.clone();
        let thread = thread::Builder::new().name("lock".to_owned()).spawn(move || shared.keep());
        lock.thread = Some(thread.map_err(|source| repository.system(source))?);
        Ok(lock)
    }

    /// The repository, for writing under this lock.
    pub fn locked(&self) -> Locked {
        Locked(self.shared.clone())
    }

    /// Removes the lock.
    ///
    /// # Errors
    /// If the lock may still be stored.
    pub fn release(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.state().is_over = true;
        self.shared.ended.notify_all();
        // If the thread panicked, the lock was not refreshed, which is harmless here.
        let _ = thread.join();
        let id = self.shared.state().id;
        self.shared.repository.remove(Object::new(Kind::Lock, id))
    }
}

impl Drop for SharedLock {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "cannot remove the lock of the repository");
        }
    }
}

impl Locked {
    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.0.repository
    }

    /// Checks that the lock is still valid: recent enough, and still stored.
    ///
    /// # Errors
    /// [`Error::LockLost`].
    pub fn check(&self) -> Result<(), Error> {
        let shared = &self.0;
        // The state is locked because a refresh changes the name of the lock.
        let mut state = shared.state();
        shared.look(&mut state)?;
        let lost = || state.lost.clone();
        let too_old = || format!("it could not be refreshed for {} s", state.written.elapsed().as_secs());
        match lost().or_else(|| (state.written.elapsed() > shared.timing.give_up).then(too_old)) {
            Some(why) => Err(Error::LockLost { place: shared.repository.location(), why }),
            None => Ok(()),
        }
    }

    /// Stores an object that refers to packs. If the lock is lost before the object is stored, a prune may have removed
    /// these packs, so the object is removed again.
    ///
    /// # Errors
    /// [`Error::LockLost`].
    pub fn save<T: Serialize>(&self, kind: Kind, value: &T) -> Result<Id, Error> {
        self.check()?;
        let id = self.repository().save(kind, value)?;
        self.check().map(|()| id).inspect_err(|_| {
            let object = Object::new(kind, id);
            if let Err(error) = self.repository().remove(object) {
                tracing::warn!(%error, "cannot remove an object that was stored without the lock");
            }
        })
    }
}

impl Shared {
    /// Refreshes the lock until it is released or lost.
    fn keep(&self) {
        let mut state = self.state();
        loop {
            let waited = self.ended.wait_timeout_while(state, self.timing.refresh, |state| !state.is_over);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.is_over || state.lost.is_some() {
                return;
            }
            if let Err(error) = self.refresh(&mut state) {
                tracing::warn!(%error, "cannot refresh the lock of the repository");
            }
        }
    }

    /// Stores the new lock before it removes the old one.
    fn refresh(&self, state: &mut State) -> Result<(), Error> {
        self.look(state)?;
        if state.lost.is_some() {
            return Ok(());
        }
        let id = self.repository.save(Kind::Lock, &Stored::ours())?;
        let old = Object::new(Kind::Lock, std::mem::replace(&mut state.id, id));
        state.written = Instant::now();
        self.repository.remove(old)
    }

    /// Records whether the lock was removed.
    fn look(&self, state: &mut State) -> Result<(), Error> {
        match self.repository.size(Object::new(Kind::Lock, state.id)) {
            Err(Error::Access { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                state.lost = Some("it was removed".to_owned());
                Ok(())
            }
            result => result.map(drop),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails if another process has an exclusive lock, or if a lock cannot be read, because it may be exclusive.
fn expect_no_exclusive(repository: &Repository) -> Result<(), Error> {
    for (_, stored) in stored(repository)? {
        if stored.exclusive {
            return Err(Error::Locked { place: repository.location(), holder: stored.holder() });
        }
    }
    Ok(())
}

/// All locks except empty ones, whose writer did not finish; restic ignores them, too.
fn stored(repository: &Repository) -> Result<Vec<(Id, Stored)>, Error> {
    let mut found = Vec::new();
    for (id, size) in repository.list(Kind::Lock)? {
        match repository.load(Kind::Lock, id) {
            Ok(stored) => found.push((id, stored)),
            Err(_) if size == 0 => {}
            // It was released after the listing.
            Err(Error::Access { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Removes the locks that killed processes of this program left on this host; returns their number.
pub fn remove_left_by_us(repository: &Repository) -> Result<usize, Error> {
    let left: Vec<Id> =
        stored(repository)?.into_iter().filter(|(_, stored)| stored.is_left_by_us()).map(|(id, _)| id).collect();
    left.iter().try_for_each(|id| repository.remove(Object::new(Kind::Lock, *id)))?;
    Ok(left.len())
}

/// Removes the locks of processes that no longer exist on this host, and locks that were not refreshed for half an hour;
/// returns their number.
///
/// `restic unlock` does the same, but to test whether a process exists, it sends it SIGHUP. Another process may have the
/// ID of a restic that was killed, and SIGHUP ends QEMU.
pub fn remove_stale(repository: &Repository) -> Result<usize, Error> {
    let stale: Vec<Id> =
        stored(repository)?.into_iter().filter(|(_, stored)| stored.is_stale()).map(|(id, _)| id).collect();
    stale.iter().try_for_each(|id| repository.remove(Object::new(Kind::Lock, *id)))?;
    Ok(stale.len())
}

#[cfg(test)]
mod tests;
