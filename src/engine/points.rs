//! Owns: which restore points there are, what each is, and which one is meant. Must not: read disk data, or change
//! anything.

use std::fmt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Local, Utc};
use serde::Serialize;

use super::Error;
use super::verified::{Checked, Verified};
use crate::archive::{Archive, Manifest};
use crate::model::{Consistency, DiskOutcome, Failure, Method, PointId, SkippedDisk};
use crate::store::{Origin, Point, Store};
use crate::sys::patience::Patience;

/// Restore points that an error names, at most.
const NAMED: usize = 10;

/// Which restore point of a domain is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The newest.
    Newest,
    /// The one of this id.
    Id(PointId),
    /// The newest that was taken no later than this.
    NoLaterThan(DateTime<Utc>),
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Newest => f.write_str("any"),
            When::Id(id) => id.fmt(f),
            When::NoLaterThan(time) => {
                write!(f, "at or before {}", time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S"))
            }
        }
    }
}

/// A restore point, as far as it can be told without reading disk data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PointInfo {
    /// The domain.
    pub domain: String,
    /// The point.
    pub id: PointId,
    /// When it was taken.
    pub time: DateTime<Utc>,
    /// The archive.
    pub path: PathBuf,
    /// Length of the archive, in bytes.
    pub stored_bytes: u64,
    /// Who made it: `kvmbackup`, or `seed` for the script that this program replaces.
    pub origin: &'static str,
    /// What the manifest says; neither there for an archive of the seed script, which has none, nor for a damaged one.
    #[serde(flatten)]
    pub details: Option<Details>,
    /// The last check of every byte.
    pub verified: Option<Checked>,
    /// Why the manifest could not be read.
    pub damaged: Option<Failure>,
}

/// What the manifest of a restore point says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Details {
    /// Bytes read from the disks.
    pub read_bytes: u64,
    /// Bytes of the archive before compression, for each byte stored.
    pub ratio: Option<f64>,
    /// What was reached.
    pub consistency: Consistency,
    /// How it was captured.
    pub method: Method,
    /// The disks in it.
    pub disks: Vec<DiskOutcome>,
    /// The disks not in it.
    pub skipped: Vec<SkippedDisk>,
    /// The disks in it, by target, that QEMU encrypted and that are not encrypted here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plaintext: Vec<String>,
}

/// All restore points of these domains (of none named: of all), by domain, oldest first. A damaged one is told of, and
/// spoils nothing; a domain that is named and has none is an error.
pub fn list(store: &Store, state_dir: &Path, domains: &[String]) -> Result<Vec<PointInfo>, Error> {
    let verified = Verified::load(state_dir)?;
    let mut list = Vec::new();
    for domain in chosen(store, domains)? {
        list.extend(
            points_of(store, &domain, !domains.is_empty())?
                .iter()
                .map(|point| info(point, &verified, store.patience())),
        );
    }
    Ok(list)
}

/// The restore point that is meant.
pub fn find(store: &Store, domain: &str, when: When) -> Result<Point, Error> {
    let mut points = points_of(store, domain, true)?;
    let at = match when {
        When::Newest => points.len().checked_sub(1),
        When::Id(id) => points.iter().position(|point| point.id == id),
        When::NoLaterThan(time) => points.iter().rposition(|point| point.id.time() <= time),
    };
    match at {
        Some(at) => Ok(points.swap_remove(at)),
        None => Err(Error::NoPoint { domain: domain.to_owned(), wanted: when.to_string(), there: named(&points) }),
    }
}

/// The domains meant by a list of names: those that have points where it is empty.
pub(super) fn chosen(store: &Store, domains: &[String]) -> Result<Vec<String>, Error> {
    Ok(if domains.is_empty() { store.domains()? } else { domains.to_vec() })
}

/// The points of a domain, oldest first; with `must`, none is an error that names the domains that have some.
pub(super) fn points_of(store: &Store, domain: &str, must: bool) -> Result<Vec<Point>, Error> {
    let points = store.points(domain)?;
    if points.is_empty() && must {
        return Err(Error::NoPoints { domain: domain.to_owned(), there: store.domains()? });
    }
    Ok(points)
}

/// Opens an archive of this program and reads its manifest.
pub(super) fn open(point: &Point, patience: &Patience) -> Result<(Archive, Manifest), Error> {
    let archive = Archive::open_patiently(&point.path, patience).map_err(Error::archive(&point.path))?;
    let manifest = archive.manifest().map_err(Error::archive(&point.path))?;
    Ok((archive, manifest))
}

fn info(point: &Point, verified: &Verified, patience: &Patience) -> PointInfo {
    let mut info = PointInfo {
        domain: point.domain.clone(),
        id: point.id,
        time: point.id.time(),
        path: point.path.clone(),
        stored_bytes: point.bytes,
        origin: "seed",
        details: None,
        verified: verified.get(point).cloned(),
        damaged: None,
    };
    if point.origin == Origin::Kvmbackup {
        info.origin = "kvmbackup";
        match open(point, patience) {
            Ok((archive, manifest)) => info.details = Some(details(manifest, archive.unpacked_bytes(), point.bytes)),
            Err(error) => info.damaged = Some(error.failure()),
        }
    }
    info
}

fn details(manifest: Manifest, unpacked: u64, stored: u64) -> Details {
    // The manifest may say anything: a sum that saturates is as good as any.
    let read = manifest.disks.iter().fold(0_u64, |sum, disk| sum.saturating_add(disk.read_bytes));
    let plaintext = manifest.disks.iter().filter(|disk| disk.encrypted).map(|disk| disk.target.clone()).collect();
    let outcome = |disk: crate::archive::manifest::DiskEntry| DiskOutcome {
        target: disk.target,
        virtual_bytes: disk.virtual_bytes,
        read_bytes: disk.read_bytes,
    };
    Details {
        read_bytes: read,
        ratio: (stored > 0).then(|| unpacked as f64 / stored as f64),
        consistency: manifest.consistency,
        method: manifest.method,
        disks: manifest.disks.into_iter().map(outcome).collect(),
        skipped: manifest.skipped,
        plaintext,
    }
}

/// The newest few ids.
fn named(points: &[Point]) -> Vec<String> {
    let mut named: Vec<String> = points.iter().rev().take(NAMED).map(|point| point.id.to_string()).collect();
    if points.len() > NAMED {
        named.push(format!("and {} older", points.len() - NAMED));
    }
    named
}

#[cfg(test)]
mod tests;
