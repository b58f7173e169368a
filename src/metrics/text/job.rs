//! Owns: the metrics of jobs. Must not: know of single domains.

use std::collections::BTreeSet;

use super::super::catalogue::*;
use super::super::page::Page;
use super::{count, flag, seconds, time};
use crate::ledger::{JobRecord, JobResult, Ledger, SeenJob, Survey, Tally};

/// Every job that the survey found in the configuration, or that is on; before the first survey, every job that ran.
pub(super) fn all(page: &mut Page, ledger: &Ledger, survey: Option<&Survey>, running: bool) {
    let told = |name: &&String| survey.is_none_or(|survey| survey.jobs.contains_key(*name));
    let ran = ledger.jobs.iter().filter(|(name, job)| job.running.is_some() || told(name)).map(|(name, _)| name);
    let configured = survey.into_iter().flat_map(|survey| survey.jobs.keys());
    for name in ran.chain(configured).collect::<BTreeSet<_>>() {
        let known = ledger.jobs.get(name).cloned().unwrap_or_default();
        runs(page, name, &known, running);
        if let Some(seen) = survey.and_then(|survey| survey.jobs.get(name)) {
            plan(page, name, seen);
        }
    }
}

fn plan(page: &mut Page, name: &str, seen: &SeenJob) {
    page.set(&JOB_EXPECTED_INTERVAL_SECONDS, &[name], seen.expected_interval_s as f64);
    page.set(&JOB_MINIMUM_RESTORE_POINTS, &[name], seen.minimum_restore_points as f64);
}

fn runs(page: &mut Page, name: &str, known: &JobRecord, running: bool) {
    page.set(&JOB_LAST_START_TIMESTAMP_SECONDS, &[name], time(known.last_start));
    page.set(&JOB_LAST_COMPLETION_TIMESTAMP_SECONDS, &[name], time(known.last_completion));
    page.set(&JOB_LAST_SUCCESS_TIMESTAMP_SECONDS, &[name], time(known.last_success));
    page.set(&JOB_LAST_DURATION_SECONDS, &[name], seconds(known.last_duration_ms));
    page.set(&JOB_RUNNING, &[name], flag(running && known.running.is_some()));
    for result in JobResult::ALL {
        page.set(&JOB_RUNS_TOTAL, &[name, result.name()], count(known.runs.get(&result)));
    }
    for state in Tally::ALL {
        page.set(&JOB_DOMAINS, &[name, state.name()], count(known.domains.get(&state)));
    }
}
