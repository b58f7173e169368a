//! Owns: when hooks run, and the result of one. Must not: know how they are run.

use serde::{Deserialize, Serialize};

use super::words::words;

/// A moment at which hooks run commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before a run.
    PreRun,
    /// Before the backup of a domain.
    PreDomain,
    /// Before the freeze.
    PreSnapshot,
    /// After the thaw; the disks are read afterwards.
    PostSnapshot,
    /// Before overlays are committed back.
    PreCommit,
    /// After overlays are committed back.
    PostCommit,
    /// After the backup of a domain.
    PostDomain,
    /// After the backup of a domain, or the whole run, has failed.
    OnFailure,
    /// After a run.
    PostRun,
}

words!(Phase {
    PreRun = "pre-run",
    PreDomain = "pre-domain",
    PreSnapshot = "pre-snapshot",
    PostSnapshot = "post-snapshot",
    PreCommit = "pre-commit",
    PostCommit = "post-commit",
    PostDomain = "post-domain",
    OnFailure = "on-failure",
    PostRun = "post-run",
});

/// The time between a `pre-` phase and its `post-` phase, over which sessions are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The run.
    Run,
    /// One domain.
    Domain,
    /// Freeze, snapshot and thaw.
    Snapshot,
    /// Committing overlays back.
    Commit,
}

words!(Span { Run = "run", Domain = "domain", Snapshot = "snapshot", Commit = "commit" });

impl Phase {
    /// Whether a failure in it can prevent what follows.
    pub fn is_pre(self) -> bool {
        matches!(self, Phase::PreRun | Phase::PreDomain | Phase::PreSnapshot | Phase::PreCommit)
    }
}

impl Span {
    /// The phases before and after it.
    pub fn phases(self) -> (Phase, Phase) {
        match self {
            Span::Run => (Phase::PreRun, Phase::PostRun),
            Span::Domain => (Phase::PreDomain, Phase::PostDomain),
            Span::Snapshot => (Phase::PreSnapshot, Phase::PostSnapshot),
            Span::Commit => (Phase::PreCommit, Phase::PostCommit),
        }
    }
}

/// How one hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookStatus {
    /// It succeeded; a session held to the end.
    Ok,
    /// It skips the domain this time: exit status 75.
    Skip,
    /// It failed, or could not be started.
    Failed,
    /// It did not end in time, or a session was not ready in time.
    Timeout,
    /// A session was ready, but did not hold to the end.
    Lost,
}

words!(HookStatus { Ok = "ok", Skip = "skip", Failed = "failed", Timeout = "timeout", Lost = "lost" });

impl HookStatus {
    /// Whether the hook failed in any way.
    pub fn is_failure(self) -> bool {
        !matches!(self, HookStatus::Ok | HookStatus::Skip)
    }

    /// Its word in reports, in capitals if an operator has to act.
    pub fn label(self) -> String {
        if self.is_failure() { self.name().to_uppercase() } else { self.name().to_owned() }
    }
}

/// The result of one hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookResult {
    /// Its name.
    pub name: String,
    /// The phase of a command, the span of a session.
    pub phase: String,
    /// How it ended.
    pub status: HookStatus,
    /// Why, if it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// How long a session held, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held_ms: Option<u64>,
    /// The end of its output, at most 64 KiB, if it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<String>,
}
