//! Owns: the list of every step at which a backup, its recovery or its watching acquires, releases, writes, renames or deletes
//! something, and the word that one of them is reached. Must not: do any of it, or know why.
//!
//! Each step is said right *before* its side effect; where it matters what happens between the effect and our knowing of it,
//! the time after it is a step of its own. So to be killed "at a step" is to be killed with everything before it done, and
//! nothing of it. What makes that safe is written at each. Three rules hold for most:
//!
//! - *noted*: the journal names what is made before it is made, and loses it only after it is gone. Who recovers goes by
//!   what is there, so that a name without a thing costs nothing.
//! - *whole*: a file of ours is written aside and renamed, so that its name always has the old contents or the new.
//! - *freed*: the kernel takes it back with the process.

use std::io;

#[cfg(debug_assertions)]
mod fault;

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A step.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Step { $($(#[doc = $doc])+ $name,)+ }

        impl Step {
            /// All of them, in the order of this list.
            pub const ALL: &[Step] = &[$(Step::$name,)+];

            /// What it is called in a trace.
            pub fn name(self) -> &'static str {
                match self { $(Step::$name => stringify!($name),)+ }
            }
        }
    };
}

steps! {
    // ---- the state folder ----
    /// The state folder is made. Nothing is held yet.
    StateFolder,
    /// The lock of the run is taken. *Freed*.
    RunLock,
    /// The folder of the journal is made. Nothing is held yet.
    JournalFolder,
    /// Temporary files of a killed writer of the journal are removed. The lock is held, so nobody writes one now.
    JournalSweep,
    /// What a killed run told its hooks is removed. The lock is held, so it is of no run that lives.
    HooksSweep,
    /// The lock over the ledger and the survey is waited for. *Freed*.
    LedgerLock,
    /// A ledger that cannot be understood is set aside. A name without a file is an empty ledger.
    LedgerSetAside,
    /// The ledger is written. *Whole*; a run that it does not see end counts as aborted when the next begins.
    LedgerWrite,
    /// The survey is written. *Whole*; the next one is taken anew.
    SurveyWrite,
    /// The lock over the textfile is waited for. *Freed*.
    TextfileLock,
    /// The metrics are written aside. *Whole*; the next writer removes the file of one that is gone.
    TextfileWrite,
    /// The textfile is replaced by it. *Whole*.
    TextfileReplace,
    /// The report of the run is kept. *Whole*; all that it tells of is done.
    ReportWrite,
    /// A file of ours gets its new contents, which lie beside it. *Whole*; the next writer removes what lies there.
    FileReplace,

    // ---- the journal ----
    /// The entry of a domain is begun. Nothing is held yet.
    JournalBegin,
    /// The entry is changed: something will be made, or is gone. *Noted*; undoing what is undone does no harm.
    JournalUpdate,
    /// The entry is removed. All that it named is gone.
    JournalEnd,

    // ---- the target ----
    /// The folder of the target is made. An empty one is no harm.
    TargetFolder,
    /// The folder of a domain is made, or the file with its full name in it. An empty one is no domain's.
    DomainFolder,
    /// The archive is made, under its temporary name. *Noted*.
    PartialCreate,
    /// A disk is read into the archive. The guest is on its overlay; archive and overlay are *noted*.
    DiskRead,
    /// The archive's checksums and seek table are written. It has its temporary name, which is *noted*; the guest is back on
    /// its base.
    ArchiveEnd,
    /// The archive is synced. As before.
    ArchiveSync,
    /// The archive gets its name. It is whole on the disk, so from the rename on it is a restore point.
    ArchiveRename,
    /// The archive's new name is synced. After a power cut it has the one name or the other; *noted* is the temporary one.
    ArchiveNamed,
    /// An unfinished archive is removed. *Noted*.
    PartialRemove,
    /// A restore point that retention drops is removed. A newer one is published, and the next rotation finds what this one did not
    /// reach.
    PointRemove,

    // ---- the guest ----
    /// The folder of our sockets is made. *Noted*.
    SocketsCreate,
    /// The folder of our sockets is removed. *Noted*.
    SocketsRemove,
    /// The empty file of an overlay is made. *Noted*.
    OverlayCreate,
    /// A scratch file is made. *Noted*.
    ScratchCreate,
    /// The guest's file systems are frozen. The journal says "may be frozen".
    Freeze,
    /// They are, and we do not know yet. As before.
    Frozen,
    /// The overlays are made and the guest is moved to them. *Noted*, and so is the freeze.
    Snapshot,
    /// It is done, and we do not know yet. As before.
    SnapshotTaken,
    /// The guest is thawed. The journal says "may be frozen".
    Thaw,
    /// It was asked to thaw, and has not said that it is. The journal says "may be frozen".
    Thawed,
    /// A `qemu-nbd` is started. *Freed*: it dies with this process; its socket is *noted* with its folder.
    ServerStart,
    /// It serves. As before.
    ServerStarted,
    /// It is ended, and its socket removed. As before.
    ServerEnd,
    /// The commit of an overlay is begun. The overlay is *noted*; a commit that runs is adopted.
    CommitBegin,
    /// It runs, and we do not know yet. As before.
    CommitBegun,
    /// The commit of an overlay that holds an operator's snapshot is ended, and the guest stays on the overlay. As before.
    CommitCancel,
    /// The guest is moved to the base. The journal says that the move is ours.
    Pivot,
    /// It is there, and we do not know yet. As before: on the base, the move was ours.
    Pivoted,
    /// The overlay of a guest that is off is written into its base by `qemu-img`. The overlay keeps its contents.
    OverlayCommit,
    /// The definition is put back on the base. The journal says that the base has what the overlay had.
    DefinitionWrite,
    /// It is, and we do not know yet. As before.
    DefinitionWritten,
    /// The overlay is removed. Neither the guest nor its definition is on it; *noted* until it is gone.
    OverlayRemove,
    /// The backup job is begun. Its socket and its scratch files are *noted*, and so is the freeze.
    PullBegin,
    /// It runs, and we do not know yet. As before.
    PullBegun,
    /// The backup job is ended. *Noted*; another's is told by its socket.
    PullEnd,
    /// libvirt was asked to, and may still be at it. As before.
    PullEnded,
    /// A scratch file, or the socket of the job, is removed. The job is gone; *noted* until they are.
    ScratchRemove,
    /// A guest that an I/O error has paused is let go on. It asks for that as long as it is paused for that reason.
    Resume,

    // ---- hooks ----
    /// What a hook is told is written. Swept by the next run.
    HookFiles,
    /// A hook is started, on this host or in the guest. One on this host ends with its input or is the operator's to end; one in
    /// the guest has its own deadline there.
    HookStart,
    /// A session is let go. It ends with its input, or at its deadline.
    HookRelease,
    /// What hooks were told is removed. Swept by the next run.
    HookFilesRemove,

    // ---- mail ----
    /// A mail is sent. What is not known to have arrived is sent again at worst.
    MailSend,
    /// A mail that could not be sent is put into the spool. *Whole*; the next writer removes the file of one that is gone.
    MailSpool,
    /// A mail that was sent is removed from the spool. It is sent twice at worst.
    MailSpoolRemove,

    // ---- checks ----
    /// The lock over the record of checks is waited for. *Freed*.
    VerifiedLock,
    /// What the check of a restore point came to is written. *Whole*; at worst it is checked once more.
    VerifiedWrite,
}

/// Says that a step is reached, before it is taken. In a debug build, `KVMBACKUP_FAULT` may make it fail, or worse.
///
/// # Errors
/// None in a release build; an injected one in a debug build.
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
    fn every_step_has_a_name_of_its_own_and_lets_the_program_go_on() {
        let names: BTreeSet<_> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
        Step::ALL.iter().for_each(|step| reached(*step).unwrap());
    }
}
