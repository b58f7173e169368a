//! Owns: one hook, on this host or in a guest, from its start until none of its processes is left. Must not: know of phases, or
//! decide what a hook's failure means; the engine does.

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

/// Bytes of a hook's output that are kept: the newest.
pub const MAX_OUTPUT: usize = 64 << 10;
/// The line by which a session reports that it holds.
const READY: &[u8] = b"READY";

/// What to start. No shell reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// The program's absolute path, and its arguments.
    pub argv: Vec<String>,
    /// The whole environment: nothing is inherited.
    pub env: BTreeMap<String, String>,
}

/// How long each part of a session may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From its start to `READY`.
    pub ready: Duration,
    /// From `READY` until it is released, even if the backup still needs it.
    pub hold: Duration,
    /// From its release to its end.
    pub release: Duration,
}

/// A session that was started, which may borrow what its [`Runner`] did.
pub enum Started<'a> {
    /// It holds its lock.
    Ready(Box<dyn Held + 'a>),
    /// It has ended without.
    NotReady(Ran),
}

/// A session that holds. Dropping it releases it too.
pub trait Held: Send {
    /// Asks it to release its lock, and waits until it has ended.
    fn release(self: Box<Self>) -> Released;
}

/// A session that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// From `READY` until its release or its death.
    pub held: Duration,
    /// It held from `READY` until its release was asked for. If not, it had died, or had held too long.
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
