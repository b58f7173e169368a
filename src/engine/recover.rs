//! Undoes what an interrupted run left, from the journal alone. Must not need a configuration, touch anything that the
//! journal does not name, or skip one domain because of another.

use std::path::Path;

use chrono::{DateTime, Utc};

use super::give_back::{give_back, remove_sockets};
use super::journal::{Journal, Record};
use super::{Error, adopt, overlay_file, tracking};
use crate::config::Settings;
use crate::hypervisor::{self, Hypervisor};
use crate::model::command::{quoted, typed};
use crate::model::{DomainRef, Failure, is_local};
use crate::store;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

/// Connects to the libvirt with this URI.
pub type Connect<'a> = dyn Fn(&str) -> Result<Box<dyn Hypervisor>, hypervisor::Error> + 'a;

/// The result of recovery.
#[derive(Debug, Default)]
pub struct Recovered {
    /// What was recovered, one line each.
    pub done: Vec<String>,
    /// What could not be recovered; it stays in the journal.
    pub left: Vec<Failure>,
    /// The signal that stopped recovery early.
    pub stopped: Option<i32>,
}

/// Undoes every entry of the journal. The caller has the lock, so no entry belongs to a run in progress.
///
/// `connect` connects to the libvirt that an entry names. A signal stops recovery between two entries. `patience`
/// limits waiting for targets, so that a hung one does not keep a guest on its overlay.
pub fn recover(
    journal: &Journal,
    connect: &Connect<'_>,
    cancel: &Cancel,
    patience: &Patience,
) -> Result<Recovered, Error> {
    let mut recovered = Recovered::default();
    recovered.left.extend(journal.sweep().err().map(|error| error.failure()));
    for record in journal.left()? {
        if cancel.signal().is_some() {
            break;
        }
        let undone = record.map_err(|error| error.failure()).and_then(|record| {
            record.thawing().heed(cancel);
            recover_entry(connect, record, patience)
        });
        match undone {
            Ok(lines) => recovered.done.extend(lines),
            Err(failure) => recovered.left.push(failure),
        }
    }
    recovered.stopped = cancel.signal();
    Ok(recovered)
}

/// Brings back disks that are on overlays of ours without a journal entry, as after the loss of the state directory.
/// Only for domains that the configuration covers. The caller has the lock and has already recovered the entries of the
/// journal.
pub fn recover_unknown(
    journal: &Journal,
    hypervisor: &dyn Hypervisor,
    settings: &Settings,
    cancel: &Cancel,
    recovered: &mut Recovered,
) -> Result<(), Error> {
    let (adopted, left) = adopt::adopt(journal, hypervisor, settings)?;
    recovered.left.extend(left);
    for record in adopted {
        if cancel.signal().is_some() {
            break;
        }
        let name = record.entry().domain.name.clone();
        let targets: Vec<_> = record.entry().overlays.iter().map(|overlay| overlay.target.clone()).collect();
        let line = format!(
            "{name}: {} was on an overlay without a journal entry; committed back to its base",
            targets.join(", ")
        );
        let undone = undo(hypervisor, record, &Patience::new(settings.stall_timeout));
        match finished(&name, line, undone) {
            Ok(lines) => recovered.done.extend(lines),
            Err(failure) => recovered.left.push(failure),
        }
    }
    recovered.stopped = cancel.signal();
    Ok(())
}

fn recover_entry(connect: &Connect<'_>, record: Record, patience: &Patience) -> Result<Vec<String>, Failure> {
    let line = describe(&record, patience);
    let name = record.entry().domain.name.clone();
    if !is_local(&record.entry().libvirt_uri) {
        return Err(of_another_host(&record));
    }
    // What an alias stands for is known only after connecting.
    let connected = match connect(&record.entry().libvirt_uri) {
        Err(error) if error.kind() == hypervisor::Kind::Remote => return Err(of_another_host(&record)),
        connected => connected.map_err(Error::from),
    };
    let undone = connected.and_then(|hypervisor| undo(&*hypervisor, record, patience));
    finished(&name, line, undone)
}

