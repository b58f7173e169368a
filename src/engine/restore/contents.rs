//! Owns: what an archive of this program holds, brought to files and devices: decoded in parallel, hashed and written at once.
//! Must not: choose where anything goes, or let a byte pass that `SHA256SUMS` does not vouch for.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::plan::{DiskPart, How, Write};
use super::saved::{Saved, SavedDisk};
use super::sparse::{self, Kind, Output};
use super::staging::Staging;
use super::work::Work;
use super::{define, device, foreign};
use crate::archive::manifest::{DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML, DOMAIN_XML};
use crate::archive::{self, Archive, Digest, Hasher, Manifest, MemberReader};
use crate::engine::Error;
use crate::model::{Extent, Owner};
use crate::qcow2::{self, Layout, Reader};
use crate::store::Point;
use crate::sys::host;
use crate::sys::patient_file::PatientFile;

/// Bytes of a file beside the disks that are read at once.
const BUFFER: usize = 1 << 20;

/// What the archive says it holds.
pub fn saved(point: &Point, archive: &Archive, manifest: Manifest) -> Result<Saved, Error> {
    let members = archive.members().map_err(Error::archive(&point.path))?;
    // Older archives say only in the definition which disks were encrypted.
    let described = xml(point, archive, DOMAIN_XML).ok().and_then(|xml| define::read(&xml).ok());
    let described = described.map_or(Vec::new(), |domain| domain.disks);
    let is_encrypted = |target: &str| described.iter().any(|disk| disk.encrypted && disk.target == target);
    let disks = manifest.disks.into_iter().map(|disk| SavedDisk {
        encrypted: disk.encrypted || is_encrypted(&disk.target),
        target: disk.target,
        member: disk.member,
        source: disk.source,
        format: disk.format,
        virtual_bytes: Some(disk.virtual_bytes),
        owner: disk.owner.map(Owner::sane),
    });
    let documents = [archive::MANIFEST, DOMAIN_XML, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML];
    Ok(Saved {
        archive: point.path.clone(),
        domain: manifest.domain,
        disks: disks.collect(),
        skipped: manifest.skipped.into_iter().map(|disk| (disk.target, disk.reason)).collect(),
        not_saved: manifest.not_saved.into_iter().map(|not_saved| not_saved.what).collect(),
        nvram: manifest.nvram,
        boot: manifest.boot,
        tpm: manifest.tpm,
        tpm_missing: manifest.tpm_missing,
        documents: documents.map(|name| (name.to_owned(), name.to_owned())).to_vec(),
        lengths: members.iter().map(|member| (member.name.clone(), member.length)).collect(),
    })
}

/// A definition, as text.
pub fn xml(point: &Point, archive: &Archive, member: &str) -> Result<String, Error> {
    let failed = Error::archive(&point.path);
    let bytes = archive.member(member).and_then(|member| archive.read(member)).map_err(failed)?;
    String::from_utf8(bytes)
        .map_err(|_| Error::Suspect { path: point.path.clone(), what: format!("{member} is not UTF-8") })
}

/// Writes one member where the plan wants it.
pub fn write(work: &Work<'_>, archive: &Archive, write: &Write, staging: &mut Staging) -> Result<(), Error> {
    match &write.how {
        How::Copy | How::Tpm | How::Image(_) => {
            copy(work, archive, write, &*staging.create(&write.to, write.rights)?)?;
            let (file, archive, member) = (Staging::part(&write.to), work.archive.to_owned(), write.member.clone());
            staging.call("check", &write.to, move || foreign::check_copy(&file, &archive, &member))
        }
        How::Qcow2(part) | How::Raw(part) => {
            let file = staging.create(&write.to, write.rights)?;
            disk(work, archive, write, part, &file)
        }
        How::Device(part) => {
            let (path, bytes) = (write.to.clone(), part.virtual_bytes);
            let file = staging.call("open", &write.to, move || device::open(&path, bytes))?;
            let file = PatientFile::new(file, staging.patience());
            disk(work, archive, write, part, &file)?;
            file.with(File::sync_all).map_err(Error::file("write", &write.to))
        }
    }
}

fn copy(work: &Work<'_>, archive: &Archive, write: &Write, file: &PatientFile) -> Result<(), Error> {
    let failed = Error::file("write", &write.to);
    let mut input = Hashed::new(work, archive, &write.member)?;
    let mut output = Output::start(file, Kind::NewFile).map_err(&failed)?;
    let mut buffer = vec![0; BUFFER];
    let mut offset = 0;
    loop {
        work.go_on()?;
        let count = input.read(&mut buffer).map_err(|error| work.read_error(error))?;
        if count == 0 {
            break;
        }
        output.take(offset, &buffer[..count]).map_err(&failed)?;
        offset += count as u64;
        work.advance(count as u64);
    }
    output.finish().and_then(|()| set_length(file, offset)).map_err(&failed)?;
    input.check(work)
}

/// Fails when a disk's image is of another size than the manifest says.
pub fn expect_size(archive: &Path, part: &DiskPart, bytes: u64) -> Result<(), Error> {
    // Images have whole sectors; a raw file need not.
    if part.virtual_bytes.checked_next_multiple_of(512) == Some(bytes) {
        return Ok(());
    }
    let what = format!("the disk {} has another size than the manifest says", part.target);
    Err(Error::Suspect { path: archive.to_owned(), what })
}

