//! Sets the metrics of domains, and decides which domains have metrics. Must not know jobs as a whole.

use std::collections::BTreeSet;

use super::super::catalogue::*;
use super::super::page::Page;
use super::{count, flag, seconds, time};
use crate::ledger::standing::{first_success, last_success};
use crate::ledger::{DomainRecord, DomainResult, Ledger, Seen, Stage, Survey};
use crate::model::{Consistency, FailureReason};

/// How restore points are read and stored. Alerts on unusual sizes apply only to full points.
fn mode(survey: Option<&Survey>, domain: &str) -> &'static str {
    if survey.is_some_and(|survey| survey.is_deduplicated(domain)) { "incremental" } else { "full" }
}

/// Every domain that libvirt, the configuration or the target has, or that has a leftover overlay; before the first
/// survey, every domain with an attempt.
pub(super) fn all(page: &mut Page, ledger: &Ledger, survey: Option<&Survey>) {
    for name in names(ledger, survey) {
        let seen = survey.and_then(|survey| survey.domains.get(name));
        let known = ledger.domains.get(name);
        if let Some(seen) = seen {
            whereabouts(page, name, seen);
        }
        // A domain that was never covered by a job has neither attempts nor a schedule, at most restore points.
        let last_job = known.map(|known| known.job.as_str()).filter(|job| !job.is_empty());
        let job = seen.and_then(|seen| seen.job.as_deref()).or(last_job);
        let points = seen.map(|seen| &seen.points).filter(|points| points.count > 0);
        if job.is_none() && points.is_none() {
            continue;
        }
        let labels = [job.unwrap_or_default(), name];
        let none = DomainRecord::default();
        attempts(page, labels, known.unwrap_or(&none), seen);
        sizes(page, labels, known.unwrap_or(&none), mode(survey, name));
        disks(page, labels, known.unwrap_or(&none));
        if let Some(seen) = seen {
            stored(page, labels, seen);
        }
    }
}

fn names<'a>(ledger: &'a Ledger, survey: Option<&'a Survey>) -> BTreeSet<&'a str> {
    let Some(survey) = survey else { return ledger.domains.keys().map(String::as_str).collect() };
    let there = |seen: &Seen| seen.defined || seen.job.is_some() || seen.points.count > 0 || seen.leftover_overlays > 0;
    survey.domains.iter().filter(|(_, seen)| there(seen)).map(|(name, _)| name.as_str()).collect()
}

fn whereabouts(page: &mut Page, name: &str, seen: &Seen) {
    page.set(&DOMAIN_PROTECTED, &[name], flag(seen.job.is_some()));
    page.set(&DOMAIN_EXCLUDED, &[name], flag(seen.excluded));
    page.set(&DOMAIN_DEFINED, &[name], flag(seen.defined));
    page.set(&DOMAIN_LEFTOVER_OVERLAYS, &[name], seen.leftover_overlays as f64);
}

fn attempts(page: &mut Page, labels: [&str; 2], known: &DomainRecord, seen: Option<&Seen>) {
    let [job, name] = labels;
    page.set(&DOMAIN_LAST_ATTEMPT_TIMESTAMP_SECONDS, &labels, time(known.last_attempt));
    page.set(&DOMAIN_LAST_SUCCESS_TIMESTAMP_SECONDS, &labels, time(last_success(Some(known), seen)));
    page.set(&DOMAIN_FIRST_SUCCESS_TIMESTAMP_SECONDS, &labels, time(first_success(Some(known), seen)));
    for result in DomainResult::ALL {
        page.set(&DOMAIN_LAST_RESULT, &[job, name, result.name()], flag(known.last_result == Some(result)));
    }
    page.set(&DOMAIN_CONSECUTIVE_FAILURES, &labels, known.consecutive_failures as f64);
    for reason in FailureReason::ALL {
        page.set(&DOMAIN_FAILURES_TOTAL, &[job, name, reason.name()], count(known.failures.get(&reason)));
    }
    page.set(&DOMAIN_LAST_DURATION_SECONDS, &labels, seconds(known.last_duration_ms));
    for stage in Stage::ALL {
        let ms = known.last_stages_ms.get(&stage).copied().unwrap_or_default();
        page.set(&DOMAIN_LAST_STAGE_DURATION_SECONDS, &[job, name, stage.name()], seconds(ms));
    }
    for (hook, ms) in &known.hooks_ms {
        page.set(&HOOK_LAST_DURATION_SECONDS, &[hook, name], seconds(*ms));
    }
    page.set(&DOMAIN_LAST_VERIFY_SUCCESS_TIMESTAMP_SECONDS, &labels, time(known.last_verify));
    page.set(&DOMAIN_LAST_RESTORE_TEST_SUCCESS_TIMESTAMP_SECONDS, &labels, time(known.last_restore));
}

fn sizes(page: &mut Page, labels: [&str; 2], known: &DomainRecord, mode: &str) {
    let [job, name] = labels;
    page.set(&DOMAIN_LAST_READ_BYTES, &[job, name, mode], known.last_read_bytes as f64);
    page.set(&DOMAIN_LAST_STORED_BYTES, &[job, name, mode], known.last_stored_bytes as f64);
    page.set(&DOMAIN_VIRTUAL_BYTES, &[name], known.virtual_bytes as f64);
    if let Some(reached) = known.consistency {
        let wanted = known.wanted.map(Consistency::name).unwrap_or_default();
        page.set(&DOMAIN_LAST_CONSISTENCY_INFO, &[job, name, reached.name(), wanted], 1.0);
    }
}

/// What the last restore point read and stored, if it is in a repository.
fn disks(page: &mut Page, labels: [&str; 2], known: &DomainRecord) {
    let [job, name] = labels;
    if !known.disks.is_empty() {
        page.set(&DOMAIN_CONSECUTIVE_WHOLE_READS, &labels, known.consecutive_whole_reads as f64);
    }
    for (target, disk) in &known.disks {
        let labels = [job, name, target];
        page.set(&DISK_LAST_DATA_BYTES, &labels, disk.data_bytes as f64);
        if let Some(changed) = disk.changed_bytes {
            page.set(&DISK_LAST_CHANGED_BYTES, &labels, changed as f64);
        }
        page.set(&DISK_LAST_READ_BYTES, &labels, disk.read_bytes as f64);
        page.set(&DISK_LAST_NEW_BYTES, &labels, disk.new_bytes as f64);
        page.set(&DISK_LAST_STORED_BYTES, &labels, disk.stored_bytes as f64);
        if let Some(reason) = disk.whole_read {
            page.set(&DISK_LAST_WHOLE_READ, &[job, name, target, reason.name()], 1.0);
        }
    }
}

fn stored(page: &mut Page, labels: [&str; 2], seen: &Seen) {
    // A domain without a job is never due, so it has no interval.
    if seen.job.is_some() {
        page.set(&DOMAIN_EXPECTED_INTERVAL_SECONDS, &labels, seen.expected_interval_s as f64);
    }
    page.set(&DOMAIN_RESTORE_POINTS, &labels, seen.points.count as f64);
    page.set(&DOMAIN_DAMAGED_RESTORE_POINTS, &labels, seen.points.damaged.len() as f64);
    page.set(&DOMAIN_RETAINED_BYTES, &labels, seen.points.bytes as f64);
    page.set(&DOMAIN_OLDEST_RESTORE_POINT_TIMESTAMP_SECONDS, &labels, time(seen.points.oldest));
}
