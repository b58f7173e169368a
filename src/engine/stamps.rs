//! Owns: whether what is read of a domain that is off was written meanwhile. Must not: read contents.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::users;
use crate::model::Domain;
use crate::plan::{CapturePlan, PlannedDisk};

/// Every file that is read of a domain that is off, and how it was before: a domain that is started and stopped while it is
/// read shows in one of them, which need not be the image that its definition names.
pub(super) struct Stamps(Vec<(PathBuf, Option<String>)>);

impl Stamps {
    /// Of none, where the domain runs: what is read of it stands still.
    pub fn of<'a>(domain: &Domain, plan: &CapturePlan, beside: impl Iterator<Item = &'a Path>) -> Stamps {
        if domain.state.is_active() {
            return Stamps(Vec::new());
        }
        let chain = |planned: &PlannedDisk| {
            let images = std::iter::once(planned.image()).chain(&planned.disk.backing);
            // One whose header cannot be read cannot be read by QEMU either.
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

    /// Whether one of them was written since.
    pub fn changed(&self) -> bool {
        self.0.iter().any(|(path, before)| stamp(path) != *before)
    }
}

/// What changes when a file is written: times and size of a file, the counters of a block device.
fn stamp(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let times = format!("{}.{} {}", metadata.mtime(), metadata.mtime_nsec(), metadata.len());
    if !metadata.file_type().is_block_device() {
        return Some(times);
    }
    // QEMU writes through a device node of its own, so the times of this one say little. Writes done and sectors
    // written: https://docs.kernel.org/block/stat.html
    let device = metadata.rdev();
    let file = format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(device), rustix::fs::minor(device));
    let counters = fs::read_to_string(file).unwrap_or_default();
    let written: Vec<&str> = counters.split_whitespace().skip(4).take(3).collect();
    Some(format!("{times} {}", written.join(" ")))
}
