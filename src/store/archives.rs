//! Reads a restore point that is a kvmbackup archive. Must not return unchecked bytes, except where its interface
//! says so.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Contents, Definition, Entry, Error, FileReader, Manifest, Point, Sampled, Sink};
use crate::archive::{self, Archive, Member, MemberReader, RandomReader};
use crate::hypervisor::domain_xml;
use crate::model::{Digest, DomainState, DomainXml, Extent, Hasher, Sample};
use crate::qcow2::{self, Layout, Reader};
use crate::sys::host;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

pub(super) struct Archived {
    archive: Arc<Archive>,
    path: PathBuf,
    cancel: Cancel,
}

impl Archived {
    pub(super) fn open(point: &Point, patience: &Patience, cancel: &Cancel) -> Result<Archived, Error> {
        let path = point.location().to_owned();
        let archive = Archive::open_patiently(&path, patience).map_err(|source| failed(&path, source))?;
        Ok(Archived { archive: Arc::new(archive), path, cancel: cancel.clone() })
    }

    pub(super) fn manifest(&self) -> Result<Manifest, Error> {
        self.archive.manifest().map_err(|source| self.failed(source))
    }

    pub(super) fn contents(&self) -> Result<Contents, Error> {
        let manifest = self.manifest()?;
        let members = self.archive.members().map_err(|source| self.failed(source))?;
        // Older archives record encryption only in the definition.
        let described = self.definition(Definition::Live).ok().and_then(|xml| described(&xml));
        let described = described.map_or(Vec::new(), |domain| domain.disks);
        let is_encrypted = |target: &str| described.iter().any(|disk| disk.encrypted && disk.target == target);
        let lengths = members.iter().map(|member| (member.name.clone(), member.length)).collect();
        let mut contents = Contents::of(&self.path, manifest, lengths);
        for disk in &mut contents.disks {
            disk.encrypted |= is_encrypted(&disk.target);
        }
        Ok(contents)
    }

    pub(super) fn definition(&self, which: Definition) -> Result<String, Error> {
        let name = which.member();
        let bytes = self.archive.member(name).and_then(|member| self.archive.read(member));
        String::from_utf8(bytes.map_err(|source| self.failed(source))?)
            .map_err(|_| Error::Suspect { path: self.path.clone(), what: format!("{name} is not UTF-8") })
    }

    pub(super) fn stored_bytes(&self) -> u64 {
        self.archive.packed_bytes()
    }

    pub(super) fn unpacked_bytes(&self) -> u64 {
        self.archive.unpacked_bytes()
    }

    pub(super) fn verify(&self, progress: &mut dyn FnMut(u64)) -> Vec<Error> {
        let mut progress = |bytes| {
            progress(bytes);
            self.cancel.signal().map_or(ControlFlow::Continue(()), |_| ControlFlow::Break(()))
        };
        let checked = self.archive.verify(host::cores(), &mut progress);
        match self.cancel.signal() {
            Some(signal) => vec![Error::Stopped { signal }],
            None => checked.err().into_iter().flatten().map(|source| self.failed(source)).collect(),
        }
    }

    pub(super) fn sample(&self, sample: Sample, progress: &mut dyn FnMut(u64)) -> Option<Sampled> {
        let mut progress = |bytes| {
            progress(bytes);
            self.cancel.signal().map_or(ControlFlow::Continue(()), |_| ControlFlow::Break(()))
        };
        let (damages, read_bytes) = self.archive.sample(sample, host::cores(), &mut progress)?;
        let damages = match self.cancel.signal() {
            Some(signal) => vec![Error::Stopped { signal }],
            None => damages.into_iter().map(|source| self.failed(source)).collect(),
        };
        Some(Sampled { damages, read_bytes, data_bytes: self.stored_bytes() })
    }

    pub(super) fn head(&self, name: &str, length: usize) -> Result<Vec<u8>, Error> {
        let member = self.archive.member(name).map_err(|source| self.failed(source))?;
        let mut bytes = vec![0; usize::try_from(member.length).unwrap_or(length).min(length)];
        let read = self.archive.at_random(member).and_then(|reader| reader.read_at(0, &mut bytes));
        read.map(|()| bytes).map_err(|source| self.failed(source))
    }

