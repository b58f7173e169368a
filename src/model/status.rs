//! Owns: what a run came to, in one word. Must not: decide it.

use serde::{Deserialize, Serialize};

/// What a run came to, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
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

impl Status {
    /// Its word, everywhere.
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::Warning => "WARNING",
            Status::Failed => "FAILED",
            Status::Aborted => "ABORTED",
        }
    }
}
