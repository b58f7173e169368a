//! Lists restore points, reads their manifests, and finds a requested one. Must not read disk data or change anything.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Local, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::Error;
use super::verified::{Checked, Verified};
use crate::config::glob;
use crate::model::command::{quoted, typed};
use crate::model::{Consistency, DiskOutcome, Failure, Method, NotSaved, PointId, SkippedDisk, StoreKind};
use crate::store::{self, Domains, Manifest, Point, PointReader, Store};
use crate::sys::at_once::at_once;
use crate::sys::signals::Cancel;

/// Number of manifests that are read at once. Each may need two threads, and each thread an arena of `malloc`.
const READERS: usize = 4;
/// How many restore points an error names.
const NAMED: usize = 10;

/// Which restore point of a domain is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The newest.
    Newest,
    /// The point with this id.
    Id(PointId),
    /// The newest point that was taken no later than this.
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

/// What is known of a restore point without reading disk data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PointInfo {
    /// The domain.
    pub domain: String,
    /// Id of the point.
    pub id: PointId,
    /// When it was taken.
    pub time: DateTime<Utc>,
    /// Path of the archive.
    pub path: PathBuf,
    /// Length of the archive, in bytes.
    pub stored_bytes: u64,
    /// The kind of store that contains it.
    pub store: StoreKind,
    /// What created it: `kvmbackup`, or `seed` for the legacy script.
    pub origin: &'static str,
    /// Contents of the manifest. `None` for an archive of the legacy script, which has none, and for a damaged one.
    #[serde(flatten)]
    pub details: Option<Details>,
    /// Whether it is protected from being removed.
    pub protected: bool,
    /// The last verification.
    pub verified: Option<Checked>,
    /// Why the manifest could not be read.
    pub damaged: Option<Failure>,
}

/// Contents of a restore point's manifest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Details {
    /// UUID of the guest, because another guest may have had the domain's name.
    pub guest: Uuid,
    /// Bytes read from the disks.
    pub read_bytes: u64,
    /// Bytes of the archive before compression per stored byte.
    pub ratio: Option<f64>,
    /// Consistency that was reached.
    pub consistency: Consistency,
    /// Capture method.
    pub method: Method,
    /// Disks in the point.
    pub disks: Vec<DiskOutcome>,
    /// Disks that are not in the point.
    pub skipped: Vec<SkippedDisk>,
    /// Other parts of the guest that are not in the point.
    pub not_saved: Vec<NotSaved>,
    /// Targets of disks that QEMU encrypts and that the archive contains unencrypted.
    pub plaintext: Vec<String>,
}

/// All restore points of these domains (of all domains if none are named), oldest first, and why some domains could not
/// be listed. A damaged point is listed like any other. A named domain without points is an error.
pub fn list(store: &Store, state_dir: &Path, domains: &[String]) -> Result<(Vec<PointInfo>, Vec<Failure>), Error> {
    let unknown =
        |error: &Error| tracing::warn!("cannot read when restore points were verified: {}", super::chain(error));
    let verified = Verified::load(state_dir).inspect_err(unknown).unwrap_or_default();
    let found = found(store, domains)?;
    let points: Vec<Point> = found.domains.into_iter().flat_map(|(_, points)| points).collect();
    Ok((at_once(READERS, &points, |point| info(point, &verified, store)), found.failures))
}

/// Finds the requested restore point.
pub fn find(store: &Store, domain: &str, when: When) -> Result<Point, Error> {
    let mut points = points_of(store, domain)?;
    let at = match when {
        When::Newest => points.len().checked_sub(1),
        When::Id(id) => points.iter().rposition(|point| point.id == id),
        When::NoLaterThan(time) => points.iter().rposition(|point| point.id.time() <= time),
    };
    match at {
        Some(at) => Ok(points.swap_remove(at)),
        None => Err(Error::NoPoint { domain: domain.to_owned(), wanted: when.to_string(), there: stamps(&points) }),
    }
}

/// The point itself, and its copy in the other store.
pub fn copies(store: &Store, point: &Point) -> Result<Vec<Point>, Error> {
    let mut points = store.points(&point.domain)?;
    points.retain(|other| other == point || other.id == point.id && other.store() != point.store());
    Ok(points)
}

/// The restore points of some domains.
pub(super) struct Found {
    /// Each domain with its points, oldest first. A domain that was not named may have none.
    pub domains: Vec<(String, Vec<Point>)>,
    /// Why the points of other domains could not be listed.
    pub failures: Vec<Failure>,
}

/// The restore points of the domains that match these names or patterns; of all domains if there are none. A directory
/// that cannot be read does not stop the listing, but a hung target does. A name or pattern without restore points is
/// an error.
pub(super) fn found(store: &Store, domains: &[String]) -> Result<Found, Error> {
    let names = match domains {
        [] => store.domains()?,
        asked => named(store, asked)?,
    };
    let mut found = Found { domains: Vec::new(), failures: names.failures.into_iter().map(failure).collect() };
    for (domain, points) in store.points_of(names.names)? {
        match points {
            Ok(points) if points.is_empty() && !domains.is_empty() => return Err(none_of(store, &domain)?),
            Ok(points) => found.domains.push((domain, points)),
            Err(error) => found.failures.push(failure(error)),
        }
    }
    Ok(found)
}

