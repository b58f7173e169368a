//! Checks whether a restore would accept a restore point. Must not write anything.
//!
//! `verify` calls this when it checks every byte: checksums cover the bytes, not their meaning.

use std::path::PathBuf;

use super::{Request, contents, define, foreign, plan};
use crate::engine::Error;
use crate::engine::points::When;
use crate::model::Format;
use crate::store::{Contents, Definition, PointReader, SavedDisk};

/// The reasons why a restore would refuse this point. Decodes no whole disk.
pub fn refusals(reader: &PointReader) -> Vec<Error> {
    look(reader).unwrap_or_else(|error| vec![error])
}

fn look(reader: &PointReader) -> Result<Vec<Error>, Error> {
    let saved = reader.contents()?;
    let mut refusals: Vec<Error> = refused_files(&saved).into_iter().collect();
    // Both definitions of a kvmbackup archive must be valid; of the legacy script's, only the one that a restore
    // uses.
    let is_ours = reader.manifest()?.is_some();
    let live = if is_ours { reader.definition(Definition::Live).map_err(Error::from).transpose() } else { None };
    for xml in live.into_iter().chain([contents::definition(reader, &saved)]) {
        refusals.extend(xml.and_then(|xml| define::describe(&saved, &xml).map(drop)).err());
    }
    refusals.extend(saved.disks.iter().filter_map(|disk| expect_restorable(reader, &saved, disk).err()));
    Ok(refusals)
}

/// Whether all of its files fit into one directory.
fn refused_files(saved: &Contents) -> Option<Error> {
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
    plan::files(saved, &request).err()
}

/// Fails if the size of a disk differs from the manifest, or if its image reads other files.
fn expect_restorable(reader: &PointReader, saved: &Contents, disk: &SavedDisk) -> Result<(), Error> {
    match plan::part(disk) {
        Some(part) if saved.lengths.contains_key(&disk.member) => {
            contents::expect_size(&saved.location, &part, reader.disk(&disk.member)?.size())
        }
        None if disk.format == Format::Qcow2 => {
            let head = reader.head(&disk.member, foreign::HEADER)?;
            foreign::expect_alone(&head, &saved.location, &disk.member)
        }
        _ => Ok(()),
    }
}
