//! Owns: one hook's process, on this host or in a guest, from its start until nothing of it is left.
//! Must not: know of phases, or decide what a hook's failure means; the engine does.

mod artifacts;
mod error;
mod guest;
mod host;
mod output;
mod process;
mod trust;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::sys::signals::Cancel;

pub use artifacts::artifacts;
pub use error::Error;
pub use guest::{Agent, Guest};
pub use host::Host;
pub use trust::check_file;

/// Bytes of a hook's output that are kept: the newest.
pub const MAX_OUTPUT: usize = 64 << 10;
/// How long a process may take to end after SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// What to start. No shell reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// The program's absolute path, and its arguments.
    pub argv: Vec<String>,
    /// The whole environment: nothing is inherited.
    pub env: BTreeMap<String, String>,
}

/// How a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exit(i32),
    /// By this signal, which was not ours.
    Signal(i32),
    /// By us: its time was up.
    TimedOut,
    /// By us: the run shall stop.
    Cancelled,
}

/// A hook that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// How.
    pub ended: Ended,
    /// The newest [`MAX_OUTPUT`] bytes of standard output and standard error, in order, from the beginning of a line where
    /// that is possible. Control characters other than tab and line feed are replaced.
    pub output: String,
    /// From its start to its end.
    pub time: Duration,
}

/// How long each part of a session may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From its start to `READY`.
    pub ready: Duration,
    /// From `READY` until it is told to let go; it is told then, whoever still wants it to hold.
    pub hold: Duration,
    /// From being told to let go to its end.
    pub release: Duration,
}

/// What came of starting a session, which may borrow what its [`Runner`] did.
pub enum Started<'a> {
    /// It holds what it is there to hold.
    Ready(Box<dyn Held + 'a>),
    /// It does not, and has ended.
    NotReady(Ran),
}

/// A session that holds. Dropping it releases it too.
pub trait Held: Send {
    /// Tells it to let go, and waits until it has ended.
    fn release(self: Box<Self>) -> Released;
}

/// A session that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// From `READY` until it was told to let go, or had died.
    pub held: Duration,
    /// It held from `READY` until its release was asked for. If not, it had died, or its time to hold had run out.
    pub kept: bool,
    /// How it ended.
    pub ran: Ran,
}

/// A place where hooks run. A session may outlive the runner, but not `'a`: what the runner itself borrows.
pub trait Runner<'a>: Send + Sync {
    /// Runs a command to its end. After `timeout`, or once `cancel` says so, it is ended with its whole process group.
    ///
    /// # Errors
    /// Only when it could not be run; a command that fails has run.
    fn run(&self, call: &Call, timeout: Duration, cancel: Option<&Cancel>) -> Result<Ran, Error>;

    /// Starts a session and returns once it holds. `cancel` counts until then.
    ///
    /// # Errors
    /// Only when it could not be run.
    fn hold(&self, call: &Call, deadlines: Deadlines, cancel: Option<&Cancel>) -> Result<Started<'a>, Error>;
}
