//! Owns: telling those who watch: when a run begins and ends, that the configuration is wrong, what a check or a restore came to.
//! Must not: change what is watched; its errors are told, and no more.

use std::path::Path;

use chrono::{DateTime, Utc};

use super::{Error, libvirt};
use crate::config::{self, Settings};
use crate::engine::survey;
use crate::hypervisor::Hypervisor;
use crate::ledger::{self, Ledger, Survey};
use crate::model::RunReport;

/// A run begins; it holds the lock.
pub fn begin(settings: &Settings, report: &RunReport) -> Result<(), Error> {
    tell(settings, |ledger| ledger.begin(report))
}

/// A run has ended, and will end the program with this code.
pub fn end(settings: &Settings, report: &RunReport, code: u8) -> Result<(), Error> {
    // First what cannot be found out again.
    let recorded = tell(settings, |ledger| ledger.record(report, code));
    recorded.and(look(settings))
}

/// Takes a survey, with a libvirt that answers or without.
pub fn look(settings: &Settings) -> Result<(), Error> {
    let previous = Survey::load(&settings.state_dir)?;
    let hypervisor = libvirt(&settings.libvirt_uri);
    let hypervisor = hypervisor.as_ref().ok().map(|hypervisor| hypervisor as &dyn Hypervisor);
    let survey = survey::take(settings, hypervisor, previous.as_ref());
    survey.save(&settings.state_dir)?;
    tell(settings, |ledger| ledger.forget(&survey))
}

/// A run could not begin, for the configuration is wrong. Nothing is made where there is no ledger yet: the state folder that the
/// file means may be another one.
pub fn config_failed(errors: &config::Errors, time: DateTime<Utc>) -> Result<(), Error> {
    let state_dir = errors.salvaged.state_dir.as_deref().unwrap_or(Path::new(config::STATE_DIR));
    if Ledger::exists(state_dir) {
        ledger::update(state_dir, |ledger| ledger.config_failed(time))?;
    }
    Ok(())
}

/// Something has changed that the ledger tells of.
pub fn tell(settings: &Settings, change: impl FnOnce(&mut Ledger)) -> Result<(), Error> {
    ledger::update(&settings.state_dir, |ledger| {
        change(ledger);
        ledger.textfile.clone_from(&settings.metrics.textfile);
    })?;
    Ok(())
}
