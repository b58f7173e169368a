//! Verifies every byte of restore points, or a sample, and records the results. Must not write anything else.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::points::{self, When};
use super::restore::restorable;
use super::verified::{Recorder, Verified};
use super::{Error, Monitor};
use crate::model::{DomainOutcome, Failure, PointId, Sample, is_future};
use crate::store::{Point, PointReader, Sampled, Store};
use crate::sys::signals::Cancel;

/// Which restore points to verify, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Points of these domains; of all domains if none are named.
    pub domains: &'a [String],
    /// Which points of each domain.
    pub which: Which,
    /// Skips points that were found good within this time.
    pub older_than: Option<Duration>,
    /// No verification begins after this time.
    pub limit: Option<Duration>,
    /// Reads only this part of the data, of points that can be read in part.
    pub sample: Option<Sample>,
}

/// Which restore points of each domain to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// This one.
    One(When),
    /// All of them.
    All,
}

/// The result of all verifications.
#[derive(Debug, Default, Serialize)]
pub struct Checks {
    /// The verified points, in this order.
    pub points: Vec<Verification>,
    /// Points that were removed before their verification began.
    pub gone: usize,
    /// Points whose verification did not begin within the limit.
    pub left: usize,
    /// Why the points of some domains could not be listed.
    pub failures: Vec<Failure>,
    /// The part of the data that was to be read; `None` if that was everything.
    pub sample: Option<Sample>,
}

/// The result of verifying a restore point.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// The domain.
    pub domain: String,
    /// Id of the point.
    pub id: PointId,
    /// Path of the archive.
    pub path: PathBuf,
    /// Length of the archive, in bytes.
    pub stored_bytes: u64,
    /// When the verification ended.
    pub time: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// The part of its data that was read; `None` if that was everything.
    pub sample: Option<SampledData>,
    /// What is damaged, or why it could not be verified.
    pub failures: Vec<Failure>,
    /// Whether it could not be verified because the target hangs.
    #[serde(skip)]
    pub is_stall: bool,
}

/// The part of the data of a restore point that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SampledData {
    /// Stored bytes of the data that was read.
    pub read_bytes: u64,
    /// Stored bytes of all data.
    pub data_bytes: u64,
}

/// How the verification of a restore point ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every byte is correct.
    Good,
    /// The part that was read is correct. It does not count as verified.
    Sampled,
    /// It is damaged.
    Damaged,
    /// It could not be verified.
    Unchecked,
}

/// Verifies restore points one after another. Those that were never verified, or not for the longest time, come first,
/// so that a later command continues where a stopped one ended. `each` receives every result immediately. A damaged
/// point does not keep the others from being verified.
///
/// # Errors
/// Unknown domains and points, before anything is verified; [`Error::Cancelled`]; a record that cannot be written.
/// Results from before the error are recorded.
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
    let mut wanted = in_order(wanted, recorder.known(), scope.older_than);
    if let Some(sample) = scope.sample {
        // Samples are not recorded, so with a limit the order above would select the same points each time.
        wanted.sort_by_key(|point| sample.of(&point.domain, point.id).seed);
    }
    let mut checks = Checks { failures: found.failures, sample: scope.sample, ..Checks::default() };
    let mut check_all = || {
        let began = Instant::now();
        for (number, point) in wanted.iter().enumerate() {
            if scope.limit.is_some_and(|limit| began.elapsed() >= limit) {
                checks.left = wanted.len() - number;
                break;
            }
            let result = check(point, store, scope.sample, (monitor, cancel));
            monitor.done(&DomainOutcome::new(&point.domain, None));
            let Some(result) = result? else {
                tracing::debug!(path = %point.location().display(), "not verified because it was removed");
                checks.gone += 1;
                continue;
            };
            each(&result);
            let verdict = result.verdict;
            checks.points.push(result);
            match verdict {
                Verdict::Good | Verdict::Damaged => recorder.add(point, verdict == Verdict::Good)?,
                Verdict::Sampled | Verdict::Unchecked => {}
            }
        }
        Ok(())
    };
    let checked = check_all();
    let recorded = recorder.write();
    checked.and(recorded).map(|()| checks)
}

/// The points to verify, in order.
fn in_order(mut points: Vec<Point>, verified: &Verified, older_than: Option<Duration>) -> Vec<Point> {
    let now = Utc::now();
    let last = |point: &Point| verified.get(point).filter(|checked| !is_future(checked.time, now));
    if let Some(age) = older_than {
        // Damage may have been repaired, so only a good result counts.
        let is_recent = |time: DateTime<Utc>| (now - time).to_std().unwrap_or_default() < age;
        points.retain(|point| !last(point).is_some_and(|checked| checked.good && is_recent(checked.time)));
    }
    points.sort_by_key(|point| last(point).map(|checked| checked.time));
    points
}

/// Verifies a point. `None` if it was removed before or during that.
fn check(
    point: &Point,
    store: &Store,
    sample: Option<Sample>,
    (monitor, cancel): (&dyn Monitor, &Cancel),
) -> Result<Option<Verification>, Error> {
    let began = Instant::now();
    monitor.stage(&point.domain, "verify");
    let sample = sample.map(|sample| sample.of(&point.domain, point.id));
    let (errors, sample) = match store.open(point, cancel) {
        Ok(reader) => errors_of(&reader, &point.domain, sample, monitor),
        Err(error) => (vec![error.into()], None),
    };
    // A cancelled verification has no valid result.
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
        [] if sample.is_some() => Verdict::Sampled,
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
        sample,
        failures: errors.iter().map(Error::failure).collect(),
        is_stall: verdict == Verdict::Unchecked && errors.iter().any(Error::is_target_stall),
    }))
}

/// Whether a point was removed: its directory lists others, but not this one. Retention always keeps some, and an empty
/// directory may be that of a target that is no longer mounted.
fn is_gone(point: &Point, store: &Store) -> bool {
    store
        .points(&point.domain)
        .is_ok_and(|now| !now.is_empty() && now.iter().all(|other| other.location() != point.location()))
}

/// The errors of a point, and the part of its data that was read, if it was not all.
fn errors_of(
    reader: &PointReader,
    domain: &str,
    sample: Option<Sample>,
    monitor: &dyn Monitor,
) -> (Vec<Error>, Option<SampledData>) {
    monitor.expect(domain, reader.stored_bytes() * u64::from(sample.map_or(100, |sample| sample.percent)) / 100);
    let progress = &mut |bytes| monitor.advance(domain, bytes);
    let (damages, sample) = match sample.and_then(|sample| reader.sample(sample, progress)) {
        Some(Sampled { damages, read_bytes, data_bytes }) => (damages, Some(SampledData { read_bytes, data_bytes })),
        None => (reader.verify(progress), None),
    };
    let errors = match damages.is_empty() {
        true => restorable::refusals(reader),
        false => damages.into_iter().map(Error::from).collect(),
    };
    (errors, sample)
}

#[cfg(test)]
mod tests;
