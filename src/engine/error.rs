//! Defines how a step of the engine can fail, with message and hint. Must not print.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::nearest;
use crate::model::command::quoted;
use crate::model::{Failure, FailureReason, StoreKind, version};
use crate::sys::patience::Stalled;
use crate::sys::trust;
use crate::{hooks, hypervisor, nbd, plan, qcow2, store};

/// The largest number of names that a hint lists. With more, it names only the nearest.
const FEW: usize = 10;

/// A failed step of the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libvirt or QEMU failed.
    #[error(transparent)]
    Hypervisor(#[from] hypervisor::Error),
    /// The snapshot or the backup job could not be started.
    #[error(transparent)]
    Snapshot(hypervisor::Error),
    /// libvirt or QEMU refused the backup job, even without bitmaps. Nothing was started.
    #[error(transparent)]
    PullRefused(hypervisor::Error),
    /// The domain cannot be captured as configured.
    #[error(transparent)]
    Refused(#[from] plan::Refusal),
    /// A disk cannot be read.
    #[error("disk {target}: read failed")]
    Read {
        /// Target of the disk.
        target: String,
        /// Cause.
        source: nbd::Error,
    },
    /// An image cannot be opened: it was moved, its file system is not mounted, or permission is denied.
    #[error("disk {target}: cannot read {}", path.display())]
    Unreadable {
        /// Target of the disk.
        target: String,
        /// Its image.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A disk has no bytes at all: its image was truncated, or its device is detached.
    #[error("disk {target}: its image is empty (0 bytes)")]
    Empty {
        /// Target of the disk.
        target: String,
    },
    /// A disk cannot be written as qcow2.
    #[error("disk {target}: cannot write it as qcow2")]
    Layout {
        /// Target of the disk.
        target: String,
        /// Cause.
        source: qcow2::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(store::Error),
    /// An operation on a file failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// The operation, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A required freeze failed.
    #[error("cannot freeze the guest's file systems, and `quiesce: require` is set")]
    Quiesce {
        /// Cause.
        source: hypervisor::Error,
    },
    /// The guest's file systems do not thaw.
    #[error("the guest's file systems are still frozen after {seconds} s of thaw attempts")]
    StillFrozen {
        /// Duration of the attempts.
        seconds: u64,
    },
    /// The configuration has no store of the requested kind.
    #[error("the configuration has no {}", match kind {
        StoreKind::Archive => "`backupdir` for archives",
        StoreKind::Repository => "`repository`",
    })]
    NoStore {
        /// The kind.
        kind: StoreKind,
    },
    /// The store of a domain could not be used when the run began.
    #[error("{}", failure.message)]
    Unusable {
        /// Why.
        failure: Failure,
        /// The same, for metrics.
        reason: FailureReason,
    },
    /// The target is not mounted.
    #[error("{}: not on a mounted file system, and `require_mount` is set", path.display())]
    Target {
        /// Path of the target.
        path: PathBuf,
    },
    /// The target has less free space than `min_free`.
    #[error("{}: only {free} free; `min_free` requires {wanted}", path.display())]
    Space {
        /// Path of the target.
        path: PathBuf,
        /// Free space, with its unit.
        free: String,
        /// Required free space.
        wanted: String,
    },
    /// The file system of an overlay or scratch file is nearly full, so QEMU would soon pause the guest.
    #[error("{}: only {free} free on the file system of the guest's overlay", path.display())]
    OverlaySpace {
        /// Directory of the file.
        path: PathBuf,
        /// Free space, with its unit.
        free: String,
    },
    /// A block commit makes no progress.
    #[error("disk {target}: the block commit made no progress for {minutes} minutes")]
    CommitStalled {
        /// Target of the disk.
        target: String,
        /// Time without progress.
        minutes: u64,
    },
    /// The images of a disk are not as expected, so nothing is done with them.
    #[error("disk {target}: {message}")]
    Chain {
        /// Target of the disk.
        target: String,
        /// What was found.
        message: String,
        /// What the operator can do.
        hint: String,
    },
    /// A hook could not be run.
    #[error("cannot run hook {name}")]
    Hook {
        /// Name of the hook.
        name: String,
        /// Cause.
        source: hooks::Error,
    },
    /// A hook failed, and its configuration makes that an error.
    #[error("{}", failure.message)]
    HookFailed {
        /// Message and hint.
        failure: Failure,
        /// Whether the whole run stops.
        run: bool,
    },
    /// A hook asks to skip the domain this time.
    #[error("skipped: hook {hook} asked to skip this run")]
    Skipped {
        /// Name of the hook.
        hook: String,
    },
    /// The domain changed during its backup.
    #[error("{what} while it was being backed up")]
    Changed {
        /// What changed.
        what: String,
    },
    /// Another libvirt job runs on the domain.
    #[error("another libvirt job is running on the domain: {job}")]
    Busy {
        /// The job, as libvirt names it.
        job: String,
    },
    /// A signal stopped the run.
    #[error("stopped by signal {0}")]
    Cancelled(i32),
    /// Another program failed.
    #[error("{program} failed: {message}")]
    Program {
        /// Name of the program.
        program: &'static str,
        /// Its error message.
        message: String,
    },
    /// restic could not do its work.
    #[error("restic {command} failed: {message}")]
    Restic {
        /// The command of restic.
        command: &'static str,
        /// What it reported.
        message: String,
    },
    /// restic was ended at its deadline.
    #[error("restic {command} did not end within {limit}")]
    ResticTimeout {
        /// The command of restic.
        command: &'static str,
        /// The configured time, with its unit.
        limit: String,
    },
    /// Another process has locked a repository.
    #[error("{}: {holder}; waited {waited} for it", path.display())]
    RepositoryBusy {
        /// Directory of the repository.
        path: PathBuf,
        /// A sentence about the process.
        holder: String,
        /// Duration of the wait, with its unit.
        waited: String,
    },
    /// The configuration has no copies of the repository.
    #[error("the configuration has no copies of a repository")]
    NoCopies,
    /// A copy of the repository failed.
    #[error("copy {name}")]
    Copy {
        /// Name of the copy.
        name: String,
        /// Cause.
        source: Box<Error>,
    },
    /// There is no copy at its address, or it cannot be reached.
    #[error("cannot open it: {message}")]
    NoCopy {
        /// What restic reported.
        message: String,
    },
    /// A check found damage in a repository.
    #[error("{}: the repository is damaged: {message}", path.display())]
    RepositoryDamaged {
        /// Directory of the repository.
        path: PathBuf,
        /// The first error.
        message: String,
    },
    /// A domain has no restore points.
    #[error("{domain}: no restore points")]
    NoPoints {
        /// Requested domain.
        domain: String,
        /// Domains that have restore points.
        there: Vec<String>,
    },
    /// A domain has restore points, but not the requested one.
    #[error("{domain}: no restore point {wanted}")]
    NoPoint {
        /// Requested domain.
        domain: String,
        /// Requested point.
        wanted: String,
        /// The newest existing points.
        there: Vec<String>,
    },
    /// A restore would replace something.
    #[error("{}: already exists", path.display())]
    Exists {
        /// The existing path.
        path: PathBuf,
    },
    /// There is too little space for a restore.
    #[error("{}: needs {wanted}, but only {free} is free", path.display())]
    Room {
        /// Destination.
        path: PathBuf,
        /// Free space, with its unit.
        free: String,
        /// Required space.
        wanted: String,
    },
    /// Another user could change what this program trusts or writes to.
    #[error("{what} cannot be trusted")]
    Untrusted {
        /// What cannot be trusted.
        what: &'static str,
        /// Cause.
        source: trust::Refused,
    },
    /// A file of ours has an unknown format.
    #[error("{}", path.display())]
    Format {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        source: version::Unreadable,
    },
    /// Signal handlers cannot be installed.
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
    /// A value cannot be written to or read from JSON.
    #[error("JSON")]
    Json(#[source] serde_json::Error),
    /// The request is rejected because it could do harm or is not possible here.
    #[error("{message}")]
    Rejected {
        /// Reason.
        message: String,
        /// What the operator can do.
        hint: Option<String>,
    },
}

/// Hint for a required freeze that failed although the agent answers.
const UNFROZEN: &str = "Find out in the guest which file system its agent could not freeze, or set `quiesce: prefer` \
to back it up without a freeze.";

impl Error {
    /// For `map_err`: an operation on a file failed.
    pub fn file<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
        move |source| Error::File { action, path: path.to_owned(), source }
    }

    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Store(error) => error.hint(),
            error if error.is_target_stall() => Some(Stalled::HINT.into()),
            Error::Hypervisor(error) | Error::Snapshot(error) | Error::PullRefused(error) => error.hint(),
            Error::Quiesce { source } => source.hint().or_else(|| Some(UNFROZEN.into())),
            Error::Refused(refusal) => refusal.hint(),
            Error::Read { source, .. } => source.hint(),
            Error::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some(
                "Free space, or keep fewer restore points. To see what retention would remove: kvmbackup prune \
                --dry-run"
                    .into(),
            ),
            Error::File { path, source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                Some(format!("Check what is at this path: ls -l {}", quoted(&path.to_string_lossy())))
            }
            Error::StillFrozen { .. } => Some("Thaw it: virsh domfsthaw DOMAIN; then: kvmbackup recover".into()),
            Error::Target { .. } => Some(
                "Mount the target, or correct `backupdir`. See whether /etc/fstab lists the target: findmnt --fstab"
                    .into(),
            ),
            Error::Space { .. } => Some("Free space, keep fewer restore points, or lower `min_free`.".into()),
            Error::OverlaySpace { .. } => {
                Some("Free space, or set `overlay_dir` (`scratch_dir` for `method: pull`).".into())
            }
            Error::CommitStalled { .. } => Some(
                "The guest keeps running on its overlay. The next run tries again; to retry earlier, when the \
                     guest writes less: kvmbackup recover"
                    .into(),
            ),
            Error::Chain { hint, .. } => Some(hint.clone()),
            Error::Hook { source, .. } => source.hint(),
            Error::NoStore { .. } => Some("Add it to the configuration, or leave out `--store`.".into()),
            Error::HookFailed { failure, .. } | Error::Unusable { failure, .. } => failure.hint.clone(),
            Error::Changed { .. } => Some(
                "Do not change the domain's disks or state during a backup. To retry: kvmbackup backup --force DOMAIN"
                    .into(),
            ),
            Error::Busy { .. } => Some(
                "Wait for the job (virsh domjobinfo DOMAIN) or abort it (virsh domjobabort DOMAIN), then: kvmbackup \
                 backup --force DOMAIN"
                    .into(),
            ),
            Error::Format { path, source } => source.hint(path),
            Error::Rejected { hint, .. } => hint.clone(),
            Error::Untrusted { source, .. } => source.hint(),
            Error::Restic { command: "key", .. } => {
                Some("To see everything that restic reports: kvmbackup -vv repository key list".into())
            }
            Error::Restic { .. } => Some("To see everything that restic reports: kvmbackup -vv maintain".into()),
            Error::ResticTimeout { .. } => {
                Some("Check whether the target is slow. To allow more time, set `repository.maintain_timeout`.".into())
            }
            Error::RepositoryBusy { path, .. } => Some(format!(
                "Run it again when no backup, restore or check uses the repository: kvmbackup maintain. If that process \
                 no longer exists, remove its lock: restic -r '{}' unlock --remove-all",
                path.display()
            )),
            Error::NoCopies => Some("Set `repository.copies`; see docs/config.md, \"Copies\".".into()),
            Error::Copy { name, source } => copy_hint(name, source),
            Error::NoCopy { .. } => None,
            Error::RepositoryDamaged { .. } => Some(
                "Find out which restore points are affected: kvmbackup verify --all. For what to do then, \
                 see docs/operations.md, \"Damage in a repository\"."
                    .into(),
            ),
            Error::NoPoints { there, .. } if there.is_empty() => Some("No domain has been backed up yet.".into()),
            Error::NoPoints { domain, there } => Some(match nearest(domain, there.iter().map(String::as_str)) {
                _ if there.len() <= FEW => format!("Domains with restore points: {}", there.join(", ")),
                Some(near) => format!("Did you mean `{near}`? To list all: kvmbackup list"),
                None => format!("{} domains have restore points: kvmbackup list", there.len()),
            }),
            Error::NoPoint { there, .. } => Some(format!("Restore points: {}", there.join(", "))),
            Error::Exists { .. } => {
                Some("Restore to another directory, or replace the existing files: --overwrite".into())
            }
            Error::Room { .. } => Some("Free space, or restore to another directory: --to".into()),
            Error::Unreadable { .. } => Some(
                "Correct the path (`virsh edit`), mount its file system, or exclude the disk with `exclude_disks`."
                    .into(),
            ),
            Error::Empty { target } => Some(format!(
                "Check the disk's source: virsh domblklist DOMAIN. Attach a detached loop device again (losetup), or \
                 restore a truncated image. If {target} need not be backed up, add it to `exclude_disks`."
            )),
            Error::Layout { .. } | Error::File { .. } | Error::Cancelled(_) | Error::Program { .. } => None,
            Error::Signals(_) | Error::Json(_) => None,
            Error::Skipped { .. } => None,
        }
    }

    /// The category for metrics and reports. A hook that times out counts as a failed hook.
    pub fn reason(&self) -> FailureReason {
        match self {
            Error::Hypervisor(error) | Error::Snapshot(error) if error.kind() == hypervisor::Kind::Busy => {
                FailureReason::Timeout
            }
            Error::Read { source: nbd::Error::Stalled { .. } | nbd::Error::NotReady { .. }, .. } => {
                FailureReason::Timeout
            }
            Error::CommitStalled { .. } => FailureReason::Timeout,
            error if error.is_target_stall() => FailureReason::Timeout,
            Error::Hook { .. } | Error::HookFailed { .. } | Error::Skipped { .. } => FailureReason::Hook,
            Error::Quiesce { .. } | Error::StillFrozen { .. } => FailureReason::Quiesce,
            Error::Snapshot(_) | Error::PullRefused(_) | Error::OverlaySpace { .. } => FailureReason::Snapshot,
            Error::Store(error) if error.is_damage() => FailureReason::Verify,
            Error::Read { .. }
            | Error::Unreadable { .. }
            | Error::Empty { .. }
            | Error::Layout { .. }
            | Error::Store(store::Error::Archive { .. } | store::Error::Image { .. }) => FailureReason::Copy,
            Error::Chain { .. } | Error::Program { .. } => FailureReason::Commit,
            Error::Store(_) | Error::Target { .. } | Error::Space { .. } | Error::Room { .. } => {
                FailureReason::Repository
            }
            Error::Hypervisor(_) | Error::Refused(_) | Error::File { .. } => FailureReason::Other,
            Error::Changed { .. } | Error::Cancelled(_) | Error::Untrusted { .. } => FailureReason::Other,
            Error::Busy { .. } | Error::ResticTimeout { .. } => FailureReason::Timeout,
            Error::Copy { source, .. } => source.reason(),
            Error::Restic { .. } | Error::RepositoryBusy { .. } | Error::NoCopy { .. } => FailureReason::Repository,
            Error::RepositoryDamaged { .. } => FailureReason::Verify,
            Error::NoPoints { .. } | Error::NoPoint { .. } | Error::Exists { .. } => FailureReason::Other,
            Error::NoCopies | Error::NoStore { .. } => FailureReason::Other,
            Error::Unusable { reason, .. } => *reason,
            Error::Rejected { .. } | Error::Format { .. } | Error::Signals(_) | Error::Json(_) => FailureReason::Other,
        }
    }

    /// Whether the target hangs, or a reader cannot reach it. A call that was started there may still take effect.
    pub fn is_target_stall(&self) -> bool {
        match self {
            Error::Store(error) => error.is_stall(),
            error => Stalled::caused(error),
        }
    }

    /// Whether a restore point is damaged or not what it claims to be.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Store(error) => error.is_damage(),
            Error::Copy { source, .. } => source.is_damage(),
            error => matches!(error, Error::RepositoryDamaged { .. }),
        }
    }

    /// An error for a restore point with suspicious contents.
    pub fn suspect(location: &Path, what: &str) -> Error {
        Error::Store(store::Error::Suspect { path: location.to_owned(), what: what.to_owned() })
    }

    /// The error and all its causes in one line, and the hint.
    pub fn failure(&self) -> Failure {
        Failure { message: chain(self), hint: self.hint() }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        match error {
            store::Error::Stopped { signal } => Error::Cancelled(signal),
            error => Error::Store(error),
        }
    }
}

