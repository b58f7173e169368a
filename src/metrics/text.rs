//! Sets the value of every metric. Must not know the text format, or a name that is not in the catalogue.

mod domain;
mod job;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Error;
use super::catalogue::*;
use super::page::Page;
use crate::ledger::{Channel, Ledger, SeenRepository, Survey};
use crate::model::HookStatus;

/// All metrics except those of the exporter itself, in Prometheus' text format. `running`: whether a run has the lock.
/// Without the lock, a run that is in progress in the ledger was killed.
///
/// # Errors
/// The text cannot be encoded, which no known input causes.
pub fn text(ledger: &Ledger, survey: Option<&Survey>, running: bool) -> Result<String, Error> {
    let mut page = Page::default();
    program(&mut page, ledger, survey);
    job::all(&mut page, ledger, survey, running);
    domain::all(&mut page, ledger, survey);
    hooks(&mut page, ledger, survey);
    repository(&mut page, ledger, survey);
    copies(&mut page, ledger, survey);
    reports(&mut page, ledger);
    page.text(&shared())
}

/// The metrics of the exporter itself, which follow [`text`] in its responses: whether it could read the state
/// directory, and how long building the response took.
///
/// # Errors
/// As for [`text`].
pub fn exporter_text(state_read: bool, took: Duration) -> Result<String, Error> {
    let mut page = Page::default();
    page.set(&EXPORTER_STATE_READ_SUCCESS, &[], flag(state_read));
    page.set(&EXPORTER_SCRAPE_DURATION_SECONDS, &[], took.as_secs_f64());
    page.text(EXPORTER)
}

/// The metrics in both the textfile and HTTP responses.
fn shared() -> Vec<Metric> {
    ALL.iter().filter(|metric| !EXPORTER.contains(metric)).copied().collect()
}

fn program(page: &mut Page, ledger: &Ledger, survey: Option<&Survey>) {
    page.set(&BUILD_INFO, &[env!("CARGO_PKG_VERSION"), revision()], 1.0);
    page.set(&CONFIG_LOAD_SUCCESS, &[], flag(ledger.config_ok));
    page.set(&SURVEY_TIMESTAMP_SECONDS, &[], time(survey.map(|survey| survey.time)));
    page.set(&SURVEY_LIBVIRT_UP, &[], flag(survey.is_some_and(|survey| survey.libvirt_ok)));
}

/// The revision that the program was built from, if the build recorded it.
fn revision() -> &'static str {
    option_env!("KVMBACKUP_REVISION").filter(|revision| !revision.is_empty()).unwrap_or("unknown")
}

/// Every hook of the configuration; before the first survey, every hook that ran.
fn hooks(page: &mut Page, ledger: &Ledger, survey: Option<&Survey>) {
    // The label `skipped` is a contract; reports use `skip`.
    let label = |status: HookStatus| if status == HookStatus::Skip { "skipped" } else { status.name() };
    let configured = survey.map(|survey| survey.hooks.iter().collect::<Vec<_>>());
    for name in configured.unwrap_or_else(|| ledger.hooks.keys().collect()) {
        let hook = ledger.hooks.get(name).cloned().unwrap_or_default();
        for status in HookStatus::ALL {
            page.set(&HOOK_RUNS_TOTAL, &[name, label(status)], count(hook.runs.get(&status)));
        }
        if let Some(last) = hook.last_ms {
            page.set(&HOOK_LAST_DURATION_SECONDS, &[name, ""], seconds(last));
        }
    }
}

fn repository(page: &mut Page, ledger: &Ledger, survey: Option<&Survey>) {
    survey.iter().flat_map(|survey| survey.targets()).for_each(|seen| target(page, ledger, seen));
}

fn target(page: &mut Page, ledger: &Ledger, seen: &SeenRepository) {
    let path = seen.path.to_string_lossy();
    let labels: &[&str] = &[&path];
    page.set(&REPOSITORY_UP, labels, flag(seen.up));
    // A target that does not respond must not look full.
    if seen.capacity_bytes > 0 {
        page.set(&REPOSITORY_CAPACITY_BYTES, labels, seen.capacity_bytes as f64);
        page.set(&REPOSITORY_AVAILABLE_BYTES, labels, seen.available_bytes as f64);
    }
    page.set(&REPOSITORY_STORED_BYTES, labels, seen.stored_bytes as f64);
    page.set(&REPOSITORY_LAST_PRUNE_SUCCESS_TIMESTAMP_SECONDS, labels, time(ledger.last_prune));
    // The host may have had another repository.
    let Some(known) = ledger.maintenance.as_ref().filter(|known| known.repository == seen.path) else { return };
    page.set(&REPOSITORY_LAST_PRUNE_TIMESTAMP_SECONDS, labels, time(known.last_prune));
    page.set(&REPOSITORY_LAST_CHECK_TIMESTAMP_SECONDS, labels, time(known.last_check));
    page.set(&REPOSITORY_MAINTENANCE_SUCCESS, labels, flag(known.last_error.is_none()));
    if let Some(unused) = known.unused_ratio {
        page.set(&REPOSITORY_UNUSED_RATIO, labels, unused);
    }
    if let Some(stored) = known.stored {
        page.set(&REPOSITORY_SIZE_BYTES, labels, stored.bytes as f64);
        page.set(&REPOSITORY_PACKS, labels, stored.packs as f64);
        page.set(&REPOSITORY_BLOBS, labels, stored.blobs as f64);
    }
}

/// Every copy of the configuration.
fn copies(page: &mut Page, ledger: &Ledger, survey: Option<&Survey>) {
    for (name, interval) in survey.into_iter().flat_map(|survey| &survey.copies) {
        let known = ledger.copies.get(name).cloned().unwrap_or_default();
        page.set(&COPY_LAST_SUCCESS_TIMESTAMP_SECONDS, &[name], time(known.last_success));
        page.set(&COPY_LAST_FAILED, &[name], flag(known.last_error.is_some()));
        page.set(&COPY_INTERVAL_SECONDS, &[name], *interval as f64);
        for (domain, newest) in &known.newest {
            page.set(&COPY_NEWEST_RESTORE_POINT_TIMESTAMP_SECONDS, &[name, domain], time(Some(*newest)));
        }
    }
}

fn reports(page: &mut Page, ledger: &Ledger) {
    for channel in Channel::ALL {
        let name = channel.name();
        let delivery = ledger.reports.get(&channel).cloned().unwrap_or_default();
        page.set(&REPORT_LAST_SUCCESS_TIMESTAMP_SECONDS, &[name], time(delivery.last_success));
        page.set(&REPORT_FAILURES_TOTAL, &[name], delivery.failures as f64);
    }
}

/// Unix seconds; 0 for never.
fn time(time: Option<DateTime<Utc>>) -> f64 {
    time.map_or(0.0, |time| time.timestamp_millis() as f64 / 1000.0)
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn flag(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

fn count(count: Option<&u64>) -> f64 {
    count.copied().unwrap_or_default() as f64
}
