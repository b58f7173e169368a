//! Identifies the files of an overlay and of the images below it, so that a replaced file is noticed. Must not decide
//! what happens then.

use std::path::Path;

use super::{chain, users};
use crate::hypervisor::{Marks, Overlay};
use crate::model::{Disk, Format, Image};
use crate::sys::in_use::User;
use crate::sys::mark::Mark;

/// The marks for a disk of a running guest. `None` if the guest does not have the file at the base's path open, or if
/// the end of the chain is unknown.
pub(super) fn of_running(guest: &str, overlay: &Path, disk: &Disk) -> Option<Marks> {
    let is_guest = |user: &User| matches!(user, User::Process { guest: Some(name), .. } if name == guest);
    let is_open = users::open(disk.image.source.path()?).ok()?.iter().any(is_guest);
    let last = disk.backing.last().unwrap_or(&disk.image);
    let is_whole = disk.chain_ends || last.format != Format::Qcow2;
    found(overlay, &disk.image, is_whole.then(|| disk.backing.clone())).filter(|_| is_open)
}

/// The marks of the files that have these names now. An unknown chain below the base is read from the headers.
pub(super) fn found(overlay: &Path, base: &Image, below: Option<Vec<Image>>) -> Option<Marks> {
    Some(Marks {
        overlay: Mark::at(overlay).ok()?,
        base: Mark::at(base.source.path()?).ok()?,
        below: below.or_else(|| chain::below(base).ok())?,
    })
}

/// Whether the file at the overlay's path is the one that the backup created. True if unknown, or if no file exists.
pub(super) fn is_made(overlay: &Overlay) -> bool {
    let Some(marks) = &overlay.marks else { return true };
    match Mark::at(&overlay.path) {
        Ok(mark) => mark.is_same(&marks.overlay),
        Err(error) => crate::sys::durable::is_absent(&error),
    }
}
