//! Owns: the folders and devices to which an archive alone may send its images. Must not: trust the archive.
//!
//! Anyone who can write to the target can make an archive name any path of the host, and a file written there may be obeyed: a
//! crontab, an SSH key, our own journal. So only places that this host itself uses for images are allowed: folders of active
//! storage pools, folders of images of defined domains, and libvirt's own. Every other place needs `--to`.

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

/// The device and inode of a folder, which are the same under every path.
type Identity = (u64, u64);

/// What was found on this host.
#[derive(Debug, Clone, Default)]
pub struct Unasked {
    folders: BTreeSet<PathBuf>,
    /// This program's own files and folders.
    kept_out: Vec<PathBuf>,
    /// The block devices of the domain that is replaced.
    devices: BTreeSet<FileId>,
}

impl Unasked {
    /// Collects them from the pools and definitions of this host; `kept_out` are this program's own files and folders.
    ///
    /// # Errors
    /// When libvirt does not answer.
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
                // It went away between the list and the question.
                Err(error) if error.kind() == Kind::NoDomain => {}
                Err(error) => return Err(error.into()),
            }
        }
        // An image that is a link lies in two folders. Those of another guest may lie on a mount that hangs.
        folders.extend(files.iter().filter_map(|file| Some(file.parent()?.to_owned())));
        folders.extend(files.into_iter().filter_map(|file| Some(real(file, patience)?.parent()?.to_owned())));
        for folder in folders.into_iter().collect::<BTreeSet<_>>() {
            found.folders.extend(real(folder, patience));
        }
        Ok(found)
    }

    /// Whether an image may be put into this folder only because an archive says that it was there.
    pub fn folder(&self, folder: &Path) -> bool {
        let Ok(real) = fs::canonicalize(folder) else { return false };
        // Where that cannot be known, it may be ours.
        let is_ours = |own: &PathBuf| overlap(&real, own).unwrap_or(true);
        self.folders.contains(&real) && !self.kept_out.iter().any(is_ours)
    }

    /// Whether the domain that is replaced has this block device.
    pub fn device(&self, device: &Path) -> bool {
        FileId::of(device).ok().flatten().is_some_and(|id| self.devices.contains(&id))
    }
}

fn real(path: PathBuf, patience: &Patience) -> Option<PathBuf> {
    patience.call(move || fs::canonicalize(path)).and_then(|real| real).ok()
}

/// The files of a domain: its images, and what belongs to them.
fn files_of(domain: &Domain) -> Vec<PathBuf> {
    let disks = domain.disks.iter().filter(|disk| matches!(disk.device, Device::Disk | Device::Lun));
    let images = disks.flat_map(|disk| std::iter::once(&disk.image).chain(&disk.backing));
    let files = images.filter_map(|image| match &image.source {
        Source::File(path) => Some(path),
        _ => None,
    });
    // Variables may lie on a block device, which is no folder's.
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

/// Whether one lies inside the other, by whatever mounts.
fn overlap(folder: &Path, own: &Path) -> io::Result<bool> {
    let is_in = |inner: &Path, outer: &Path| -> io::Result<bool> {
        let outer = identity(outer);
        Ok(outer.is_some() && around(inner)?.contains(&outer))
    };
    Ok(is_in(folder, own)? || is_in(own, folder)?)
}

/// The identities of a path and of every folder above it, under each of its paths.
fn around(path: &Path) -> io::Result<BTreeSet<Option<Identity>>> {
    let Some(real) = path.ancestors().find_map(|above| fs::canonicalize(above).ok()) else {
        return Ok(BTreeSet::new());
    };
    let paths = mounts::paths_to(&real)?;
    let same = paths.iter().filter(|path| identity(path) == identity(&real));
    Ok(same.flat_map(|path| path.ancestors()).map(identity).collect())
}

/// `None` for one that does not exist.
fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_of_ours_lies_in_or_below_a_folder_of_images() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["images", "state/journal", "above/state", "other"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        symlink(at("state"), at("link")).unwrap();
        let folders = ["images", "state", "state/journal", "above", "above/state"];
        let folders = folders.into_iter().map(|folder| fs::canonicalize(at(folder)).unwrap()).collect();
        // The last of ours does not exist yet, and its folder does.
        let kept_out = vec![at("link"), at("above/state"), at("other/config.yml")];
        let unasked = Unasked { folders, kept_out, devices: BTreeSet::new() };
        assert!(unasked.folder(&at("images")) && unasked.folder(&at("state/../images")));
        for refused in ["state", "state/journal", "link/journal", "above", "above/state", "other", "nowhere"] {
            assert!(!unasked.folder(&at(refused)), "{refused}");
        }
    }
}
