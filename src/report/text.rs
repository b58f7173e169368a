//! Renders a report as text of at most 100 columns, for a terminal and for cron's mail. Pure, except for the time zone
//! of the host. Must not print.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Local, TimeZone, Utc};

pub use self::page::WIDTH;
use self::page::{Page, Paint, Style};
use super::table::{Table, printable};
use crate::model::command::typed;
use crate::model::size::{bytes, duration};
use crate::model::{
    Consistency, DiskOutcome, DomainOutcome, Failure, HookResult, HookStatus, Method, Outcome, RunReport, RunResult,
    WholeRead,
};

/// Maximum number of domains whose hooks are listed.
const HOOKED: usize = 20;

mod alike;
mod page;
#[cfg(test)]
pub mod sample;
#[cfg(test)]
mod tests;

/// The report as text: the verdict, one line per domain, sums, then errors with their hints.
///
/// No line has more than `width` columns (at least 80), except for longer words. `colour` is for a terminal whose user did not set
/// `NO_COLOR`: <https://no-color.org>.
pub fn text(report: &RunReport, colour: bool, width: usize) -> String {
    page(report, Page::new(if colour { Style::Colour } else { Style::Plain }, width), &Local)
}

/// The same for the journal: each line begins with its priority.
pub fn journal(report: &RunReport) -> String {
    page(report, Page::new(Style::Journal, WIDTH), &Local)
}

/// A time in the time zone of the host, with its offset.
pub fn moment(time: DateTime<Utc>) -> String {
    in_zone(time, &Local)
}

/// Formatted as `2026-11-22 03:00:00 +01:00`.
fn in_zone<Zone: TimeZone<Offset: fmt::Display>>(time: DateTime<Utc>, zone: &Zone) -> String {
    time.with_timezone(zone).format("%Y-%m-%d %H:%M:%S %Z").to_string()
}

fn page<Zone: TimeZone<Offset: fmt::Display>>(report: &RunReport, mut page: Page, zone: &Zone) -> String {
    if let Some(hook) = report.hooks.iter().find(|hook| hook.status == HookStatus::Skip && report.domains.is_empty()) {
        let (host, hook) = (printable(&report.host), printable(&hook.name));
        page.painted(Paint::Good, &format!("kvmbackup: run on {host} skipped by hook {hook}"));
        return page.finish();
    }
    if is_quiet_day(report) {
        let (host, waiting) = (printable(&report.host), report.not_due.len());
        page.painted(Paint::Good, &format!("kvmbackup: nothing is due today on {host} (not due: {waiting})"));
        return page.finish();
    }
    headline(&mut page, report);
    let took = (report.finished - report.started).to_std().unwrap_or_default();
    let [began, ended] = [report.started, report.finished].map(|time| in_zone(time, zone));
    page.line(&format!("{began} to {ended}, {}", duration(took)));
    report.maintenance.iter().flatten().for_each(|line| page.line(&printable(line)));
    table(&mut page, report);
    troubles(&mut page, report);
    asides(&mut page, report);
    page.finish()
}

/// Whether nothing was due and there is nothing else to report, so that one line is enough.
fn is_quiet_day(report: &RunReport) -> bool {
    let is_empty = report.domains.is_empty() && report.recovered.is_empty() && report.damaged.is_empty();
    is_empty && report.maintenance.is_none() && report.result() == RunResult::Good
}

fn headline(page: &mut Page, report: &RunReport) {
    let verdict = format!("kvmbackup: {} on {}", verdict(report), printable(&report.host));
    let paint = match report.result() {
        RunResult::Good if report.damaged.is_empty() => Paint::Good,
        RunResult::Untidy => Paint::Warn,
        _ => Paint::Bad,
    };
    page.painted(paint, &verdict);
}

