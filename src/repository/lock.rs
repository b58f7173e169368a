//! Owns: restic's lock protocol. Must not: remove the lock of another process that lives.
//!
//! A lock is an object. A shared one is written, then the others are looked at again, because another process may have written its
//! exclusive lock at the same time. A thread writes the lock anew every five minutes, as restic takes locks of half an hour for
//! abandoned. Whoever depends on the lock asks [`SharedLock::check`] before the step that must not happen without it.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chrono::{DateTime, Local, Utc};
use serde::{Deserialize, Serialize};

use super::{Error, Id, Kind, Object, Repository};
use crate::sys::host;
use crate::sys::signals::Cancel;

/// The name of this host in our locks. `restic unlock` asks a process on its own host whether it lives by sending it SIGHUP, which would end
/// our run. By another name than the host's, it goes by the age of the lock alone. It also tells our locks from restic's.
fn host_name() -> String {
    format!("{} (kvmbackup)", host::node_name())
}

/// The times of the protocol.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Until the others are looked at again.
    pub second_look: Duration,
    /// After which a lock is written anew.
    pub refresh: Duration,
    /// After which a lock that could not be written anew counts as lost: before other processes take it for abandoned.
    pub give_up: Duration,
    /// How long an exclusive lock of another process is waited for.
    pub wait: Duration,
}

impl Timing {
    /// As restic has them.
    pub fn waiting(wait: Duration) -> Timing {
        let seconds = Duration::from_secs;
        Timing { second_look: Duration::from_millis(200), refresh: seconds(300), give_up: seconds(22 * 60 + 30), wait }
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
        format!("process {} of {} on {}, exclusively, since {since}", self.pid, self.username, self.hostname)
    }

    /// Whether it is a lock of this program on this host, and its process is gone.
    fn is_left_by_us(&self) -> bool {
        self.hostname == host_name()
            && self.pid != std::process::id()
            && !Path::new("/proc").join(self.pid.to_string()).exists()
    }
}

/// A shared lock. Dropped, it is removed.
#[derive(Debug)]
pub struct SharedLock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

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
    /// Takes a shared lock. Waits for an exclusive lock of another process as long as `timing` lets it.
    ///
    /// # Errors
    /// [`Error::Locked`] with who holds it; [`Error::Stopped`].
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

    /// Whether the lock is still ours: young enough, and still stored.
    ///
    /// # Errors
    /// [`Error::LockLost`].
    pub fn check(&self) -> Result<(), Error> {
        let shared = &self.shared;
        // Not while it is written anew: its name changes.
        let mut state = shared.state();
        shared.look(&mut state)?;
        let lost = || state.lost.clone();
        let too_old = || format!("it could not be written anew for {} s", state.written.elapsed().as_secs());
        match lost().or_else(|| (state.written.elapsed() > shared.timing.give_up).then(too_old)) {
            Some(why) => Err(Error::LockLost { place: shared.repository.location(), why }),
            None => Ok(()),
        }
    }

    /// Removes it.
    ///
    /// # Errors
    /// If it may still be stored.
    pub fn release(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.state().is_over = true;
        self.shared.ended.notify_all();
        // A panic there leaves a lock as old as it is.
        let _ = thread.join();
        let id = self.shared.state().id;
        self.shared.repository.remove(Object::new(Kind::Lock, id))
    }
}

impl Drop for SharedLock {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "could not remove the lock of the repository");
        }
    }
}

impl Shared {
    /// Writes the lock anew until it is over, or lost.
    fn keep(&self) {
        let mut state = self.state();
        loop {
            let waited = self.ended.wait_timeout_while(state, self.timing.refresh, |state| !state.is_over);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.is_over || state.lost.is_some() {
                return;
            }
            if let Err(error) = self.refresh(&mut state) {
                tracing::warn!(%error, "could not write the lock of the repository anew");
            }
        }
    }

    /// The new one is stored before the old one is removed.
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

    /// Notes that the lock was removed, if it was.
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

/// Fails if another process holds an exclusive lock. One that cannot be read may be such a lock.
fn expect_no_exclusive(repository: &Repository) -> Result<(), Error> {
    for (_, stored) in stored(repository)? {
        if stored.exclusive {
            return Err(Error::Locked { place: repository.location(), holder: stored.holder() });
        }
    }
    Ok(())
}

/// All locks. One without bytes was not finished by its writer; restic ignores it, too.
fn stored(repository: &Repository) -> Result<Vec<(Id, Stored)>, Error> {
    let mut found = Vec::new();
    for (id, size) in repository.list(Kind::Lock)? {
        match repository.load(Kind::Lock, id) {
            Ok(stored) => found.push((id, stored)),
            Err(_) if size == 0 => {}
            // Released meanwhile.
            Err(Error::Access { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Removes the locks that killed processes of this program left on this host; how many there were.
pub fn remove_left_by_us(repository: &Repository) -> Result<usize, Error> {
    let left: Vec<Id> =
        stored(repository)?.into_iter().filter(|(_, stored)| stored.is_left_by_us()).map(|(id, _)| id).collect();
    left.iter().try_for_each(|id| repository.remove(Object::new(Kind::Lock, *id)))?;
    Ok(left.len())
}

#[cfg(test)]
mod tests;
