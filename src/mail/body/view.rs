//! The values for templates, as text that is safe for one line, except for characters of HTML. Must not render.

use std::time::Duration;

use chrono::{DateTime, Datelike, Days, Local, Utc};
use serde::Serialize;

use super::{Background, TEXT_LIMIT};
use crate::config::Settings;
use crate::ledger::SeenRepository;
use crate::model::command::typed;
use crate::model::size::{bytes, duration};
use crate::model::{Consistency, DomainOutcome, Failure, FailureReason, HookResult, Outcome, RunReport, Status};
use crate::report::{self, table::printable};

/// Maximum number of lines of a hook's output, and of characters per line.
const LINES: usize = 20;
const COLUMNS: usize = 200;
/// Maximum length of a message, in characters.
const MESSAGE: usize = 1000;
/// Maximum number of names in a list.
const NAMES: usize = 20;
/// Maximum number of late guests in a list.
const MOST_LATE: usize = 60;

const GOOD: &str = "#1a6b34";
const WARN: &str = "#8a5a00";
const BAD: &str = "#b3261e";

#[derive(Debug, Serialize)]
pub(super) struct View {
    pub(super) status: &'static str,
    pub(super) colour: &'static str,
    pub(super) headline: String,
    pub(super) host: String,
    pub(super) version: String,
    pub(super) run_id: String,
    pub(super) started: String,
    pub(super) finished: String,
    pub(super) took: String,
    pub(super) report: String,
    pub(super) steps: Vec<String>,
    pub(super) errors: Vec<Notice>,
    pub(super) late: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) domains: Vec<DomainView>,
    pub(super) more: usize,
    pub(super) not_due: String,
    pub(super) untold: Vec<UntoldRun>,
    pub(super) next: String,
    pub(super) free: String,
    pub(super) see_log: String,
    pub(super) restore: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Notice {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct UntoldRun {
    pub(super) time: String,
    pub(super) subject: String,
}

#[derive(Debug, Serialize)]
pub(super) struct DomainView {
    pub(super) name: String,
    pub(super) result: &'static str,
    pub(super) colour: &'static str,
    pub(super) start: String,
    pub(super) duration: String,
    pub(super) read: String,
    pub(super) read_bytes: u64,
    /// Bytes that changed, and those that the disks contain, if only what changed was read.
    pub(super) changed: Option<String>,
    pub(super) stored: String,
    pub(super) stored_bytes: u64,
    pub(super) consistency: String,
    pub(super) points: usize,
    pub(super) step: Option<String>,
    pub(super) error: Option<Notice>,
    pub(super) notes: Vec<Notice>,
    pub(super) outputs: Vec<HookOutput>,
}

#[derive(Debug, Serialize)]
pub(super) struct HookOutput {
    pub(super) name: String,
    pub(super) phase: String,
    pub(super) text: String,
}

impl View {
    /// At most `shown` domains, the worst first.
    pub(super) fn new(report: &RunReport, facts: Background<'_>, shown: usize) -> View {
        let gist = facts.gist;
        let mut domains: Vec<&DomainOutcome> = report.domains.iter().collect();
        domains.sort_by_key(|domain| std::cmp::Reverse(rank(domain)));
        let late = facts.late.iter().map(|name| {
            let name = printable(name);
            format!("{name} is late: it was not due, but its newest restore point is too old or missing")
        });
        let of_run = report.warnings.iter().chain(&report.leftovers).map(|failure| cut(&failure.message));
        let recovered = report.recovered.iter().map(|what| format!("recovered from an earlier run: {}", cut(what)));
        let names = if gist.names.is_empty() { String::new() } else { format!(": {}", list(&gist.names)) };
        let count = if gist.all == 0 { String::new() } else { format!(" {} of {}", gist.count, gist.all) };
        let hooks = report.hooks.iter().filter_map(|hook| {
            let output = output(hook)?;
            Some(Notice {
                message: format!("hook {} ({}) printed last: {}", output.name, output.phase, output.text),
                hint: None,
            })
        });
        let damaged = report.damaged.iter().map(|point| Notice {
            message: format!("{}: {}", printable(&point.domain), cut(&point.failure.message)),
            ..told(&point.failure)
        });
        View {
            status: gist.status.name(),
            colour: match gist.status {
                Status::Ok => GOOD,
                Status::Warning => WARN,
                Status::Failed | Status::Aborted => BAD,
            },
            headline: format!("{}{count} on {}{names}", gist.status.name(), printable(&report.host)),
            host: printable(&report.host),
            version: report.version.clone(),
            run_id: report.run_id.to_string(),
            started: report::moment(report.started),
            finished: report::moment(report.finished),
            took: duration((report.finished - report.started).to_std().unwrap_or_default()),
            report: beginning(report::text(report, false, report::WIDTH)),
            steps: report.maintenance.iter().flatten().map(|step| cut(step)).collect(),
            errors: report.errors.iter().map(told).chain(damaged).chain(hooks).take(shown.max(3)).collect(),
            late: late.take(shown.clamp(3, MOST_LATE)).collect(),
            warnings: of_run.chain(recovered).take(shown.max(3)).collect(),
            more: domains.len().saturating_sub(shown),
            domains: domains.into_iter().take(shown).map(|domain| of(domain, report.started)).collect(),
            not_due: list(&report.not_due),
            untold: facts
                .untold
                .iter()
                .map(|run| UntoldRun { time: report::moment(run.time), subject: printable(&run.subject) })
                .collect(),
            next: facts.settings.map_or_else(|| "unknown: the configuration cannot be read".to_owned(), next),
            free: facts.survey.map_or_else(
                || "unknown".to_owned(),
                |survey| {
                    let free = |seen: &SeenRepository| {
                        let path = printable(&seen.path.display().to_string());
                        let (free, all) = (bytes(seen.available_bytes), bytes(seen.capacity_bytes));
                        match seen.capacity_bytes {
                            0 if seen.up => format!("no limit known on {path}"),
                            _ => format!("{free} of {all} on {path}"),
                        }
                    };
                    survey.targets().map(free).collect::<Vec<_>>().join("; ")
                },
            ),
            see_log: typed(&format!(
                "journalctl -t kvmbackup --since \"{}\"; {}",
                report.started.format("%Y-%m-%d %H:%M:%S UTC"),
                if report.maintenance.is_some() { "kvmbackup repository check" } else { "kvmbackup report" }
            )),
            restore: typed("kvmbackup list; kvmbackup restore NAME --to /srv/restored"),
        }
    }
}

fn of(domain: &DomainOutcome, started: DateTime<Utc>) -> DomainView {
    let looks = domain.outcome == Outcome::Success && domain.warns();
    let colour = match domain.outcome {
        Outcome::Success if !looks => GOOD,
        Outcome::Success | Outcome::Skipped => WARN,
        Outcome::Partial | Outcome::Failed => BAD,
    };
    let began = domain.point.map_or(started, |point| point.time());
    let skipped = domain.skipped.iter().map(|disk| Notice {
        message: format!("disk {} is not backed up: {}", printable(&disk.target), cut(&disk.reason)),
        hint: disk.hint.as_deref().map(cut),
    });
    DomainView {
        name: printable(&domain.domain),
        result: if looks { "warning" } else { domain.outcome.label() },
        colour,
        start: began.with_timezone(&Local).format("%H:%M:%S").to_string(),
        duration: duration(Duration::from_millis(domain.duration_ms)),
        read: bytes(domain.read_bytes),
        read_bytes: domain.read_bytes,
        changed: changed(domain),
        stored: bytes(domain.stored_bytes),
        stored_bytes: domain.stored_bytes,
        consistency: domain.consistency.map_or("none", Consistency::name).to_owned(),
        points: domain.restore_points,
        // Without a step, the message says what failed.
        step: domain.reason.filter(|reason| *reason != FailureReason::Other).map(|reason| reason.name().to_owned()),
        error: domain.error.as_ref().map(told),
        notes: skipped.chain(domain.leftovers.iter().chain(&domain.warnings).map(told)).take(NAMES).collect(),
        outputs: domain.hooks.iter().filter_map(output).take(5).collect(),
    }
}

/// `2.10 GB of 80.0 GB`; `None` if every disk was read whole.
fn changed(domain: &DomainOutcome) -> Option<String> {
    let tracked = || domain.disks.iter().filter_map(|disk| Some((disk.changed_bytes?, disk.data_bytes)));
    tracked().next()?;
    let (changed, all) = tracked().fold((0, 0), |sums, (changed, all)| (sums.0 + changed, sums.1 + all));
    Some(format!("{} of {}", bytes(changed), bytes(all)))
}

/// How much attention a domain needs.
fn rank(domain: &DomainOutcome) -> u8 {
    match domain.outcome {
        Outcome::Failed => 4,
        Outcome::Partial => 3,
        Outcome::Success if domain.warns() => 2,
        Outcome::Skipped => 1,
        Outcome::Success => 0,
    }
}

/// The last lines that a failed hook printed.
fn output(hook: &HookResult) -> Option<HookOutput> {
    let text = hook.output.as_deref().filter(|_| hook.status.is_failure())?;
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    let last: Vec<String> = last.iter().map(|line| printable(line).chars().take(COLUMNS).collect()).collect();
    Some(HookOutput { name: printable(&hook.name), phase: printable(&hook.phase), text: last.join("\n") })
}

fn told(failure: &Failure) -> Notice {
    Notice { message: cut(&failure.message), hint: failure.hint.as_deref().map(cut) }
}

fn cut(text: &str) -> String {
    printable(&typed(text)).chars().take(MESSAGE).collect()
}

fn list(names: &[String]) -> String {
    let rest = names.len().saturating_sub(NAMES);
    let shown: Vec<String> = names.iter().take(NAMES).map(|name| printable(name)).collect();
    if rest == 0 { shown.join(", ") } else { format!("{} and {rest} more", shown.join(", ")) }
}

/// The next day after today on which domains are due, and their names.
fn next(settings: &Settings) -> String {
    let today = Local::now().date_naive();
    let days = (1..=7).filter_map(|n| today.checked_add_days(Days::new(n)));
    let due = days.map(|day| {
        let rules = settings.rules.iter().filter(|rule| rule.domain.days.contains(&day.weekday()));
        (day, rules.map(|rule| rule.pattern.clone()).collect::<Vec<_>>())
    });
    let first = due.into_iter().find(|(_, names)| !names.is_empty());
    first
        .map_or_else(|| "nothing".to_owned(), |(day, names)| format!("{}: {}", day.format("%a %Y-%m-%d"), list(&names)))
}

/// The lines of a report that fit into an email.
fn beginning(mut report: String) -> String {
    if let Some(room) = report.as_bytes().get(..TEXT_LIMIT) {
        report.truncate(room.iter().rposition(|byte| *byte == b'\n').unwrap_or(0));
        report.push_str(&typed("\n\nTHE REST IS TOO LONG FOR AN EMAIL\n  kvmbackup report\n"));
    }
    report
}
