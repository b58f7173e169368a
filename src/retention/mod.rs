//! Owns: which restore points stay and why. Pure: no I/O, `now` is an argument.

mod apply;

pub use apply::apply;

/// Which restore points stay: the union of what each rule keeps. A rule of 0 keeps nothing; if all are 0, everything stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of so many days.
    pub daily: u32,
    /// The newest of each of so many ISO weeks.
    pub weekly: u32,
    /// The newest of each of so many months.
    pub monthly: u32,
    /// The newest of each of so many years.
    pub yearly: u32,
}

impl Policy {
    /// `rotate: n`: the newest so many.
    pub fn rotate(n: u32) -> Policy {
        Policy { last: n, ..Policy::default() }
    }
}
