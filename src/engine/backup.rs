//! Backs up one domain, from its description to the published restore point and rotation. Must not fail in a way that
//! keeps another domain from being backed up: it always returns an outcome.
//!
//! | file | responsible for |
//! |---|---|
//! | `save` | one attempt, from the journal entry to the published point |
//! | `copy` | reading one disk into the store |
//! | `members` | the files beside the disks |
//! | `manifest` | the manifest of the point |
//! | `second` | the archive of the same point, for `store: both` |

use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::time::Instant;

use chrono::{DateTime, Local, Utc};
use uuid::Uuid;

use super::context::{Context, Run};
use super::phases::{GuestAgent, Phases};
use super::prune::Rotate;
use super::target::{self, Unusable};
use super::verified::Verified;
use super::{Error, chain, points, ready, recover};
use crate::config::{DomainSettings, MethodChoice, StoreChoice};
use crate::model::{DomainOutcome, DomainRef, Failure, FailureReason, Method, Outcome, Span, StoreKind};
use crate::plan;
use crate::store::Store;

mod copy;
mod manifest;
pub(super) mod members;
mod save;
mod second;

/// Attempts in total.
const ATTEMPTS: usize = 3;

/// The backup of one domain in progress. Steps return their results; only the methods of this type record them in
/// `outcome`, which hooks receive and the report shows, also after a failure.
struct Backup<'a> {
    context: &'a Context<'a>,
    id: &'a DomainRef,
    settings: &'a DomainSettings,
    /// Where the restore point goes.
    store: Store,
    phases: Phases<'a>,
    outcome: DomainOutcome,
    /// Warnings from settling the disks. They are kept when the capture is repeated.
    told: Vec<Failure>,
}

/// Backs up one domain. Errors and panics are part of the outcome.
pub fn domain(context: &Context<'_>, domain: &DomainRef, settings: &DomainSettings) -> DomainOutcome {
    let began = Instant::now();
    let agent = GuestAgent { hypervisor: context.run.hypervisor, domain };
    let all = &context.targets.store;
    let subject = context.subject(Some(domain), context.run.settings.path_of(settings.store.first()));
    let mut backup = Backup {
        context,
        id: domain,
        settings,
        store: all.writing_to(settings.store.first()).unwrap_or_else(|| all.clone()),
        phases: Phases::new(&settings.hooks, subject, Some(&agent), context.run.cancel),
        outcome: DomainOutcome { job: settings.job.clone(), ..DomainOutcome::new(&domain.name, Some(domain.uuid)) },
        told: Vec::new(),
    };
    // A panic is a bug of ours, but the other domains must still be backed up.
    match panic::catch_unwind(AssertUnwindSafe(|| backup.run())) {
        Ok(Ok(())) if backup.outcome.skipped.iter().any(|disk| disk.missed) => {
            backup.outcome.outcome = Outcome::Partial;
            backup.outcome.reason = Some(FailureReason::Copy);
        }
        Ok(Ok(())) if backup.outcome.error.is_some() => backup.outcome.outcome = Outcome::Partial,
        Ok(Ok(())) => backup.outcome.outcome = Outcome::Success,
        Ok(Err(error)) => backup.fail(&error),
        Err(_) => backup.panicked(),
    }
    backup.count_points();
    backup.outcome.duration_ms = began.elapsed().as_millis() as u64;
    backup.end_hooks()
}

