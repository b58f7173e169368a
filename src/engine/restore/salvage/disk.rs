//! Salvages a disk from a torn member: an image with zeros for lost data, and the list of lost ranges. Must not copy
//! the member's own metadata, which could name other files.

use std::path::Path;

use super::{Disk, Folder, Part, Range, SALVAGED, State, expect_lost, raw};
use crate::engine::Error;
use crate::engine::restore::sparse::{Kind, Output};
use crate::engine::restore::work::Work;
use crate::model::Extent;
use crate::qcow2::{Layout, Torn};
use crate::store::{self, Remains, Salvage};
use crate::sys::patient_file::PatientFile;

/// Writes the image. If its tables are lost, also writes the raw member, because its data has no guest address.
pub fn salvage(
    work: &Work<'_>,
    salvage: &Salvage,
    remains: &Remains,
    target: &str,
    folder: &mut Folder<'_>,
) -> Result<Part, Error> {
    let entry = salvage.manifest().and_then(|manifest| manifest.disks.iter().find(|disk| disk.target == target));
    let size = entry.map(|disk| disk.virtual_bytes);
    let mut part = Part {
        member: remains.name.clone(),
        files: Vec::new(),
        state: salvage.trust(remains).into(),
        bytes: remains.length,
        lost: remains.lost.iter().copied().map(Range::from).collect(),
        disk: None,
    };
    let mut disk = Disk { target: target.to_owned(), virtual_bytes: 0, unreadable: Vec::new() };
    // With an unknown start, tables would be read from the wrong offset.
    let read = |offset: u64, out: &mut [u8]| salvage.read(remains, offset, out);
    let torn = remains.is_placed.then(|| Torn::map(remains.length, size, read)).flatten();
    if let Some(torn) = &torn {
        let extents: Vec<Extent> = torn.placed.iter().map(|(extent, _)| *extent).collect();
        let failed = |source| store::Error::Image { path: work.archive.to_owned(), member: target.to_owned(), source };
        let layout = Layout::new(torn.virtual_size, &extents).map_err(failed)?;
        disk.virtual_bytes = torn.virtual_size;
        disk.unreadable = unreadable(torn, &remains.lost);
        // An image of another length differs from the saved one, even if the checksum of the member matches.
        if part.state == State::Whole && (layout.length() != remains.length || !disk.unreadable.is_empty()) {
            part.state = State::Wrong;
        }
        let ending = if part.state == State::Whole { "" } else { SALVAGED };
        let (name, out) = folder.create(target, &format!("{ending}.qcow2"))?;
        image(work, salvage, remains, (torn, &layout), (&out, &folder.to.join(&name)))?;
        part.files.push(name);
    }
    let has_lost_tables = torn.is_none_or(|torn| !torn.unknown.is_empty());
    if has_lost_tables {
        let (name, out) = folder.create(target, &format!("{SALVAGED}.member"))?;
        raw(work, salvage, remains, &out, &folder.to.join(&name))?;
        part.files.push(name);
    }
    part.disk = Some(disk);
    Ok(part)
}

fn image(
    work: &Work<'_>,
    salvage: &Salvage,
    remains: &Remains,
    (torn, layout): (&Torn, &Layout),
    (out, path): (&PatientFile, &Path),
) -> Result<(), Error> {
    let failed = Error::file("write", path);
    let length = layout.length();
    out.with(move |file| file.set_len(length)).map_err(&failed)?;
    let mut output = Output::start(out, Kind::NewFile).map_err(&failed)?;
    layout.write_metadata(&mut output.at(0)).map_err(&failed)?;
    let mut host = layout.metadata_length();
    for &(extent, from) in &torn.placed {
        salvage.each_in(remains, Extent { offset: from, length: extent.length }, |at, bytes| {
            work.go_on()?;
            match bytes {
                Some(bytes) => output.take(host + (at - from), bytes).map_err(&failed),
                None => expect_lost(work, salvage, remains, at),
            }
        })?;
        host += extent.length;
    }
    output.finish().map_err(&failed)
}

/// Ranges that the guest cannot read, because their data or their tables are lost.
fn unreadable(torn: &Torn, lost: &[Extent]) -> Vec<Range> {
    let mut ranges: Vec<Extent> = torn.unknown.clone();
    for (extent, from) in &torn.placed {
        for lost in lost {
            let (start, end) = (lost.offset.max(*from), lost.end().min(from + extent.length));
            if start < end {
                ranges.push(Extent { offset: extent.offset + (start - from), length: end - start });
            }
        }
    }
    ranges.sort_by_key(|range| range.offset);
    let mut merged: Vec<Extent> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end() == range.offset => last.length += range.length,
            _ => merged.push(range),
        }
    }
    merged.into_iter().map(Range::from).collect()
}
