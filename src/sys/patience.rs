//! Owns: calls that may never come back, made in threads that can be given up, so that a file system that hangs keeps nobody.
//! Must not: end such a thread: nothing can.
//!
//! A mount whose server is gone (NFS mounted `hard`, FUSE) holds whoever calls it in the kernel, beyond the reach of any
//! signal. What was given up is remembered: until it comes back after all, every further call fails at once, so that the
//! domains of a run do not wait for the same mount one after the other.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// How long one call, or a work that makes progress from call to call, may keep its caller waiting. Clones share what was
/// given up.
#[derive(Debug, Clone)]
pub struct Patience {
    limit: Duration,
    given_up: Arc<AtomicUsize>,
}

/// Nothing came for this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled(Duration);

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no response for {} s", self.0.as_secs())
    }
}

impl std::error::Error for Stalled {}

impl Stalled {
    /// What the operator can do.
    pub const HINT: &'static str = "Check that the mount and its server respond (`findmnt`, then `timeout 10 ls` on \
    it). The next run removes what this one left.";

    /// Whether this error says that something hangs.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| Stalled::caused(inner))
    }

    /// Whether an error, or any cause of it, says so.
    pub fn caused(error: &(dyn std::error::Error + 'static)) -> bool {
        // The inner error of an io::Error is not its source, but that one's source is.
        let is_inside = |error: &io::Error| Stalled::is(error);
        error.is::<Stalled>()
            || error.downcast_ref().is_some_and(is_inside)
            || error.source().is_some_and(Stalled::caused)
    }
}

/// Whether an error, or any cause of it, says that a file system is out of reach: it hangs, or its server is gone, or no longer knows a file
/// that was open (ESTALE). That says nothing about the file.
pub fn is_out_of_reach(error: &(dyn std::error::Error + 'static)) -> bool {
    use io::ErrorKind::*;
    let is_out = |error: &io::Error| {
        matches!(
            error.kind(),
            StaleNetworkFileHandle | TimedOut | NotConnected | HostUnreachable | NetworkUnreachable | NetworkDown
        )
    };
    Stalled::caused(error) || error.downcast_ref().is_some_and(is_out) || error.source().is_some_and(is_out_of_reach)
}

impl From<Stalled> for io::Error {
    fn from(stalled: Stalled) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, stalled)
    }
}

impl Default for Patience {
    /// Five minutes: longer than a server of files takes to restart.
    fn default() -> Patience {
        Patience::new(Duration::from_secs(5 * 60))
    }
}

impl Patience {
    /// Waits at most so long for an answer.
    pub fn new(limit: Duration) -> Patience {
        Patience { limit, given_up: Arc::default() }
    }

    /// As much for another file system, on which nothing was given up.
    pub fn apart(&self) -> Patience {
        Patience::new(self.limit)
    }

    /// The same, with another limit.
    pub fn within(&self, limit: Duration) -> Patience {
        Patience { limit, given_up: self.given_up.clone() }
    }

    /// The error of what hangs.
    pub fn stalled(&self) -> io::Error {
        Stalled(self.limit).into()
    }

    /// Makes a call, and gives it up when it does not come back in time.
    ///
    /// # Errors
    /// [`Stalled`] inside, at once while an earlier call is still out; or when no thread can be had.
    pub fn call<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        self.start("call", work)?.wait(|| 0)
    }

    /// Begins what may take longer than the limit as a whole.
    ///
    /// # Errors
    /// As [`Patience::call`] has them.
    pub fn start<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Task<T>> {
        if self.given_up.load(Ordering::SeqCst) > 0 {
            // It may own an open file of the target: to close that is a call on it, too.
            std::mem::forget(work);
            return Err(self.stalled());
        }
        // Without room for a result: it is handed over, or the thread learns that nobody wants it any more.
        let (done, result) = mpsc::sync_channel(0);
        let given_up = self.given_up.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            if done.send(work()).is_err() {
                given_up.fetch_sub(1, Ordering::SeqCst);
            }
        })?;
        Ok(Task { patience: self.clone(), result: Some(result) })
    }

    /// What one step of a longer work sends. `None` when the sender is gone, [`Stalled`] inside when nothing comes.
    pub fn receive<T>(&self, receiver: &Receiver<T>) -> io::Result<Option<T>> {
        match receiver.recv_timeout(self.limit) {
            Ok(value) => Ok(Some(value)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(self.stalled()),
        }
    }
}

/// What a thread of its own is at. Dropped before its end, it is given up.
#[derive(Debug)]
pub struct Task<T> {
    patience: Patience,
    /// `None` once the thread has ended.
    result: Option<Receiver<T>>,
}

impl<T> Task<T> {
    /// Waits for the end as long as `progress` grows within each limit; then gives the thread up.
    pub fn wait(mut self, progress: impl Fn() -> u64) -> io::Result<T> {
        let Some(result) = &self.result else { return Err(ended()) };
        let mut seen = progress();
        loop {
            match self.patience.receive(result) {
                Ok(value) => {
                    self.result = None;
                    return value.ok_or_else(ended);
                }
                Err(_) if progress() > seen => seen = progress(),
                Err(stalled) => return Err(stalled),
            }
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if self.result.is_some() {
            // Before the receiver goes, so that the thread never counts down what was not counted.
            self.patience.given_up.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// It has ended without a result: it panicked.
fn ended() -> io::Error {
    io::Error::other("its thread ended early")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn what_hangs_is_given_up_and_so_is_all_that_comes_after_it_until_it_answers() {
        let patience = Patience::new(SHORT);
        let (answer, waits) = mpsc::channel::<()>();
        let (ends, ended) = mpsc::channel::<()>();
        let hanging = patience.call(move || {
            let _ends = ends;
            waits.recv().is_ok()
        });
        assert!(Stalled::is(&hanging.unwrap_err()));
        let next = patience.clone().call(|| unreachable!("nobody is sent after the first"));
        assert!(next.is_err_and(|error: io::Error| Stalled::is(&error)));
        drop(answer);
        ended.recv().expect_err("its end");
        // The thread says so right after its work.
        while patience.given_up.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
        assert_eq!(Patience { limit: Duration::from_secs(60), ..patience }.call(|| 7).unwrap(), 7);
    }

    #[test]
    fn who_makes_progress_may_take_longer() {
        let patience = Patience::new(SHORT);
        let (answer, waits) = mpsc::channel::<()>();
        let task = patience.start("slow", move || waits.recv().is_err()).unwrap();
        let looks = AtomicUsize::new(0);
        let answer = std::cell::Cell::new(Some(answer));
        let done = task.wait(|| {
            let look = looks.fetch_add(1, Ordering::Relaxed);
            if look == 6 {
                drop(answer.take());
            }
            look as u64
        });
        assert!(done.unwrap());
    }

    #[test]
    fn a_panic_is_no_stall() {
        let error = Patience::default().call::<()>(|| panic!("on purpose")).unwrap_err();
        assert!(!Stalled::is(&error), "{error}");
    }
}