/// The lines that report what was done, with warnings. A failure names the domain.
fn finished(name: &str, line: String, undone: Result<Vec<Failure>, Error>) -> Result<Vec<String>, Failure> {
    let told = |Failure { message, hint }| match hint {
        Some(hint) => format!("{name}: {message} (hint: {})", typed(&hint)),
        None => format!("{name}: {message}"),
    };
    let lines = |notes: Vec<Failure>| {
        tracing::warn!("{line}");
        std::iter::once(line).chain(notes.into_iter().map(told)).collect()
    };
    undone.map(lines).map_err(|error| {
        let mut failure = error.failure();
        failure.name(name);
        if !failure.message.starts_with(name) {
            failure.message = format!("{name}: {}", failure.message);
        }
        failure
    })
}

/// The failure for an entry of a version that supported the libvirt of another host: its overlays are there.
fn of_another_host(record: &Record) -> Failure {
    let entry = record.entry();
    let (uri, name) = (&entry.libvirt_uri, &entry.domain.name);
    let commit = |overlay: &hypervisor::Overlay| {
        let target = quoted(&overlay.target);
        format!("virsh -c {} blockcommit {} {target} --active --pivot", quoted(uri), quoted(name))
    };
    let mut hint: Vec<String> = entry.overlays.iter().map(commit).collect();
    hint.push(format!("rm {}", quoted(&record.path().to_string_lossy())));
    Failure {
        message: format!("{name}: the interrupted run used {uri}, which is the libvirt of another host"),
        hint: Some(format!("Move the guest back to its images there, then remove the entry: {}", hint.join("; "))),
    }
}

/// Undoes what the backup of one domain left when it panicked, in the run that began at `started`.
pub(super) fn recover_domain(
    journal: &Journal,
    hypervisor: &dyn Hypervisor,
    started: DateTime<Utc>,
    domain: &DomainRef,
    patience: &Patience,
) -> Result<(), Error> {
    match journal.entry_of(started, domain)? {
        Some(record) => undo(hypervisor, record, patience).map(drop),
        None => Ok(()),
    }
}

/// Undoes an entry and returns warnings.
fn undo(hypervisor: &dyn Hypervisor, mut record: Record, patience: &Patience) -> Result<Vec<Failure>, Error> {
    give_back(hypervisor, &mut record)?;
    tracking::abandon(hypervisor, &mut record)?;
    if let Some(sockets) = &record.entry().sockets {
        remove_sockets(sockets)?;
    }
    if let Some(partial) = &record.entry().partial {
        store::discard(partial, patience)?;
    }
    let told = record.told();
    record.close().map(|()| told)
}

/// Describes what will be undone. An entry may name what never existed, so this looks at the files.
fn describe(record: &Record, patience: &Patience) -> String {
    let entry = record.entry();
    let mut undone = Vec::new();
    if entry.frozen {
        undone.push("thawed the guest".to_owned());
    }
    let is_there = |path: &Path| overlay_file::is_there(path).unwrap_or(true) && !overlay_file::is_unused(path);
    let there = entry.overlays.iter().filter(|overlay| is_there(&overlay.path));
    let targets: Vec<_> = there.map(|overlay| overlay.target.as_str()).collect();
    if !targets.is_empty() {
        undone.push(format!("committed {} back to its base", targets.join(", ")));
    }
    if entry.pull.as_ref().is_some_and(|job| job.socket.exists()) {
        undone.push("stopped the backup job".to_owned());
    }
    let partial = entry.partial.clone();
    if partial.is_some_and(|partial| patience.call(move || partial.exists()).unwrap_or(false)) {
        undone.push("removed the unfinished archive".to_owned());
    }
    if undone.is_empty() {
        undone.push("nothing was left behind".to_owned());
    }
    format!(
        "{}: the run of {} was interrupted; {}",
        entry.domain.name,
        entry.started.format("%Y-%m-%d %H:%M:%S UTC"),
        undone.join(", ")
    )
}

#[cfg(test)]
mod tests;