/// The counts for the first line, the worst first.
fn verdict(report: &RunReport) -> String {
    if report.maintenance.is_some() {
        return format!("maintenance {}", if report.errors.is_empty() { "completed" } else { "FAILED" });
    }
    let (totals, all) = (report.totals(), report.domains.len());
    let good = if totals.skipped == 0 {
        format!("{all} of {all} good")
    } else {
        format!("{} of {all} good, {} skipped", totals.success, totals.skipped)
    };
    let untidy = report.is_untidy();
    let counted = match (totals.failed, totals.partial) {
        (0, 0) if all == 0 && !report.errors.is_empty() => "FAILED".to_owned(),
        (0, 0) if all == 0 && report.signal.is_some() => "nothing done".to_owned(),
        (0, 0) if all == 0 && untidy => "nothing is due today, but cleanup of an earlier run is incomplete".to_owned(),
        (0, 0) if all == 0 && !report.damaged.is_empty() => String::new(),
        (0, 0) if all == 0 => "nothing is due today".to_owned(),
        (0, 0) if !report.errors.is_empty() => format!("{good}, but the run had ERRORS"),
        (0, 0) if untidy => format!("{good}, but cleanup is incomplete"),
        (0, 0) => good,
        (0, partial) => format!("{partial} of {all} PARTIAL"),
        (failed, 0) => format!("{failed} of {all} FAILED"),
        (failed, partial) => format!("{failed} of {all} FAILED, {partial} PARTIAL"),
    };
    let counted = match report.signal {
        Some(signal) => format!("INTERRUPTED by signal {signal}, {counted}"),
        None => counted,
    };
    let damaged = match report.damaged.len() {
        0 => String::new(),
        1 => "1 restore point is DAMAGED".to_owned(),
        damaged => format!("{damaged} restore points are DAMAGED"),
    };
    [counted, damaged].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

fn table(page: &mut Page, report: &RunReport) {
    let titles = ["RESULT", "DOMAIN", "HOW", ">READ", ">STORED", ">RATIO", ">TIME", ">MB/s", ">KEPT", "POINT"];
    let mut table = Table::new(&titles);
    let shown = shown(report);
    shown.iter().for_each(|domain| table.row(row(domain)));
    table.fit_by_dropping(&["POINT", "MB/s", "RATIO", "STORED"], page.width());
    table.fit("DOMAIN", page.width());
    let lines = table.lines();
    let Some((head, rows)) = lines.split_first() else { return };
    page.blank();
    page.line(head);
    for (line, domain) in rows.iter().zip(&shown) {
        let (word, paint) = (domain.outcome.label(), paint(domain.outcome));
        let rest = line.strip_prefix(word).unwrap_or(line);
        page.start(paint, word);
        page.line(rest);
    }
    let more = report.domains.len() - shown.len();
    if more > 0 {
        page.painted(Paint::Bad, &format!("FAILED: {more} more (see the reason below)"));
    }
    totals(page, report);
}

/// The domains that get a row. Only a few that failed without a restore point do, because their rows are empty.
fn shown(report: &RunReport) -> Vec<&DomainOutcome> {
    const FAILED: usize = 3;
    let is_empty = |domain: &DomainOutcome| domain.outcome == Outcome::Failed && domain.point.is_none();
    let mut empty = 0;
    let is_shown = |domain: &&DomainOutcome| {
        empty += usize::from(is_empty(domain));
        !is_empty(domain) || empty <= FAILED
    };
    report.domains.iter().filter(is_shown).collect()
}

fn row(domain: &DomainOutcome) -> Vec<String> {
    let time = Duration::from_millis(domain.duration_ms);
    let saved = domain.point.is_some();
    let given = |value: String| if saved { value } else { "-".to_owned() };
    vec![
        domain.outcome.label().to_owned(),
        domain.domain.clone(),
        how(domain),
        given(bytes(domain.read_bytes)),
        given(bytes(domain.stored_bytes)),
        given(ratio(domain.read_bytes, domain.stored_bytes)),
        duration(time),
        given(speed(domain.read_bytes, time)),
        domain.restore_points.to_string(),
        domain.point.map_or("-".to_owned(), |point| point.to_string()),
    ]
}

fn paint(outcome: Outcome) -> Paint {
    match outcome {
        Outcome::Success => Paint::Good,
        Outcome::Skipped => Paint::Plain,
        Outcome::Partial | Outcome::Failed => Paint::Bad,
    }
}

/// The method and the consistency in short: `snap/fs` is a snapshot of frozen file systems.
fn how(domain: &DomainOutcome) -> String {
    let method = domain.method.map(|method| match method {
        Method::Snapshot => "snap",
        Method::Pull => "pull",
        Method::Direct => "direct",
    });
    let consistency = domain.consistency.map(|consistency| match consistency {
        Consistency::Offline => "off",
        Consistency::Application => "app",
        Consistency::Filesystem => "fs",
        Consistency::Crash => "crash",
    });
    match (method, consistency) {
        (Some(method), Some(consistency)) => format!("{method}/{consistency}"),
        (Some(method), None) => method.to_owned(),
        _ => "-".to_owned(),
    }
}

fn ratio(read: u64, stored: u64) -> String {
    if stored == 0 { "-".to_owned() } else { format!("{:.2}", read as f64 / stored as f64) }
}

fn speed(read: u64, time: Duration) -> String {
    if time.is_zero() { "-".to_owned() } else { format!("{:.0}", read as f64 / 1e6 / time.as_secs_f64()) }
}

fn totals(page: &mut Page, report: &RunReport) {
    let totals = report.totals();
    let saved = totals.success + totals.partial;
    let took = (report.finished - report.started).to_std().unwrap_or_default();
    let [read, stored] = [totals.read_bytes, totals.stored_bytes].map(bytes);
    let ratio = ratio(totals.read_bytes, totals.stored_bytes);
    page.blank();
    page.line(&format!(
        "{saved} saved: {read} read, {stored} stored (ratio {ratio}), {} MB/s",
        speed(totals.read_bytes, took)
    ));
    changes(page, report);
    let crash = report.domains.iter().filter(|domain| domain.consistency == Some(Consistency::Crash));
    page.list("crash-consistent", crash.map(|domain| domain.domain.as_str()));
}

/// How much of the disks changed, and which disks were read whole although a repository takes changes only.
fn changes(page: &mut Page, report: &RunReport) {
    let disks = || report.domains.iter().flat_map(|domain| domain.disks.iter().map(move |disk| (domain, disk)));
    let tracked = || disks().filter(|(_, disk)| disk.changed_bytes.is_some());
    if tracked().next().is_some() {
        let sum = |of: &dyn Fn(&DiskOutcome) -> u64| bytes(tracked().map(|(_, disk)| of(disk)).sum());
        let changed = sum(&|disk| disk.changed_bytes.unwrap_or(0));
        let new = sum(&|disk| disk.new_bytes.unwrap_or(0));
        page.line(&format!("{changed} changed of {}, {new} new", sum(&|disk| disk.data_bytes)));
    }
    // The operator chose the others.
    let is_chosen = |why: WholeRead| matches!(why, WholeRead::First | WholeRead::Never | WholeRead::Method);
    let whole = disks().filter_map(|(domain, disk)| {
        let why = disk.whole_read.filter(|why| !is_chosen(*why))?;
        Some(format!("{} {} ({})", domain.domain, disk.target, why.text()))
    });
    let whole: Vec<String> = whole.collect();
    page.list("read whole", whole.iter().map(String::as_str));
}

/// The sections that need attention.
fn troubles(page: &mut Page, report: &RunReport) {
    let title = if report.maintenance.is_some() { "ERRORS" } else { "ERRORS OF THE RUN" };
    page.section(title, Paint::Bad, report.errors.iter().map(|error| (String::new(), error.clone())));
    let failed = report.domains.iter().filter(|domain| domain.outcome == Outcome::Failed);
    let unexplained = || Failure { message: "failed for an unknown reason".to_owned(), hint: None };
    page.section(
        "FAILED",
        Paint::Bad,
        failed.map(|domain| (domain.domain.clone(), domain.error.clone().unwrap_or_else(unexplained))),
    );
    let failed = |domain: &&DomainOutcome| matches!(domain.outcome, Outcome::Failed | Outcome::Skipped);
    let others = report.domains.iter().filter(|domain| !failed(domain));
    page.section(
        "ERRORS",
        Paint::Bad,
        others.filter_map(|domain| Some((domain.domain.clone(), domain.error.clone()?))),
    );
    let damaged = report.damaged.iter().map(|point| (point.domain.clone(), point.failure.clone()));
    page.section("DAMAGED RESTORE POINTS", Paint::Bad, damaged);
    page.section("DISKS NOT BACKED UP", Paint::Bad, skipped(report, true));
    let earlier = report.leftovers.iter().map(|failure| (String::new(), failure.clone()));
    let leftovers = earlier.chain(each(report, |domain| &domain.leftovers));
    page.section("NOT CLEANED UP (the next run tries again)", Paint::Warn, leftovers);
    let of_the_run = report.warnings.iter().map(|failure| (String::new(), failure.clone()));
    page.section("WARNINGS", Paint::Warn, of_the_run.chain(each(report, |domain| &domain.warnings)));
    outputs(page, report);
}

/// The last lines that failed hooks printed.
fn outputs(page: &mut Page, report: &RunReport) {
    const LINES: usize = 20;
    let of_the_run = report.hooks.iter().map(|hook| (None, hook));
    let of_domains = report.domains.iter().flat_map(|domain| domain.hooks.iter().map(move |hook| (Some(domain), hook)));
    let said: Vec<_> = of_the_run
        .chain(of_domains)
        .filter(|(_, hook)| hook.status.is_failure())
        .filter_map(|(domain, hook)| Some((domain, hook, hook.output.as_deref()?)))
        .collect();
    if said.is_empty() {
        return;
    }
    page.blank();
    page.painted(Paint::Plain, "HOOK OUTPUT");
    for (domain, hook, output) in said {
        let of = domain.map_or(String::new(), |domain| format!("{}: ", printable(&domain.domain)));
        page.line(&format!("  {of}{} ({})", printable(&hook.name), printable(&hook.phase)));
        let lines: Vec<&str> = output.lines().collect();
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            let line: String = printable(line).chars().take(page.width() - 6).collect();
            page.line(&format!("    | {line}"));
        }
    }
}

