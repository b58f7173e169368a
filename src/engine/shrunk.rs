//! Detects disks that lost most of the data that an earlier restore point contains. Must not keep or remove a restore
//! point.
//!
//! An image that was truncated, or a device that was detached and attached again, is read without any error.

use crate::model::command::quoted;
use crate::model::{DiskOutcome, DomainRef, Failure, PointId, size};
use crate::store::{DiskEntry, Store};

use super::points;

/// A disk with fewer bytes of data than this may lose most of it in normal operation (a swap disk, a small scratch
/// disk).
const MIN_DATA: u64 = 64 << 20;
/// A disk collapsed if less than one part in this many of its data is left. Deleting and trimming files frees less than
/// that between two backups, unless a disk is emptied on purpose.
const PART: u64 = 10;

/// The disks of a domain in its newest restore points, except those that are marked as shrunk.
pub(super) struct Before<'a> {
    domain: &'a DomainRef,
    disks: Vec<(PointId, DiskEntry)>,
}

impl<'a> Before<'a> {
    /// Reads manifests, newest first, until all disks are found. A point that cannot be read is skipped, because
    /// `verify` reports it.
    pub fn of(store: &Store, domain: &'a DomainRef, targets: &[&str]) -> Before<'a> {
        let mut before = Before { domain, disks: Vec::new() };
        for point in store.points(&domain.name).unwrap_or_default().into_iter().rev() {
            if targets.iter().all(|target| before.find(target).is_some()) {
                break;
            }
            let Ok((_, Some(manifest))) = points::open(store, &point) else { continue };
            // Another guest may have had the domain's name.
            let disks = manifest.disks.into_iter().filter(|_| manifest.domain.uuid == domain.uuid);
            for disk in disks.filter(|disk| !disk.shrunk) {
                if before.find(&disk.target).is_none() {
                    before.disks.push((point.id, disk));
                }
            }
        }
        before
    }

    fn find(&self, target: &str) -> Option<&(PointId, DiskEntry)> {
        self.disks.iter().find(|(_, disk)| disk.target == target)
    }

    /// A warning if a disk seems to have lost its contents.
    pub fn lost(&self, now: &DiskOutcome) -> Option<Failure> {
        let (point, was) = self.find(&now.target)?;
        let what = lost([was.virtual_bytes, was.read_bytes], [now.virtual_bytes, now.data_bytes])?;
        let name = quoted(&self.domain.name);
        Some(Failure {
            message: format!(
                "disk {}: {what} in restore point {point}; rotation keeps the older restore points until this is resolved",
                now.target
            ),
            hint: Some(format!(
                "If data was lost, restore it: kvmbackup restore {name} --at {point}; if the change is intended: \
                 kvmbackup backup --force {name} --accept-smaller"
            )),
        })
    }
}

/// Compares the sizes of a disk in bytes, each as `[virtual, data]`.
fn lost(was: [u64; 2], now: [u64; 2]) -> Option<String> {
    let [size, data] = [now[0] < was[0], was[1] >= MIN_DATA && now[1] < was[1] / PART];
    let compared = |at: usize| (size::bytes(now[at]), size::bytes(was[at]));
    if size {
        let (now, was) = compared(0);
        Some(format!("its size is {now}; it was {was}"))
    } else if data {
        let (now, was) = compared(1);
        Some(format!("it holds {now} of data; it held {was}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn smaller_disk_and_collapsed_data_are_reported() {
        assert_eq!(lost([10 * MIB, MIB], [10 * MIB, 0]), None);
        assert_eq!(lost([10 * MIB, MIB], [20 * MIB, MIB]), None);
        assert!(lost([10 * MIB, MIB], [10 * MIB - 512, MIB]).unwrap().starts_with("its size is"));
        assert_eq!(lost([999 * MIB, 100 * MIB], [999 * MIB, 10 * MIB]), None);
        assert!(lost([999 * MIB, 100 * MIB], [999 * MIB, 10 * MIB - 1]).unwrap().starts_with("it holds"));
        assert_eq!(lost([999 * MIB, 64 * MIB - 1], [999 * MIB, 0]), None);
        assert!(lost([999 * MIB, 64 * MIB], [999 * MIB, 0]).is_some());
    }
}
