//! Lists every step at which a backup, its recovery or its monitoring acquires, releases, writes, renames or deletes something,
//! and reports when a step is reached. Must not execute steps or know their purpose.
//!
//! A step is reported directly *before* its side effect. If the time between the effect and our knowledge of it matters, that
//! time is a separate step. A process that is killed "at a step" has therefore done everything before the step and nothing of
//! it. Each step documents why that is safe. Three rules apply to most:
//!
//! - *journaled*: the journal contains a resource before it is created and until it is gone. Recovery checks what exists, so
//!   an entry without a resource is harmless.
//! - *atomic*: the contents are written to a temporary file that is renamed, so the file has the old contents or the new.
//! - *freed*: the kernel releases it when the process ends.

use std::io;

#[cfg(debug_assertions)]
mod fault;

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A side effect of a backup, its recovery or its monitoring.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Step { $($(#[doc = $doc])+ $name,)+ }

        impl Step {
            /// All steps in the order of the list.
            pub const ALL: &[Step] = &[$(Step::$name,)+];

            /// The name in logs and in `KVMBACKUP_FAULT`.
            pub fn name(self) -> &'static str {
                match self { $(Step::$name => stringify!($name),)+ }
            }
        }
    };
}

steps! {
    // ---- the state directory ----
    /// The state directory is created. Nothing is acquired yet.
    StateFolder,
    /// The lock of the run is taken. *Freed*.
    RunLock,
    /// The directory of the journal is created. Nothing is acquired yet.
    JournalFolder,
    /// Temporary files of a killed writer of the journal are removed. The lock is taken, so no other process writes one.
    JournalSweep,
    /// Files that a killed run passed to its hooks are removed. The lock is taken, so no other run uses them.
    HooksSweep,
    /// The lock of the ledger and the survey is taken, after a wait. *Freed*.
    LedgerLock,
    /// An unreadable ledger is renamed. A missing ledger counts as empty.
    LedgerSetAside,
    /// The ledger is written. *Atomic*; a run without a recorded end counts as aborted when the next run begins.
    LedgerWrite,
    /// The survey is written. *Atomic*; the next survey does not depend on it.
    SurveyWrite,
    /// The lock of the textfile is taken, after a wait. *Freed*.
    TextfileLock,
    /// The metrics are written to a temporary file. *Atomic*; the next writer removes the file of a killed one.
    TextfileWrite,
    /// The temporary file replaces the textfile. *Atomic*.
    TextfileReplace,
    /// The report of the run is written. *Atomic*; everything that it reports is done.
    ReportWrite,
    /// A temporary file replaces a file. *Atomic*; the next writer removes the temporary file.
    FileReplace,

    // ---- the journal ----
    /// The entry of a domain is created. Nothing is acquired yet.
    JournalBegin,
    /// The entry is changed because something will be created, or is gone. *Journaled*; undoing something twice is harmless.
    JournalUpdate,
    /// The entry is removed. Everything in it is gone.
    JournalEnd,

    // ---- the target ----
    /// The directory of the target is created. An empty one is harmless.
    TargetFolder,
    /// The directory of a domain, or the file in it with its full name, is created. An empty directory belongs to no domain.
    DomainFolder,
    /// The archive is created with its temporary name. *Journaled*.
    PartialCreate,
    /// A disk is read into the archive. The guest is on its overlay. Archive and overlay are *journaled*.
    DiskRead,
    /// The checksums and the seek table of the archive are written. Its temporary name is *journaled*, and the guest is on its
    /// base.
    ArchiveEnd,
    /// The archive is synced. As before.
    ArchiveSync,
    /// The archive is renamed to its final name. It is complete on the disk, so the rename makes it a restore point.
    ArchiveRename,
    /// The rename is synced. After a power cut the archive has one of the two names; the temporary one is *journaled*.
    ArchiveNamed,
    /// An incomplete archive is removed. *Journaled*.
    PartialRemove,
    /// Rotation removes a restore point. A newer one exists, and the next rotation removes the remaining points.
    PointRemove,
    /// The mark of a protected archive is created or removed. *Atomic*: the mark is an empty file.
    PointProtect,

    // ---- the guest ----
    /// The directory for sockets is created. *Journaled*.
    SocketsCreate,
    /// The directory for sockets is removed. *Journaled*.
    SocketsRemove,
    /// The empty file of an overlay is created. *Journaled*.
    OverlayCreate,
    /// A scratch file is created. *Journaled*.
    ScratchCreate,
    /// The guest's file systems are frozen. The journal contains "may be frozen".
    Freeze,
    /// They are frozen, but we do not know it yet. As before.
    Frozen,
    /// A snapshot moves the guest to the overlays. They and the freeze are *journaled*.
    Snapshot,
    /// The snapshot exists, but we do not know it yet. As before.
    SnapshotTaken,
    /// The guest is thawed. The journal contains "may be frozen".
    Thaw,
    /// The agent received the thaw, but we do not know the result yet. As before.
    Thawed,
    /// A `qemu-nbd` is started. *Freed*, because it ends with this process. The directory of its socket is *journaled*.
    ServerStart,
    /// It serves the image. As before.
    ServerStarted,
    /// It is ended, and its socket removed. As before.
    ServerEnd,
    /// The commit of an overlay is started. The overlay is *journaled*, and recovery continues a running commit.
    CommitBegin,
    /// The commit runs, but we do not know it yet. As before.
    CommitBegun,
    /// The commit of an overlay with an operator's snapshot is aborted, and the guest stays on the overlay. As before.
    CommitCancel,
    /// The guest is moved to the base. The journal contains that we do this.
    Pivot,
    /// The guest is on the base, but we do not know it yet. The journal shows that we moved it.
    Pivoted,
    /// `qemu-img` writes the overlay of a guest that is off into its base. The overlay keeps its contents.
    OverlayCommit,
    /// The definition is changed back to the base. The journal contains that the base has all data of the overlay.
    DefinitionWrite,
    /// The definition is changed, but we do not know it yet. As before.
    DefinitionWritten,
    /// The overlay is removed. Neither the guest nor its definition uses it; it is *journaled* until it is gone.
    OverlayRemove,
    /// The backup job is started. Its socket, its scratch files and the freeze are *journaled*.
    PullBegin,
    /// The job runs, but we do not know it yet. As before.
    PullBegun,
    /// The backup job is ended. *Journaled*; a job of another program has a different socket.
    PullEnd,
    /// libvirt has received the request but may not have ended the job yet. As before.
    PullEnded,
    /// A checkpoint of ours is deleted. *Journaled* until its point is committed; later, the next backup of the guest deletes it.
    CheckpointDelete,
    /// A scratch file, or the socket of the job, is removed. The job has ended; both are *journaled* until they are gone.
    ScratchRemove,
    /// A guest that was paused by an I/O error is resumed. Repeated as long as the guest is paused for that reason.
    Resume,

    // ---- hooks ----
    /// The files for a hook are written. The next run removes them.
    HookFiles,
    /// A hook is started on this host or in the guest. On this host it ends when its input is closed, or the operator must end
    /// it; in the guest it has its own deadline.
    HookStart,
    /// A session is released. It ends when its input is closed, or at its deadline.
    HookRelease,
    /// The files for hooks are removed. The next run removes the rest.
    HookFilesRemove,

    // ---- mail ----
    /// An email is sent. If its delivery is not recorded, it is sent again.
    MailSend,
    /// An email that could not be sent is written to the spool. *Atomic*; the next writer removes the file of a killed one.
    MailSpool,
    /// A sent email is removed from the spool. If that fails, it is sent twice.
    MailSpoolRemove,

    // ---- checks ----
    /// The lock of the record of checks is taken, after a wait. *Freed*.
    VerifiedLock,
    /// The result of a check is recorded. *Atomic*; if it is lost, the restore point is checked again.
    VerifiedWrite,
}

/// Reports a step before it is executed. In a debug build, `KVMBACKUP_FAULT` may inject a fault here.
///
/// # Errors
/// Only an injected one, in a debug build.
pub fn reached(step: Step) -> io::Result<()> {
    tracing::debug!(step = step.name());
    #[cfg(debug_assertions)]
    fault::act(step)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_step_has_a_unique_name_and_succeeds() {
        let names: BTreeSet<_> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
        Step::ALL.iter().for_each(|step| reached(*step).unwrap());
    }
}
