//! Owns: the backup of one domain, from its description to the published restore point and rotation. Must not: fail in
//! a way that keeps another domain from being backed up: it returns an outcome, whatever happens.

use std::panic::{self, AssertUnwindSafe};
use std::time::Instant;

use chrono::{DateTime, Local, Utc};
use uuid::Uuid;

use super::capture::Capture;
use super::context::Context;
use super::copy::Prepared;
use super::journal::Record;
use super::phases::{GuestAgent, Phases};
use super::prune::Rotate;
use super::shrunk::Before;
use super::stamps::Stamps;
use super::verified::Verified;
use super::{Error, members, points, ready, recover};
use crate::archive::{self, Writer};
use crate::config::{DomainSettings, MinFree, Settings};
use crate::model::{
    Consistency, DiskOutcome, Domain, DomainOutcome, DomainRef, DomainState, Failure, FailureReason, HookResult,
    Outcome, Span, size,
};
use crate::plan::{self, CapturePlan};
use crate::store::{Partial, Store};
use crate::sys::host;
use crate::sys::step::{self, Step};

/// Bytes read between two looks at the room that is left.
const SPACE_CHECK: u64 = 16 << 20;

/// A domain that changes under the capture is captured anew, so often in all.
const ATTEMPTS: usize = 3;

/// Backs up one domain.
pub fn domain(context: &Context<'_>, domain: &DomainRef, settings: &DomainSettings) -> DomainOutcome {
    let began = Instant::now();
    let new = || DomainOutcome { job: settings.job.clone(), ..DomainOutcome::new(&domain.name, Some(domain.uuid)) };
    let mut outcome = new();
    let agent = GuestAgent { hypervisor: context.hypervisor, domain };
    // What bringing the disks back came to stays true when the domain is captured anew.
    let mut told = Vec::new();
    let mut phases = Phases::new(&settings.hooks, context.subject(Some(domain)), Some(&agent), context.cancel);
    // A panic is a defect of ours, and still no reason to leave the other domains without a backup.
    let done = panic::catch_unwind(AssertUnwindSafe(|| {
        may_begin(context)?;
        outcome.wanted = Some(settings.wanted(&domain.name));
        phases.enter(Span::Domain)?;
        for _ in 1..ATTEMPTS {
            match attempt(context, domain, settings, &mut phases, &mut outcome, &mut told) {
                // What could not be given back is in the journal, under a name that a second attempt would take.
                Err(error @ Error::Changed { .. }) if outcome.leftovers.is_empty() => {
                    tracing::warn!(domain = domain.name, "{error}; beginning again");
                    outcome = DomainOutcome { wanted: outcome.wanted, ..new() };
                }
                other => return other,
            }
        }
        attempt(context, domain, settings, &mut phases, &mut outcome, &mut told)
    }));
    outcome.warnings.extend(told);
    match done {
        Ok(Ok(())) if outcome.skipped.iter().any(|disk| disk.missed) => {
            outcome.outcome = Outcome::Partial;
            outcome.reason = Some(FailureReason::Copy);
        }
        Ok(Ok(())) => outcome.outcome = Outcome::Success,
        Ok(Err(error)) => fail(context, &mut outcome, &error),
        Err(_) => {
            let hint = Some("please report it, with the log of `-vv`".into());
            outcome.outcome = Outcome::Failed;
            outcome.error = Some(Failure { message: "this program failed (a panic)".into(), hint });
            outcome.reason = Some(FailureReason::Other);
            let patience = context.store.patience();
            let undone =
                recover::recover_domain(context.journal, context.hypervisor, context.started, domain, patience);
            if let Err(error) = undone {
                outcome.leftovers.push(error.failure());
            }
        }
    }
    // After a failure, too: what there is to go back to is what counts then.
    match points::guests(context.store, &domain.name) {
        Ok(points) => {
            let is_other = |guest: &Option<Uuid>| guest.is_some_and(|guest| guest != domain.uuid);
            outcome.restore_points = points.iter().filter(|(_, guest)| !is_other(guest)).count();
        }
        Err(error) => outcome.warnings.push(error.failure()),
    }
    outcome.duration_ms = began.elapsed().as_millis() as u64;
    end_hooks(context, phases, &mut outcome);
    outcome.name_in_hints();
    outcome
}

