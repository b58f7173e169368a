//! Owns: when hooks run, and what became of one. Must not: know how they are run.

use serde::{Deserialize, Serialize};

/// A moment at which commands are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Before anything of a run.
    PreRun,
    /// Before anything of a domain.
    PreDomain,
    /// Before the freeze.
    PreSnapshot,
    /// After the thaw; the disks are read afterwards.
    PostSnapshot,
    /// Before overlays are committed back.
    PreCommit,
    /// After overlays are committed back.
    PostCommit,
    /// After all of a domain.
    PostDomain,
    /// After a domain has failed, or the run as a whole.
    OnFailure,
    /// After all of a run.
    PostRun,
}

/// What lies between a `pre-` phase and its `post-` phase. Sessions are held over one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

impl Phase {
    /// All, in the order in which they come.
    pub const ALL: [Phase; 9] = [
        Phase::PreRun,
        Phase::PreDomain,
        Phase::PreSnapshot,
        Phase::PostSnapshot,
        Phase::PreCommit,
        Phase::PostCommit,
        Phase::PostDomain,
        Phase::OnFailure,
        Phase::PostRun,
    ];

    /// Its name, everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Phase::PreRun => "pre-run",
            Phase::PreDomain => "pre-domain",
            Phase::PreSnapshot => "pre-snapshot",
            Phase::PostSnapshot => "post-snapshot",
            Phase::PreCommit => "pre-commit",
            Phase::PostCommit => "post-commit",
            Phase::PostDomain => "post-domain",
            Phase::OnFailure => "on-failure",
            Phase::PostRun => "post-run",
        }
    }

    /// Whether it comes before something, and may keep it from being done.
    pub fn is_pre(self) -> bool {
        matches!(self, Phase::PreRun | Phase::PreDomain | Phase::PreSnapshot | Phase::PreCommit)
    }
}

impl Span {
    /// All, outer ones first.
    pub const ALL: [Span; 4] = [Span::Run, Span::Domain, Span::Snapshot, Span::Commit];

    /// Its name, everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Span::Run => "run",
            Span::Domain => "domain",
            Span::Snapshot => "snapshot",
            Span::Commit => "commit",
        }
    }

    /// The phases on its two sides.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookStatus {
    /// It did its work; a session held to the end.
    Ok,
    /// It asked to leave the domain out this time: exit status 75.
    Skip,
    /// It failed, or could not be started.
    Failed,
    /// It did not end in time, or a session was not ready in time.
    Timeout,
    /// A session was ready, and then did not hold to the end.
    Lost,
}

/// What became of one hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookResult {
    /// Its name.
    pub name: String,
    /// The phase of a command, the span of a session.
    pub phase: String,
    /// How it ended.
    pub status: HookStatus,
    /// Why, where it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// How long a session held, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held_ms: Option<u64>,
    /// The end of what it printed, at most 64 KiB, where it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<String>,
}