/// The sections for information.
fn asides(page: &mut Page, report: &RunReport) {
    page.section("EXCLUDED DISKS", Paint::Plain, skipped(report, false));
    // Parts that may contain guest data are among the warnings.
    let not_saved = report.domains.iter().flat_map(|domain| domain.not_saved.iter().map(move |what| (domain, what)));
    let not_saved = not_saved.filter(|(_, not_saved)| !not_saved.data).map(|(domain, not_saved)| {
        let failure = Failure { message: not_saved.what.clone(), hint: not_saved.hint.clone() };
        (domain.domain.clone(), failure)
    });
    page.section("NOT IN THE BACKUP", Paint::Plain, not_saved);
    let methods = report.domains.iter().filter_map(|domain| {
        Some((domain.domain.clone(), Failure { message: domain.method_reason.clone()?, hint: None }))
    });
    page.section("METHOD", Paint::Plain, methods);
    let recovered = report.recovered.iter().map(|what| Failure { message: what.clone(), hint: None });
    page.section("RECOVERED FROM AN EARLIER RUN", Paint::Plain, recovered.map(|what| (String::new(), what)));
    let pruned = report.domains.iter().filter(|domain| !domain.pruned.is_empty());
    let pruned: Vec<String> = pruned.map(|domain| format!("{} ({})", domain.domain, domain.pruned.len())).collect();
    let hooked = !report.hooks.is_empty() || report.domains.iter().any(|domain| !domain.hooks.is_empty());
    if !pruned.is_empty() || !report.not_due.is_empty() || hooked {
        page.blank();
    }
    page.list("old restore points removed", pruned.iter().map(String::as_str));
    page.list("hooks of the run", hooks(&report.hooks).iter().map(String::as_str));
    let hooked: Vec<_> = report.domains.iter().filter(|domain| !domain.hooks.is_empty()).collect();
    for domain in hooked.iter().take(HOOKED) {
        page.list(&format!("hooks of {}", domain.domain), hooks(&domain.hooks).iter().map(String::as_str));
    }
    if hooked.len() > HOOKED {
        page.line(&typed(&format!("hooks of {} more domains: kvmbackup report --format json", hooked.len() - HOOKED)));
    }
    let skipped = report.domains.iter().filter(|domain| domain.outcome == Outcome::Skipped);
    let why = |domain: &DomainOutcome| {
        let hook = domain.hooks.iter().find(|hook| hook.status == HookStatus::Skip);
        format!("{} (by {})", domain.domain, hook.map_or("a hook", |hook| &hook.name))
    };
    let skipped: Vec<String> = skipped.map(why).collect();
    page.list("skipped", skipped.iter().map(String::as_str));
    page.list("not due today", report.not_due.iter().map(String::as_str));
}

