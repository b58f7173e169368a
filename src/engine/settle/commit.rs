//! Commits the overlay of a guest that is off into the image below it. Must not follow a name or a header to another
//! file: QEMU's user, or anyone else who can write to the images, may have put it there, and `qemu-img` runs with our
//! rights.

use std::fs::File;
use std::path::Path;

use super::refusal;
use super::seats::Seat;
use crate::engine::{Error, overlay_file};
use crate::hypervisor::Overlay;
use crate::model::{Format, Image, Source};
use crate::qcow2::{self, Links};
use crate::sys::mark::{self, Mark};

/// Writes the overlay's data into the image below it. The overlay keeps the data, too.
///
/// # Errors
/// If a file is not the same one as during the backup, or names a data file.
pub(super) fn commit(overlay: &Overlay, seat: Option<&Seat>) -> Result<(), Error> {
    let (Some(marks), Some(base)) = (&overlay.marks, overlay.base.source.path()) else {
        return Err(refusal::unmarked(overlay, seat));
    };
    let top = open(overlay, &overlay.path, &marks.overlay, &Format::Qcow2)?;
    let lower = open(overlay, base, &marks.base, &overlay.base.format)?;
    // qemu-img gets the open files as its standard input and output, so that nothing can replace them.
    let files = [("/proc/self/fd/0", true), ("/proc/self/fd/1", marks.base.is_regular())];
    let [top_at, lower_at] =
        files.map(|(at, regular)| if regular { Source::File(at.into()) } else { Source::Block(at.into()) });
    let mut chain = vec![
        Image { source: top_at, format: Format::Qcow2 },
        Image { source: lower_at, format: overlay.base.format.clone() },
    ];
    chain.extend(marks.below.iter().cloned());
    overlay_file::commit(&overlay.path, &chain, top, lower)
}

fn open(overlay: &Overlay, path: &Path, mark: &Mark, format: &Format) -> Result<File, Error> {
    let (file, now) = mark::open(path).map_err(Error::file("open the image", path))?;
    if !now.is_same(mark) {
        return Err(refusal::replaced(overlay, path));
    }
    if *format == Format::Qcow2 {
        let links = Links::read(&file).map_err(|source| damaged(overlay, path, &source))?;
        if let Some(name) = links.data_file {
            return Err(refusal::data_file(overlay, path, &name.to_string_lossy()));
        }
    }
    Ok(file)
}

fn damaged(overlay: &Overlay, path: &Path, error: &qcow2::Error) -> Error {
    refusal::unreadable(overlay, path, &error.to_string())
}
