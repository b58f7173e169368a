//! Makes calls that may never return in separate threads, so that a hung file system does not block the run. Must not end such
//! a thread: that is impossible.
//!
//! A call to a mount whose server is gone (NFS mounted `hard`, FUSE) blocks in the kernel, and no signal interrupts it. Such a
//! call is abandoned. Until it returns, every further call fails at once, so that the domains of a run do not wait for the
//! same mount one after another.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// A time limit for calls, or for the progress of longer work. Clones share the count of abandoned calls.
#[derive(Debug, Clone)]
pub struct Patience {
    limit: Duration,
    given_up: Arc<AtomicUsize>,
}

/// There was no response for this long.
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

    /// Whether an error contains [`Stalled`].
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| Stalled::caused(inner))
    }

    /// Whether an error or any of its causes is [`Stalled`].
    pub fn caused(error: &(dyn std::error::Error + 'static)) -> bool {
        // `source()` of an io::Error skips its inner error and returns that error's source.
        let is_inside = |error: &io::Error| Stalled::is(error);
        error.is::<Stalled>()
            || error.downcast_ref().is_some_and(is_inside)
            || error.source().is_some_and(Stalled::caused)
    }
}

/// Whether an error or any of its causes means that a file system is unreachable: it hangs, its server is gone, or the server
/// no longer knows an open file (ESTALE). Such an error is no evidence of damage to the file.
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
    /// Five minutes: longer than the restart of a file server.
    fn default() -> Patience {
        Patience::new(Duration::from_secs(5 * 60))
    }
}

impl Patience {
    /// Waits at most `limit` for a response.
    pub fn new(limit: Duration) -> Patience {
        Patience { limit, given_up: Arc::default() }
    }

    /// The same limit for another file system, without abandoned calls.
    pub fn apart(&self) -> Patience {
        Patience::new(self.limit)
    }

    /// Another limit for the same file system.
    pub fn within(&self, limit: Duration) -> Patience {
        Patience { limit, given_up: self.given_up.clone() }
    }

    /// The limit.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The error for a hung call.
    pub fn stalled(&self) -> io::Error {
        Stalled(self.limit).into()
    }

    /// Makes a call and abandons it if it does not return in time.
    ///
    /// # Errors
    /// Contains [`Stalled`], at once if an earlier call has not returned yet. Also fails if no thread can be started.
    pub fn call<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        self.start("call", work)?.wait(|| 0)
    }

    /// Starts work that may take longer than the limit in total.
    ///
    /// # Errors
    /// Those of [`Patience::call`].
    pub fn start<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Task<T>> {
        if self.given_up.load(Ordering::SeqCst) > 0 {
            // It may own an open file of the hung target, and closing that could hang, too.
            std::mem::forget(work);
            return Err(self.stalled());
        }
        // Without a buffer, `send` fails if the receiver is gone, so the thread notices that it was abandoned.
        let (done, result) = mpsc::sync_channel(0);
        let given_up = self.given_up.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            if done.send(work()).is_err() {
                given_up.fetch_sub(1, Ordering::SeqCst);
            }
        })?;
        Ok(Task { patience: self.clone(), result: Some(result) })
    }

    /// Receives the result of one step of longer work. `None` if the sender is gone; [`Stalled`] after the limit.
    pub fn receive<T>(&self, receiver: &Receiver<T>) -> io::Result<Option<T>> {
        match receiver.recv_timeout(self.limit) {
            Ok(value) => Ok(Some(value)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(self.stalled()),
        }
    }
}

/// Work in a separate thread. If it is dropped before the work ends, the work is abandoned.
#[derive(Debug)]
pub struct Task<T> {
    patience: Patience,
    /// `None` once the thread has ended.
    result: Option<Receiver<T>>,
}

impl<T> Task<T> {
    /// Waits for the end of the work. Abandons it if `progress` does not grow within the limit.
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
            // Before the receiver is dropped, so that the thread never decrements first.
            self.patience.given_up.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The thread panicked, so there is no result.
fn ended() -> io::Error {
    io::Error::other("its thread ended early")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn hung_call_is_abandoned_and_later_calls_fail_at_once() {
        let patience = Patience::new(SHORT);
        let (answer, waits) = mpsc::channel::<()>();
        let (ends, ended) = mpsc::channel::<()>();
        let hanging = patience.call(move || {
            let _ends = ends;
            waits.recv().is_ok()
        });
        assert!(Stalled::is(&hanging.unwrap_err()));
        let next = patience.clone().call(|| unreachable!("no call is made while one hangs"));
        assert!(next.is_err_and(|error: io::Error| Stalled::is(&error)));
        drop(answer);
        ended.recv().expect_err("the sender is dropped when the work ends");
        // The thread decrements the count right after its work.
        while patience.given_up.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
        assert_eq!(Patience { limit: Duration::from_secs(60), ..patience }.call(|| 7).unwrap(), 7);
    }

    #[test]
    fn progress_extends_the_deadline() {
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
    fn panic_is_not_reported_as_stall() {
        let error = Patience::default().call::<()>(|| panic!("on purpose")).unwrap_err();
        assert!(!Stalled::is(&error), "{error}");
    }
}
