//! Copies the restore points of the repository to other places. Must not decide which points a copy keeps, or when it is due.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use super::restic::Restic;
use super::{Error, chain, target};
use crate::config::{CopySettings, RepositorySettings, Settings, nearest};
use crate::model::PointId;
use crate::retention::{self, StoredPoint};
use crate::store::Store;
use crate::sys::signals::Cancel;

/// What may be done.
#[derive(Debug, Clone, Copy)]
pub struct CopyMode {
    /// Create a copy that does not exist.
    pub init: bool,
    /// Only find out what would be done.
    pub dry_run: bool,
}

/// The result of one copy.
#[derive(Debug, Serialize)]
pub struct Copied {
    /// Name of the copy.
    pub name: String,
    /// Its address, without a password.
    pub to: String,
    /// When it began.
    pub started: DateTime<Utc>,
    /// When it ended.
    pub finished: DateTime<Utc>,
    /// Whether the copy was created.
    pub created: bool,
    /// Restore points that were copied, or would be.
    pub copied: Vec<CopiedPoint>,
    /// Restore points that were removed from the copy, or would be.
    pub forgotten: Vec<CopiedPoint>,
    /// Number of restore points in the copy; `None` if unknown.
    pub restore_points: Option<usize>,
    /// When the newest restore point of each domain in the copy was taken, as far as known.
    #[serde(skip)]
    pub newest: BTreeMap<String, DateTime<Utc>>,
    /// Why it failed.
    #[serde(serialize_with = "message")]
    pub error: Option<Error>,
}

/// A restore point of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopiedPoint {
    /// Name of the domain.
    pub domain: String,
    /// ID of the restore point.
    pub id: PointId,
}

/// The copies with these names; without names, all.
///
/// # Errors
/// The configuration has no copies, or none with one of the names.
pub fn named<'a>(settings: &'a Settings, names: &[String]) -> Result<Vec<&'a CopySettings>, Error> {
    let copies = settings.copies();
    if copies.is_empty() {
        return Err(Error::NoCopies);
    }
    let known = || copies.iter().map(|copy| copy.name.as_str());
    if let Some(unknown) = names.iter().find(|name| !known().any(|known| known == *name)) {
        let hint = match nearest(unknown, known()) {
            Some(near) => format!("Did you mean `{near}`?"),
            None => format!("Names of copies: {}", known().collect::<Vec<_>>().join(", ")),
        };
        let message = format!("the configuration has no copy `{unknown}`");
        return Err(Error::Rejected { message, hint: Some(hint) });
    }
    Ok(copies.iter().filter(|copy| names.is_empty() || names.contains(&copy.name)).collect())
}

/// Copies what one copy lacks, and then removes what it no longer needs. Removes nothing if copying failed.
pub fn copy(settings: &Settings, copy: &CopySettings, mode: CopyMode, cancel: &Cancel) -> Copied {
    let now = Utc::now();
    let mut result = Copied {
        name: copy.name.clone(),
        to: copy.to.to_string(),
        started: now,
        finished: now,
        created: false,
        copied: Vec::new(),
        forgotten: Vec::new(),
        restore_points: None,
        newest: BTreeMap::new(),
        error: None,
    };
    let failed = |source: Error| Error::Copy { name: copy.name.clone(), source: Box::new(source) };
    result.error = work(settings, copy, mode, cancel, &mut result).map_err(failed).err();
    result.finished = Utc::now();
    result
}

fn work(
    settings: &Settings,
    copy: &CopySettings,
    mode: CopyMode,
    cancel: &Cancel,
    result: &mut Copied,
) -> Result<(), Error> {
    let (repository, store) = target::open_repository(settings)?;
    let restic = Restic::of_copy(repository, copy, &store, cancel)?;
    result.created = open(&restic, &store, mode)?;
    let before = restic.points()?;
    let plan = retention::copies(&source(&store)?.0, &before, copy.keep, &result.started);
    if mode.dry_run {
        result.copied = points(&plan.copy);
        result.forgotten = points(&plan.forget);
        result.restore_points = Some(before.len());
        return Ok(());
    }
    tracing::info!("{}: copying {} restore points to {}", copy.name, plan.copy.len(), copy.to);
    let copied = restic.each("copy", &plan.copy);
    let (source, unread) = source(&store)?;
    // What is there counts, not what restic reports; also after an error.
    let there = match restic.points() {
        Ok(there) => there,
        Err(error) => return copied.and(Err(error)),
    };
    let after = retention::copies(&source, &there, copy.keep, &result.started);
    let is_left = |point: &&StoredPoint| after.copy.contains(point);
    result.copied = points(plan.copy.iter().filter(|point| !is_left(point)));
    note(result, &there);
    copied?;
    if let Some(lost) = plan.copy.iter().find(is_left) {
        let message = format!("restore point {} of {} was not copied", lost.point, lost.domain);
        return Err(Error::Restic { command: "copy", message });
    }
    forget(&restic, repository, &after.forget)?;
    result.forgotten = points(&after.forget);
    note(result, there.iter().filter(|point| !after.forget.contains(point)));
    unread.map_or(Ok(()), Err)
}

/// Opens the copy, and creates it if that is requested; returns whether it did.
fn open(restic: &Restic<'_>, store: &Store, mode: CopyMode) -> Result<bool, Error> {
    let (created, id) = match restic.id() {
        Err(Error::NoCopy { .. }) if mode.init && !mode.dry_run => {
            restic.expect("init", &["--copy-chunker-params".to_owned()])?;
            (true, restic.id()?)
        }
        id => (false, id?),
    };
    if id == store.repository_id()? {
        let message = "it is the repository itself, or was copied file by file: both have the same ID".to_owned();
        let hint = "Name another place, and create the copy there with `--init`.".to_owned();
        return Err(Error::Rejected { message, hint: Some(hint) });
    }
    Ok(created)
}

/// The restore points of the repository, and why some cannot be listed.
fn source(store: &Store) -> Result<(Vec<StoredPoint>, Option<Error>), Error> {
    let domains = store.domains()?;
    let mut found = Vec::new();
    for domain in &domains.names {
        found.extend(store.points(domain)?.iter().filter_map(|point| {
            let (guest, protected) = (point.guest(), point.is_protected());
            let (domain, snapshot) = (point.domain.clone(), point.snapshot()?);
            Some(StoredPoint { domain, guest, point: point.id, protected, snapshot })
        }));
    }
    Ok((found, domains.failures.into_iter().next().map(Error::from)))
}

fn forget(restic: &Restic<'_>, settings: &RepositorySettings, points: &[StoredPoint]) -> Result<(), Error> {
    if points.is_empty() {
        return Ok(());
    }
    restic.each("forget", points)?;
    restic.expect("prune", &[format!("--max-unused={}%", settings.max_unused)])
}

/// Notes what the copy contains.
fn note<'a>(result: &mut Copied, there: impl IntoIterator<Item = &'a StoredPoint>) {
    result.newest.clear();
    let mut count = 0;
    for point in there {
        count += 1;
        let newest = result.newest.entry(point.domain.clone()).or_insert(point.point.time());
        *newest = point.point.time().max(*newest);
    }
    result.restore_points = Some(count);
}

fn points<'a>(stored: impl IntoIterator<Item = &'a StoredPoint>) -> Vec<CopiedPoint> {
    stored.into_iter().map(|point| CopiedPoint { domain: point.domain.clone(), id: point.point }).collect()
}

fn message<S: Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(|error| chain(error)).serialize(serializer)
}
