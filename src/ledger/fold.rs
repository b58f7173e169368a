//! Applies a report to the ledger. Pure: times come from the report. Must not read or write files.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{
    Attempt, Channel, DiskRecord, DomainRecord, DomainResult, HISTORY, JobRecord, JobResult, Ledger, Mailed, Stage,
    Survey, Tally, Untold,
};
use crate::model::{
    DamagedPoint, DiskOutcome, DomainOutcome, FailureReason, HookResult, HookStatus, Method, Outcome, Phase, RunReport,
    RunResult, Status, WholeRead,
};

impl Ledger {
    /// Records the start of a run. It has the lock, so a run that is still in progress here was killed.
    pub fn begin(&mut self, report: &RunReport) {
        self.config_ok = true;
        for job in self.jobs.values_mut().filter(|job| job.running.is_some()) {
            job.running = None;
            count(&mut job.runs, JobResult::Aborted);
        }
        for name in &report.jobs {
            let job = self.jobs.entry(name.clone()).or_default();
            job.last_start = Some(report.started);
            job.running = Some(report.run_id);
        }
    }

    /// Records the end of a run with this result.
    pub fn record(&mut self, report: &RunReport, result: RunResult) {
        for name in &report.jobs {
            let of_job = report.domains.iter().filter(|domain| domain.job == *name);
            let states: Vec<Tally> = of_job.map(state).collect();
            self.jobs.entry(name.clone()).or_default().record(report, &states, result);
        }
        for outcome in report.domains.iter().filter(|outcome| !outcome.job.is_empty()) {
            if state(outcome) != Tally::NotRun {
                self.domains.entry(outcome.domain.clone()).or_default().record(report, outcome);
            }
        }
        for result in report.hooks.iter().chain(report.domains.iter().flat_map(|domain| &domain.hooks)) {
            count(&mut self.hooks.entry(result.name.clone()).or_default().runs, result.status);
        }
        for (name, ms) in durations(&report.hooks) {
            self.hooks.entry(name).or_default().last_ms = Some(ms);
        }
        let prune = stage_name(Stage::Prune);
        let mut pruned = report.domains.iter().filter(|outcome| outcome.stages_ms.contains_key(prune)).peekable();
        if pruned.peek().is_some() && pruned.all(|outcome| outcome.leftovers.is_empty()) {
            self.last_prune = Some(report.finished);
        }
    }

    /// Records that a run could not read its configuration, so it failed for every job. Another run may be in progress.
    pub fn config_failed(&mut self, time: DateTime<Utc>) {
        self.config_ok = false;
        for job in self.jobs.values_mut() {
            job.last_completion = Some(time);
            count(&mut job.runs, JobResult::Failure);
        }
    }

    /// Records that a restore point of a domain was verified as good.
    pub fn verified(&mut self, domain: &str, time: DateTime<Utc>) {
        let last = &mut self.domains.entry(domain.to_owned()).or_default().last_verify;
        *last = (*last).max(Some(time));
    }

    /// Records a successful restore of a domain.
    pub fn restored(&mut self, domain: &str, time: DateTime<Utc>) {
        let last = &mut self.domains.entry(domain.to_owned()).or_default().last_restore;
        *last = (*last).max(Some(time));
    }

    /// Records that retention was applied without an error.
    pub fn pruned(&mut self, time: DateTime<Utc>) {
        self.last_prune = self.last_prune.max(Some(time));
    }

    /// Records when a report was delivered, or that it could not be.
    pub fn delivered(&mut self, channel: Channel, delivered: Result<DateTime<Utc>, ()>) {
        let delivery = self.reports.entry(channel).or_default();
        match delivered {
            Ok(time) => delivery.last_success = Some(time),
            Err(()) => delivery.failures += 1,
        }
    }

    /// Forgets copies that are no longer configured, and domains and jobs that no longer exist anywhere. An incomplete survey
    /// forgets no domain or job.
    pub fn forget(&mut self, survey: &Survey) {
        self.copies.retain(|name, _| survey.copies.contains_key(name));
        if !survey.libvirt_ok || !survey.targets().all(|target| target.up) {
            return;
        }
        self.domains.retain(|name, _| survey.domains.contains_key(name));
        self.jobs.retain(|name, job| survey.jobs.contains_key(name) || job.running.is_some());
        self.mailed.damaged.retain(|name, points| {
            points.retain(|id| survey.domains.get(name).is_some_and(|seen| seen.points.damaged.contains(id)));
            !points.is_empty()
        });
    }
}

