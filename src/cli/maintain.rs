//! Runs the command `maintain`. Must not know how a repository is maintained.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::args::{Global, Maintain};
use super::print;
use crate::app::mail::MailSetup;
use crate::app::{self, mail, watch};
use crate::config::Settings;
use crate::engine::Error;
use crate::engine::maintain::{self, Inspection, Maintenance};
use crate::engine::repair::BadPacks;
use crate::model::size::{bytes, duration};
use crate::model::{Failure, RunReport, RunResult};
use crate::report::table::printable;
use crate::store::Inventory;
use crate::sys::host;
use crate::sys::signals::Cancel;

/// Maximum number of lines about a maintenance in an email.
const MAILED_LINES: usize = 25;

pub(super) fn run(global: &Global, words: &Maintain) -> Result<RunResult, app::Error> {
    let started = Utc::now();
    let settings = app::settings_of_run(&global.config, global.host.as_deref()).inspect_err(|error| {
        if let app::Error::Config(errors) = error {
            let known = mail::known::recall(errors);
            let host = global.host.clone().unwrap_or_else(host::short_name);
            let report = report(host, started, (Vec::new(), Some(error.failure())));
            mailed(MailSetup::salvaged(errors, known.as_ref()), &report, error.result());
        }
    })?;
    let cancel = Cancel::on_signals().map_err(Error::Signals)?;
    let result = maintain::maintain(&settings, &cancel);
    let told = watch::maintained(&settings, &result).and(mail::known::remember(&settings));
    let lines = lines(&settings, &result);
    let (done, error) = match result {
        Ok(mut done) => {
            let error = done.error.take();
            (Some(done), error)
        }
        Err(error) => (None, Some(error)),
    };
    let error = error.map(app::Error::from);
    if let Some(done) = &done {
        if words.json {
            let mut json = serde_json::to_value(done).map_err(Error::Json)?;
            json["schema"] = 1.into();
            print(&format!("{json:#}\n"));
        } else if !global.quiet || error.is_some() {
            print(&text(done));
        }
    }
    let result = super::watched(told, error.as_ref().map_or(RunResult::Good, app::Error::result));
    let report = report(settings.host.clone(), started, (lines, error.as_ref().map(app::Error::failure)));
    let result = mailed(MailSetup::of(&settings), &report, result);
    error.map_or(Ok(result), Err)
}

/// Mails a maintenance if mail is configured and due. Returns its result after that.
fn mailed(setup: Option<MailSetup<'_>>, report: &RunReport, result: RunResult) -> RunResult {
    setup.map_or(result, |setup| super::mailed(mail::after_run(setup, report, result), result))
}

fn report(host: String, started: DateTime<Utc>, (lines, failure): (Vec<String>, Option<Failure>)) -> RunReport {
    let report = RunReport::new(host, Uuid::new_v4(), started);
    let errors = failure.into_iter().collect();
    RunReport { finished: Utc::now(), errors, maintenance: Some(lines), ..report }
}

/// What was maintained, and the result of each step.
fn lines(settings: &Settings, result: &Result<Maintenance, Error>) -> Vec<String> {
    let what = settings.repository.iter().map(|repository| format!("repository: {}", repository.path.display()));
    let steps = result.as_ref().map_or_else(|_| String::new(), text);
    what.chain(steps.lines().map(str::to_owned)).take(MAILED_LINES).collect()
}

fn text(done: &Maintenance) -> String {
    let mut lines = Vec::new();
    match &done.prune {
        Some(pruned) => {
            let took = duration(Duration::from_millis(pruned.duration_ms));
            let unused = pruned.unused_ratio.map(|unused| format!(", {:.1}% of the rest is unused", unused * 100.0));
            lines.push(format!("pruned: freed {} in {took}{}", bytes(pruned.freed_bytes), unused.unwrap_or_default()));
        }
        None => lines.push("pruned: not completed".to_owned()),
    }
    lines.push(match &done.check {
        Some(check) => checked(check),
        None => "checked: not completed\n".to_owned(),
    });
    let mut text = lines.join("\n");
    if let Some(stored) = &done.stored {
        text.push_str(&format!("stored: {}\n", contents(stored)));
    }
    text
}

/// The result of a check: one line, and one for each error.
pub(super) fn checked(check: &Inspection) -> String {
    let what = match check.data_percent {
        0 => "the structure".to_owned(),
        percent => format!("the structure and {percent}% of the data"),
    };
    let took = duration(Duration::from_millis(check.duration_ms));
    let verdict = if check.good { "no damage" } else { "DAMAGED" };
    let mut text = format!("checked: {what} in {took}: {verdict}\n");
    for error in &check.errors {
        text.push_str(&format!("  {}\n", printable(error)));
    }
    text
}

/// The result of a repair, and the next step.
pub(super) fn repaired(packs: &BadPacks) -> String {
    let (damaged, missing) = (packs.damaged.len(), packs.missing.len());
    format!(
        "removed from the repository: {damaged} damaged and {missing} missing packs\n\
         Store the lost data again if the guests still have it: kvmbackup backup --force\n"
    )
}

/// The contents of a repository in one line.
pub(super) fn contents(stored: &Inventory) -> String {
    let Inventory { restore_points, domains, packs, blobs, stored_bytes } = *stored;
    let counted = |count: u64, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    format!(
        "{} in {}, {} of {}, {}",
        bytes(stored_bytes),
        counted(packs, "pack"),
        counted(restore_points, "restore point"),
        counted(domains, "domain"),
        counted(blobs, "blob"),
    )
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::engine::maintain::Pruned;

    #[test]
    fn text_names_what_was_freed_checked_and_stored() {
        let stored = Inventory { restore_points: 4, domains: 2, packs: 1, blobs: 9, stored_bytes: 2_370_000 };
        let check = Inspection {
            duration_ms: 8_300,
            data_percent: 5,
            good: true,
            errors: Vec::new(),
            bad_packs: BadPacks::default(),
        };
        let (started, finished) = (DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH);
        let mut done = Maintenance {
            repository: "/r".into(),
            started,
            finished,
            prune: Some(Pruned { duration_ms: 187_000, freed_bytes: 1_230_000_000, unused_ratio: Some(0.025) }),
            check: Some(check.clone()),
            stored: Some(stored),
            error: None,
        };
        let expected = "pruned: freed 1.23 GB in 3m 07s, 2.5% of the rest is unused\n\
                        checked: the structure and 5% of the data in 8.3 s: no damage\n\
                        stored: 2.37 MB in 1 pack, 4 restore points of 2 domains, 9 blobs\n";
        assert_eq!(text(&done), expected);

        let errors = vec!["pack\u{1b} a".to_owned()];
        done.check = Some(Inspection { data_percent: 0, good: false, errors, ..check });
        (done.prune, done.stored) = (None, None);
        let expected = "pruned: not completed\nchecked: the structure in 8.3 s: DAMAGED\n  pack\u{fffd} a\n";
        assert_eq!(text(&done), expected);
        done.check = None;
        assert_eq!(text(&done), "pruned: not completed\nchecked: not completed\n");
    }
}
