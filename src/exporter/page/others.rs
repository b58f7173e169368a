//! Owns: what stands below the guests: repository, jobs, guests that nothing covers, hooks, reports. Must not: judge what
//! `trouble` judges.

use std::time::Duration;

use super::words::{badge, count, name, span, text, time_or_never};
use super::{Tone, View, charts};
use crate::ledger::standing::interval;
use crate::ledger::{Channel, DomainState, Hook, Job, RunResult};
use crate::model::{HookStatus, size};

pub(super) fn repository(view: &View<'_>) -> String {
    let Some(survey) = view.survey else {
        return panel("Repository", "<p class=\"empty\">Nobody has looked at it yet.</p>");
    };
    let repository = &survey.repository;
    let path = name(&repository.path.display().to_string());
    if !repository.up {
        return panel("Repository", &format!("<p>{path}</p><p>{}</p>", badge(Tone::Bad, "cannot be written to")));
    }
    let facts = [
        ("Restore points", size::bytes(repository.stored_bytes)),
        ("Free", format!("{} of {}", size::bytes(repository.available_bytes), size::bytes(repository.capacity_bytes))),
        ("Old points last removed", time_or_never(view.now, view.ledger.last_prune)),
    ];
    panel("Repository", &format!("<p>{path}</p>{}{}", charts::fill(repository), list(&facts)))
}

pub(super) fn jobs(view: &View<'_>) -> String {
    let planned = view.survey.into_iter().flat_map(|survey| survey.jobs.keys());
    let names: std::collections::BTreeSet<_> = view.ledger.jobs.keys().chain(planned).collect();
    if names.is_empty() {
        return panel("Runs", "<p class=\"empty\">No run has begun yet.</p>");
    }
    let jobs = names.into_iter().map(|job| {
        let past = view.ledger.jobs.get(job).cloned().unwrap_or_default();
        let due = view.survey.and_then(|survey| survey.jobs.get(job)).and_then(|job| interval(job.expected_interval_s));
        let due = due
            .map_or_else(String::new, |interval| format!(" <small class=\"beside\">every {}</small>", span(interval)));
        let facts = [
            ("Last ended", time_or_never(view.now, past.last_completion)),
            ("Took", size::duration(Duration::from_millis(past.last_duration_ms))),
            ("Guests", outcome(&past)),
            ("All were saved", time_or_never(view.now, past.last_success)),
            ("Runs so far", runs(&past)),
        ];
        let state = match (past.running.is_some(), view.running) {
            (true, true) => badge(Tone::Idle, "a run is on"),
            (true, false) => badge(Tone::Note, "the last run was killed"),
            (false, _) => String::new(),
        };
        format!("<h3>{}{due} {state}</h3>{}", name(job), list(&facts))
    });
    panel("Runs", &jobs.collect::<String>())
}

fn outcome(job: &Job) -> String {
    const STATES: [(DomainState, &str); 4] = [
        (DomainState::Success, "saved"),
        (DomainState::Failure, "failed"),
        (DomainState::Skipped, "left out"),
        (DomainState::NotRun, "not reached"),
    ];
    let told = counted(STATES.iter().map(|(state, word)| (job.domains.get(state).copied().unwrap_or(0), *word)));
    if told.is_empty() { "none was due".to_owned() } else { told }
}

fn runs(job: &Job) -> String {
    const RESULTS: [(RunResult, &str); 4] = [
        (RunResult::Success, "good"),
        (RunResult::Partial, "in part"),
        (RunResult::Failure, "failed"),
        (RunResult::Aborted, "aborted"),
    ];
    let told = counted(RESULTS.iter().map(|(result, word)| (job.runs.get(result).copied().unwrap_or(0), *word)));
    if told.is_empty() { "none".to_owned() } else { told }
}

/// `3 good, 1 failed`, without what there is none of.
fn counted<'a>(counts: impl Iterator<Item = (u64, &'a str)>) -> String {
    let told: Vec<_> = counts.filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    told.join(", ")
}

/// Guests that libvirt has and no entry of the configuration covers.
pub(super) fn unprotected(view: &View<'_>) -> String {
    let names = view.guests.iter().filter(|guest| guest.is_unprotected()).map(|guest| name(guest.name));
    let words = "No entry of the configuration covers these guests, so nobody backs them up.";
    names_section("Not in the configuration", words, names.collect())
}

