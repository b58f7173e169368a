//! Kinds of damage to bytes.

use super::places::Place;

/// A kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The file ends in the middle of the place.
    Truncate,
    /// A few bytes are changed, because a decoder may ignore a single bit.
    Flip,
    /// Some bytes are removed, and the following bytes move up.
    Delete,
    /// The halves of the place are swapped; for whole frames, it and the next.
    Swap,
    /// The whole place is zeros.
    Zero,
}

pub const KINDS: [Kind; 5] = [Kind::Truncate, Kind::Flip, Kind::Delete, Kind::Swap, Kind::Zero];

/// A copy of the archive with the damage; `None` if that would change nothing.
pub fn damaged(good: &[u8], place: &Place, kind: Kind) -> Option<Vec<u8>> {
    let mut bad = good.to_vec();
    let range = place.range.clone();
    let middle = range.start + range.len() / 2;
    match kind {
        Kind::Truncate => bad.truncate(middle),
        Kind::Flip => bad[middle..range.end.min(middle + 4)].iter_mut().for_each(|byte| *byte ^= 0xff),
        Kind::Delete => drop(bad.drain(range.start..middle)),
        Kind::Swap => bad[range].rotate_left(place.swap_at),
        Kind::Zero => bad[range].fill(0),
    }
    (bad != good).then_some(bad)
}
