//! Owns: what the backups of one run share. Must not: do anything with it.

use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Monitor;
use super::journal::Journal;
use super::phases::Subject;
use crate::config::Settings;
use crate::hypervisor::Hypervisor;
use crate::model::{DomainRef, Failure};
use crate::store::Store;
use crate::sys::signals::Cancel;

/// What the backups of one run share.
pub struct Context<'a> {
    /// The host's settings.
    pub settings: &'a Settings,
    /// libvirt.
    pub hypervisor: &'a dyn Hypervisor,
    /// The target.
    pub store: &'a Store,
    /// The journal.
    pub journal: &'a Journal,
    /// Whether to stop.
    pub cancel: &'a Cancel,
    /// Who hears of progress.
    pub monitor: &'a dyn Monitor,
    /// The hook that ended the run: no domain is begun any more.
    pub ended: &'a OnceLock<Failure>,
    /// A disk that lost most of its contents is taken as it is.
    pub accept_smaller: bool,
    /// The run.
    pub run_id: Uuid,
    /// When it began.
    pub started: DateTime<Utc>,
}

impl<'a> Context<'a> {
    /// What the hooks of a domain are told they are about.
    pub(super) fn subject<'b>(&self, domain: Option<&'b DomainRef>) -> Subject<'b>
    where
        'a: 'b,
    {
        let Settings { host, backupdir, state_dir, .. } = self.settings;
        Subject { run_id: self.run_id, host, domain, backupdir, state_dir }
    }
}