/// Guests that libvirt has and the configuration excludes.
pub(super) fn excluded(view: &View<'_>) -> String {
    let guests = view.guests.iter().filter(|guest| guest.is_excluded() && guest.is_defined());
    let words = "The configuration says that these guests are not backed up.";
    names_section("Excluded", words, guests.map(|guest| name(guest.name)).collect())
}

/// Guests of which only restore points are left.
pub(super) fn left(view: &View<'_>) -> String {
    let names = view.guests.iter().filter(|guest| !guest.is_covered() && !guest.is_defined()).map(|guest| {
        let points = guest.seen.map_or(0, |seen| seen.points.count);
        format!("{} <small class=\"beside\">{}</small>", name(guest.name), count(points, "point", "points"))
    });
    let words =
        "libvirt does not have these guests any more, nor has the configuration; their restore points are kept.";
    names_section("Only restore points are left", words, names.collect())
}

fn names_section(title: &str, words: &str, names: Vec<String>) -> String {
    if names.is_empty() {
        return String::new();
    }
    let names: String = names.iter().map(|name| format!("<li>{name}</li>")).collect();
    format!(
        "<section><h2>{title}</h2><div class=\"card\"><p>{words}</p><ul class=\"names\">{names}</ul></div></section>\n"
    )
}

/// Hooks, those that failed before the others; none if there are none.
pub(super) fn hooks(view: &View<'_>) -> String {
    if view.ledger.hooks.is_empty() {
        return String::new();
    }
    let bad = |hook: &Hook| {
        let of = |status| hook.runs.get(&status).copied().unwrap_or(0);
        of(HookStatus::Failed) + of(HookStatus::Timeout) + of(HookStatus::Lost)
    };
    let mut hooks: Vec<_> = view.ledger.hooks.iter().collect();
    hooks.sort_by_key(|(_, hook)| std::cmp::Reverse(bad(hook)));
    let rows: String = hooks
        .into_iter()
        .map(|(hook, past)| {
            let told =
                if bad(past) == 0 { badge(Tone::Good, "never failed") } else { badge(Tone::Note, &failures(past)) };
            let runs = count(past.runs.values().sum(), "run", "runs");
            let took =
                longest(view, hook).map(|ms| format!(", the last took {}", size::duration(Duration::from_millis(ms))));
            let took = took.unwrap_or_default();
            format!("<li>{} <span>{told}</span> <small class=\"beside\">{runs}{took}</small></li>", name(hook))
        })
        .collect();
    format!("<section><h2>Hooks</h2><div class=\"card\"><ul class=\"rows\">{rows}</ul></div></section>\n")
}

fn failures(hook: &Hook) -> String {
    const BAD: [(HookStatus, &str); 3] =
        [(HookStatus::Failed, "failed"), (HookStatus::Timeout, "too slow"), (HookStatus::Lost, "lost")];
    counted(BAD.iter().map(|(status, word)| (hook.runs.get(status).copied().unwrap_or(0), *word)))
}

/// The longest of the hook's last runs, over the run and all domains.
fn longest(view: &View<'_>, hook: &str) -> Option<u64> {
    let of_run = view.ledger.hooks.get(hook).and_then(|hook| hook.last_ms);
    view.ledger.domains.values().filter_map(|domain| domain.hooks_ms.get(hook).copied()).chain(of_run).max()
}

/// Reports that were sent; none if nothing is sent.
pub(super) fn reports(view: &View<'_>) -> String {
    if view.ledger.reports.is_empty() {
        return String::new();
    }
    let rows: String = view
        .ledger
        .reports
        .iter()
        .map(|(channel, delivery)| {
            let channel = match channel {
                Channel::Smtp => "by mail server",
                Channel::Sendmail => "by sendmail",
            };
            let failed = match delivery.failures {
                0 => String::new(),
                failed => badge(Tone::Note, &format!("{failed} could not be delivered")),
            };
            let last = time_or_never(view.now, delivery.last_success);
            format!("<li>{channel} <span>{failed}</span> <small class=\"beside\">last delivered: {last}</small></li>")
        })
        .collect();
    format!("<section><h2>Reports</h2><div class=\"card\"><ul class=\"rows\">{rows}</ul></div></section>\n")
}

fn panel(title: &str, html: &str) -> String {
    format!("<section><h2>{title}</h2><div class=\"card\">{html}</div></section>\n")
}

/// Facts; their values are HTML already.
fn list(facts: &[(&str, String)]) -> String {
    let rows: String =
        facts.iter().map(|(what, value)| format!("<div><dt>{}</dt><dd>{value}</dd></div>", text(what))).collect();
    format!("<dl>{rows}</dl>")
}
