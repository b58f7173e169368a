//! Collects the directories and devices that an archive alone may choose for its images. Must not trust the archive.
//!
//! Anyone who can write to the target can make an archive name any path of the host, and a file written there could
//! take effect: a crontab, an SSH key, the journal of kvmbackup. So only places that this host itself uses for images
//! are allowed: directories of active storage pools, of images of defined domains, and libvirt's own. Every other
//! place needs `--to`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::engine::rights::Places;
use crate::engine::{Error, users};
use crate::hypervisor::{Guests, Kind};
use crate::model::{Device, Domain, DomainRef, Source};
use crate::sys::in_use::FileId;
use crate::sys::mounts;
use crate::sys::patience::Patience;

/// Device and inode of a directory, the same under every path.
type Identity = (u64, u64);

#[derive(Debug, Clone, Default)]
pub struct Unasked {
    folders: BTreeSet<PathBuf>,
    /// Files and directories of kvmbackup.
    kept_out: Vec<PathBuf>,
    /// Block devices of the domain to replace.
    devices: BTreeSet<FileId>,
}

impl Unasked {
    /// Collects them from the pools and definitions of this host; `kept_out` are the files and directories of
    /// kvmbackup.
    ///
    /// # Errors
    /// If libvirt does not respond.
    pub fn look(
        hypervisor: &dyn Guests,
        places: &Places,
        kept_out: &[PathBuf],
        replaced: &DomainRef,
        patience: &Patience,
    ) -> Result<Unasked, Error> {
        let mut found = Unasked { kept_out: kept_out.to_vec(), ..Unasked::default() };
        let (mut folders, mut files) = (places.images.clone(), Vec::new());
        folders.extend(hypervisor.pools()?);
        for (id, _) in hypervisor.domains()? {
            match users::described(hypervisor, &id) {
                Ok(definitions) => {
                    files.extend(definitions.iter().flat_map(files_of));
                    if id.uuid == replaced.uuid {
                        found.devices.extend(definitions.iter().flat_map(devices_of));
                    }
                }
                // It was undefined after the listing.
                Err(error) if error.kind() == Kind::NoDomain => {}
                Err(error) => return Err(error.into()),
            }
        }
        // An image behind a link counts for both directories. Images of other guests may be on a mount that hangs.
        folders.extend(files.iter().filter_map(|file| Some(file.parent()?.to_owned())));
        folders.extend(files.into_iter().filter_map(|file| Some(real(file, patience)?.parent()?.to_owned())));
        for folder in folders.into_iter().collect::<BTreeSet<_>>() {
            found.folders.extend(real(folder, patience));
        }
        Ok(found)
    }

    /// Whether the archive alone may choose this directory for an image.
    pub fn folder(&self, folder: &Path) -> bool {
        let Ok(real) = fs::canonicalize(folder) else { return false };
        // If that is unknown, it may be one of ours.
        let is_ours = |own: &PathBuf| overlap(&real, own).unwrap_or(true);
        self.folders.contains(&real) && !self.kept_out.iter().any(is_ours)
    }

    /// Whether the domain to replace has this block device.
    pub fn device(&self, device: &Path) -> bool {
        FileId::of(device).ok().flatten().is_some_and(|id| self.devices.contains(&id))
    }
}

fn real(path: PathBuf, patience: &Patience) -> Option<PathBuf> {
    patience.call(move || fs::canonicalize(path)).and_then(|real| real).ok()
}

/// The files of a domain: images, UEFI variables and TPM state.
fn files_of(domain: &Domain) -> Vec<PathBuf> {
    let disks = domain.disks.iter().filter(|disk| matches!(disk.device, Device::Disk | Device::Lun));
    let images = disks.flat_map(|disk| std::iter::once(&disk.image).chain(&disk.backing));
    let files = images.filter_map(|image| match &image.source {
        Source::File(path) => Some(path),
        _ => None,
    });
    // Variables may be on a block device, which adds no directory.
    let nvram = domain.nvram.iter().map(|nvram| &nvram.path).filter(|path| !path.starts_with("/dev"));
    files.chain(nvram).chain(&domain.tpm).cloned().collect()
}

fn devices_of(domain: &Domain) -> Vec<FileId> {
    let device = |source: &Source| match source {
        Source::Block(path) => FileId::of(path).ok().flatten(),
        _ => None,
    };
    domain.disks.iter().filter_map(|disk| device(&disk.image.source)).collect()
}

/// Whether one is inside the other, also through other mounts.
fn overlap(folder: &Path, own: &Path) -> io::Result<bool> {
    let is_in = |inner: &Path, outer: &Path| -> io::Result<bool> {
        let outer = identity(outer);
        Ok(outer.is_some() && around(inner)?.contains(&outer))
    };
    Ok(is_in(folder, own)? || is_in(own, folder)?)
}

/// The identities of a path and all its parents, under every mount of its file system.
fn around(path: &Path) -> io::Result<BTreeSet<Option<Identity>>> {
    let Some(real) = path.ancestors().find_map(|above| fs::canonicalize(above).ok()) else {
        return Ok(BTreeSet::new());
    };
    let paths = mounts::paths_to(&real)?;
    let same = paths.iter().filter(|path| identity(path) == identity(&real));
    Ok(same.flat_map(|path| path.ancestors()).map(identity).collect())
}

/// `None` if it does not exist.
fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn archive_alone_cannot_choose_directories_of_kvmbackup() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["images", "state/journal", "above/state", "other"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        symlink(at("state"), at("link")).unwrap();
        let folders = ["images", "state", "state/journal", "above", "above/state"];
        let folders = folders.into_iter().map(|folder| fs::canonicalize(at(folder)).unwrap()).collect();
        // The last of our files does not exist yet, but its directory does.
        let kept_out = vec![at("link"), at("above/state"), at("other/config.yml")];
        let unasked = Unasked { folders, kept_out, devices: BTreeSet::new() };
        assert!(unasked.folder(&at("images")) && unasked.folder(&at("state/../images")));
        for refused in ["state", "state/journal", "link/journal", "above", "above/state", "other", "nowhere"] {
            assert!(!unasked.folder(&at(refused)), "{refused}");
        }
    }
}
