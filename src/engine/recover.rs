//! Owns: putting right what an interrupted run left, from the journal alone. Must not: need a configuration, touch
//! anything that the journal does not name, or give up on one domain because of another.

use chrono::{DateTime, Utc};

use super::Error;
use super::capture::give_back;
use super::journal::{Journal, Record};
use crate::hypervisor::{self, Hypervisor};
use crate::model::{DomainRef, Failure};
use crate::sys::durable;

/// Makes a connection to a libvirt of this address.
pub type Connect = dyn Fn(&str) -> Result<Box<dyn Hypervisor>, hypervisor::Error>;

/// What recovery came to.
#[derive(Debug, Default)]
pub struct Recovered {
    /// What was put right, a line each.
    pub done: Vec<String>,
    /// What could not be; it stays in the journal.
    pub left: Vec<Failure>,
}

/// Undoes every entry of the journal. The caller holds the lock, so no entry is of a run that lives.
///
/// `connect` makes a connection to the libvirt that an entry names.
pub fn recover(journal: &Journal, connect: &Connect) -> Result<Recovered, Error> {
    let mut recovered = Recovered::default();
    for record in journal.left()? {
        let outcome = record.and_then(|record| {
            let line = describe(&record);
            let hypervisor = connect(&record.entry().libvirt_uri)?;
            undo(&*hypervisor, record).map(|()| line)
        });
        match outcome {
            Ok(line) => {
                tracing::warn!("{line}");
                recovered.done.push(line);
            }
            Err(error) => recovered.left.push(error.failure()),
        }
    }
    Ok(recovered)
}

/// Undoes what the backup of one domain left when it ended in a panic, in the run that began then.
pub(super) fn recover_domain(
    journal: &Journal,
    hypervisor: &dyn Hypervisor,
    started: DateTime<Utc>,
    domain: &DomainRef,
) -> Result<(), Error> {
    match journal.entry_of(started, domain)? {
        Some(record) => undo(hypervisor, record),
        None => Ok(()),
    }
}

fn undo(hypervisor: &dyn Hypervisor, mut record: Record) -> Result<(), Error> {
    give_back(hypervisor, &mut record)?;
    if let Some(sockets) = record.entry().sockets.clone()
        && let Err(error) = std::fs::remove_dir_all(&sockets)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(Error::file("remove the folder", &sockets)(error));
    }
    if let Some(partial) = record.entry().partial.clone() {
        durable::remove(&partial).map_err(Error::file("remove the unfinished archive", &partial))?;
    }
    record.close()
}

fn describe(record: &Record) -> String {
    let entry = record.entry();
    let mut undone = Vec::new();
    if entry.frozen {
        undone.push("thawed the guest".to_owned());
    }
    if !entry.overlays.is_empty() {
        let targets: Vec<_> = entry.overlays.iter().map(|overlay| overlay.target.as_str()).collect();
        undone.push(format!("committed {} back to its base", targets.join(", ")));
    }
    if entry.pull.is_some() {
        undone.push("ended the backup job".to_owned());
    }
    if entry.partial.is_some() {
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
