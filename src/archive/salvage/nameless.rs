//! Owns: which disk it is whose tar header is lost. Must not: guess: what is not certain stays without a name.
//!
//! `SHA256SUMS` has all members in their order, so that between two that were found it is known which are lost. What can still be
//! read behind their headers is of the last of them.

use super::super::header::BLOCK;
use super::Remains;
use crate::model::Extent;

/// An image has whole clusters (`docs/format.md`), so that its places are known from its end, whatever lay before it.
const CLUSTER: u64 = 64 << 10;

/// Names the disks among these remains. `order` has all members of the archive.
pub fn name(remains: &mut [Remains], order: &[String]) {
    let place = |remains: &Remains| order.iter().position(|name| Some(name) == remains.name.as_ref());
    for at in 0..remains.len() {
        // Behind the last one nothing tells where it ends.
        let Some(behind) = remains.get(at + 1).and_then(place) else { continue };
        let before = match at.checked_sub(1) {
            Some(before) => place(&remains[before]).map(|before| before + 1),
            None => Some(0),
        };
        let between = before.and_then(|before| order.get(before..behind)).unwrap_or_default();
        if remains[at].name.is_none()
            && let Some(disk) = between.last().filter(|name| name.starts_with("disks/"))
        {
            begin(&mut remains[at], disk, between.len() as u64);
        }
    }
}

/// Lets it begin where the disk does, the last of so many members; no sooner than their headers allow, if the others' lengths
/// are lost.
fn begin(remains: &mut Remains, disk: &str, members: u64) {
    // Of several stretches nobody knows which is whose.
    let is_clear = match remains.lost[..] {
        [first] => first.offset == 0,
        [first, ..] => first.offset == 0 && members == 1,
        [] => false,
    };
    let Some(bytes) = remains.length.checked_sub(members * BLOCK).filter(|_| is_clear) else { return };
    let length = bytes / CLUSTER * CLUSTER;
    let skipped = remains.length - length;
    let cut = |lost: &Extent| {
        let offset = lost.offset.max(skipped);
        Extent { offset: offset - skipped, length: lost.end().saturating_sub(offset) }
    };
    remains.lost = remains.lost.iter().map(cut).filter(|lost| lost.length > 0).collect();
    remains.is_placed &= members == 1 && bytes == length;
    remains.name = Some(disk.to_owned());
    remains.offset += skipped;
    remains.length = length;
}
