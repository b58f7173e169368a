//! Owns: where the overlays and scratch files of a capture lie, and making them. Must not: ask libvirt, or remove one.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::engine::{Error, overlay_file};
use crate::model::{Disk, Domain, Source, size};
use crate::qcow2::Layout;
use crate::sys::step::{self, Step};
use crate::sys::{durable, space};

/// Where overlays and scratch files of disks without a folder of their own (block devices, network) go.
const IMAGES: &str = "/var/lib/libvirt/images";
/// An image's file system with less room than this is not made to carry an overlay.
const MIN_OVERLAY_SPACE: u64 = 64 << 20;

/// `<image>.<target>.<ending>` beside the image, or in the folder asked for; the target keeps apart images of one name from
/// different folders.
pub(super) fn beside(domain: &Domain, disk: &Disk, folder: Option<&Path>, ending: &str) -> Result<PathBuf, Error> {
    let own = own_folder(disk);
    let name = disk.image.source.path().and_then(Path::file_name);
    let folder = folder_for(disk, folder);
    let mut file = name.unwrap_or_default().to_string_lossy().into_owned();
    if own != Some(folder) {
        file = format!("{}-{file}", domain.id.uuid);
    }
    let path = folder.join(overlay_file::fitting(&file, &format!("{}.{ending}", disk.target)));
    if path.symlink_metadata().is_ok() {
        return Err(Error::Chain {
            target: disk.target.clone(),
            message: format!("{} already exists", path.display()),
            hint: "It was not created by this run. Find out what it is, and move it away.".into(),
        });
    }
    Ok(path)
}

/// The folder of a disk's image.
fn own_folder(disk: &Disk) -> Option<&Path> {
    match &disk.image.source {
        Source::File(path) => path.parent(),
        Source::Block(_) | Source::Network(_) | Source::Unsupported(_) | Source::Empty => None,
    }
}

/// Where the overlay or the scratch file of a disk goes: into the folder asked for, else beside the image.
pub fn folder_for<'a>(disk: &'a Disk, asked: Option<&'a Path>) -> &'a Path {
    asked.or(own_folder(disk)).unwrap_or(Path::new(IMAGES))
}

/// Fails when a folder has too little room for what grows in it while a guest writes.
pub fn check_room(dir: &Path) -> Result<(), Error> {
    let room = space::of(dir).map_err(Error::file("get the free space of", dir))?;
    if room.free < MIN_OVERLAY_SPACE.min(room.total / 20) {
        return Err(Error::OverlaySpace { path: dir.to_owned(), free: size::bytes(room.free) });
    }
    Ok(())
}

/// Makes the empty file of an overlay, which QEMU fills in.
pub(super) fn make_overlay(path: &Path, disk: &Disk) -> Result<(), Error> {
    let made = step::reached(Step::OverlayCreate).and_then(|()| durable::create_private(path));
    let file = made.map_err(Error::file("create the overlay", path))?;
    if !is_shared(path.parent()) {
        take_after(&file, path, disk);
    }
    Ok(())
}

/// Makes a scratch file: an empty image of the disk's size.
pub(super) fn make_scratch(path: &Path, disk: &Disk, bytes: u64) -> Result<(), Error> {
    let layout = Layout::new(bytes, &[]).map_err(|source| Error::Layout { target: disk.target.clone(), source })?;
    let made = step::reached(Step::ScratchCreate).and_then(|()| durable::create_private(path));
    let made = made.and_then(|mut file| {
        layout.write_metadata(&mut file)?;
        take_after(&file, path, disk);
        Ok(())
    });
    made.map_err(Error::file("create the scratch file", path))
}

/// Whether every user may make files in a folder, as in /tmp. In there the kernel lets libvirt open no file of another user to
/// fill it in (`fs.protected_regular`).
fn is_shared(folder: Option<&Path>) -> bool {
    let mode = folder.and_then(|folder| folder.metadata().ok()).map_or(0, |metadata| metadata.mode());
    mode & 0o1002 == 0o1002
}

/// Gives a file the owner and the mode of a disk's image, so that QEMU may open the one as it may the other. libvirt does
/// that by itself, unless its operator has told it not to (`dynamic_ownership`); and some file systems have no owners.
fn take_after(file: &File, path: &Path, disk: &Disk) {
    let Some(image) = disk.image.source.path() else { return };
    let taken = std::fs::metadata(image).and_then(|image| {
        fchown(file, Some(image.uid()), Some(image.gid()))?;
        file.set_permissions(Permissions::from_mode(image.mode() & 0o777))
    });
    if let Err(error) = taken {
        tracing::warn!(path = %path.display(), %error, "cannot give it the owner and mode of the disk's image");
    }
}
