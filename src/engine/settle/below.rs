//! Owns: which image an overlay really lies over. An operator may have put the disk on another one (an external snapshot, a
//! copy) right before our snapshot. Must not: change any image or definition.

use std::path::Path;

use super::refusal;
use super::seats::Seats;
use crate::engine::journal::Record;
use crate::engine::users::{self, Users};
use crate::engine::{Error, chain, marks};
use crate::hypervisor::{Hypervisor, Overlay};
use crate::model::{Format, Image};
use crate::sys::in_use::FileId;
use crate::sys::mark::Mark;

/// The image that the overlay lies over, if that is not its base in the journal.
///
/// # Errors
/// Refuses when the overlay's header and the chain of the disk disagree, when no image lies below it, and when the image is
/// not the disk's alone: one below the base, as after a `virsh blockpull`, or one that another domain uses.
///
/// Headers may be written by whoever may write to the images. An image that is not known from the backup is believed only
/// where an operator's is: a file beside the base, made since the run began.
pub(super) fn other(
    hypervisor: &dyn Hypervisor,
    record: &Record,
    overlay: &Overlay,
    seats: &Seats,
) -> Result<Option<Image>, Error> {
    let seat = seats.running().or_else(|| seats.on_overlay().next());
    let links = users::links(&overlay.path, &Format::Qcow2).map_err(Error::file("read the overlay", &overlay.path))?;
    let chained = seat.and_then(|seat| seat.chain.get(1));
    let named = links.as_ref().and_then(|links| users::below(&overlay.path, links));
    let refused = |below: Option<&Image>| refusal::changed(overlay, seat, below);
    if links.is_some_and(|links| links.backing.is_none()) || chained.is_none() && seats.running().is_some() {
        return Err(refused(None));
    }
    let found: Vec<&Image> = chained.into_iter().chain(&named).collect();
    let Some(other) = found.iter().find(|image| !is_same(image, &overlay.base)) else { return Ok(None) };
    let of_base = users::files_of(&overlay.base).map_err(Error::file("read the images below", &overlay.path))?;
    let is_below_base = other.source.path().is_none_or(|path| of_base.iter().any(|file| is_same_file(file, path)));
    let is_theirs = other.source.path().is_some_and(|path| is_of_operator(path, record, overlay));
    if is_below_base
        || !is_theirs
        || !found.iter().all(|image| is_same(image, other))
        || is_shared(hypervisor, seats, other)?
    {
        return Err(refused(Some(other)));
    }
    Ok(Some((*other).clone()))
}

/// From now on the image that the overlay lies over is its base, also in the journal. The definition of before named another.
pub(super) fn put_over(record: &mut Record, overlay: &Overlay, image: Image) -> Overlay {
    tracing::warn!(disk = overlay.target, "it was moved to {image:?} before the snapshot and is moved back to it");
    let marks = marks::found(&overlay.path, &image, None);
    let overlay = Overlay { base: image, saved: None, marks, ..overlay.clone() };
    let noted = record.update(|entry| {
        let known = entry.overlays.iter_mut().filter(|known| known.path == overlay.path);
        known.for_each(|known| known.clone_from(&overlay));
    });
    if let Err(error) = noted {
        tracing::warn!(disk = overlay.target, "{}", crate::engine::chain(&error));
    }
    overlay
}

fn is_of_operator(image: &Path, record: &Record, overlay: &Overlay) -> bool {
    let folder = |path: &Path| path.parent().map(Path::to_owned);
    let is_beside = folder(image) == overlay.base.source.path().and_then(folder) && chain::is_plain_file(image);
    let began = record.entry().started.timestamp();
    is_beside && Mark::at(image).is_ok_and(|mark| !mark.is_older_than(began))
}

/// Whether a domain uses the image that is neither the one that was backed up nor on the overlay.
fn is_shared(hypervisor: &dyn Hypervisor, seats: &Seats, image: &Image) -> Result<bool, Error> {
    let Some(path) = image.source.path() else { return Ok(true) };
    let users = Users::look(hypervisor)?;
    let is_known = |uuid| seats.domains().any(|domain| domain.id.uuid == uuid);
    Ok(users.domains(path)?.iter().any(|one| !is_known(one.domain.uuid)))
}

fn is_same(one: &Image, other: &Image) -> bool {
    one.source == other.source
        || one.source.path().zip(other.source.path()).is_some_and(|(one, other)| is_same_file(one, other))
}

/// By name, or by what the names lead to.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| FileId::of(path).ok().flatten();
    one == other || id(one).is_some_and(|one| id(other) == Some(one))
}
