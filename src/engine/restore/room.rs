//! Owns: checking that a restore has enough room and that nothing is in its way. Must not: write.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::plan::{How, Plan, Write};
use super::staging::Staging;
use super::staging::target;
use super::{Request, device};
use crate::engine::Error;
use crate::model::size;
use crate::sys::space;

/// What can be known to fail is found before anything is written: files that are there, and file systems without room.
pub fn expect_room(plan: &Plan, request: &Request, staging: &Staging) -> Result<(), Error> {
    let Some(first) = plan.writes.first() else { return Ok(()) };
    let (writes, overwrite) = (plan.writes.clone(), request.overwrite);
    staging.call("access", request.to.as_ref().unwrap_or(&first.to), move || check_writes(&writes, overwrite))
}

fn check_writes(writes: &[Write], overwrite: bool) -> Result<(), Error> {
    let mut needed: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    // All are held open at once: a device that has two names is in use the second time.
    let mut devices = Vec::new();
    for write in writes {
        if let How::Device(part) = &write.how {
            devices.push(device::open(&write.to, part.virtual_bytes)?);
            continue;
        }
        target::check_target(&write.to, overwrite)?;
        let (folder, file_system) = nearest_folder(&write.to)?;
        let entry = needed.entry(file_system).or_insert((folder, 0));
        entry.1 = entry.1.saturating_add(write.length);
    }
    for (folder, wanted) in needed.into_values() {
        expect_free(&folder, wanted)?;
    }
    Ok(())
}

/// Whether the file system of a folder has room for so many bytes.
pub fn expect_free(folder: &Path, wanted: u64) -> Result<(), Error> {
    let free = space::of(folder).map_err(Error::file("get the free space of", folder))?.free;
    match free < wanted {
        true => Err(Error::Room { path: folder.to_owned(), free: size::bytes(free), wanted: size::bytes(wanted) }),
        false => Ok(()),
    }
}

/// The nearest folder above a file that exists, and its file system.
pub fn nearest_folder(file: &Path) -> Result<(PathBuf, u64), Error> {
    use std::os::unix::fs::MetadataExt;
    for folder in file.ancestors().skip(1) {
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        if let Ok(status) = fs::metadata(folder) {
            return Ok((folder.to_owned(), status.dev()));
        }
    }
    Err(Error::file("access", file)(std::io::ErrorKind::NotFound.into()))
}
