//! Writes the members of a restore point to files and devices; reads and writes disks in parallel. Must not choose
//! destinations.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use super::plan::{DiskPart, How, Plan, Write};
use super::sparse::{self, Kind, Output};
use super::staging::Staging;
use super::work::Work;
use super::{device, foreign};
use crate::engine::Error;
use crate::model::{Extent, Format};
use crate::qcow2::Layout;
use crate::store::{Contents, Definition, FileReader, PointReader};
use crate::sys::patient_file::PatientFile;

/// Read buffer for members other than disks, in bytes.
const BUFFER: usize = 1 << 20;

/// The definitions in the order to try: the saved one, then the migratable one.
pub fn definitions(reader: &PointReader, contents: &Contents) -> Result<Vec<String>, Error> {
    let migratable = reader.definition(Definition::Migratable).ok().flatten();
    Ok([definition(reader, contents)?].into_iter().chain(migratable).collect())
}

/// The saved definition: inactive, or live if there is no inactive one.
pub fn definition(reader: &PointReader, contents: &Contents) -> Result<String, Error> {
    let xml = match reader.definition(Definition::Inactive)? {
        None => reader.definition(Definition::Live)?,
        found => found,
    };
    xml.ok_or_else(|| Error::suspect(&contents.location, "contains no definition"))
}

/// Members of the boot files whose original on this host has the same bytes.
pub fn same_files(reader: &PointReader, contents: &Contents) -> Result<BTreeSet<String>, Error> {
    let mut same = BTreeSet::new();
    for file in &contents.boot {
        if reader.is_same(&file.member, &file.path)? {
            same.insert(file.member.clone());
        }
    }
    Ok(same)
}

/// Writes everything in the plan. Images of other programs are checked before they get their names.
pub fn write(work: &Work<'_>, reader: &PointReader, plan: &Plan, staging: &mut Staging) -> Result<(), Error> {
    let is_disk = |write: &&Write| matches!(write.how, How::Qcow2(_) | How::Raw(_) | How::Device(_));
    let (disks, files): (Vec<_>, Vec<_>) = plan.writes.iter().partition(is_disk);
    let files: BTreeMap<&str, &Write> = files.into_iter().map(|write| (write.member.as_str(), write)).collect();
    reader.files(&files.keys().copied().collect(), &mut |name, contents| match files.get(name) {
        Some(write) => copy(work, contents, &write.to, &*staging.create(&write.to, write.rights)?),
        None => Ok(()),
    })?;
    for write in files.into_values() {
        let is_image = match &write.how {
            How::Image(Format::Qcow2) => true,
            // The definition names its format, so QEMU does not probe it.
            How::Image(_) => continue,
            _ => false,
        };
        let (image, archive, member) = (Staging::part(&write.to), work.archive.to_owned(), write.member.clone());
        staging.call("check", &write.to, move || match is_image {
            true => foreign::check(&image, &archive, &member),
            false => foreign::check_copy(&image, &archive, &member),
        })?;
    }
    disks.into_iter().try_for_each(|write| write_disk(work, reader, write, staging))
}

fn write_disk(work: &Work<'_>, reader: &PointReader, write: &Write, staging: &mut Staging) -> Result<(), Error> {
    match &write.how {
        How::Copy | How::Tpm | How::Image(_) => Ok(()),
        How::Qcow2(part) | How::Raw(part) => {
            let file = staging.create(&write.to, write.rights)?;
            disk(work, reader, write, part, &file)
        }
        How::Device(part) => {
            let (path, bytes) = (write.to.clone(), part.virtual_bytes);
            let file = staging.call("open", &write.to, move || device::open(&path, bytes))?;
            let file = PatientFile::new(file, staging.patience());
            disk(work, reader, write, part, &file)?;
            file.with(File::sync_all).map_err(Error::file("write", &write.to))
        }
    }
}

fn copy(work: &Work<'_>, contents: &mut FileReader<'_>, to: &Path, file: &PatientFile) -> Result<(), Error> {
    let failed = Error::file("write", to);
    let mut output = Output::start(file, Kind::NewFile).map_err(&failed)?;
    let mut buffer = vec![0; BUFFER];
    let mut offset = 0;
    loop {
        let count = contents.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        output.take(offset, &buffer[..count]).map_err(&failed)?;
        offset += count as u64;
        work.advance(count as u64);
    }
    output.finish().and_then(|()| set_length(file, offset)).map_err(&failed)
}

