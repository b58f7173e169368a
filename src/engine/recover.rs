//! Owns: putting right what an interrupted run left, from the journal alone. Must not: need a configuration, touch
//! anything that the journal does not name, or give up on one domain because of another.

use std::path::Path;

use chrono::{DateTime, Utc};

use super::give_back::{give_back, remove_sockets};
use super::journal::{Journal, Record};
use super::{Error, overlay_file};
use crate::hypervisor::{self, Hypervisor};
use crate::model::{DomainRef, Failure};
use crate::sys::durable;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;
use crate::sys::step::{self, Step};

/// Makes a connection to a libvirt of this address.
pub type Connect<'a> = dyn Fn(&str) -> Result<Box<dyn Hypervisor>, hypervisor::Error> + 'a;

/// What recovery came to.
#[derive(Debug, Default)]
pub struct Recovered {
    /// What was put right, a line each.
    pub done: Vec<String>,
    /// What could not be; it stays in the journal.
    pub left: Vec<Failure>,
    /// The signal that stopped it before the end.
    pub stopped: Option<i32>,
}

/// Undoes every entry of the journal. The caller holds the lock, so no entry is of a run that lives.
///
/// `connect` makes a connection to the libvirt that an entry names. A signal ends it between two entries. `patience` is for the
/// targets: one that hangs keeps no guest on its overlay.
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
        match record.map_err(|error| error.failure()).and_then(|record| recover_entry(connect, record, patience)) {
            Ok(line) => {
                tracing::warn!("{line}");
                recovered.done.push(line);
            }
            Err(failure) => recovered.left.push(failure),
        }
    }
    recovered.stopped = cancel.signal();
    Ok(recovered)
}

/// What was done; a failure names the domain.
fn recover_entry(connect: &Connect<'_>, record: Record, patience: &Patience) -> Result<String, Failure> {
    let line = describe(&record, patience);
    let name = record.entry().domain.name.clone();
    let connected = connect(&record.entry().libvirt_uri).map_err(Error::from);
    connected.and_then(|hypervisor| undo(&*hypervisor, record, patience)).map(|()| line).map_err(|error| {
        let mut failure = error.failure();
        if !failure.message.starts_with(&name) {
            failure.message = format!("{name}: {}", failure.message);
        }
        failure
    })
}

/// Undoes what the backup of one domain left when it ended in a panic, in the run that began then.
pub(super) fn recover_domain(
    journal: &Journal,
    hypervisor: &dyn Hypervisor,
    started: DateTime<Utc>,
    domain: &DomainRef,
    patience: &Patience,
) -> Result<(), Error> {
    match journal.entry_of(started, domain)? {
        Some(record) => undo(hypervisor, record, patience),
        None => Ok(()),
    }
}

fn undo(hypervisor: &dyn Hypervisor, mut record: Record, patience: &Patience) -> Result<(), Error> {
    give_back(hypervisor, &mut record)?;
    if let Some(sockets) = &record.entry().sockets {
        remove_sockets(sockets)?;
    }
    if let Some(partial) = record.entry().partial.clone() {
        let path = partial.clone();
        let removed = patience.call(move || remove_partial(&path));
        removed.unwrap_or_else(|source| Err(Error::file("remove the unfinished archive", &partial)(source)))?;
    }
    record.close()
}

/// Removes an unfinished archive, if it is there for sure.
fn remove_partial(partial: &Path) -> Result<(), Error> {
    // On a target that is not mounted now, the file would seem to be gone.
    if !partial.parent().is_some_and(Path::is_dir) {
        return Err(Error::Other {
            message: format!("{}: cannot remove the unfinished archive, its folder is not there", partial.display()),
            hint: Some("mount the target, or make the folder if it is gone for good; then: kvmbackup recover".into()),
        });
    }
    let removed = step::reached(Step::PartialRemove).and_then(|()| durable::remove(partial));
    removed.map_err(Error::file("remove the unfinished archive", partial))
}

/// What there is to undo, before it is undone: an entry is written before what it names exists.
fn describe(record: &Record, patience: &Patience) -> String {
    let entry = record.entry();
    let mut undone = Vec::new();
    if entry.frozen {
        undone.push("thawed the guest".to_owned());
    }
    let is_there = |path: &Path| path.try_exists().unwrap_or(true) && !overlay_file::is_unused(path);
    let there = entry.overlays.iter().filter(|overlay| is_there(&overlay.path));
    let targets: Vec<_> = there.map(|overlay| overlay.target.as_str()).collect();
    if !targets.is_empty() {
        undone.push(format!("committed {} back to its base", targets.join(", ")));
    }
    if entry.pull.as_ref().is_some_and(|job| job.socket.exists()) {
        undone.push("ended the backup job".to_owned());
    }
    let partial = entry.partial.clone();
    if partial.is_some_and(|partial| patience.call(move || partial.exists()).unwrap_or(false)) {
        undone.push("removed the unfinished archive".to_owned());
    }
    if undone.is_empty() {
        undone.push("nothing was left of it".to_owned());
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