/// What the operator can do if this copy failed for this reason.
fn copy_hint(name: &str, source: &Error) -> Option<String> {
    match source {
        Error::NoCopy { .. } => {
            Some(format!("If the copy does not exist yet, create it: kvmbackup copy {name} --init"))
        }
        Error::Restic { .. } => Some(format!("To see everything that restic reports: kvmbackup -vv copy {name}")),
        Error::ResticTimeout { .. } => {
            Some("The next attempt continues. To allow more time, set `timeout` of the copy.".to_owned())
        }
        Error::RepositoryBusy { .. } => {
            Some(format!("Run it again when no other process uses the repository or its copy: kvmbackup copy {name}"))
        }
        source => source.hint(),
    }
}

/// An error and its causes, joined by `: `. Some foreign errors already include their cause; it is not repeated.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::archive;

    #[test]
    fn each_error_has_the_expected_failure_reason() {
        let path = || PathBuf::from("/b/a");
        let io = || io::Error::from(io::ErrorKind::Other);
        let agent = || hypervisor::Error::Agent { domain: "a".into(), answer: "no".into() };
        let read = |source| Error::Read { target: "vda".into(), source };
        let archive = |source| Error::Store(store::Error::Archive { path: path(), source });
        let stalled = nbd::Error::Stalled { socket: path(), timeout: Duration::ZERO };
        let hook = Failure { message: "x".into(), hint: None };
        for (error, reason) in [
            (Error::Hypervisor(agent()), FailureReason::Other),
            (Error::Snapshot(agent()), FailureReason::Snapshot),
            (Error::Quiesce { source: agent() }, FailureReason::Quiesce),
            (Error::StillFrozen { seconds: 1 }, FailureReason::Quiesce),
            (read(stalled), FailureReason::Timeout),
            (read(nbd::Error::Broken), FailureReason::Copy),
            (Error::CommitStalled { target: "vda".into(), minutes: 1 }, FailureReason::Timeout),
            (archive(archive::Error::Write { source: io() }), FailureReason::Copy),
            (archive(archive::Error::Foreign { path: path() }), FailureReason::Verify),
            (Error::Target { path: path() }, FailureReason::Repository),
            (Error::Store(store::Error::NotOurs { path: path() }), FailureReason::Repository),
            (Error::HookFailed { failure: hook, run: true }, FailureReason::Hook),
            (Error::Cancelled(15), FailureReason::Other),
        ] {
            assert_eq!(error.reason(), reason, "{error:?}");
        }
    }
}
