//! Owns: whether a domain is in a state in which it may be backed up, and what that is worth. Must not: change anything.

use super::Error;
use crate::config::Quiesce;
use crate::hypervisor::{Hypervisor, OffKind};
use crate::model::{Consistency, Disk, Domain, DomainOutcome, DomainState, Failure};

/// What the images of a domain that nothing runs are worth. Those of one that was saved belong to a memory that is not in
/// the backup; those of one that was migrated may be written by another host.
pub(super) fn at_rest(
    hypervisor: &dyn Hypervisor,
    domain: &Domain,
    outcome: &mut DomainOutcome,
) -> Result<Consistency, Error> {
    if domain.state.is_active() {
        return Ok(Consistency::Offline);
    }
    match hypervisor.off_kind(&domain.id)? {
        OffKind::Plain | OffKind::SavedToFile => Ok(Consistency::Offline),
        OffKind::Saved => {
            outcome.warnings.push(Failure {
                message: "the guest is saved, and its memory is not in the backup: its disks are as after a power cut"
                    .into(),
                hint: Some("shut guests down rather than save them, or start it before the backup".into()),
            });
            Ok(Consistency::Crash)
        }
        OffKind::Migrated => Err(Error::Other {
            message: "the guest was migrated, and may run on another host".into(),
            hint: Some("back it up there; if it runs nowhere, start it here: virsh start DOMAIN".into()),
        }),
    }
}

/// Refuses what would fail, or harm, later. libvirt refuses a busy disk too, but only with the guest frozen, and after half a
/// minute where another backup job runs.
pub(super) fn to_be_captured(
    hypervisor: &dyn Hypervisor,
    domain: &Domain,
    captured: &[&Disk],
    quiesce: Quiesce,
) -> Result<(), Error> {
    if domain.state == DomainState::Paused && quiesce == Quiesce::Require {
        return Err(Error::Other {
            message: "the guest is paused, so its file systems cannot be frozen, and `quiesce: require` is set".into(),
            hint: Some("resume it, or set `quiesce: prefer` for this domain".into()),
        });
    }
    // It shows as a block job on each of its disks, too.
    if hypervisor.pull_socket(&domain.id)?.is_some() {
        return Err(Error::Other {
            message: "another program's backup job runs".into(),
            hint: Some("wait for it, or end it: virsh domjobabort DOMAIN".into()),
        });
    }
    for disk in captured {
        if hypervisor.block_job(&domain.id, &disk.target)?.is_some() {
            return Err(Error::Chain {
                target: disk.target.clone(),
                message: "a block job runs on it".into(),
                hint: "wait for it; see: virsh blockjob DOMAIN DISK --info".into(),
            });
        }
    }
    Ok(())
}
