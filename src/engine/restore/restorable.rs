//! Owns: checking whether a restore would accept an archive. Must not: write anything.
//!
//! `verify` calls this when it checks every byte: checksums cover the bytes, not their meaning.

use std::path::PathBuf;

use super::plan;
use super::saved::{Saved, SavedDisk};
use super::work::Work;
use super::{Request, contents, define, seed};
use crate::archive::Archive;
use crate::archive::manifest::{DOMAIN_INACTIVE_XML, DOMAIN_XML};
use crate::archive::seed::Seed;
use crate::engine::points::When;
use crate::engine::{Error, Monitor};
use crate::qcow2::Reader;
use crate::store::Point;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

/// What a restore of an archive of this program would refuse. Decodes no whole disk.
pub fn refusals(point: &Point, archive: &Archive) -> Vec<Error> {
    look(point, archive).unwrap_or_else(|error| vec![error])
}

fn look(point: &Point, archive: &Archive) -> Result<Vec<Error>, Error> {
    let manifest = archive.manifest().map_err(Error::archive(&point.path))?;
    let saved = contents::saved(point, archive, manifest)?;
    let mut refusals = refused_files(&saved);
    for member in [DOMAIN_XML, DOMAIN_INACTIVE_XML] {
        let described = contents::xml(point, archive, member).and_then(|xml| define::describe(&saved, &xml).map(drop));
        refusals.extend(described.err());
    }
    refusals.extend(saved.disks.iter().filter_map(|disk| expect_size(point, archive, disk).err()));
    Ok(refusals)
}

/// The same of an archive of the seed script, all of which is read, to its checksum.
pub fn seed_refusals(point: &Point, patience: &Patience, monitor: &dyn Monitor, cancel: &Cancel) -> Vec<Error> {
    let work = Work { archive: &point.path, patience, domain: &point.domain, monitor, cancel };
    look_at_seed(point, &work).unwrap_or_else(|error| vec![error])
}

fn look_at_seed(point: &Point, work: &Work<'_>) -> Result<Vec<Error>, Error> {
    let opened = Seed::open_patiently(&point.path, &point.domain, work.patience);
    let survey = seed::survey(&opened.map_err(Error::archive(&point.path))?, work, &|bytes| work.advance(bytes))?;
    let saved = seed::saved(&survey, point)?;
    let mut refusals = refused_files(&saved);
    refusals.extend(seed::xml(&survey, point).and_then(|xml| define::describe(&saved, &xml)).err());
    refusals.extend(seed::refused_images(&survey, &saved));
    Ok(refusals)
}

/// Why not all of its files could be put into one folder.
fn refused_files(saved: &Saved) -> Vec<Error> {
    let request = Request {
        domain: saved.domain.name.clone(),
        when: When::Newest,
        to: Some(PathBuf::from("/")),
        disks: Vec::new(),
        define: None,
        overwrite: false,
        kept_out: Vec::new(),
        dry_run: true,
    };
    plan::files(saved, &request).err().into_iter().collect()
}

/// Fails if the header of a disk's image has another size than the manifest.
fn expect_size(point: &Point, archive: &Archive, disk: &SavedDisk) -> Result<(), Error> {
    let (Ok(member), Some(part)) = (archive.member(&disk.member), plan::part(disk)) else { return Ok(()) };
    let stream = archive.stream(member, 1).map_err(Error::archive(&point.path))?;
    let failed = |source| Error::Image { path: point.path.clone(), member: disk.member.clone(), source };
    contents::expect_size(&point.path, &part, Reader::new(stream).map_err(failed)?.virtual_size())
}
