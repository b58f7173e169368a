//! The data that the backups of one run share. Must not do anything with it.

use std::path::Path;
use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Monitor;
use super::journal::Journal;
use super::phases::Subject;
use super::target::Writable;
use crate::config::Settings;
use crate::hypervisor::Hypervisor;
use crate::model::{DomainRef, Failure};
use crate::plan::Selection;
use crate::sys::signals::Cancel;

/// What a run works with.
pub struct Run<'a> {
    /// Settings of this host.
    pub settings: &'a Settings,
    /// Connection to libvirt.
    pub hypervisor: &'a dyn Hypervisor,
    /// The journal. Its state directory is locked.
    pub journal: &'a Journal,
    /// Domains and options of the command line.
    pub selection: &'a Selection,
    /// Whether to stop.
    pub cancel: &'a Cancel,
    /// Receives progress.
    pub monitor: &'a dyn Monitor,
}

pub struct Context<'a> {
    pub run: &'a Run<'a>,
    pub targets: &'a Writable,
    /// Set by a hook that stops the run: no further domain is started.
    pub ended: &'a OnceLock<Failure>,
    pub run_id: Uuid,
    pub started: DateTime<Utc>,
}

impl<'a> Context<'a> {
    /// The subject of a domain's hooks, or of the run's hooks without a domain.
    pub(super) fn subject<'b>(&self, domain: Option<&'b DomainRef>, target: &'b Path) -> Subject<'b>
    where
        'a: 'b,
    {
        let Settings { host, state_dir, .. } = self.run.settings;
        Subject { run_id: self.run_id, host, domain, target, state_dir }
    }
}
