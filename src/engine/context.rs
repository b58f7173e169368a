//! Owns: what the backups of one run share. Must not: do anything with it.

use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::phases::Subject;
use super::run::Run;
use crate::config::Settings;
use crate::model::{DomainRef, Failure};
use crate::store::Store;

/// What the backups of one run share.
pub struct Context<'a> {
    /// What the run works with.
    pub run: &'a Run<'a>,
    /// The target.
    pub store: &'a Store,
    /// Set by a hook that ended the run: no other domain is begun.
    pub ended: &'a OnceLock<Failure>,
    /// Identifies the run.
    pub run_id: Uuid,
    /// When the run began.
    pub started: DateTime<Utc>,
}

impl<'a> Context<'a> {
    /// What the hooks of a domain, or of the run, are about.
    pub(super) fn subject<'b>(&self, domain: Option<&'b DomainRef>) -> Subject<'b>
    where
        'a: 'b,
    {
        let Settings { host, backupdir, state_dir, .. } = self.run.settings;
        Subject { run_id: self.run_id, host, domain, backupdir, state_dir }
    }
}
