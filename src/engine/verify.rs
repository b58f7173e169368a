//! Owns: the check of every byte of restore points, and the record of it. Must not: write anything but that record.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::points::{self, When};
use super::restore::restorable;
use super::verified::{Recorder, Verified};
use super::{Error, Monitor};
use crate::model::{DomainOutcome, Failure, PointId, is_future};
use crate::store::{Point, Store};
use crate::sys::signals::Cancel;

/// Which restore points are checked, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Those of these domains; of none named: of all.
    pub domains: &'a [String],
    /// Which ones of each domain.
    pub which: Which,
    /// Only those that were not found good within this time.
    pub older_than: Option<Duration>,
    /// No check begins after this time.
    pub limit: Option<Duration>,
}

/// Which restore points of each domain are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// One.
    One(When),
    /// Every one.
    All,
}

/// The result of all checks.
#[derive(Debug, Default, Serialize)]
pub struct Checks {
    /// The points that were checked, in this order.
    pub points: Vec<Verification>,
    /// Points that were removed before their check began.
    pub gone: usize,
    /// Points whose check did not begin within the limit.
    pub left: usize,
    /// Why the points of some domains could not be listed.
    pub failures: Vec<Failure>,
}

/// What the check of a restore point came to.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// The domain.
    pub domain: String,
    /// The point.
    pub id: PointId,
    /// The archive.
    pub path: PathBuf,
    /// Length of the archive, in bytes.
    pub stored_bytes: u64,
    /// When the check ended.
    pub time: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// What is damaged, or why it could not be checked.
    pub failures: Vec<Failure>,
    /// Whether the target hangs, so that it could not be checked.
    #[serde(skip)]
    pub is_stall: bool,
}

/// How the check of a restore point ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every byte is right.
    Good,
    /// It is damaged.
    Damaged,
    /// It could not be checked.
    Unchecked,
}

/// Checks restore points one after another, those that were never checked or not for longest first: a later command
/// continues where one that was stopped ended. `each` hears of every result when it is there; a damaged point does not
/// keep the others from being checked.
///
/// # Errors
/// Unknown domains and points, before anything is checked; [`Error::Cancelled`]; a record that cannot be written. What was
/// checked before is recorded.
pub fn verify(
    store: &Store,
    state_dir: &Path,
    scope: &Scope<'_>,
    (monitor, cancel): (&dyn Monitor, &Cancel),
    each: &mut dyn FnMut(&Verification),
) -> Result<Checks, Error> {
    let mut recorder = Recorder::new(state_dir)?;
    let found = points::found(store, scope.domains)?;
    let mut wanted = Vec::new();
    for (domain, present) in found.domains {
        recorder.keep_only(&domain, &present);
        match scope.which {
            Which::All => wanted.extend(present),
            Which::One(_) if present.is_empty() => {}
            Which::One(when) => wanted.push(points::find(store, &domain, when)?),
        }
    }
    let wanted = in_order(wanted, recorder.known(), scope.older_than);
    let mut checks = Checks { failures: found.failures, ..Checks::default() };
    let mut check_all = || {
        let began = Instant::now();
        for (number, point) in wanted.iter().enumerate() {
            if scope.limit.is_some_and(|limit| began.elapsed() >= limit) {
                checks.left = wanted.len() - number;
                break;
            }
            let result = check(point, store, monitor, cancel);
            monitor.done(&DomainOutcome::new(&point.domain, None));
            let Some(result) = result? else {
                tracing::debug!(path = %point.location().display(), "removed meanwhile: not verified");
                checks.gone += 1;
                continue;
            };
            each(&result);
            let verdict = result.verdict;
            checks.points.push(result);
            if verdict != Verdict::Unchecked {
                recorder.add(point, verdict == Verdict::Good)?;
            }
        }
        Ok(())
    };
    let checked = check_all();
    let recorded = recorder.write();
    checked.and(recorded).map(|()| checks)
}

/// The points to check, in the order in which they are checked.
fn in_order(mut points: Vec<Point>, verified: &Verified, older_than: Option<Duration>) -> Vec<Point> {
    let now = Utc::now();
    let last = |point: &Point| verified.get(point).filter(|checked| !is_future(checked.time, now));
    if let Some(age) = older_than {
        // Damage that was found may have been repaired: only a good check counts.
        let is_recent = |time: DateTime<Utc>| (now - time).to_std().unwrap_or_default() < age;
        points.retain(|point| !last(point).is_some_and(|checked| checked.good && is_recent(checked.time)));
    }
    points.sort_by_key(|point| last(point).map(|checked| checked.time));
    points
}

/// Checks a point; `None` if it was removed meanwhile.
fn check(point: &Point, store: &Store, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Option<Verification>, Error> {
    let began = Instant::now();
    monitor.stage(&point.domain, "verify");
    let errors = errors_of(point, store, monitor, cancel).unwrap_or_else(|error| vec![error]);
    // Cut short, it has found nothing that counts.
    if let Some(signal) = cancel.signal() {
        return Err(Error::Cancelled(signal));
    }
    let may_be_gone = |error: &Error| {
        let is_missing = matches!(error, Error::Store(error) if error.is_missing());
        is_missing || error.is_damage() || error.is_target_stall()
    };
    if errors.iter().any(may_be_gone) && is_gone(point, store) {
        return Ok(None);
    }
    let verdict = match &errors[..] {
        [] => Verdict::Good,
        errors if errors.iter().any(Error::is_damage) => Verdict::Damaged,
        _ => Verdict::Unchecked,
    };
    Ok(Some(Verification {
        domain: point.domain.clone(),
        id: point.id,
        path: point.location().to_owned(),
        stored_bytes: point.bytes,
        time: Utc::now(),
        duration_ms: began.elapsed().as_millis() as u64,
        verdict,
        failures: errors.iter().map(Error::failure).collect(),
        is_stall: verdict == Verdict::Unchecked && errors.iter().any(Error::is_target_stall),
    }))
}

/// Whether a point was removed: its folder lists others, and no longer this one. Retention always keeps some, and an empty
/// folder may be that of a target that is no longer mounted.
fn is_gone(point: &Point, store: &Store) -> bool {
    store
        .points(&point.domain)
        .is_ok_and(|now| !now.is_empty() && now.iter().all(|other| other.location() != point.location()))
}

fn errors_of(point: &Point, store: &Store, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Vec<Error>, Error> {
    let reader = store.open(point, cancel)?;
    monitor.expect(&point.domain, reader.stored_bytes());
    let damages = reader.verify(&mut |bytes| monitor.advance(&point.domain, bytes));
    Ok(match damages.is_empty() {
        true => restorable::refusals(&reader),
        false => damages.into_iter().map(Error::from).collect(),
    })
}

#[cfg(test)]
mod tests;
