//! Decides which restore points stay and why. Pure: no I/O, and the time is an argument. Must not remove anything.

mod apply;
mod copies;

pub use apply::{Judgement, apply};
pub use copies::{StoredPoint, copies};

/// A point stays if any rule keeps it. A rule of 0 keeps nothing; if all are 0, every point stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Number of newest points.
    pub last: u32,
    /// Number of days; the newest point of each stays. The same for the other periods.
    pub daily: u32,
    /// ISO weeks.
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
}

impl Policy {
    /// The configuration `rotate: n`.
    pub fn rotate(n: u32) -> Policy {
        Policy { last: n, ..Policy::default() }
    }
}
