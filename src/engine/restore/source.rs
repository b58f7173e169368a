//! Owns: an archive of either origin, as a restore asks it. Must not: choose where anything goes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::plan::Plan;
use super::saved::Saved;
use super::staging::Staging;
use super::work::Work;
use super::{contents, seed};
use crate::archive::manifest::{DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML};
use crate::archive::seed::Seed;
use crate::archive::{Archive, Hasher};
use crate::engine::{Error, points};
use crate::store::{Origin, Point};

/// An open archive, of either origin.
pub enum Source {
    Ours(Archive, Box<Saved>),
    Seed(Seed, seed::Survey),
}

impl Source {
    pub fn open(point: &Point, work: &Work<'_>) -> Result<Source, Error> {
        match point.origin {
            Origin::Kvmbackup => {
                let (archive, manifest) = points::open(point, work.patience)?;
                let saved = contents::saved(point, &archive, manifest)?;
                Ok(Source::Ours(archive, Box::new(saved)))
            }
            Origin::Seed { .. } => {
                let seed = Seed::open_patiently(&point.path, &point.domain, work.patience)
                    .map_err(Error::archive(&point.path))?;
                let survey = seed::survey(&seed, work, &|_| ())?;
                Ok(Source::Seed(seed, survey))
            }
        }
    }

    pub fn saved(&self, point: &Point) -> Result<Saved, Error> {
        match self {
            Source::Ours(_, saved) => Ok(Saved::clone(saved)),
            Source::Seed(_, survey) => seed::saved(survey, point),
        }
    }

    /// The saved definition, and after it the one for other hosts.
    pub fn xmls(&self, point: &Point) -> Result<Vec<String>, Error> {
        match self {
            Source::Ours(archive, _) => {
                let inactive = contents::xml(point, archive, DOMAIN_INACTIVE_XML)?;
                let migratable = contents::xml(point, archive, DOMAIN_MIGRATABLE_XML).ok();
                Ok([inactive].into_iter().chain(migratable).collect())
            }
            Source::Seed(_, survey) => seed::xmls(survey, point),
        }
    }

    /// The boot files whose original is on this host, byte for byte.
    pub fn same_files(&self, saved: &Saved, work: &Work<'_>) -> Result<BTreeSet<String>, Error> {
        let Source::Ours(archive, _) = self else { return Ok(BTreeSet::new()) };
        let sums = archive.sums().map_err(Error::archive(work.archive))?;
        let is_same = |member: &str, path: &Path| {
            let length = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|status| status.len());
            length == saved.lengths.get(member).copied() && digest(path).as_ref() == sums.get(member)
        };
        let same = saved.boot.iter().filter(|file| is_same(&file.member, &file.path));
        Ok(same.map(|file| file.member.clone()).collect())
    }

    pub fn write(&mut self, work: &Work<'_>, plan: &Plan, staging: &mut Staging) -> Result<(), Error> {
        match self {
            Source::Ours(archive, _) => {
                plan.writes.iter().try_for_each(|write| contents::write(work, archive, write, staging))
            }
            Source::Seed(seed, _) => seed::write(work, seed, plan, staging),
        }
    }
}

/// The digest of a file; `None` when it cannot be read.
fn digest(path: &Path) -> Option<crate::archive::Digest> {
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
