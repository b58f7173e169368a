//! Owns: undoing what a journal entry says of a domain's capture, in the order that the guest needs. Must not: decide how an
//! overlay is brought back; `settle` does.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::journal::Record;
use super::{Error, quiesce, settle};
use crate::hypervisor::{Hypervisor, Kind, PullJob};
use crate::model::{DomainRef, DomainState};
use crate::sys::durable;
use crate::sys::step::{self, Step};

/// How long a backup job may take to end.
const JOB_END: Duration = Duration::from_secs(60);
/// Between two looks at a backup job.
const PAUSE: Duration = Duration::from_millis(25);

/// Undoes what a journal entry says of a domain's capture; what is undone leaves the entry at once. Goes on after an
/// error, and returns the first.
pub(super) fn give_back(hypervisor: &dyn Hypervisor, record: &mut Record) -> Result<(), Error> {
    let domain = record.entry().domain.clone();
    let mut failed = None;
    // A journal that cannot be written (a full disk) must not keep the rest from being undone.
    if record.entry().frozen {
        let thawed =
            quiesce::until_thawed(hypervisor, record).and_then(|()| record.update(|entry| entry.frozen = false));
        failed = failed.or(thawed.err());
    }
    if record.entry().pull.is_some() || !record.entry().overlays.is_empty() {
        settle::wait_for_calls(hypervisor, &domain);
    }
    let resumable = record.entry().resumable();
    if let Some(job) = record.entry().pull.clone() {
        let ended = end_pull(hypervisor, &domain, &job).and_then(|()| record.update(|entry| entry.pull = None));
        failed = failed.or(ended.err());
    }
    for overlay in record.entry().overlays.clone() {
        let settled = settle::overlay(hypervisor, record, &overlay).and_then(|()| {
            record.update(|entry| {
                entry.overlays.retain(|other| other.target != overlay.target);
                entry.settling.remove(&overlay.target);
            })
        });
        failed = failed.or(settled.err());
    }
    if failed.is_none() && !resumable.is_empty() {
        let resumed = resume(hypervisor, &domain, &resumable);
        failed = resumed.and_then(|()| record.update(|entry| entry.resumable = Some(Vec::new()))).err();
    }
    failed.map_or(Ok(()), Err)
}

/// Resumes a guest that an I/O error has paused, when no other disk than these has one: they were full because of us. Any
/// other error is still there, and its operator's to look at.
fn resume(hypervisor: &dyn Hypervisor, domain: &DomainRef, ours: &[String]) -> Result<(), Error> {
    let failed = match hypervisor.io_errors(domain) {
        Ok(Some(failed)) => failed,
        Ok(None) => return Ok(()),
        Err(error) if error.kind() == Kind::NoDomain => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if let Some(other) = failed.iter().find(|target| !ours.contains(target)) {
        tracing::warn!(
            domain = domain.name,
            disk = other,
            "the guest is paused by an I/O error that the backup did not cause"
        );
        return Ok(());
    }
    hypervisor.resume(domain)?;
    tracing::warn!(domain = domain.name, "the guest was paused by an I/O error and was resumed");
    Ok(())
}

/// Removes the folder of our sockets, if it is there.
pub(super) fn remove_sockets(folder: &Path) -> Result<(), Error> {
    let removed = step::reached(Step::SocketsRemove).and_then(|()| durable::remove_dir(folder));
    removed.map_err(Error::file("remove the directory", folder))
}

/// Ends the job if it is the one we began: another's is left alone.
fn end_pull(hypervisor: &dyn Hypervisor, domain: &DomainRef, job: &PullJob) -> Result<(), Error> {
    if has_job(hypervisor, domain, job)? {
        hypervisor.end_pull(domain)?;
    }
    // libvirt has only begun to end it: until QEMU is done, the scratch files are in use, and no other backup can begin.
    let began = Instant::now();
    while has_job(hypervisor, domain, job)? {
        if began.elapsed() > JOB_END {
            return Err(Error::Rejected {
                message: "its backup job does not stop".into(),
                hint: Some("Check the job: virsh domjobinfo DOMAIN; then: kvmbackup recover".into()),
            });
        }
        thread::sleep(PAUSE);
    }
    for scratch in &job.scratch {
        let removed = step::reached(Step::ScratchRemove).and_then(|()| durable::remove(&scratch.path));
        removed.map_err(Error::file("remove the scratch file", &scratch.path))?;
    }
    step::reached(Step::ScratchRemove)
        .and_then(|()| durable::remove(&job.socket))
        .map_err(Error::file("remove the socket", &job.socket))
}

/// Whether libvirt still has this backup job; a domain that is gone or off has none.
fn has_job(hypervisor: &dyn Hypervisor, domain: &DomainRef, job: &PullJob) -> Result<bool, Error> {
    match hypervisor.pull_socket(domain) {
        Ok(socket) => Ok(socket.as_ref() == Some(&job.socket)),
        Err(error) if error.kind() == Kind::NoDomain => Ok(false),
        Err(_) if matches!(hypervisor.state(domain), Ok(DomainState::Off)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
