//! Owns: whether a domain is in a state in which it may be backed up, and what that is worth. Must not: change anything.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{Error, users};
use crate::config::Quiesce;
use crate::hypervisor::{Guests, OffKind, Snapshots};
use crate::model::command::quoted;
use crate::model::{Consistency, Disk, Domain, DomainRef, DomainState, Failure, Image};
use crate::plan::{CapturePlan, ReadFrom};

/// How long a job of another program is waited for. A snapshot is a matter of moments; a migration may take hours.
const JOBS: Duration = Duration::from_secs(10);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(100);

/// What images that are read as they are are worth.
#[derive(Debug, Default)]
pub(super) struct Worth {
    /// `None` if nothing speaks against them.
    pub consistency: Option<Consistency>,
    /// What the operator should know.
    pub warnings: Vec<Failure>,
}

/// Waits until libvirt does no other job on the domain. In the middle of one (a migration, a save, another backup) libvirt
/// makes every capture wait and then refuses it, while the guest would be frozen.
pub(super) fn wait_for_jobs(hypervisor: &dyn Guests, domain: &DomainRef) -> Result<(), Error> {
    let began = Instant::now();
    while let Some(job) = hypervisor.job(domain)? {
        if began.elapsed() > JOBS {
            return Err(Error::Busy { job });
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// What the images of a domain that nothing runs are worth. Those of one that was saved belong to a memory that is not in
/// the backup; those of one that was migrated may be written by another host.
pub(super) fn at_rest(hypervisor: &dyn Guests, domain: &Domain) -> Result<Worth, Error> {
    let worth = |consistency, warnings| Worth { consistency: Some(consistency), warnings };
    if domain.state.is_active() {
        return Ok(worth(Consistency::Offline, Vec::new()));
    }
    match hypervisor.off_kind(&domain.id)? {
        OffKind::Plain | OffKind::SavedToFile => Ok(worth(Consistency::Offline, Vec::new())),
        OffKind::Saved => {
            let warning = Failure {
                message: "the guest has a saved state, which is not in the backup: its disks are as after a power cut"
                    .into(),
                hint: Some("Shut the guest down instead of saving it, or start it before the backup.".into()),
            };
            Ok(worth(Consistency::Crash, vec![warning]))
        }
        OffKind::Migrated => Err(Error::Rejected {
            message: "the guest was migrated and may run on another host".into(),
            hint: Some("Back it up there. If it does not run anywhere, start it here: virsh start DOMAIN".into()),
        }),
    }
}

/// Refuses images that are read as they are while a process may write to them, another guest above all: its libvirt does not
/// know that this domain has them too. What is shared on purpose is saved and said to be no more than crash-consistent.
pub(super) fn read_directly(domain: &Domain, plan: &CapturePlan) -> Result<Worth, Error> {
    let mut worth = Worth::default();
    for planned in &plan.disks {
        let ReadFrom::Direct(image) = &planned.how else { continue };
        let target = &planned.disk.target;
        if let Some(path) = image.source.path() {
            // The error of qemu-nbd would be long and without a hint.
            let unreadable = |source| Error::Unreadable { target: target.clone(), path: path.to_owned(), source };
            fs::metadata(path).map_err(unreadable)?;
        }
        for path in users::files_of(image).map_err(Error::file("read the header of", image_path(image)))? {
            let Some(writer) = users::open(&path)?.into_iter().find(|user| user.writes()) else { continue };
            let message = format!("disk {target}: {} is open for writing in {writer}", path.display());
            if !planned.disk.shareable {
                return Err(Error::Rejected {
                    message: format!("{message}, so its contents would change while they are read"),
                    hint: Some(format!(
                        "Back up the guest that uses it, or stop that process; then: kvmbackup backup --force {}",
                        quoted(&domain.id.name)
                    )),
                });
            }
            worth.consistency = Some(Consistency::Crash);
            worth.warnings.push(Failure { message: format!("{message}; the backup may be inconsistent"), hint: None });
        }
    }
    Ok(worth)
}

fn image_path(image: &Image) -> &Path {
    image.source.path().unwrap_or(Path::new(""))
}

/// Refuses what would fail, or harm, later. libvirt refuses a busy disk too, but only with the guest frozen.
pub(super) fn to_be_captured(
    hypervisor: &dyn Snapshots,
    domain: &Domain,
    captured: &[&Disk],
    quiesce: Quiesce,
) -> Result<(), Error> {
    if domain.state == DomainState::Paused && quiesce == Quiesce::Require {
        return Err(Error::Rejected {
            message: "cannot freeze the file systems of a guest that is paused, suspended or crashed, and `quiesce: require` is set"
                .into(),
            hint: Some(
                "Check why: virsh domstate DOMAIN --reason. Resume the guest, or set `quiesce: prefer` for this domain.".into(),
            ),
        });
    }
    for disk in captured {
        if hypervisor.block_job(&domain.id, &disk.target)?.is_some() {
            return Err(Error::Chain {
                target: disk.target.clone(),
                message: "a block job is running on it".into(),
                hint: "Wait until it ends: virsh blockjob DOMAIN DISK --info".into(),
            });
        }
    }
    Ok(())
}
