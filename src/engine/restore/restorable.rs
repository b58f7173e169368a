//! Owns: checking whether a restore would accept an archive of this program. Must not: write anything, or decode a whole disk.
//!
//! `verify` calls this after it has checked every byte: checksums cover the bytes, not their meaning.

use super::plan::{self, suspect};
use super::saved::SavedDisk;
use super::{contents, define};
use crate::archive::Archive;
use crate::archive::manifest::{DOMAIN_INACTIVE_XML, DOMAIN_XML};
use crate::engine::Error;
use crate::qcow2::Reader;
use crate::store::Point;

/// What a restore of this archive would refuse.
pub fn refusals(point: &Point, archive: &Archive) -> Vec<Error> {
    look(point, archive).unwrap_or_else(|error| vec![error])
}

fn look(point: &Point, archive: &Archive) -> Result<Vec<Error>, Error> {
    let manifest = archive.manifest().map_err(Error::archive(&point.path))?;
    let saved = contents::saved(point, archive, manifest)?;
    let mut refusals = Vec::new();
    let files = saved.nvram.iter().chain(&saved.tpm).map(|file| &file.member);
    let members =
        files.chain(saved.boot.iter().map(|file| &file.member)).chain(saved.disks.iter().map(|disk| &disk.member));
    let missing = members.filter(|member| !saved.lengths.contains_key(*member));
    refusals.extend(missing.map(|member| suspect(&saved, &format!("member {member} is missing"))));
    for member in [DOMAIN_XML, DOMAIN_INACTIVE_XML] {
        let described = contents::xml(point, archive, member).and_then(|xml| define::describe(&saved, &xml).map(drop));
        refusals.extend(described.err());
    }
    refusals.extend(saved.disks.iter().filter_map(|disk| expect_size(point, archive, disk).err()));
    Ok(refusals)
}

/// Fails if the header of a disk's image has another size than the manifest.
fn expect_size(point: &Point, archive: &Archive, disk: &SavedDisk) -> Result<(), Error> {
    let (Ok(member), Some(part)) = (archive.member(&disk.member), plan::part(disk)) else { return Ok(()) };
    let stream = archive.stream(member, 1).map_err(Error::archive(&point.path))?;
    let failed = |source| Error::Image { path: point.path.clone(), member: disk.member.clone(), source };
    contents::expect_size(&point.path, &part, Reader::new(stream).map_err(failed)?.virtual_size())
}
