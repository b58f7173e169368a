//! Owns: which files an overlay and the images below it are, so that others which take their names later are known as such. Must
//! not: decide what happens then.

use std::path::Path;

use super::{chain, users};
use crate::hypervisor::{Marks, Overlay};
use crate::model::{Disk, Format, Image};
use crate::sys::in_use::User;
use crate::sys::mark::Mark;

/// Those of the overlay of a running guest's disk. `None` where the guest does not have the base open that its name leads to, or
/// where the chain is not known to its end.
pub(super) fn of_running(guest: &str, overlay: &Path, disk: &Disk) -> Option<Marks> {
    let is_guest = |user: &User| matches!(user, User::Process { guest: Some(name), .. } if name == guest);
    let is_open = users::open(disk.image.source.path()?).ok()?.iter().any(is_guest);
    let last = disk.backing.last().unwrap_or(&disk.image);
    let is_whole = disk.chain_ends || last.format != Format::Qcow2;
    found(overlay, &disk.image, is_whole.then(|| disk.backing.clone())).filter(|_| is_open)
}

/// Those of the files that have the names now. Where the chain below the base is not known, the headers tell it.
pub(super) fn found(overlay: &Path, base: &Image, below: Option<Vec<Image>>) -> Option<Marks> {
    Some(Marks {
        overlay: Mark::at(overlay).ok()?,
        base: Mark::at(base.source.path()?).ok()?,
        below: below.or_else(|| chain::below(base).ok())?,
    })
}

/// Whether the file at the overlay's path is the one that was made, as far as that is known. One that is not there is no other.
pub(super) fn is_made(overlay: &Overlay) -> bool {
    let Some(marks) = &overlay.marks else { return true };
    match Mark::at(&overlay.path) {
        Ok(mark) => mark.is_same(&marks.overlay),
        Err(error) => crate::sys::durable::is_absent(&error),
    }
}
