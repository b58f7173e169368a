//! Checks what a run needs on this host besides libvirt and the target: programs, its own directories, and how earlier
//! runs ended. Must not create a directory or take a lock.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

use super::{Finding, Severity};
use crate::config::Settings;
use crate::engine::journal::Journal;
use crate::engine::{adopt, chain, target};
use crate::hypervisor::Guests;
use crate::model::{DomainRef, StoreKind};
use crate::sys::{lock, program, trust};

/// Programs that read images and commit overlays of guests that are off.
const PROGRAMS: [&str; 2] = ["qemu-img", "qemu-nbd"];

pub(super) fn look(settings: &Settings) -> Vec<Finding> {
    let is_there =
        |name: &&str| std::env::split_paths(program::PATH).any(|dir| access(dir.join(name), Access::EXEC_OK).is_ok());
    let mut findings = Vec::new();
    for name in PROGRAMS.iter().filter(|name| !is_there(name)) {
        let hint = "Install it: apt-get install qemu-utils";
        findings.push(Finding::new(*name, Severity::Problem, "not found in PATH", Some(hint)));
    }
    findings.push(state(&settings.state_dir));
    findings.extend(settings.metrics.textfile.as_deref().map(textfile));
    findings.extend(leftovers(settings));
    findings
}

/// Whether files can be created in a directory. root always may, except on a read-only file system.
pub(super) fn writable(folder: &Path) -> io::Result<()> {
    if !std::fs::metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}

fn state(dir: &Path) -> Finding {
    let about = format!("state directory {}", dir.display());
    match writable(dir) {
        Ok(()) => match trust::folder(dir) {
            Ok(()) => Finding::new(about, Severity::Good, "writable", None),
            Err(refused) => {
                let message = format!("cannot be trusted: {}", chain(&refused));
                Finding::new(about, Severity::Problem, message, refused.hint().as_deref())
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::new(about, Severity::Good, "does not exist yet; the first run creates it", None)
        }
        Err(error) => {
            let hint = "Run as root, or set another directory with `state_dir`.";
            Finding::new(about, Severity::Problem, format!("not writable: {error}"), Some(hint))
        }
    }
}

fn textfile(path: &Path) -> Finding {
    let about = format!("textfile {}", path.display());
    match writable(path.parent().unwrap_or(Path::new("/"))) {
        Ok(()) => Finding::new(about, Severity::Good, "its directory is writable", None),
        Err(error) => {
            let hint = "Create the directory that node_exporter's --collector.textfile.directory names, or correct \
            `metrics.textfile`.";
            Finding::new(about, Severity::Warning, format!("its directory is not writable: {error}"), Some(hint))
        }
    }
}

/// Reports overlays of ours that the domain uses but no journal entry names. The next backup or recovery handles them.
pub(super) fn overlays(settings: &Settings, hypervisor: &dyn Guests, domain: &DomainRef, findings: &mut Vec<Finding>) {
    // Overlays of a run in progress are not leftovers.
    if lock::is_held(&settings.state_dir.join("lock")).unwrap_or(false) {
        return;
    }
    // Opening the journal would create its directory.
    let has_journal = settings.state_dir.join("journal").is_dir();
    let journal = has_journal.then(|| Journal::open(&settings.state_dir).ok()).flatten();
    let Some(known) = journal.map_or_else(|| Some(BTreeSet::new()), |journal| adopt::known(&journal)) else { return };
    // Another check reports a domain that cannot be described.
    for overlay in adopt::unknown(hypervisor, domain, &known).unwrap_or_default() {
        let message = format!(
            "disk {} runs on the overlay {} of an interrupted run, but the journal has no entry for it",
            overlay.target,
            overlay.path.display()
        );
        let about = format!("domain {}", domain.name);
        findings.push(Finding::new(about, Severity::Problem, message, Some("To clean up now: kvmbackup recover")));
    }
}

/// Reports journal entries, and unfinished archives that no entry names.
fn leftovers(settings: &Settings) -> Vec<Finding> {
    let busy = lock::is_held(&settings.state_dir.join("lock")).unwrap_or(false);
    if busy {
        return vec![Finding::new("earlier runs", Severity::Good, "a run is in progress", None)];
    }
    let mut findings = Vec::new();
    let mut known = Vec::new();
    // Opening the journal would create its directory.
    let has_journal = settings.state_dir.join("journal").is_dir();
    let left =
        if has_journal { Journal::open(&settings.state_dir).and_then(|journal| journal.left()) } else { Ok(vec![]) };
    match left {
        Ok(records) => {
            for record in records {
                match record {
                    Ok(record) => {
                        let entry = record.entry();
                        known.extend(entry.partial.clone());
                        let when = entry.started.format("%Y-%m-%d %H:%M:%S UTC");
                        let about = format!("domain {}", entry.domain.name);
                        let message = format!("the run of {when} was interrupted and may have left resources behind");
                        findings.push(Finding::new(
                            about,
                            Severity::Warning,
                            message,
                            Some("To clean up now: kvmbackup recover"),
                        ));
                    }
                    Err(error) => findings.push(Finding::failed("journal", Severity::Problem, error.failure())),
                }
            }
        }
        Err(error) => findings.push(Finding::failed("journal", Severity::Problem, error.failure())),
    }
    // The check of the target reports what cannot be read there.
    let store = target::open(settings, Some(StoreKind::Archive)).ok();
    let domains = store.as_ref().and_then(|store| store.domains().ok()).map(|domains| domains.names);
    for domain in domains.unwrap_or_default() {
        let partials = store.as_ref().and_then(|store| store.partials(&domain).ok()).unwrap_or_default();
        for partial in partials.iter().filter(|partial| !known.contains(partial)) {
            let message = format!("{}: an unfinished archive that belongs to no run", partial.display());
            let hint = "Remove it, unless another host writes to this target.";
            findings.push(Finding::new(format!("domain {domain}"), Severity::Warning, message, Some(hint)));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::new("earlier runs", Severity::Good, "left nothing behind", None));
    }
    findings
}
