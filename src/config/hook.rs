//! Owns: one entry of `hooks`, valid by construction. Must not: know YAML, or run anything.

use std::collections::BTreeMap;
use std::time::Duration;

use super::glob;
use crate::model::{Phase, Span};

/// A program that runs around a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Letters, digits, `.`, `_` and `-`; unique in each phase.
    pub name: String,
    /// Line of the file, from 1.
    pub line: usize,
    /// When and for how long it runs.
    pub kind: HookKind,
    /// Its command line; the first word is an absolute path.
    pub command: Vec<String>,
    /// Where it runs.
    pub place: HookPlace,
    /// Names and globs of the domains that it runs for; empty: all.
    pub domains: Vec<String>,
    /// Lower ones run first.
    pub order: i32,
    /// Environment variables besides those of the contract.
    pub env: BTreeMap<String, String>,
    /// What its failure means.
    pub on_error: OnError,
}

/// When a hook runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookKind {
    /// Once in each of these phases.
    Command {
        /// Never empty.
        phases: Vec<Phase>,
        /// How long each of its runs may take.
        timeout: Duration,
    },
    /// Over a span: it is started, reports that it is ready, and is released at the end.
    Session {
        /// The span.
        span: Span,
        /// How long it may take to report that it is ready.
        ready: Duration,
        /// How long it holds then, even if the backup still needs it.
        hold: Duration,
        /// How long it may take to end after its release.
        release: Duration,
    },
}

/// Where a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPlace {
    /// On this host.
    Host,
    /// In the guest, through its agent.
    Guest,
}

/// What the failure of a hook means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The domain fails.
    FailDomain,
    /// The domain fails, and no further domain is started.
    FailRun,
    /// The backup continues with a warning.
    Warn,
    /// The backup continues; only the report's list of hooks shows it.
    Ignore,
    /// The backup continues with a warning and is not application-consistent.
    Degrade,
}

impl Hook {
    /// Whether it runs for this domain.
    pub fn is_for(&self, domain: &str) -> bool {
        self.domains.is_empty() || self.domains.iter().any(|pattern| glob::matches(pattern, domain))
    }

    /// Whether it runs as a command in this phase.
    pub fn runs_in(&self, phase: Phase) -> bool {
        matches!(&self.kind, HookKind::Command { phases, .. } if phases.contains(&phase))
    }

    /// Whether it is a session over this span.
    pub fn is_held_over(&self, wanted: Span) -> bool {
        matches!(&self.kind, HookKind::Session { span, .. } if *span == wanted)
    }
}