/// Brings a disk to a file or device. The thread of the caller hashes what others have decoded, another one writes.
fn disk(work: &Work<'_>, archive: &Archive, write: &Write, part: &DiskPart, file: &PatientFile) -> Result<(), Error> {
    let mut input = Hashed::new(work, archive, &write.member)?;
    let image = |source| image_error(work, &write.member, source);
    let reader = Reader::new(&mut input).map_err(image)?;
    expect_size(work.archive, part, reader.virtual_size())?;
    let failed = Error::file("write", &write.to);
    let mut map = Map { extents: Vec::new(), next: 0 };
    let kind = if matches!(write.how, How::Device(_)) { Kind::Device } else { Kind::NewFile };
    let mut output = Output::start(file, kind).map_err(&failed)?;
    let length = match &write.how {
        How::Qcow2(_) => {
            let layout = Layout::new(reader.virtual_size(), reader.data()).map_err(image)?;
            map = Map::of(reader.data(), layout.metadata_length());
            set_length(file, layout.length()).map_err(&failed)?;
            layout.write_metadata(&mut output.at(0)).map_err(&failed)?;
            layout.length()
        }
        How::Device(_) => {
            for gap in gaps(reader.data(), reader.virtual_size()) {
                work.go_on()?;
                sparse::zero(file, gap.offset, gap.length).map_err(&failed)?;
            }
            0
        }
        _ => {
            set_length(file, reader.virtual_size()).map_err(&failed)?;
            part.virtual_bytes
        }
    };
    let read = reader.copy(|offset, bytes| {
        work.go_on().map_err(Stop::Other)?;
        output.take(map.host(offset, bytes.len()), bytes).map_err(|error| Stop::Other(failed(error)))?;
        work.advance(bytes.len() as u64);
        Ok(())
    });
    read.map_err(|stop| match stop {
        Stop::Image(source) => image(source),
        Stop::Other(error) => error,
    })?;
    output.finish().map_err(&failed)?;
    if kind == Kind::NewFile {
        set_length(file, length).map_err(&failed)?;
    }
    input.check(work)
}

fn set_length(file: &PatientFile, length: u64) -> io::Result<()> {
    file.with(move |file| file.set_len(length))
}

/// Why copying ends early.
enum Stop {
    Image(qcow2::Error),
    Other(Error),
}

impl From<qcow2::Error> for Stop {
    fn from(error: qcow2::Error) -> Stop {
        Stop::Image(error)
    }
}

/// An error of the image reader; below it, the archive's own may be hidden.
fn image_error(work: &Work<'_>, member: &str, source: qcow2::Error) -> Error {
    match source {
        qcow2::Error::Read(error) => work.read_error(error),
        source => Error::Image { path: work.archive.to_owned(), member: member.to_owned(), source },
    }
}

/// Where the guest's data lies in a compact image: in its order, behind the metadata.
struct Map {
    /// Guest offset, host offset.
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

    /// The place of a guest offset; they come ascending. Without extents, host and guest are the same.
    fn host(&mut self, offset: u64, length: usize) -> u64 {
        let Some((extent, host)) = self.extents.get(self.next) else { return offset };
        let at = host + (offset - extent.offset);
        if offset + length as u64 >= extent.end() {
            self.next += 1;
        }
        at
    }
}

/// What the extents leave out of a disk.
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

/// A member that is hashed while it is read.
struct Hashed {
    input: MemberReader,
    hasher: Hasher,
    member: String,
    digest: Digest,
}

impl Hashed {
    fn new(work: &Work<'_>, archive: &Archive, member: &str) -> Result<Hashed, Error> {
        let failed = Error::archive(work.archive);
        let sums = archive.sums().map_err(&failed)?;
        let digest = sums.get(member).copied().ok_or_else(|| archive::Error::Unlisted { member: member.to_owned() });
        let digest = digest.map_err(&failed)?;
        let found = archive.member(member).map_err(&failed)?;
        let input = archive.stream(found, host::cores()).map_err(&failed)?;
        Ok(Hashed { input, hasher: Hasher::new(), member: member.to_owned(), digest })
    }

    /// Everything must have been read.
    fn check(self, work: &Work<'_>) -> Result<(), Error> {
        match self.hasher.finish() == self.digest {
            true => Ok(()),
            false => Err(Error::archive(work.archive)(archive::Error::Digest { member: self.member })),
        }
    }
}

impl Read for Hashed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(out)?;
        self.hasher.update(&out[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    #[test]
    fn gaps_and_data_are_the_disk() {
        assert_eq!(gaps(&[extent(5, 5), extent(20, 10)], 40), [extent(0, 5), extent(10, 10), extent(30, 10)]);
        assert_eq!(gaps(&[extent(0, 40)], 40), []);
        assert_eq!(gaps(&[], 40), [extent(0, 40)]);
        assert_eq!(gaps(&[], 0), []);
    }

    #[test]
    fn data_lies_in_order_behind_the_metadata() {
        let mut map = Map::of(&[extent(100, 50), extent(200, 10)], 1000);
        assert_eq!([map.host(100, 30), map.host(130, 20), map.host(200, 10)], [1000, 1030, 1050]);
    }
}