/// Each hook in short: its result, how long it ran, and how long its session was ready.
fn hooks(results: &[HookResult]) -> Vec<String> {
    let time = |ms: u64| duration(Duration::from_millis(ms));
    let told = |hook: &HookResult| {
        let held = hook.held_ms.map_or(String::new(), |held| format!(", held {}", time(held)));
        format!("{} {} {} in {}{held}", hook.phase, hook.name, hook.status.label(), time(hook.duration_ms))
    };
    results.iter().map(told).collect()
}

fn skipped(report: &RunReport, missed: bool) -> impl Iterator<Item = (String, Failure)> {
    let disks = report.domains.iter().flat_map(|domain| domain.skipped.iter().map(move |disk| (domain, disk)));
    disks.filter(move |(_, disk)| disk.missed == missed).map(|(domain, disk)| {
        let failure = Failure { message: disk.reason.clone(), hint: disk.hint.clone() };
        (format!("{} {}", domain.domain, disk.target), failure)
    })
}

fn each(
    report: &RunReport,
    failures: impl Fn(&DomainOutcome) -> &Vec<Failure>,
) -> impl Iterator<Item = (String, Failure)> {
    report.domains.iter().flat_map(move |domain| {
        failures(domain).iter().map(|failure| (domain.domain.clone(), failure.clone())).collect::<Vec<_>>()
    })
}
