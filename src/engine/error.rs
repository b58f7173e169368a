//! Owns: how a step of the engine fails, and its message and hint. Must not: print.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::nearest;
use crate::model::command::quoted;
use crate::model::{Failure, FailureReason, version};
use crate::sys::patience::Stalled;
use crate::sys::trust;
use crate::{hooks, hypervisor, nbd, plan, qcow2, store};

/// The largest number of names that a hint lists. With more, it names the nearest.
const FEW: usize = 10;

/// A step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libvirt or QEMU failed.
    #[error(transparent)]
    Hypervisor(#[from] hypervisor::Error),
    /// The snapshot or the backup job could not be had.
    #[error(transparent)]
    Snapshot(hypervisor::Error),
    /// The domain cannot be captured as the configuration asks.
    #[error(transparent)]
    Refused(#[from] plan::Refusal),
    /// A disk cannot be read.
    #[error("disk {target}: read failed")]
    Read {
        /// The disk.
        target: String,
        /// Why.
        source: nbd::Error,
    },
    /// An image cannot be opened: it was moved, its file system is not mounted, or permission is denied.
    #[error("disk {target}: cannot read {}", path.display())]
    Unreadable {
        /// The disk.
        target: String,
        /// Its image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A disk has no bytes at all: its image was truncated, or its device is detached.
    #[error("disk {target}: its image is empty (0 bytes)")]
    Empty {
        /// The disk.
        target: String,
    },
    /// A disk's layout cannot be made.
    #[error("disk {target}: cannot write it as qcow2")]
    Layout {
        /// The disk.
        target: String,
        /// Why.
        source: qcow2::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(store::Error),
    /// A file of ours failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was to be done with it.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The freeze that was required could not be had.
    #[error("cannot freeze the guest's file systems, and `quiesce: require` is set")]
    Quiesce {
        /// Why.
        source: hypervisor::Error,
    },
    /// The guest does not thaw.
    #[error("the guest's file systems are still frozen after {seconds} s of thaw attempts")]
    StillFrozen {
        /// How long it was tried.
        seconds: u64,
    },
    /// The target is not mounted.
    #[error("{}: not on a mounted file system, and `require_mount` is set", path.display())]
    Target {
        /// The target.
        path: PathBuf,
    },
    /// The target is nearly full.
    #[error("{}: only {free} free; `min_free` requires {wanted}", path.display())]
    Space {
        /// The target.
        path: PathBuf,
        /// What is free.
        free: String,
        /// What must stay free.
        wanted: String,
    },
    /// The file system under an overlay or a scratch file is nearly full; the guest would be paused.
    #[error("{}: only {free} free on the file system of the guest's overlay", path.display())]
    OverlaySpace {
        /// The folder.
        path: PathBuf,
        /// What is free.
        free: String,
    },
    /// A block job comes no nearer to its end.
    #[error("disk {target}: the block commit made no progress for {minutes} minutes")]
    CommitStalled {
        /// The disk.
        target: String,
        /// How long.
        minutes: u64,
    },
    /// A disk is not where it has to be for its overlay to be committed.
    #[error("disk {target}: {message}")]
    Chain {
        /// The disk.
        target: String,
        /// What was found.
        message: String,
        /// What the operator can do.
        hint: String,
    },
    /// A hook could not be run.
    #[error("cannot run hook {name}")]
    Hook {
        /// Its name.
        name: String,
        /// Why.
        source: hooks::Error,
    },
    /// A hook failed, and the configuration says that this counts.
    #[error("{}", failure.message)]
    HookFailed {
        /// As people read it.
        failure: Failure,
        /// No domain shall be begun any more.
        run: bool,
    },
    /// A hook asks to leave the domain out this time.
    #[error("skipped: hook {hook} asked to skip this run")]
    Skipped {
        /// Its name.
        hook: String,
    },
    /// The domain is not any more what its description said.
    #[error("{what} while it was being backed up")]
    Changed {
        /// What happened to it.
        what: String,
    },
    /// libvirt does another job on the domain.
    #[error("another libvirt job is running on the domain: {job}")]
    Busy {
        /// Which.
        job: String,
    },
    /// A signal asks for the end.
    #[error("stopped by signal {0}")]
    Cancelled(i32),
    /// Another program of the system failed.
    #[error("{program} failed: {message}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// A domain has no restore points at all.
    #[error("{domain}: no restore points")]
    NoPoints {
        /// The domain.
        domain: String,
        /// Those that have some.
        there: Vec<String>,
    },
    /// A domain has restore points, but not the one that was asked for.
    #[error("{domain}: no restore point {wanted}")]
    NoPoint {
        /// The domain.
        domain: String,
        /// What was asked for.
        wanted: String,
        /// The newest that there are.
        there: Vec<String>,
    },
    /// Something is there that a restore would replace.
    #[error("{}: already exists", path.display())]
    Exists {
        /// What is there.
        path: PathBuf,
    },
    /// What is to be written does not fit.
    #[error("{}: needs {wanted}, but only {free} is free", path.display())]
    Room {
        /// The folder.
        path: PathBuf,
        /// What is free.
        free: String,
        /// What would be written.
        wanted: String,
    },
    /// Another user could change what this program obeys or writes to.
    #[error("{what} cannot be trusted")]
    Untrusted {
        /// What it is.
        what: &'static str,
        /// What is wrong.
        source: trust::Refused,
    },
    /// A file of ours that this program does not understand.
    #[error("{}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: version::Unreadable,
    },
    /// Signals cannot be heard.
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
    /// A value of ours cannot be written as JSON, or be read again.
    #[error("JSON")]
    Json(#[source] serde_json::Error),
    /// What was asked for is rejected: it could do harm, or cannot be done here.
    #[error("{message}")]
    Rejected {
        /// Why.
        message: String,
        /// What the operator can do.
        hint: Option<String>,
    },
}

/// Where a freeze that is required was refused, and not for want of an agent.
const UNFROZEN: &str = "Find out in the guest which file system its agent could not freeze, or set `quiesce: prefer` \
to back it up without a freeze.";

impl Error {
    /// For `map_err`: a file of ours failed.
    pub fn file<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
        move |source| Error::File { action, path: path.to_owned(), source }
    }

    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            error if error.is_target_stall() => Some(Stalled::HINT.into()),
            Error::Hypervisor(error) | Error::Snapshot(error) => error.hint(),
            Error::Quiesce { source } => source.hint().or_else(|| Some(UNFROZEN.into())),
            Error::Refused(refusal) => refusal.hint(),
            Error::Read { source, .. } => source.hint(),
            Error::Store(error) => error.hint(),
            Error::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some(
                "Free space, or keep fewer restore points. To see what retention would remove: kvmbackup prune \
                --dry-run"
                    .into(),
            ),
            Error::File { path, source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                Some(format!("Check what is at this path: ls -l {}", quoted(&path.to_string_lossy())))
            }
            Error::StillFrozen { .. } => Some("Thaw it: virsh domfsthaw DOMAIN; then: kvmbackup recover".into()),
            Error::Target { .. } => {
                Some("Mount the target, and find out why it was not mounted: findmnt --verify".into())
            }
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
            Error::HookFailed { failure, .. } => failure.hint.clone(),
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

    /// What failed, for those who count. A hook that took too long is the hook's failure.
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
            Error::Snapshot(_) | Error::OverlaySpace { .. } => FailureReason::Snapshot,
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
            Error::Busy { .. } => FailureReason::Timeout,
            Error::NoPoints { .. } | Error::NoPoint { .. } | Error::Exists { .. } => FailureReason::Other,
            Error::Rejected { .. } | Error::Format { .. } | Error::Signals(_) | Error::Json(_) => FailureReason::Other,
        }
    }

    /// Whether the target hangs, or a reader cannot reach it. A call that was begun there may still take effect.
    pub fn is_target_stall(&self) -> bool {
        match self {
            Error::Store(error) => error.is_stall(),
            error => Stalled::caused(error),
        }
    }

    /// Whether a restore point is damaged, or not what it says it is.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Store(error) if error.is_damage())
    }

    /// A restore point holds what it should not.
    pub fn suspect(location: &Path, what: &str) -> Error {
        Error::Store(store::Error::Suspect { path: location.to_owned(), what: what.to_owned() })
    }

    /// The whole chain of causes as one line, with the hint.
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

/// An error and its causes, joined by `: `. Of others' errors some say their cause themselves: it is not said again.
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
    fn the_reason_is_what_the_operator_looks_at() {
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
