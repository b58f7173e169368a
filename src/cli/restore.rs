//! Runs the command `restore`. Must not write restored data.

use chrono::Utc;

mod salvage;
mod terminal;

use self::terminal::Terminal;
use super::args::{self, Global};
use super::list::moment;
use super::{monitor, print, print_failure, recover, when};
use crate::app::{self, watch};
use crate::config::Settings;
use crate::engine;
use crate::engine::restore::{self, Define, Request, Restore, Restored};
use crate::model::RunResult;
use crate::report::table::printable;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

pub(super) fn run(global: &Global, words: &args::Restore) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    let store = engine::target::open(&settings, words.store)?;
    let cancel = Cancel::on_signals().map_err(engine::Error::Signals)?;
    if let (true, Some(to)) = (words.salvage, &words.to) {
        return salvage::run(global, words, to, &store, &cancel);
    }
    let request = request(words, &settings, global);
    // Restoring files to a directory conflicts with no run.
    let first = match request.touches_guests() && !request.dry_run {
        true => {
            Some(recover::first(&settings.state_dir, &Patience::new(settings.stall_timeout), global.quiet, &cancel)?)
        }
        false => None,
    };
    if let Some(first) = &first {
        restore::expect_settled(&request, &first.0.journal)?;
    }
    let connect = || app::connect(&settings.libvirt_uri);
    let hypervisor = match (&request.define, request.may_replace()) {
        (Some(_), _) => Some(connect()?),
        // Files and devices can be restored without libvirt; the restore reports what it could not check.
        (None, true) => connect().inspect_err(|error| tracing::warn!(%error, "cannot connect to libvirt")).ok(),
        (None, false) => None,
    };
    let monitor = monitor(global, false);
    let mut operator = Terminal::new(global, words, &cancel);
    let hypervisor = hypervisor.as_deref();
    let restore = Restore { request: &request, store: &store, hypervisor, monitor: &*monitor, cancel: &cancel };
    let restored = restore.run(&mut operator)?;
    let told = operator.told;
    let more = restored.notes.get(told..).unwrap_or_default();
    match (global.quiet, &restored.defined) {
        (false, _) => print(&(text(&restored) + &notes(more))),
        (true, Some(_)) => print(&notes(more)),
        (true, None) => {}
    }
    if restored.dry_run {
        return Ok(RunResult::Good);
    }
    if let Some(failure) = &restored.start_failure {
        print_failure(failure);
        return Ok(RunResult::Failed);
    }
    let result = match first {
        Some((_, recovered)) if !recovered.left.is_empty() => RunResult::Untidy,
        _ => RunResult::Good,
    };
    let told = watch::tell(&settings, |ledger| ledger.restored(&words.domain, Utc::now()));
    Ok(super::watched(told, result))
}

fn request(words: &args::Restore, settings: &Settings, global: &Global) -> Request {
    Request {
        domain: words.domain.clone(),
        when: when(words.at),
        to: words.to.clone(),
        disks: words.disks.clone(),
        define: words.define.then(|| Define {
            name: words.name.clone(),
            start: words.start,
            xml: words.xml.clone(),
            machine: words.machine.clone(),
        }),
        overwrite: words.overwrite,
        kept_out: app::own_places(settings, &global.config),
        dry_run: words.dry_run,
    }
}

fn text(restored: &Restored) -> String {
    let (domain, point) = (printable(&restored.domain), restored.point);
    let done = if restored.dry_run { "would restore" } else { "restored" };
    let mut text = format!("{done} {domain} as of {} ({point})\n", moment(point.time()));
    text.push_str(&places(restored));
    if let Some(defined) = &restored.defined {
        let done = match (restored.dry_run, restored.started) {
            (true, true) => "would be defined and started",
            (true, false) => "would be defined",
            (false, true) => "defined and started",
            (false, false) => "defined",
        };
        text.push_str(&format!("{done}: {} ({})\n", printable(&defined.name), defined.uuid));
    }
    text
}

/// The files and devices, one per line.
fn places(restored: &Restored) -> String {
    let paths = restored.files.iter().chain(&restored.devices);
    paths.map(|path| format!("  {}\n", printable(&path.display().to_string()))).collect()
}

fn notes(notes: &[String]) -> String {
    notes.iter().map(|note| format!("note: {}\n", printable(note))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DomainRef;

    #[test]
    fn all_written_files_and_devices_are_listed() {
        let restored = Restored {
            domain: "web\n1".to_owned(),
            point: "20261122T020000Z".parse().unwrap(),
            files: vec!["/r/a.qcow2".into()],
            devices: vec!["/dev/x".into()],
            defined: Some(DomainRef { name: "web 2".to_owned(), uuid: uuid::Uuid::nil() }),
            started: true,
            dry_run: false,
            start_failure: None,
            notes: vec!["drive sda is empty".to_owned()],
        };
        let text = text(&restored) + &notes(&restored.notes);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("restored web 1 as of 2026-11-22 "), "{text}");
        let uuid = uuid::Uuid::nil();
        let defined = format!("defined and started: web 2 ({uuid})");
        assert_eq!(lines[1..], ["  /r/a.qcow2", "  /dev/x", defined.as_str(), "note: drive sda is empty"]);
    }
}