/// Fails if the size of a disk's image differs from the manifest.
pub fn expect_size(location: &Path, part: &DiskPart, bytes: u64) -> Result<(), Error> {
    // An image consists of whole sectors; a raw file may not.
    if part.virtual_bytes.checked_next_multiple_of(512) == Some(bytes) {
        return Ok(());
    }
    Err(Error::suspect(location, &format!("the size of disk {} does not match the manifest", part.target)))
}

/// Writes a disk to a file or device. The calling thread hashes decoded data; another thread writes it.
fn disk(
    work: &Work<'_>,
    reader: &PointReader,
    write: &Write,
    part: &DiskPart,
    file: &PatientFile,
) -> Result<(), Error> {
    let input = reader.disk(&write.member)?;
    expect_size(work.archive, part, input.size())?;
    let failed = Error::file("write", &write.to);
    let mut map = Map { extents: Vec::new(), next: 0 };
    let kind = if matches!(write.how, How::Device(_)) { Kind::Device } else { Kind::NewFile };
    let mut output = Output::start(file, kind).map_err(&failed)?;
    let length = match &write.how {
        How::Qcow2(_) => {
            let layout = Layout::new(input.size(), input.extents())
                .map_err(|source| Error::Layout { target: part.target.clone(), source })?;
            map = Map::of(input.extents(), layout.metadata_length());
            set_length(file, layout.length()).map_err(&failed)?;
            layout.write_metadata(&mut output.at(0)).map_err(&failed)?;
            layout.length()
        }
        How::Device(_) => {
            for gap in gaps(input.extents(), input.size()) {
                work.go_on()?;
                sparse::zero(file, gap.offset, gap.length).map_err(&failed)?;
            }
            0
        }
        _ => {
            set_length(file, input.size()).map_err(&failed)?;
            part.virtual_bytes
        }
    };
    input.read(&mut |offset, bytes| {
        work.go_on()?;
        output.take(map.host(offset, bytes.len()), bytes).map_err(&failed)?;
        work.advance(bytes.len() as u64);
        Ok::<(), Error>(())
    })?;
    output.finish().map_err(&failed)?;
    if kind == Kind::NewFile {
        set_length(file, length).map_err(&failed)?;
    }
    Ok(())
}

fn set_length(file: &PatientFile, length: u64) -> io::Result<()> {
    file.with(move |file| file.set_len(length))
}

/// Maps guest offsets to a compact image: data follows the metadata in guest order.
struct Map {
    /// Guest extent and host offset.
    extents: Vec<(Extent, u64)>,
    next: usize,
}

impl Map {
    fn of(data: &[Extent], metadata: u64) -> Map {
        let mut host = metadata;
        let place = |extent: &Extent| {
            let at = host;
            host += extent.length;
            (*extent, at)
        };
        Map { extents: data.iter().map(place).collect(), next: 0 }
    }

    /// The host offset of a guest offset; offsets must ascend. Without extents both are the same.
    fn host(&mut self, offset: u64, length: usize) -> u64 {
        let Some((extent, host)) = self.extents.get(self.next) else { return offset };
        let at = host + (offset - extent.offset);
        if offset + length as u64 >= extent.end() {
            self.next += 1;
        }
        at
    }
}

/// The ranges of a disk outside the extents.
fn gaps(data: &[Extent], size: u64) -> Vec<Extent> {
    let mut gaps = Vec::new();
    let mut at = 0;
    for extent in data.iter().copied().chain([Extent { offset: size, length: 0 }]) {
        if extent.offset > at {
            gaps.push(Extent { offset: at, length: extent.offset - at });
        }
        at = extent.end();
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    #[test]
    fn gaps_cover_everything_outside_the_data() {
        assert_eq!(gaps(&[extent(5, 5), extent(20, 10)], 40), [extent(0, 5), extent(10, 10), extent(30, 10)]);
        assert_eq!(gaps(&[extent(0, 40)], 40), []);
        assert_eq!(gaps(&[], 40), [extent(0, 40)]);
        assert_eq!(gaps(&[], 0), []);
    }

    #[test]
    fn data_follows_the_metadata_in_order() {
        let mut map = Map::of(&[extent(100, 50), extent(200, 10)], 1000);
        assert_eq!([map.host(100, 30), map.host(130, 20), map.host(200, 10)], [1000, 1030, 1050]);
    }
}