impl Mailed {
    /// Records an email about a run with this status and these names.
    pub fn told(&mut self, status: Status, names: &[String], time: DateTime<Utc>) {
        self.last = Some(time);
        self.status = Some(status);
        self.names = names.to_vec();
        if status == Status::Ok {
            self.last_ok = Some(time);
        }
        self.untold.clear();
    }

    /// Records that an email or the next digest names these damaged points.
    pub fn name(&mut self, damaged: &[DamagedPoint]) {
        for point in damaged {
            self.damaged.entry(point.domain.clone()).or_default().insert(point.id);
        }
    }

    /// Whether an email has named this point.
    pub fn names(&self, point: &DamagedPoint) -> bool {
        self.damaged.get(&point.domain).is_some_and(|ids| ids.contains(&point.id))
    }

    /// Records a run that is not mailed now.
    pub fn leave(&mut self, run: Untold) {
        self.untold.push_back(run);
        let over = self.untold.len().saturating_sub(HISTORY);
        self.untold.drain(..over);
    }
}

impl JobRecord {
    fn record(&mut self, report: &RunReport, states: &[Tally], result: RunResult) {
        self.running = None;
        self.last_completion = Some(report.finished);
        self.last_duration_ms = milliseconds(report);
        self.domains = tally(states);
        let result = of_job(report, states, result);
        if let Some(result) = result {
            count(&mut self.runs, result);
        }
        if result == Some(JobResult::Success) {
            self.last_success = Some(report.finished);
        }
    }
}

/// How a run ended for a job with domains in these states; `None` if hooks skipped the run. Domains skipped by hooks do
/// not count.
fn of_job(report: &RunReport, states: &[Tally], result: RunResult) -> Option<JobResult> {
    let any = |state| states.contains(&state);
    if result.max(report.result()).severity() == Status::Aborted {
        return Some(JobResult::Aborted);
    }
    if any(Tally::Failure) || any(Tally::NotRun) {
        return Some(if any(Tally::Success) { JobResult::Partial } else { JobResult::Failure });
    }
    // The run failed before the first domain.
    if report.domains.is_empty() && !report.errors.is_empty() {
        return Some(JobResult::Failure);
    }
    let left_out = |hook: &HookResult| hook.status == HookStatus::Skip && hook.phase == Phase::PreRun.name();
    let all_left_out = match states {
        [] => report.hooks.iter().any(left_out),
        states => states.iter().all(|state| *state == Tally::Skipped),
    };
    (!all_left_out).then_some(JobResult::Success)
}

fn tally(states: &[Tally]) -> BTreeMap<Tally, u64> {
    let mut tally = BTreeMap::from([(Tally::Selected, states.len() as u64)]);
    for state in states {
        count(&mut tally, *state);
    }
    tally
}

impl DomainRecord {
    fn record(&mut self, report: &RunReport, outcome: &DomainOutcome) {
        let result = result_of(outcome);
        self.job.clone_from(&outcome.job);
        // The report has no start time of the domain, but the point is created right after the start.
        let began = outcome.point.map_or(report.started, |point| point.time());
        self.last_attempt = Some(began);
        self.last_result = Some(result);
        self.last_error = outcome.error.as_ref().map(|error| error.message.clone());
        self.last_warning = warning_of(outcome);
        self.last_duration_ms = outcome.duration_ms;
        self.last_stages_ms = stages(outcome);
        self.hooks_ms = durations(&outcome.hooks);
        self.wanted = outcome.wanted;
        match result {
            DomainResult::Success | DomainResult::Warning => {
                self.first_success.get_or_insert(began);
                self.last_success = Some(began);
                self.consecutive_failures = 0;
            }
            DomainResult::Failure => {
                self.consecutive_failures += 1;
                count(&mut self.failures, outcome.reason.unwrap_or(FailureReason::Other));
            }
            DomainResult::Skipped => {}
        }
        if outcome.point.is_some() {
            self.last_read_bytes = outcome.read_bytes;
            self.last_stored_bytes = outcome.stored_bytes;
            self.virtual_bytes = outcome.disks.iter().map(|disk| disk.virtual_bytes).sum();
            self.consistency = outcome.consistency;
            self.disks = outcome.disks.iter().filter_map(disk).collect();
            let whole = self.disks.values().filter_map(|disk| disk.whole_read).any(is_unexpected);
            // A domain that is off cannot get a checkpoint, so it is read whole until it runs again.
            let can_track = outcome.method != Some(Method::Direct);
            self.consecutive_whole_reads = if whole && can_track { self.consecutive_whole_reads + 1 } else { 0 };
        }
        self.history.push_back(Attempt {
            time: began,
            result,
            point: outcome.point,
            duration_ms: outcome.duration_ms,
            read_bytes: outcome.read_bytes,
            stored_bytes: outcome.point.map_or(0, |_| outcome.stored_bytes),
        });
        let over = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..over);
    }
}

