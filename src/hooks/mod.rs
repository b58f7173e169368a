//! Runs one hook, on this host or in a guest, from its start until all of its processes have ended. Must not know
//! phases, or decide what a hook's failure means; the engine does.

mod artifacts;
mod error;
mod guest;
mod host;
mod trust;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::sys::process::GRACE;
use crate::sys::signals::Cancel;

pub use crate::sys::process::{Ended, Ran};
pub use artifacts::artifacts;
pub use error::Error;
pub use guest::{Agent, Guest};
pub use host::Host;
pub use trust::check_file;

/// Maximum size of a hook's kept output, in bytes; the newest part is kept.
pub const MAX_OUTPUT: usize = 64 << 10;
/// The line by which a session reports that it is ready.
const READY: &[u8] = b"READY";

/// What to start, without a shell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// The program's absolute path, and its arguments.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: BTreeMap<String, String>,
}

/// Time limits for the parts of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From its start to `READY`.
    pub ready: Duration,
    /// From `READY` until it is released, even if the backup still needs it.
    pub hold: Duration,
    /// From its release to its end.
    pub release: Duration,
}

/// A started session, which may borrow what its [`Runner`] borrowed.
pub enum Started<'a> {
    /// It is ready.
    Ready(Box<dyn Held + 'a>),
    /// It has ended without becoming ready.
    NotReady(Ran),
}

/// A ready session. Dropping it releases it too.
pub trait Held: Send {
    /// Asks the session to release its lock, and waits until it has ended.
    fn release(self: Box<Self>) -> Released;
}

/// A session that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Time from `READY` until its release or its end.
    pub held: Duration,
    /// Whether it was ready until its release was requested. If not, it ended by itself or reached its deadline.
    pub kept: bool,
    /// How it ended.
    pub ran: Ran,
}

/// A place where hooks run. A session may outlive the runner, but not `'a`, what the runner itself borrows.
pub trait Runner<'a>: Send + Sync {
    /// Runs a command until it ends. After `timeout`, or when `cancel` is set, the whole process group is ended.
    ///
    /// # Errors
    /// Only if it could not be run. A command that fails has run.
    fn run(&self, call: &Call, timeout: Duration, cancel: Option<&Cancel>) -> Result<Ran, Error>;

    /// Starts a session and returns when it is ready. `cancel` applies until then.
    ///
    /// # Errors
    /// Only if it could not be run.
    fn hold(&self, call: &Call, deadlines: Deadlines, cancel: Option<&Cancel>) -> Result<Started<'a>, Error>;
}
