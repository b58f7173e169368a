//! The steps that each scenario reaches; together they are all steps.

use kvmbackup::sys::step::Step;

/// Steps of every backup, including one of a guest that is off.
pub const DIRECT: &[Step] = &[
    Step::StateFolder,
    Step::RunLock,
    Step::JournalFolder,
    Step::HooksSweep,
    Step::LedgerLock,
    Step::LedgerWrite,
    Step::SurveyWrite,
    Step::TextfileLock,
    Step::TextfileWrite,
    Step::TextfileReplace,
    Step::ReportWrite,
    Step::FileReplace,
    Step::JournalBegin,
    Step::JournalUpdate,
    Step::JournalEnd,
    Step::TargetFolder,
    Step::DomainFolder,
    Step::PartialCreate,
    Step::DiskRead,
    Step::ArchiveEnd,
    Step::ArchiveSync,
    Step::ArchiveRename,
    Step::ArchiveNamed,
    Step::PointRemove,
    Step::SocketsCreate,
    Step::SocketsRemove,
    Step::ServerStart,
    Step::ServerStarted,
    Step::ServerEnd,
    Step::HookFiles,
    Step::HookStart,
    Step::HookFilesRemove,
];
/// Additional steps of a backup whose mail, and a waiting one, can be sent.
pub const MAIL: &[Step] = &[Step::MailSend, Step::MailSpoolRemove];
/// Additional steps of a backup whose mail cannot be sent.
pub const SPOOL: &[Step] = &[Step::MailSend, Step::MailSpool];
/// Additional steps of a backup after the ledger was damaged, a writer of the journal killed, and another killed run
/// left its archive.
pub const LEFT: &[Step] = &[Step::LedgerSetAside, Step::JournalSweep, Step::PartialRemove];
/// Steps of `verify`.
pub const VERIFY: &[Step] = &[Step::VerifiedLock, Step::VerifiedWrite, Step::FileReplace];
/// Steps of a backup with a snapshot in addition to [`DIRECT`].
pub const SNAPSHOT: &[Step] = &[
    Step::OverlayCreate,
    Step::Snapshot,
    Step::SnapshotTaken,
    Step::CommitBegin,
    Step::CommitBegun,
    Step::Pivot,
    Step::Pivoted,
    Step::OverlayRemove,
    Step::HookRelease,
];
/// Additional steps for a guest with an agent.
pub const FREEZE: &[Step] = &[Step::Freeze, Step::Frozen, Step::Thaw, Step::Thawed];
/// Steps of a backup with a backup job instead.
pub const PULL: &[Step] =
    &[Step::ScratchCreate, Step::PullBegin, Step::PullBegun, Step::PullEnd, Step::PullEnded, Step::ScratchRemove];
/// Additional steps of a backup into a repository by a backup job.
pub const TRACKED: &[Step] = &[Step::CheckpointDelete];
/// Steps that protect an archive.
pub const PROTECT: &[Step] = &[Step::PointProtect];
/// Steps of recovery if the guest was turned off on its overlay.
pub const OFF: &[Step] = &[Step::OverlayCommit, Step::DefinitionWrite, Step::DefinitionWritten, Step::OverlayRemove];
/// Steps that keep a guest on an overlay in which an operator took a snapshot right before its commit.
pub const CANCEL: &[Step] = &[Step::CommitCancel];
/// Steps that end a backup of a guest that an I/O error has paused.
pub const RESUME: &[Step] = &[Step::Resume];

/// Steps of the whole run: if one of them fails, no domain is started.
pub const OF_RUN: &[Step] = &[Step::RunLock, Step::JournalFolder, Step::TargetFolder];
/// Steps whose failure has no effect, so that no report mentions it: the work is done regardless, again, or by the next
/// run.
pub const HARMLESS: &[Step] =
    &[Step::HooksSweep, Step::HookRelease, Step::HookFilesRemove, Step::ServerEnd, Step::Thaw, Step::Thawed];
/// Signals that end a run cleanly, and their numbers.
pub const SIGNALS: [(&str, i32); 3] = [("TERM", 15), ("INT", 2), ("HUP", 1)];

/// All of these.
pub const SCENARIOS: &[&[Step]] =
    &[DIRECT, MAIL, SPOOL, LEFT, VERIFY, SNAPSHOT, FREEZE, PULL, TRACKED, PROTECT, OFF, CANCEL, RESUME];