/// Leaves the domain, and tells of its failure; a hook that fails now comes second to it.
fn end_hooks(context: &Context<'_>, mut phases: Phases<'_>, outcome: &mut DomainOutcome) {
    phases.know(outcome);
    let failed = outcome.error.clone().filter(|_| outcome.outcome == Outcome::Failed);
    if let Err(error) = phases.leave(Span::Domain, failed.as_ref())
        && failed.is_none()
    {
        fail(context, outcome, &error);
    }
    if let Some(failure) = outcome.error.as_ref().filter(|_| outcome.outcome == Outcome::Failed) {
        phases.on_failure(failure);
    }
    let (results, warnings) = phases.finish();
    outcome.hooks = results;
    outcome.warnings.extend(warnings);
}

fn may_begin(context: &Context<'_>) -> Result<(), Error> {
    if let Some(signal) = context.cancel.signal() {
        return Err(Error::Cancelled(signal));
    }
    match context.ended.get() {
        Some(failure) => Err(Error::HookFailed { failure: failure.clone(), run: true }),
        None => Ok(()),
    }
}

fn fail(context: &Context<'_>, outcome: &mut DomainOutcome, error: &Error) {
    let failure = error.failure();
    if let Error::HookFailed { run: true, .. } = error {
        let message = format!("the run was ended before: {}", failure.message);
        let _ = context.ended.set(Failure { message, hint: failure.hint.clone() });
    }
    outcome.error = Some(failure);
    outcome.outcome = Outcome::Failed;
    if matches!(error, Error::Skipped { .. }) {
        outcome.outcome = Outcome::Skipped;
    } else if outcome.wanted.is_some() {
        outcome.reason = Some(error.reason());
    }
}

fn attempt(
    context: &Context<'_>,
    id: &DomainRef,
    settings: &DomainSettings,
    phases: &mut Phases<'_>,
    outcome: &mut DomainOutcome,
    told: &mut Vec<Failure>,
) -> Result<(), Error> {
    may_begin(context)?;
    ready::wait_for_jobs(context.hypervisor, id)?;
    let domain = context.hypervisor.describe(id)?;
    let plan = plan::capture(&domain, settings)?;
    outcome.method = Some(plan.method);
    phases.method(plan.method);
    outcome.method_reason.clone_from(&plan.method_reason);
    outcome.skipped.clone_from(&plan.skipped);
    outcome.warnings.extend(plan.warnings.iter().cloned());
    check_space(context.settings, context.store)?;

    let mut record = context.journal.begin(context.run_id, context.started, &context.settings.libvirt_uri, id)?;
    record.thawing().heed(context.cancel);
    let result = save(context, &domain, &plan, settings, phases, &mut record, outcome);
    told.extend(record.told());
    // What could not be given back keeps its entry, for the next start.
    if outcome.leftovers.is_empty() {
        outcome.leftovers.extend(record.close().err().map(|error| error.failure()));
    }
    result?;
    rotate(context, id, settings, outcome);
    Ok(())
}

/// Begins the archive and writes it; when that fails, removes what there is of it.
fn save(
    context: &Context<'_>,
    domain: &Domain,
    plan: &CapturePlan,
    settings: &DomainSettings,
    phases: &mut Phases<'_>,
    record: &mut Record,
    outcome: &mut DomainOutcome,
) -> Result<(), Error> {
    let created = context.store.create_noted(&domain.id.name, Utc::now(), settings.compression, |path| {
        record.update(|entry| entry.partial = Some(path.to_owned()))
    });
    // A target that hangs may still make the file, after this run: its entry stays.
    let mut partial = created.inspect_err(|error: &Error| {
        let left = error.is_target_stall().then(|| error.failure());
        outcome.leftovers.extend(left);
    })?;
    let written = write_point(context, domain, plan, settings, phases, &mut partial, record, outcome);
    if written.is_err() {
        let left = partial.discard().err().map(Error::from);
        outcome.leftovers.extend(left.map(|error| error.failure()));
    }
    written
}

