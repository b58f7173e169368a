//! Identifies disks whose tar header is lost. Must not guess: an uncertain member stays nameless.
//!
//! `SHA256SUMS` lists all members in order, so the members lost between two found ones are known. Readable data after
//! their headers belongs to the last of them.

use std::collections::HashMap;

use super::super::header::BLOCK;
use super::Remains;
use crate::model::Extent;

/// An image consists of whole clusters (`docs/format.md`), so offsets counted from its end are correct.
const CLUSTER: u64 = 64 << 10;

/// Names the disks among these remains. `order` contains all members of the archive.
pub fn name(remains: &mut [Remains], order: &[String]) {
    let places: HashMap<&String, usize> = order.iter().enumerate().rev().map(|(at, name)| (name, at)).collect();
    let place = |remains: &Remains| places.get(remains.name.as_ref()?).copied();
    for at in 0..remains.len() {
        // The end of the last one is unknown.
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

/// Moves its start to that of the disk, the last of `members` members. If the lengths of the others are lost, their
/// headers give only a lower bound.
fn begin(remains: &mut Remains, disk: &str, members: u64) {
    // With several lost ranges it is unknown which belongs to which member.
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

#[cfg(test)]
mod tests {
    use super::*;

    const VDA: &str = "disks/vda.qcow2";

    fn extent(from: u64, until: u64) -> Extent {
        Extent { offset: from, length: until - from }
    }

    /// The result for nameless bytes between the manifest and the checksums if these members are lost.
    fn named(between: &[&str], length: u64, lost: &[Extent]) -> Remains {
        let remains = |name: Option<&str>, offset: u64, length: u64, lost: &[Extent]| Remains {
            name: name.map(str::to_owned),
            offset,
            length,
            lost: lost.to_vec(),
            is_placed: true,
        };
        let mut all = [
            remains(Some("manifest.json"), BLOCK, 100, &[]),
            remains(None, 2 * BLOCK, length, lost),
            remains(Some("SHA256SUMS"), 3 * BLOCK + length, 64, &[]),
        ];
        let order: Vec<_> =
            ["manifest.json"].iter().chain(between).chain(&["SHA256SUMS"]).map(|&name| name.to_owned()).collect();
        name(&mut all, &order);
        let [_, remains, _] = all;
        remains
    }

    #[test]
    fn remains_of_a_disk_are_placed_at_the_start_of_the_disk() {
        let disk = 3 * CLUSTER;
        let whole = named(&[VDA], disk + BLOCK, &[extent(0, BLOCK)]);
        let (name, begins) = (Some(VDA.to_owned()), 3 * BLOCK);
        assert_eq!(whole, Remains { name, offset: begins, length: disk, lost: vec![], is_placed: true });
        // More is lost at its beginning, and some later.
        let torn = named(&[VDA], disk + BLOCK, &[extent(0, BLOCK + 10), extent(CLUSTER, CLUSTER + 5)]);
        assert_eq!(torn.lost, [extent(0, 10), extent(CLUSTER - BLOCK, CLUSTER - BLOCK + 5)]);
        assert!(torn.is_placed);
        // More than its header precedes it, so its start is unknown.
        let late = named(&[VDA], disk + BLOCK + 100, &[extent(0, BLOCK)]);
        assert_eq!((late.offset, late.length, late.is_placed), (2 * BLOCK + BLOCK + 100, disk, false));
        let second = named(&["domain.xml", VDA], disk + 2 * BLOCK, &[extent(0, BLOCK)]);
        assert_eq!((second.name.as_deref(), second.length, second.is_placed), (Some(VDA), disk, false));
    }

    #[test]
    fn ambiguous_remains_have_no_name() {
        let disk = 3 * CLUSTER + BLOCK;
        let begin = extent(0, BLOCK);
        let cases: [(&[&str], u64, &[Extent]); 7] = [
            (&[], disk, &[begin]),
            (&[VDA, "domain.xml"], disk, &[begin]),
            (&["domain.xml"], disk, &[begin]),
            (&[VDA], disk, &[]),
            (&[VDA], disk, &[extent(1, BLOCK)]),
            (&[VDA], disk, &[extent(1, BLOCK), extent(CLUSTER, CLUSTER + 1)]),
            (&["domain.xml", VDA], disk + BLOCK, &[begin, extent(CLUSTER, CLUSTER + 1)]),
        ];
        for (between, length, lost) in cases {
            let remains = named(between, length, lost);
            assert_eq!((remains.name, remains.length), (None, length), "{between:?} {lost:?}");
        }
        assert_eq!(named(&[VDA], BLOCK - 1, &[extent(0, 1)]).name, None, "not even a header");
    }
}
