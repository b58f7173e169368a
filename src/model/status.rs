//! Owns: the result of a run in one word. Must not: decide it.

use super::words::words;

/// The result of a run, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// All is well.
    Ok,
    /// The backups are good, and there is something to look at.
    Warning,
    /// Something was not saved.
    Failed,
    /// A signal ended it.
    Aborted,
}

words!(Status { Ok = "OK", Warning = "WARNING", Failed = "FAILED", Aborted = "ABORTED" });
