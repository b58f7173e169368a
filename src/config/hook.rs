//! Owns: one entry of `hooks`, valid by construction. Must not: know YAML, or run anything.

use std::collections::BTreeMap;
use std::time::Duration;

use super::glob;
use crate::model::{Phase, Span};

/// A program of the operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Letters, digits, `.`, `_` and `-`; unique in each phase.
    pub name: String,
    /// Line of the file, from 1.
    pub line: usize,
    /// When and for how long it runs.
    pub kind: HookKind,
    /// The words of its command line; the first is an absolute path.
    pub command: Vec<String>,
    /// Where it runs.
    pub place: HookPlace,
    /// Names and globs of the domains it is for; empty: all.
    pub domains: Vec<String>,
    /// Lower ones run first.
    pub order: i32,
    /// Variables beside those of the contract.
    pub env: BTreeMap<String, String>,
    /// What its failure means.
    pub on_error: OnError,
}

/// When a hook runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookKind {
    /// It runs to its end in each of these phases.
    Command {
        /// Never empty.
        phases: Vec<Phase>,
        /// For each of its runs.
        timeout: Duration,
    },
    /// It is started, says that it is ready, and is held over a span.
    Session {
        /// The span.
        span: Span,
        /// Until it says that it is ready.
        ready: Duration,
        /// From then on until it is let go, whatever the backup does.
        hold: Duration,
        /// From then on to its end.
        release: Duration,
    },
}

/// Where a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPlace {
    /// On this host.
    Host,
    /// In the guest, by its agent.
    Guest,
}

/// What the failure of a hook means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The domain fails.
    FailDomain,
    /// The domain fails, and none is begun after it.
    FailRun,
    /// It goes on, with a warning.
    Warn,
    /// It goes on; only the list of hooks tells.
    Ignore,
    /// It goes on with a warning, and what is saved is not called consistent for applications.
    Degrade,
}

impl Hook {
    /// Whether it is for this domain.
    pub fn is_for(&self, domain: &str) -> bool {
        self.domains.is_empty() || self.domains.iter().any(|pattern| glob::matches(pattern, domain))
    }

    /// Whether it runs as a command in this phase.
    pub fn runs_in(&self, phase: Phase) -> bool {
        matches!(&self.kind, HookKind::Command { phases, .. } if phases.contains(&phase))
    }

    /// Whether it is held over this span.
    pub fn is_held_over(&self, wanted: Span) -> bool {
        matches!(&self.kind, HookKind::Session { span, .. } if *span == wanted)
    }
}
