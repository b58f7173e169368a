//! Which steps which scenario reaches; together they are all.

use kvmbackup::sys::step::Step;

/// What every backup reaches, one of a guest that is off, too.
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
/// What a backup reaches besides when its mail, and one that waits, can be sent.
pub const MAIL: &[Step] = &[Step::MailSend, Step::MailSpoolRemove];
/// What a backup reaches besides when its mail cannot be sent.
pub const SPOOL: &[Step] = &[Step::MailSend, Step::MailSpool];
/// What a backup reaches besides after the ledger was damaged, a writer of the journal killed, and another killed run left its archive.
pub const LEFT: &[Step] = &[Step::LedgerSetAside, Step::JournalSweep, Step::PartialRemove];
/// What `verify` reaches.
pub const VERIFY: &[Step] = &[Step::VerifiedLock, Step::VerifiedWrite, Step::FileReplace];
/// What a backup by a snapshot reaches besides [`DIRECT`].
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
/// What a guest with an agent adds to that.
pub const FREEZE: &[Step] = &[Step::Freeze, Step::Frozen, Step::Thaw, Step::Thawed];
/// What a backup by a backup job reaches instead.
pub const PULL: &[Step] =
    &[Step::ScratchCreate, Step::PullBegin, Step::PullBegun, Step::PullEnd, Step::PullEnded, Step::ScratchRemove];
/// What recovery reaches when the guest was turned off on its overlay.
pub const OFF: &[Step] = &[Step::OverlayCommit, Step::DefinitionWrite, Step::DefinitionWritten, Step::OverlayRemove];
/// What keeps a guest on an overlay that got a snapshot of an operator's right before its commit.
pub const CANCEL: &[Step] = &[Step::CommitCancel];
/// What ends a backup of a guest that an I/O error has paused.
pub const RESUME: &[Step] = &[Step::Resume];

/// Steps of the whole run: when one of them fails, no domain is begun.
pub const OF_RUN: &[Step] = &[Step::RunLock, Step::JournalFolder, Step::TargetFolder];
/// Steps whose failure costs nothing, so that no report mentions it: the work is done regardless, again, or by the next run.
pub const HARMLESS: &[Step] =
    &[Step::HooksSweep, Step::HookRelease, Step::HookFilesRemove, Step::ServerEnd, Step::Thaw, Step::Thawed];
/// Signals that end a run in order, and their numbers.
pub const SIGNALS: [(&str, i32); 3] = [("TERM", 15), ("INT", 2), ("HUP", 1)];

/// All of these.
pub const SCENARIOS: &[&[Step]] = &[DIRECT, MAIL, SPOOL, LEFT, VERIFY, SNAPSHOT, FREEZE, PULL, OFF, CANCEL, RESUME];
