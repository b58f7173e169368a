//! Owns: whether a restore would take an archive of this program. Must not: write anything, or decode a disk.
//!
//! `verify` asks this after it has checked every byte: checksums vouch for the bytes, and not for what they say.

use super::plan::suspect;
use super::saved::Saved;
use super::{contents, define};
use crate::archive::manifest::{DOMAIN_INACTIVE_XML, DOMAIN_XML};
use crate::archive::{Archive, Manifest};
use crate::engine::{Error, points};
use crate::qcow2::Reader;
use crate::store::Point;
use crate::sys::patience::Patience;

/// What a restore of this point would refuse, for what lies in its archive.
pub fn refusals(point: &Point, patience: &Patience) -> Vec<Error> {
    let opened = points::open(point, patience);
    let looked = opened.and_then(|(archive, manifest)| look(point, &archive, manifest));
    looked.unwrap_or_else(|error| vec![error])
}

fn look(point: &Point, archive: &Archive, manifest: Manifest) -> Result<Vec<Error>, Error> {
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
    refusals.extend(saved.disks.iter().filter_map(|disk| wrong_size(point, archive, &saved, &disk.member).err()));
    Ok(refusals)
}

/// Whether a disk's image begins as one of the size that the manifest says.
fn wrong_size(point: &Point, archive: &Archive, saved: &Saved, name: &str) -> Result<(), Error> {
    let failed = Error::archive(&point.path);
    let Ok(member) = archive.member(name) else { return Ok(()) };
    let reader = archive.stream(member, 1).map_err(&failed)?;
    let image = Reader::new(reader).map_err(|source| Error::Image {
        path: point.path.clone(),
        member: name.to_owned(),
        source,
    })?;
    let said = saved.disks.iter().find(|disk| disk.member == name).and_then(|disk| disk.virtual_bytes);
    match said.and_then(|bytes| bytes.checked_next_multiple_of(512)) == Some(image.virtual_size()) {
        true => Ok(()),
        false => Err(suspect(saved, &format!("{name} has another size than the manifest says"))),
    }
}
