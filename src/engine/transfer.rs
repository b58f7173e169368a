//! Copies restore points from one store to another, of any kind: an archive from a repository, or archives into it. Must
//! not change the store that it reads.

use std::collections::BTreeSet;
use std::path::Path;

use super::points;
use super::{Error, Monitor};
use crate::config::Settings;
use crate::model::command::quoted;
use crate::model::{Codec, DomainOutcome, DomainRef, Extent, NewId};
use crate::store::{
    Definition, DiskReader, DiskSource, Intent, Manifest, Point, PointReader, PointWriter, Sink, Store,
};
use crate::sys::host;
use crate::sys::signals::Cancel;

/// What became of a restore point.
#[derive(Debug)]
pub enum Transfer {
    /// It was copied to this point.
    Copied(Point),
    /// The target has a point of this domain with this ID.
    Present,
    /// It was made by the legacy script, and does not say what it contains.
    NoManifest,
}

/// How points are copied.
pub struct Copying<'a> {
    /// The store that is read.
    pub from: &'a Store,
    /// The store that is written; if it has two targets, the one that the domain uses.
    pub to: &'a Store,
    /// How a domain is stored, and archives are compressed.
    pub settings: &'a Settings,
    /// Receives progress.
    pub monitor: &'a dyn Monitor,
    /// Whether to stop.
    pub cancel: &'a Cancel,
}

impl Copying<'_> {
    /// Copies the points of these domains, of all if none are named, oldest first, so that each builds on the one before.
    /// `each` receives every result immediately. A point that cannot be copied does not keep the others from it.
    ///
    /// # Errors
    /// Unknown domains, before anything is copied; [`Error::Cancelled`].
    pub fn all(&self, domains: &[String], each: &mut dyn FnMut(&Point, &Result<Transfer, Error>)) -> Result<(), Error> {
        let found = points::found(self.from, domains)?;
        for point in found.domains.iter().flat_map(|(_, points)| points) {
            let result = self.one(point, &mut |_| Ok(()));
            self.monitor.done(&DomainOutcome::new(&point.domain, None));
            if let Some(signal) = self.cancel.signal() {
                return Err(Error::Cancelled(signal));
            }
            each(point, &result);
        }
        Ok(())
    }

    /// Copies one point. The copy has the same ID and contents; only the files of disks have names of their own kind.
    /// `note` receives the temporary path of an archive before the file is created; its error aborts.
    pub fn one(&self, point: &Point, note: &mut dyn FnMut(&Path) -> Result<(), Error>) -> Result<Transfer, Error> {
        let rule = self.settings.rule_for(&point.domain).map(|rule| &rule.domain);
        let chosen = rule.and_then(|domain| self.to.only(domain.store.first()));
        let to = chosen.as_ref().unwrap_or(self.to);
        if to.points(&point.domain)?.iter().any(|other| other.id == point.id) {
            return Ok(Transfer::Present);
        }
        let reader = self.from.open(point, self.cancel)?;
        let Some(manifest) = reader.manifest()? else { return Ok(Transfer::NoManifest) };
        let codec = rule.map_or(Codec::Zstd(3), |domain| domain.compression);
        let intent = Intent { id: NewId::Copied(point.id), codec, threads: host::cores(), cancel: self.cancel.clone() };
        let domain = DomainRef { name: point.domain.clone(), uuid: manifest.domain.uuid };
        let mut writer = to.begin(&domain, &intent, note)?;
        let expected = if writer.id() == point.id { Ok(()) } else { Err(self.unfinished(point)) };
        match expected.and_then(|()| self.write(&reader, manifest, &mut writer)) {
            Ok(copied) => Ok(Transfer::Copied(copied)),
            Err(error) => {
                let left = writer.discard().err().map(Error::from);
                left.iter().for_each(|left| tracing::warn!("cannot remove the unfinished point: {left}"));
                Err(error)
            }
        }
    }

    /// The error if an unfinished copy has the ID of the point.
    fn unfinished(&self, point: &Point) -> Error {
        let is_of_point = |path: &&std::path::PathBuf| path.to_string_lossy().contains(&point.id.to_string());
        let partials = self.to.partials(&point.domain).unwrap_or_default();
        let path = partials.iter().find(is_of_point).map(|path| quoted(&path.to_string_lossy()));
        Error::Rejected {
            message: "an unfinished copy of this restore point exists".to_owned(),
            hint: path.map(|path| format!("If no other command is writing it, remove it: rm {path}")),
        }
    }

    fn write(&self, reader: &PointReader, manifest: Manifest, writer: &mut PointWriter) -> Result<Point, Error> {
        let name = manifest.domain.name.clone();
        let contents = reader.contents()?;
        let members: Vec<(String, String)> =
            manifest.disks.iter().map(|disk| (disk.member.clone(), writer.disk_member(&disk.target))).collect();
        let mut copy = Manifest { point: writer.id(), ..manifest };
        for (disk, (_, member)) in copy.disks.iter_mut().zip(&members) {
            disk.member.clone_from(member);
        }
        writer.manifest(&copy)?;
        let definitions = [Definition::Live, Definition::Inactive, Definition::Migratable];
        for definition in definitions {
            let text = reader.definition(definition)?.unwrap_or_default();
            writer.add(definition.member(), text.as_bytes())?;
        }
        let files = copy.nvram.iter().chain(&copy.tpm).map(|file| &file.member);
        let boot = copy.boot.iter().map(|file| &file.member);
        let names: BTreeSet<&str> = files.chain(boot).chain(&copy.artifacts).map(String::as_str).collect();
        reader.files(&names, &mut |name, file| {
            let length = contents.lengths.get(name).copied().unwrap_or_default();
            writer.file(name, length, &mut |out| Ok::<usize, Error>(file.read(out)?))
        })?;
        let disks = members.iter().map(|(member, _)| reader.disk(member)).collect::<Result<Vec<_>, _>>()?;
        let bytes = disks.iter().flat_map(|disk| disk.extents()).map(|extent| extent.length).sum();
        self.monitor.expect(&name, bytes);
        for (disk, (_, member)) in disks.iter().zip(&members) {
            writer.disk(member, &mut Saved { disk, copying: self, domain: &name })?;
        }
        Ok(writer.commit()?)
    }
}

/// A disk of a restore point, as the source of another one.
struct Saved<'a> {
    disk: &'a DiskReader,
    copying: &'a Copying<'a>,
    domain: &'a str,
}

impl DiskSource for Saved<'_> {
    type Error = Error;

    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn extents(&mut self) -> Vec<Extent> {
        // The last cluster of an archive may be longer than the rest of the disk.
        let size = self.size();
        let within =
            |extent: &Extent| Extent { length: extent.length.min(size.saturating_sub(extent.offset)), ..*extent };
        self.disk.extents().iter().map(within).filter(|extent| extent.length > 0).collect()
    }

    fn read(&mut self, _: &[Extent], sink: &mut Sink<'_, Error>) -> Result<(), Error> {
        let size = self.size();
        self.disk.read(&mut |offset, bytes| {
            if let Some(signal) = self.copying.cancel.signal() {
                return Err(Error::Cancelled(signal));
            }
            self.copying.monitor.advance(self.domain, bytes.len() as u64);
            let length = size.saturating_sub(offset).min(bytes.len() as u64) as usize;
            sink(offset, &bytes[..length])
        })
    }
}