#[expect(clippy::too_many_arguments, reason = "one call, and a structure for it would only rename the arguments")]
fn write_point(
    context: &Context<'_>,
    domain: &Domain,
    plan: &CapturePlan,
    settings: &DomainSettings,
    phases: &mut Phases<'_>,
    partial: &mut Partial,
    record: &mut Record,
    outcome: &mut DomainOutcome,
) -> Result<(), Error> {
    let name = &domain.id.name;
    // The state folder is locked, so the run is the only one that uses it.
    let sockets = context.settings.state_dir.join("sockets").join(domain.id.uuid.simple().to_string());
    record.update(|entry| entry.sockets = Some(sockets.clone()))?;
    let mut collected = members::collect(domain, outcome)?;
    outcome.not_saved.extend(members::internal_snapshots(plan));

    context.monitor.stage(name, "snapshot");
    let stamps = Stamps::of(domain, plan, &collected);
    let mut capture = Capture::prepare(context.hypervisor, domain, plan, settings, &sockets, record, outcome)?;
    let path = partial.path().to_owned();
    let archive_error = |source| Error::Archive { path: path.clone(), source };
    let copied = hold_still(&mut capture, plan, settings, phases, record, outcome)
        .and_then(|()| members::add_artifacts(&mut collected, phases.artifacts()?))
        .and_then(|()| {
            let results = phases.results();
            copy_disks(context, domain, plan, settings, &capture, partial, collected, results, outcome, &archive_error)
        });
    outcome.captured_ms = capture.age().map(|age| age.as_millis() as u64);
    context.monitor.stage(name, "commit");
    let commit = Instant::now();
    let committed = give_back(capture, phases, record, copied.as_ref().err(), outcome);
    outcome.stages_ms.insert("commit".into(), commit.elapsed().as_millis() as u64);
    let writer = copied?;
    committed?;

    if domain.state == DomainState::Off {
        let state = context.hypervisor.state(&domain.id)?;
        if state != DomainState::Off || stamps.changed() {
            return Err(Error::Changed { what: "the domain was started, or a file of it changed,".into() });
        }
    }
    context.monitor.stage(name, "write");
    step::reached(Step::ArchiveEnd).map_err(Error::file("end the archive", partial.path()))?;
    let written = writer.finish().map_err(&archive_error)?;
    outcome.stored_bytes = written.bytes;
    let point = partial.publish()?;
    outcome.point = Some(point.id);
    record.update(|entry| entry.partial = None)
}

/// Captures the disks between the hooks for it; those fall away where nothing has to be held still.
fn hold_still(
    capture: &mut Capture<'_>,
    plan: &CapturePlan,
    settings: &DomainSettings,
    phases: &mut Phases<'_>,
    record: &mut Record,
    outcome: &mut DomainOutcome,
) -> Result<(), Error> {
    if capture.is_empty() {
        return Ok(());
    }
    phases.know(outcome);
    phases.enter(Span::Snapshot)?;
    let started = capture.start(plan, settings, record, outcome);
    phases.know(outcome);
    let left = phases.leave(Span::Snapshot, started.as_ref().err().map(Error::failure).as_ref());
    if outcome.consistency == Some(Consistency::Filesystem) && phases.quiesced() {
        outcome.consistency = Some(Consistency::Application);
    }
    started.and(left)
}

/// Gives back what was held still, whatever the hooks for it come to: the guest comes first.
fn give_back(
    capture: Capture<'_>,
    phases: &mut Phases<'_>,
    record: &mut Record,
    failed: Option<&Error>,
    outcome: &mut DomainOutcome,
) -> Result<(), Error> {
    let commits = capture.has_overlays();
    phases.know(outcome);
    let entered = if commits { phases.enter(Span::Commit) } else { Ok(()) };
    let left = capture.release(record);
    outcome.leftovers.extend(left.iter().map(Error::failure));
    let failed = left.first().or(failed).map(Error::failure);
    phases.know(outcome);
    entered.and(phases.leave(Span::Commit, failed.as_ref()))
}