/// The domains with these names, and those that match these patterns, each once.
fn named(store: &Store, asked: &[String]) -> Result<Domains, Error> {
    let mut all = match asked.iter().any(|asked| glob::is_glob(asked)) {
        true => store.domains()?,
        false => Domains { names: Vec::new(), failures: Vec::new() },
    };
    let mut names: Vec<String> = Vec::new();
    for asked in asked {
        // An exact name takes precedence over a pattern.
        let is_name = all.names.contains(asked);
        let matching: Vec<_> = all.names.iter().filter(|name| !is_name && glob::matches(asked, name)).collect();
        match matching.is_empty() {
            true => names.push(asked.clone()),
            false => names.extend(matching.into_iter().cloned()),
        }
    }
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    all.names = names;
    Ok(all)
}

fn failure(error: store::Error) -> Failure {
    Error::from(error).failure()
}

/// The points of a domain, oldest first. Fails if there are none.
fn points_of(store: &Store, domain: &str) -> Result<Vec<Point>, Error> {
    let points = store.points(domain)?;
    if points.is_empty() { Err(none_of(store, domain)?) } else { Ok(points) }
}

/// The error for a domain without restore points, with the names of the domains that have some.
fn none_of(store: &Store, domain: &str) -> Result<Error, Error> {
    let Domains { names, mut failures } = store.domains()?;
    match failures.pop() {
        Some(failure) if names.is_empty() => Err(failure.into()),
        _ => Ok(Error::NoPoints { domain: domain.to_owned(), there: names }),
    }
}

/// The points of a domain, oldest first, each with its guest, because several guests may have had the name. `None` if
/// the guest is unknown.
pub(super) fn guests(store: &Store, domain: &str) -> Result<Vec<(Point, Option<Uuid>)>, Error> {
    let guest = |point: &Point| point.guest().or_else(|| Some(open(store, point).ok()?.1?.domain.uuid));
    let with_guest = |point: Point| {
        let guest = guest(&point);
        (point, guest)
    };
    Ok(store.points(domain)?.into_iter().map(with_guest).collect())
}

/// A note that other guests had the domain's name, too, for an operator who did not choose among their points.
pub(super) fn beside_other_guests(store: &Store, point: &Point) -> Result<Option<String>, Error> {
    let points = guests(store, &point.domain)?;
    let Some(guest) = points.iter().find(|(known, _)| known == point).and_then(|(_, guest)| *guest) else {
        return Ok(None);
    };
    let others = points.iter().filter_map(|(_, guest)| *guest).filter(|other| *other != guest).count();
    let domain = &point.domain;
    let note = format!(
        "this restore point belongs to the guest with UUID {guest}; {others} more belong to other guests named \
         {domain}: kvmbackup list {}",
        quoted(domain)
    );
    Ok((others > 0).then(|| typed(&note)))
}

/// Opens a restore point and reads its manifest, if it has one.
pub(super) fn open(store: &Store, point: &Point) -> Result<(PointReader, Option<Manifest>), Error> {
    let reader = store.open(point, &Cancel::default())?;
    let manifest = reader.manifest()?;
    Ok((reader, manifest))
}

fn info(point: &Point, verified: &Verified, store: &Store) -> PointInfo {
    let mut info = PointInfo {
        domain: point.domain.clone(),
        id: point.id,
        time: point.id.time(),
        path: point.location().to_owned(),
        stored_bytes: point.bytes,
        store: point.store(),
        origin: point.origin(),
        details: None,
        protected: point.is_protected(),
        verified: verified.get(point).cloned(),
        damaged: None,
    };
    match open(store, point) {
        Ok((reader, manifest)) => {
            info.details = manifest.map(|manifest| details(manifest, reader.unpacked_bytes(), point.bytes));
        }
        Err(error) => info.damaged = Some(error.failure()),
    }
    info
}

fn details(manifest: Manifest, unpacked: Option<u64>, stored: u64) -> Details {
    // A manifest may contain any numbers, so the sum saturates.
    let read = manifest.disks.iter().fold(0_u64, |sum, disk| sum.saturating_add(disk.read_bytes));
    let plaintext = manifest.disks.iter().filter(|disk| disk.encrypted).map(|disk| disk.target.clone()).collect();
    let outcome = |disk: store::DiskEntry| DiskOutcome {
        target: disk.target,
        virtual_bytes: disk.virtual_bytes,
        data_bytes: disk.read_bytes,
        read_bytes: disk.read_bytes,
        encrypted: disk.encrypted,
        shrunk: disk.shrunk,
        ..DiskOutcome::default()
    };
    Details {
        guest: manifest.domain.uuid,
        read_bytes: read,
        ratio: unpacked.filter(|_| stored > 0).map(|unpacked| unpacked as f64 / stored as f64),
        consistency: manifest.consistency,
        method: manifest.method,
        disks: manifest.disks.into_iter().map(outcome).collect(),
        skipped: manifest.skipped,
        not_saved: manifest.not_saved,
        plaintext,
    }
}

/// The newest ids, for a hint.
fn stamps(points: &[Point]) -> Vec<String> {
    let mut named: Vec<String> = points.iter().rev().take(NAMED).map(|point| point.id.to_string()).collect();
    if points.len() > NAMED {
        named.push(format!("and {} older", points.len() - NAMED));
    }
    named
}

#[cfg(test)]
mod tests;