impl Backup<'_> {
    fn run(&mut self) -> Result<(), Error> {
        may_begin(self.context)?;
        self.outcome.wanted = Some(self.settings.wanted(&self.id.name));
        let usable = self.expect_usable(self.settings.store.first());
        if let Err(error) = &usable
            && !self.can_fall_back(error)
        {
            return usable;
        }
        self.phases.enter(Span::Domain)?;
        match usable.and_then(|()| self.attempts()) {
            Err(error) if self.can_fall_back(&error) => self.fall_back(&error),
            done => done,
        }
    }

    /// Whether a backup into both stores, which writes the repository first, can at least make an archive.
    fn can_fall_back(&self, error: &Error) -> bool {
        let is_of_store =
            matches!(error, Error::Store(_) | Error::Unusable { .. } | Error::Target { .. } | Error::Space { .. });
        let has_archives = !self.context.targets.unusable.contains_key(&StoreKind::Archive);
        self.settings.store == StoreChoice::Both && is_of_store && has_archives && self.outcome.leftovers.is_empty()
    }

    fn fall_back(&mut self, error: &Error) -> Result<(), Error> {
        tracing::warn!(domain = self.id.name, "{}; backing up to an archive only", chain(error));
        let archives = self.context.targets.store.writing_to(StoreKind::Archive);
        self.store = archives.ok_or(Error::NoStore { kind: StoreKind::Archive })?;
        self.start_again();
        self.attempts()?;
        let message = format!("the restore point is in an archive, but not in the repository: {}", chain(error));
        self.outcome.error = Some(Failure { message, hint: error.hint() });
        self.outcome.reason = Some(error.reason());
        Ok(())
    }

    /// Backs up the domain to one store. A domain that changes during the capture is captured again.
    fn attempts(&mut self) -> Result<(), Error> {
        let pulls = self.settings.method == MethodChoice::Auto && self.store.kind().usual_method() == Method::Pull;
        let mut refused = None;
        for _ in 1..ATTEMPTS {
            let result = self.attempt(refused.as_deref());
            // What could not be released keeps its journal entry, and a second attempt would use the same names.
            let error = match result {
                Err(error) if self.outcome.leftovers.is_empty() => error,
                other => return other,
            };
            match &error {
                Error::Changed { .. } => {}
                // Reading the whole disk is better than no backup.
                Error::PullRefused(why) if pulls && refused.is_none() && self.can_snapshot() => {
                    refused = Some(format!("snapshot: the backup job failed: {}", chain(why)));
                }
                _ => return Err(error),
            }
            tracing::warn!(domain = self.id.name, "{}; starting again", chain(&error));
            self.start_again();
        }
        self.attempt(refused.as_deref())
    }

    /// Forgets what an attempt recorded.
    fn start_again(&mut self) {
        let DomainOutcome { domain, uuid, job, wanted, .. } = &self.outcome;
        let (job, wanted) = (job.clone(), *wanted);
        self.outcome = DomainOutcome { job, wanted, ..DomainOutcome::new(domain, *uuid) };
    }

    /// Fails if the store of this kind could not be used when the run began.
    fn expect_usable(&self, kind: StoreKind) -> Result<(), Error> {
        match self.context.targets.unusable.get(&kind).cloned() {
            Some(Unusable { failure, reason }) => Err(Error::Unusable { failure, reason }),
            None => Ok(()),
        }
    }

    /// Whether no disk needs the backup job that was refused.
    fn can_snapshot(&self) -> bool {
        let Ok(domain) = self.context.run.hypervisor.describe(self.id) else { return false };
        plan::capture(&domain, self.settings, Method::Snapshot).is_ok_and(|plan| plan.method == Method::Snapshot)
    }

    /// Captures and saves the domain once. `refused`: why a backup job was refused, so that `auto` means a snapshot now.
    fn attempt(&mut self, refused: Option<&str>) -> Result<(), Error> {
        let Context { run: &Run { settings, hypervisor, journal, cancel, .. }, .. } = *self.context;
        may_begin(self.context)?;
        ready::wait_for_jobs(hypervisor, self.id)?;
        let domain = hypervisor.describe(self.id)?;
        let usual = if refused.is_some() { Method::Snapshot } else { self.store.kind().usual_method() };
        let mut plan = plan::capture(&domain, self.settings, usual)?;
        if plan.method == usual {
            plan.method_reason = plan.method_reason.or_else(|| refused.map(str::to_owned));
        }
        self.outcome.method = Some(plan.method);
        self.phases.method(plan.method);
        self.outcome.method_reason.clone_from(&plan.method_reason);
        self.outcome.skipped.clone_from(&plan.skipped);
        self.outcome.warnings.extend(plan.warnings.iter().cloned());
        target::expect_room(settings, &self.store)?;

        let mut record = journal.begin(self.context.run_id, self.context.started, &settings.libvirt_uri, self.id)?;
        record.thawing().heed(cancel);
        let result = self.save(&domain, &plan, &mut record);
        if result.is_ok() && self.settings.store == StoreChoice::Both && self.store.kind() == StoreKind::Repository {
            let copied = self.copy_to_archive(&mut record);
            self.outcome.error = copied.as_ref().err().map(|error| Failure {
                message: format!("the restore point is in the repository, but not in an archive: {}", chain(error)),
                hint: error.hint(),
            });
            self.outcome.reason = copied.err().map(|error| error.reason());
        }
        self.told.extend(record.told());
        // The journal keeps the entry of what could not be released; the next start retries.
        if self.outcome.leftovers.is_empty() {
            self.outcome.leftovers.extend(record.close().err().map(|error| error.failure()));
        }
        result?;
        self.rotate();
        Ok(())
    }

    /// Removes what retention drops. A failure is a leftover and not an error, because the backup is good.
    fn rotate(&mut self) {
        let Some(policy) = &self.settings.retention else { return };
        let began = Instant::now();
        let outcome = &mut self.outcome;
        // If its own second was taken, the point has a later one. Retention must not see it in the future.
        let now = outcome.point.map_or(DateTime::UNIX_EPOCH, |point| point.time()).max(Utc::now());
        let rotated = Verified::load(&self.context.run.settings.state_dir).and_then(|verified| {
            let now = now.with_timezone(&Local);
            let rotate = Rotate { store: &self.store, verified: &verified, now, dry_run: false };
            rotate.guest(&self.id.name, self.id.uuid, (policy, self.settings.store))
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

    fn panicked(&mut self) {
        let hint = Some("Please report this bug with the log of `-vv`.".into());
        self.outcome.outcome = Outcome::Failed;
        self.outcome.error = Some(Failure { message: "internal error (panic)".into(), hint });
        self.outcome.reason = Some(FailureReason::Other);
        let Context { run: &Run { hypervisor, journal, .. }, started, .. } = *self.context;
        let undone = recover::recover_domain(journal, hypervisor, started, self.id, self.store.patience());
        self.outcome.leftovers.extend(undone.err().map(|error| error.failure()));
    }

    /// Also after a failure, because that is when the number of remaining points matters most.
    fn count_points(&mut self) {
        match points::guests(&self.store, &self.id.name) {
            Ok(points) => {
                let is_other = |guest: &Option<Uuid>| guest.is_some_and(|guest| guest != self.id.uuid);
                let ids = points.iter().filter(|(_, guest)| !is_other(guest)).map(|(point, _)| point.id);
                // A point and its copy count once.
                self.outcome.restore_points = ids.collect::<BTreeSet<_>>().len();
            }
            Err(error) => self.outcome.warnings.push(error.failure()),
        }
    }

    /// Leaves the domain's span and runs the failure hooks. A hook that fails here does not replace an earlier error.
    fn end_hooks(mut self) -> DomainOutcome {
        self.outcome.warnings.append(&mut self.told);
        self.phases.know(&self.outcome);
        let failed = self.outcome.error.clone().filter(|_| self.outcome.outcome == Outcome::Failed);
        if let Err(error) = self.phases.leave(Span::Domain, failed.as_ref())
            && failed.is_none()
        {
            self.fail(&error);
        }
        if let Some(failure) = self.outcome.error.as_ref().filter(|_| self.outcome.outcome == Outcome::Failed) {
            self.phases.on_failure(failure);
        }
        let (results, warnings) = self.phases.finish();
        self.outcome.hooks = results;
        self.outcome.warnings.extend(warnings);
        self.outcome.name_in_hints();
        self.outcome
    }

    fn fail(&mut self, error: &Error) {
        let failure = error.failure();
        if let Error::HookFailed { run: true, .. } = error {
            let message = format!("not started because the run was stopped: {}", failure.message);
            let _ = self.context.ended.set(Failure { message, hint: failure.hint.clone() });
        }
        self.outcome.error = Some(failure);
        self.outcome.outcome = Outcome::Failed;
        if matches!(error, Error::Skipped { .. }) {
            self.outcome.outcome = Outcome::Skipped;
        } else if self.outcome.wanted.is_some() {
            self.outcome.reason = Some(error.reason());
        }
    }
}

fn may_begin(context: &Context<'_>) -> Result<(), Error> {
    if let Some(signal) = context.run.cancel.signal() {
        return Err(Error::Cancelled(signal));
    }
    match context.ended.get() {
        Some(failure) => Err(Error::HookFailed { failure: failure.clone(), run: true }),
        None => Ok(()),
    }
}