    pub(super) fn is_same(&self, name: &str, path: &Path) -> Result<bool, Error> {
        let sums = self.archive.sums().map_err(|source| self.failed(source))?;
        let length = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|status| status.len());
        let saved = self.archive.member(name).ok().map(|member| member.length);
        Ok(length.is_some() && length == saved && digest(path).as_ref() == sums.get(name))
    }

    pub(super) fn files<E: From<Error>>(
        &self,
        names: &BTreeSet<&str>,
        visit: &mut dyn FnMut(&str, &mut FileReader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for name in names {
            let mut input = self.stream(name)?;
            visit(name, &mut FileReader::new(&mut |out| self.next(&mut input, out)))?;
            input.check().map_err(|source| self.failed(source))?;
        }
        Ok(())
    }

    pub(super) fn each<E: From<Error>>(
        &self,
        visit: &mut dyn FnMut(&Entry, &mut FileReader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let members = self.archive.members().map_err(|source| self.failed(source))?;
        for member in members.iter().filter(|member| member.name != archive::SUMS) {
            let entry = Entry { name: member.name.clone(), length: member.length };
            self.files(&BTreeSet::from([entry.name.as_str()]), &mut |_, contents| visit(&entry, contents))?;
        }
        Ok(())
    }

    fn next(&self, input: &mut Hashed, out: &mut [u8]) -> Result<usize, Error> {
        if let Some(signal) = self.cancel.signal() {
            return Err(Error::Stopped { signal });
        }
        input.read(out).map_err(|error| read_error(&self.path, error))
    }

    pub(super) fn disk(&self, name: &str) -> Result<Disk, Error> {
        let member = self.archive.member(name).map_err(|source| self.failed(source))?.clone();
        let data = self.archive.at_random(&member).map_err(|source| self.failed(source))?;
        let layout = Reader::new(InOrder { reader: &data, at: 0 })
            .map_err(|source| image_error(&self.path, name, source))?
            .into_layout();
        let place = |at: &mut u64, extent: &Extent| Some(std::mem::replace(at, *at + extent.length));
        let places = layout.data().iter().scan(layout.metadata_length(), place).collect();
        Ok(Disk { archive: self.archive.clone(), path: self.path.clone(), member, layout, places, data })
    }

    fn stream(&self, name: &str) -> Result<Hashed, Error> {
        Hashed::new(&self.archive, name).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: archive::Error) -> Error {
        failed(&self.path, source)
    }
}

/// A disk, stored as a compact qcow2 image.
pub(super) struct Disk {
    archive: Arc<Archive>,
    path: PathBuf,
    member: Member,
    layout: Layout,
    /// Offset of each extent in the member.
    places: Vec<u64>,
    data: RandomReader,
}

impl Disk {
    pub(super) fn size(&self) -> u64 {
        self.layout.virtual_size()
    }

    pub(super) fn extents(&self) -> &[Extent] {
        self.layout.data()
    }

    pub(super) fn read<E: From<Error>>(&self, sink: &mut Sink<'_, E>) -> Result<(), E> {
        let mut input = Hashed::new(&self.archive, &self.member.name).map_err(|source| failed(&self.path, source))?;
        let image = |source| image_error(&self.path, &self.member.name, source);
        let reader = Reader::new(&mut input).map_err(image)?;
        let read = reader.copy(|offset, bytes| sink(offset, bytes).map_err(Stop::Sink));
        read.map_err(|stop| match stop {
            Stop::Image(source) => image(source).into(),
            Stop::Sink(error) => error,
        })?;
        Ok(input.check().map_err(|source| failed(&self.path, source))?)
    }

    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.size());
        let end = end.ok_or(Error::Range { path: self.path.clone(), offset, length: out.len() as u64 })?;
        out.fill(0);
        let extents = self.extents();
        let first = extents.partition_point(|extent| extent.end() <= offset);
        for (extent, place) in
            extents.iter().zip(&self.places).skip(first).take_while(|(extent, _)| extent.offset < end)
        {
            let (from, until) = (extent.offset.max(offset), extent.end().min(end));
            // Both are within the range, which fits in memory.
            let part = &mut out[(from - offset) as usize..(until - offset) as usize];
            let read = self.data.read_at(place + (from - extent.offset), part);
            read.map_err(|source| failed(&self.path, source))?;
        }
        Ok(())
    }
}

enum Stop<E> {
    Image(qcow2::Error),
    Sink(E),
}

impl<E> From<qcow2::Error> for Stop<E> {
    fn from(error: qcow2::Error) -> Stop<E> {
        Stop::Image(error)
    }
}

fn failed(path: &Path, source: archive::Error) -> Error {
    Error::Archive { path: path.to_owned(), source }
}

/// Unwraps the archive error inside an error of a reader.
fn read_error(path: &Path, error: io::Error) -> Error {
    failed(path, archive::Error::inside(error))
}

/// The same for an error of the image reader.
fn image_error(path: &Path, member: &str, source: qcow2::Error) -> Error {
    match source {
        qcow2::Error::Read(error) => read_error(path, error),
        source => Error::Image { path: path.to_owned(), member: member.to_owned(), source },
    }
}

/// Parses a definition; `None` if that fails.
pub(super) fn described(xml: &str) -> Option<crate::model::Domain> {
    let xml = DomainXml { live: xml.to_owned(), inactive: xml.to_owned(), migratable: xml.to_owned() };
    domain_xml::read(xml, DomainState::Off, true).ok().map(|described| described.domain)
}

/// `None` if the file cannot be read.
fn digest(path: &Path) -> Option<Digest> {
    let mut file = File::open(path).ok()?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Hashes a member while reading it.
struct Hashed {
    input: MemberReader,
    hasher: Hasher,
    member: String,
    digest: Digest,
}

impl Hashed {
    fn new(archive: &Archive, name: &str) -> Result<Hashed, archive::Error> {
        let digest = archive.sums()?.get(name).copied();
        let digest = digest.ok_or_else(|| archive::Error::Unlisted { member: name.to_owned() })?;
        let input = archive.stream(archive.member(name)?, host::cores())?;
        Ok(Hashed { input, hasher: Hasher::new(), member: name.to_owned(), digest })
    }

    /// Call after everything was read.
    fn check(self) -> Result<(), archive::Error> {
        match self.hasher.finish() == self.digest {
            true => Ok(()),
            false => Err(archive::Error::Digest { member: self.member }),
        }
    }
}

impl Read for Hashed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Hashed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // Returns buffered bytes without reading, so it cannot fail here.
        if let Ok(bytes) = self.input.fill_buf() {
            self.hasher.update(&bytes[..count.min(bytes.len())]);
        }
        self.input.consume(count);
    }
}

/// Reads a member from its start without threads that decode ahead.
struct InOrder<'a> {
    reader: &'a RandomReader,
    at: u64,
}

impl Read for InOrder<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = (out.len() as u64).min(self.reader.length() - self.at) as usize;
        self.reader.read_at(self.at, &mut out[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