#[expect(clippy::too_many_arguments, reason = "one call, and a structure for it would only rename the arguments")]
fn copy_disks(
    context: &Context<'_>,
    domain: &Domain,
    plan: &CapturePlan,
    settings: &DomainSettings,
    capture: &Capture<'_>,
    partial: &Partial,
    collected: members::Collected,
    hooks: &[HookResult],
    outcome: &mut DomainOutcome,
    archive_error: &dyn Fn(archive::Error) -> Error,
) -> Result<Writer, Error> {
    let name = &domain.id.name;
    let began = Instant::now();
    context.monitor.stage(name, "read");
    let targets: Vec<&str> = plan.disks.iter().map(|planned| planned.disk.target.as_str()).collect();
    let before = (!context.accept_smaller).then(|| Before::of(context.store, &domain.id, &targets));
    let mut prepared = Vec::new();
    for planned in &plan.disks {
        let target = &planned.disk.target;
        let force_share = domain.state == DomainState::Off || planned.disk.readonly || planned.disk.transient;
        let reading = capture
            .open(&planned.disk, &planned.how, force_share)
            .map_err(|source| Error::Read { target: target.clone(), source })?;
        let disk = Prepared::new(target, reading)?;
        let mut saved = DiskOutcome {
            target: target.clone(),
            virtual_bytes: disk.virtual_bytes,
            read_bytes: disk.read_bytes,
            encrypted: planned.disk.encrypted,
            shrunk: false,
        };
        if let Some(lost) = before.as_ref().and_then(|before| before.lost(&saved)) {
            saved.shrunk = true;
            outcome.warnings.push(lost);
        }
        outcome.disks.push(saved);
        prepared.push(disk);
    }
    let of_disks: u64 = prepared.iter().map(|disk| disk.read_bytes).sum();
    let of_all = of_disks + collected.bytes();
    context.monitor.expect(name, of_disks);

    let threads = (host::cores() / context.settings.parallel).max(1);
    let file = partial.file()?;
    let mut writer =
        Writer::patient(file, settings.compression, threads, context.store.patience()).map_err(archive_error)?;
    let manifest = members::manifest(context, domain, plan, settings, partial.id(), &collected, hooks, outcome);
    members::write(&mut writer, domain, &manifest, collected, archive_error)?;
    let mut since = 0;
    for disk in prepared {
        let mut check = |bytes: u64| {
            since += bytes;
            if since < SPACE_CHECK {
                return Ok(());
            }
            since = 0;
            capture.check_space()?;
            check_space(context.settings, context.store)
        };
        disk.copy(&mut writer, name, context.monitor, context.cancel, &mut check, archive_error)?;
    }
    // Not before: what was going to be read and was not is no figure of a report.
    outcome.read_bytes = of_all;
    outcome.stages_ms.insert("read".into(), began.elapsed().as_millis() as u64);
    Ok(writer)
}

/// Fails before the target is fuller than the operator allows.
pub(super) fn check_space(settings: &Settings, store: &Store) -> Result<(), Error> {
    let dir = &settings.backupdir;
    let room = store.room()?;
    let wanted = match settings.min_free {
        MinFree::Bytes(bytes) => bytes,
        MinFree::Percent(percent) => (room.total as f64 * percent / 100.0) as u64,
    };
    if room.free < wanted {
        return Err(Error::Space { path: dir.clone(), free: size::bytes(room.free), wanted: size::bytes(wanted) });
    }
    Ok(())
}

/// Removes what retention drops. A failure here leaves a good backup: it is a leftover, not an error.
fn rotate(context: &Context<'_>, id: &DomainRef, settings: &DomainSettings, outcome: &mut DomainOutcome) {
    let Some(policy) = &settings.retention else { return };
    let began = Instant::now();
    // A point gets a later second where its own is taken, and counts as of now all the same.
    let now = outcome.point.map_or(DateTime::UNIX_EPOCH, |point| point.time()).max(Utc::now()).with_timezone(&Local);
    let rotated = Verified::load(&context.settings.state_dir).and_then(|verified| {
        let rotate = Rotate { store: context.store, verified: &verified, now, dry_run: false };
        rotate.guest(&id.name, id.uuid, policy)
    });
    match rotated {
        Ok(rotation) => {
            outcome.pruned = rotation.removed();
            outcome.warnings.extend(rotation.left_alone.iter().cloned());
            outcome.leftovers.extend(rotation.failures().cloned());
        }
        Err(error) => outcome.leftovers.push(error.failure()),
    }
    outcome.stages_ms.insert("prune".into(), began.elapsed().as_millis() as u64);
}
