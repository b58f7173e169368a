//! Runs the backups of all due domains, in parallel. Must not recover, take the lock, or report.

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use chrono::{DateTime, Local, Utc};
use uuid::Uuid;

use super::Error;
use super::backup;
use super::context::Context;
pub use super::context::Run;
use super::target::{self, Writable};
use crate::config::{DomainSettings, Settings};
use crate::hypervisor::Hypervisor;
use crate::model::{DomainOutcome, DomainRef, Failure, FailureReason, Outcome, RunReport, is_future};
use crate::plan::{self, Decision, KnownDomain, Plan, Selection};
use crate::store::Store;

/// Decides which domains are due, and why. Changes nothing.
pub fn plan(settings: &Settings, hypervisor: &dyn Hypervisor, selection: &Selection) -> Result<Plan, Error> {
    // A target that does not exist yet has no points. Whether it may be missing is checked before writing to it.
    let warn = |why: &str| tracing::warn!("cannot determine the age of restore points: {why}");
    let existing = Writable::existing(settings).inspect_err(|error| warn(&super::chain(error))).ok();
    let store = existing.map(|existing| {
        existing.unusable.values().for_each(|unusable| warn(&unusable.failure.message));
        existing.store
    });
    let mut known = Vec::new();
    for (id, state) in hypervisor.domains()? {
        let last_point = store.as_ref().and_then(|store| last_point(store, &id.name));
        known.push(KnownDomain { id, state, last_point });
    }
    Ok(plan::plan(settings, &known, selection, Local::now().date_naive()))
}

/// The time of the newest restore point that is not in the future; otherwise catch-up would wait for that day. A
/// directory that cannot be read is reported when its domain is backed up, and does not block other domains.
fn last_point(store: &Store, domain: &str) -> Option<chrono::NaiveDateTime> {
    let points = store.points(domain).inspect_err(|error| tracing::warn!(domain, "{}", super::chain(error))).ok()?;
    let now = Utc::now();
    let last = points.iter().map(|point| point.id.time()).rfind(|time| !is_future(*time, now));
    last.map(|time| time.with_timezone(&Local).naive_local())
}

/// The report of a run that begins now.
pub fn begin(settings: &Settings, selection: &Selection) -> RunReport {
    let jobs = settings.jobs(&selection.domains);
    RunReport { jobs, ..RunReport::new(settings.host.clone(), Uuid::new_v4(), Utc::now()) }
}

/// The result of a run, domain by domain.
#[derive(Debug, Default)]
pub struct Backups {
    /// Results of the backups, and failures of configuration entries that match no domain.
    pub domains: Vec<DomainOutcome>,
    /// Domains that were not due.
    pub not_due: Vec<String>,
    /// The signal that stopped the run.
    pub signal: Option<i32>,
}

impl Run<'_> {
    /// Backs up all due domains. Only a failure before the first domain is an error; later ones are in the outcomes.
    pub fn all(&self, run_id: Uuid, started: DateTime<Utc>) -> (Backups, Result<(), Error>) {
        let mut ran = Backups::default();
        let opened = Writable::open(self.settings)
            .and_then(|targets| Ok((targets, plan(self.settings, self.hypervisor, self.selection)?)));
        let (targets, plan) = match opened {
            Ok(opened) => opened,
            Err(error) => return (ran, Err(error)),
        };
        let due = plan.queue();
        for entry in plan.entries {
            match entry.decision {
                Decision::Unknown(reason) => ran.domains.push(unknown(&entry.name, entry.settings, reason)),
                Decision::NotDue(_) => ran.not_due.push(entry.name),
                Decision::Due(_) | Decision::NotSelected(_) => {}
            }
        }
        let needed = due.iter().flat_map(|(_, settings)| settings.store.kinds()).copied().collect();
        let usable = |store: &Store| target::expect_room(self.settings, store).and_then(|()| Ok(store.try_out(false)?));
        let targets = match targets.checked(&needed, usable) {
            Ok(targets) => targets,
            Err(error) => return (ran, Err(error)),
        };
        let ended = OnceLock::new();
        let context = Context { run: self, targets: &targets, ended: &ended, run_id, started };
        ran.domains.extend(back_up_all(&context, due));
        ran.signal = self.cancel.signal();
        (ran, Ok(()))
    }
}

fn unknown(name: &str, settings: Option<DomainSettings>, error: Failure) -> DomainOutcome {
    DomainOutcome {
        job: settings.map(|settings| settings.job).unwrap_or_default(),
        outcome: Outcome::Failed,
        error: Some(error),
        reason: Some(FailureReason::Other),
        ..DomainOutcome::new(name, None)
    }
}

/// Works through the queue with `parallel` threads. A failure of one domain does not affect the others.
fn back_up_all(context: &Context<'_>, due: VecDeque<(DomainRef, DomainSettings)>) -> Vec<DomainOutcome> {
    let threads = context.run.settings.parallel.min(due.len());
    let queue = Mutex::new(due);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((domain, settings)) = next else { break };
                    let outcome = backup::domain(context, &domain, &settings);
                    context.run.monitor.done(&outcome);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by(|a, b| a.domain.cmp(&b.domain));
    outcomes
}
