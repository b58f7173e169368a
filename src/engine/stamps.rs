//! Detects whether files of a domain that is off were written while they were read. Must not read contents.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::users;
use crate::model::Domain;
use crate::plan::{CapturePlan, PlannedDisk};

/// Every file that is read of a domain that is off, and its state before that. A guest that was started and stopped
/// during the backup changed one of them, which need not be the image that its definition names.
pub(super) struct Stamps(Vec<(PathBuf, Option<String>)>);

impl Stamps {
    /// Empty if the domain is active, because its disks are captured.
    pub fn of<'a>(domain: &Domain, plan: &CapturePlan, beside: impl Iterator<Item = &'a Path>) -> Stamps {
        if domain.state.is_active() {
            return Stamps(Vec::new());
        }
        let chain = |planned: &PlannedDisk| {
            let images = std::iter::once(planned.image()).chain(&planned.disk.backing);
            // If its header cannot be read, QEMU cannot read it either.
            images.flat_map(|image| users::files_of(image).unwrap_or_default()).collect::<Vec<_>>()
        };
        let images = plan.disks.iter().flat_map(chain);
        let mut files: Vec<PathBuf> = images.chain(beside.map(Path::to_owned)).collect();
        files.sort();
        files.dedup();
        Stamps(
            files
                .into_iter()
                .map(|path| {
                    let before = stamp(&path);
                    (path, before)
                })
                .collect(),
        )
    }

    /// Whether one of them was written since then.
    pub fn changed(&self) -> bool {
        self.0.iter().any(|(path, before)| stamp(path) != *before)
    }
}

/// What changes when a file is written: times and size of a file, counters of a block device.
pub(super) fn stamp(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let times = format!("{}.{} {}", metadata.mtime(), metadata.mtime_nsec(), metadata.len());
    if !metadata.file_type().is_block_device() {
        return Some(times);
    }
    // QEMU writes through its own device node, so the times of this one say little. Writes done and sectors written:
    // https://docs.kernel.org/block/stat.html
    let device = metadata.rdev();
    let file = format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(device), rustix::fs::minor(device));
    let counters = fs::read_to_string(file).unwrap_or_default();
    let written: Vec<&str> = counters.split_whitespace().skip(4).take(3).collect();
    Some(format!("{times} {}", written.join(" ")))
}