/// A failed domain without a reason and without a wanted consistency was never started.
fn state(outcome: &DomainOutcome) -> Tally {
    match outcome.outcome {
        Outcome::Failed if outcome.reason.is_none() && outcome.wanted.is_none() => Tally::NotRun,
        other => Tally::from(other),
    }
}

fn result_of(outcome: &DomainOutcome) -> DomainResult {
    match outcome.outcome {
        Outcome::Success if outcome.warns() => DomainResult::Warning,
        Outcome::Success => DomainResult::Success,
        Outcome::Partial | Outcome::Failed => DomainResult::Failure,
        Outcome::Skipped => DomainResult::Skipped,
    }
}

/// The record of a disk that is in a repository: only there, the new bytes are known.
fn disk(outcome: &DiskOutcome) -> Option<(String, DiskRecord)> {
    let record = DiskRecord {
        data_bytes: outcome.data_bytes,
        read_bytes: outcome.read_bytes,
        changed_bytes: outcome.changed_bytes,
        new_bytes: outcome.new_bytes?,
        stored_bytes: outcome.stored_bytes.unwrap_or_default(),
        whole_read: outcome.whole_read,
    };
    Some((outcome.target.clone(), record))
}

/// Whether a whole read for this reason should not repeat. The other reasons last, or the configuration wants them.
fn is_unexpected(reason: WholeRead) -> bool {
    match reason {
        WholeRead::NoCheckpoint | WholeRead::Replaced | WholeRead::Resized | WholeRead::Refused => true,
        WholeRead::First
        | WholeRead::Never
        | WholeRead::InternalSnapshot
        | WholeRead::Method
        | WholeRead::Format
        | WholeRead::Shareable
        | WholeRead::Off
        | WholeRead::Direct => false,
    }
}

fn warning_of(outcome: &DomainOutcome) -> Option<String> {
    let mut messages = outcome.leftovers.iter().chain(&outcome.warnings).map(|failure| &failure.message);
    let first = messages.next()?;
    Some(match messages.count() {
        0 => first.clone(),
        more => format!("{first} (and {more} more)"),
    })
}

fn stages(outcome: &DomainOutcome) -> BTreeMap<Stage, u64> {
    let stage = |stage| outcome.stages_ms.get(stage_name(stage)).copied();
    let hooks = (!outcome.hooks.is_empty()).then(|| outcome.hooks.iter().map(|hook| hook.duration_ms).sum());
    let found = [
        (Stage::Hooks, hooks),
        (Stage::Frozen, outcome.frozen_ms),
        (Stage::Snapshot, outcome.captured_ms),
        (Stage::Copy, stage(Stage::Copy)),
        (Stage::Commit, stage(Stage::Commit)),
        (Stage::Prune, stage(Stage::Prune)),
    ];
    found.into_iter().filter_map(|(stage, ms)| Some((stage, ms?))).collect()
}

/// Its name in reports.
fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Copy => "read",
        other => other.name(),
    }
}

/// How long each hook ran in all phases, in milliseconds.
fn durations(hooks: &[HookResult]) -> BTreeMap<String, u64> {
    let mut durations = BTreeMap::new();
    for hook in hooks {
        *durations.entry(hook.name.clone()).or_default() += hook.duration_ms;
    }
    durations
}

fn milliseconds(report: &RunReport) -> u64 {
    u64::try_from((report.finished - report.started).num_milliseconds()).unwrap_or(0)
}

fn count<K: Ord>(counters: &mut BTreeMap<K, u64>, key: K) {
    *counters.entry(key).or_default() += 1;
}

#[cfg(test)]
mod tests;
