//! Checks whether a domain is in a state in which it can be backed up, and which consistency that allows. Must not
//! change anything.

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

/// How long to wait for a job of another program. A snapshot takes moments; a migration may take hours.
const JOBS: Duration = Duration::from_secs(10);
/// Pause between two checks for a job.
const PAUSE: Duration = Duration::from_millis(100);

/// What is known of images that are read directly.
#[derive(Debug, Default)]
pub(super) struct Worth {
    /// `None` if nothing lowers it.
    pub consistency: Option<Consistency>,
    pub warnings: Vec<Failure>,
}

/// Waits until libvirt has no other job on the domain. During a migration, a save or another backup, libvirt makes
/// every capture wait and then refuses it, and the guest would be frozen for that time.
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

/// The consistency of images that no guest uses. Those of a saved guest belong to a memory state that is not in the
/// backup. Those of a migrated guest may be written by another host.
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

/// Refuses images that are read directly while a process may write to them, especially another guest, because libvirt
/// does not know that two domains use one image. A disk that is shared on purpose is backed up with a warning.
pub(super) fn read_directly(domain: &Domain, plan: &CapturePlan) -> Result<Worth, Error> {
    let mut worth = Worth::default();
    for planned in &plan.disks {
        let ReadFrom::Direct(image) = &planned.how else { continue };
        let target = &planned.disk.target;
        if let Some(path) = image.source.path() {
            // The error of qemu-nbd would be long and have no hint.
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

/// Refuses what would fail or do harm later. libvirt also refuses a busy disk, but only when the guest is frozen.
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
