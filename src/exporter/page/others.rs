//! The sections below the guests: target, jobs, guests without an entry, hooks and reports. It must not repeat the judgement
//! of `trouble` or know HTML.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::words::{Moment, count, span};
use super::{Badge, Tone, View, charts};
use crate::ledger::standing::interval;
use crate::ledger::{Channel, HookRecord, JobResult, SeenRepository, Tally};
use crate::model::{HookStatus, size};

#[derive(Serialize)]
pub(super) struct Repository {
    path: String,
    stored: String,
    free: String,
    pruned: Option<Moment>,
    up: bool,
    /// `None` for a bucket, and while it is not writable.
    fill: Option<charts::Fill>,
}

#[derive(Serialize)]
pub(super) struct JobRow<'a> {
    name: &'a str,
    every: Option<String>,
    state: Option<Badge>,
    ended: Option<Moment>,
    took: String,
    guests: String,
    succeeded: Option<Moment>,
    runs: String,
}

/// A removed guest that still has restore points.
#[derive(Serialize)]
pub(super) struct Left<'a> {
    name: &'a str,
    points: String,
}

#[derive(Serialize)]
pub(super) struct HookRow<'a> {
    name: &'a str,
    result: Badge,
    runs: String,
}

#[derive(Serialize)]
pub(super) struct ReportRow {
    channel: &'static str,
    failed: Option<String>,
    delivered: Option<Moment>,
}

pub(super) fn repository(view: &View<'_>, repository: &SeenRepository) -> Repository {
    Repository {
        path: repository.path.display().to_string(),
        stored: size::bytes(repository.stored_bytes),
        free: match repository.capacity_bytes {
            0 if repository.up => "no limit known".to_owned(),
            all => format!("{} of {}", size::bytes(repository.available_bytes), size::bytes(all)),
        },
        pruned: view.ledger.last_prune.map(|at| Moment::of(view.now, at)),
        up: repository.up,
        fill: (repository.up && repository.capacity_bytes > 0).then(|| charts::fill(repository)),
    }
}

pub(super) fn jobs<'a>(view: &View<'a>) -> Vec<JobRow<'a>> {
    let planned = view.survey.into_iter().flat_map(|survey| survey.jobs.keys());
    let names: BTreeSet<_> = view.ledger.jobs.keys().chain(planned).collect();
    let moment = |at| Moment::of(view.now, at);
    let job = |name: &'a String| {
        let past = view.ledger.jobs.get(name).cloned().unwrap_or_default();
        let planned = view.survey.and_then(|survey| survey.jobs.get(name));
        let state = match (past.running.is_some(), view.running) {
            (true, true) => Some(Badge::new(Tone::Idle, "run in progress")),
            (true, false) => Some(Badge::new(Tone::Note, "the last run was killed")),
            (false, _) => None,
        };
        const STATES: [(Tally, &str); 4] = [
            (Tally::Success, "ok"),
            (Tally::Failure, "failed"),
            (Tally::Skipped, "skipped"),
            (Tally::NotRun, "not started"),
        ];
        const RESULTS: [(JobResult, &str); 4] = [
            (JobResult::Success, "ok"),
            (JobResult::Partial, "partial"),
            (JobResult::Failure, "failed"),
            (JobResult::Aborted, "aborted"),
        ];
        let guests = counted(STATES.iter().map(|(state, word)| (past.domains.get(state), *word)));
        let runs = counted(RESULTS.iter().map(|(result, word)| (past.runs.get(result), *word)));
        JobRow {
            name,
            every: planned.and_then(|job| interval(job.expected_interval_s)).map(span),
            state,
            ended: past.last_completion.map(moment),
            took: size::duration(Duration::from_millis(past.last_duration_ms)),
            guests: guests.unwrap_or_else(|| "none due".to_owned()),
            succeeded: past.last_success.map(moment),
            runs: runs.unwrap_or_else(|| "none".to_owned()),
        }
    };
    names.into_iter().map(job).collect()
}

/// `3 ok, 1 failed`, without counts of 0.
fn counted<'a>(counts: impl Iterator<Item = (Option<&'a u64>, &'a str)>) -> Option<String> {
    let counts = counts.filter_map(|(count, word)| Some((*count?, word))).filter(|(count, _)| *count > 0);
    let told: Vec<_> = counts.map(|(count, word)| format!("{count} {word}")).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// Guests that neither libvirt nor the configuration has any more.
pub(super) fn left<'a>(view: &View<'a>) -> Vec<Left<'a>> {
    let guests = view.guests.iter().filter(|guest| !guest.is_covered() && !guest.is_defined());
    let points = |points| count(points, "point", "points");
    guests
        .map(|guest| Left { name: guest.name, points: points(guest.seen.map_or(0, |seen| seen.points.count)) })
        .collect()
}

/// Hooks, failed ones first.
pub(super) fn hooks<'a>(view: &View<'a>) -> Vec<HookRow<'a>> {
    const BAD: [(HookStatus, &str); 3] =
        [(HookStatus::Failed, "failed"), (HookStatus::Timeout, "timed out"), (HookStatus::Lost, "lock lost")];
    let bad = |hook: &HookRecord| BAD.iter().filter_map(|(status, _)| hook.runs.get(status)).sum::<u64>();
    let mut hooks: Vec<_> = view.ledger.hooks.iter().collect();
    hooks.sort_by_key(|(_, hook)| Reverse(bad(hook)));
    let row = |(name, hook): (&'a String, &HookRecord)| {
        let failures = counted(BAD.iter().map(|(status, word)| (hook.runs.get(status), *word)));
        let took =
            longest(view, name).map(|ms| format!(", the last took {}", size::duration(Duration::from_millis(ms))));
        HookRow {
            name,
            result: failures
                .map_or_else(|| Badge::new(Tone::Good, "never failed"), |failures| Badge::new(Tone::Note, &failures)),
            runs: count(hook.runs.values().sum(), "run", "runs") + &took.unwrap_or_default(),
        }
    };
    hooks.into_iter().map(row).collect()
}

/// The longest of the hook's last runs, for the whole run and all domains.
fn longest(view: &View<'_>, hook: &str) -> Option<u64> {
    let of_run = view.ledger.hooks.get(hook).and_then(|hook| hook.last_ms);
    view.ledger.domains.values().filter_map(|domain| domain.hooks_ms.get(hook).copied()).chain(of_run).max()
}

/// Deliveries of reports, by channel.
pub(super) fn reports(view: &View<'_>) -> Vec<ReportRow> {
    let report = |(channel, delivery): (&Channel, &crate::ledger::Delivery)| ReportRow {
        channel: match channel {
            Channel::Smtp => "by mail server",
            Channel::Sendmail => "by sendmail",
        },
        failed: (delivery.failures > 0).then(|| format!("{} could not be delivered", delivery.failures)),
        delivered: delivery.last_success.map(|at| Moment::of(view.now, at)),
    };
    view.ledger.reports.iter().map(report).collect()
}
