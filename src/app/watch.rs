//! Records in ledger, survey and metrics that a run begins or ends, that the configuration is invalid, and the results
//! of checks and restores. Must not change what it records.

use std::path::Path;

use chrono::{DateTime, Utc};

use super::{Error, libvirt};
use crate::config::{self, CopySettings, Settings};
use crate::engine::copies::Copied;
use crate::engine::maintain::Maintenance;
use crate::engine::{self, survey};
use crate::hypervisor::Hypervisor;
use crate::ledger::{self, Ledger, StoredObjects, Survey};
use crate::metrics;
use crate::model::{DamagedPoint, Failure, RunReport, RunResult};
use crate::store::Inventory;

/// Records the start of a run, which has the lock. The report gets a warning if the ledger contained future times.
pub fn begin(settings: &Settings, report: &mut RunReport) -> Result<(), Error> {
    let mut ahead = None;
    let told = tell(settings, |ledger| {
        ahead = ledger.ahead.take();
        ledger.begin(report);
    });
    report.warnings.extend(ahead.map(|time| Failure {
        message: format!("the ledger contains times in the future, up to {time}; ignoring them"),
        hint: Some(
            "Check this host's clock: timedatectl. It was ahead during an earlier run or is behind now.".to_owned(),
        ),
    }));
    told
}

/// Records the end of a run with this result.
pub fn end(settings: &Settings, report: &RunReport, result: RunResult) -> Result<(), Error> {
    // First the part that cannot be reconstructed later.
    let recorded = tell(settings, |ledger| ledger.record(report, result));
    recorded.and(look(settings))
}

/// Records that points of these domains were verified as good at these times, and any damage found in others.
pub fn checked(settings: &Settings, good: &[(String, DateTime<Utc>)]) -> Result<(), Error> {
    let recorded = keep(settings, |ledger| good.iter().for_each(|(domain, time)| ledger.verified(domain, *time)));
    recorded.and(look(settings))
}

/// Records the result of a maintenance of the repository of these settings.
pub fn maintained(settings: &Settings, result: &Result<Maintenance, engine::Error>) -> Result<(), Error> {
    let Some(repository) = &settings.repository else { return Ok(()) };
    let recorded = keep(settings, |ledger| {
        let mut record = ledger.maintenance.take().filter(|known| known.repository == repository.path);
        let record = record.get_or_insert_default();
        record.repository.clone_from(&repository.path);
        let now = Utc::now();
        record.last = Some(now);
        record.last_error = match result {
            Ok(done) => done.error.as_ref().map(|error| engine::chain(error)),
            Err(error) => Some(engine::chain(error)),
        };
        if let Ok(done) = result {
            let measured =
                |stats: Inventory| StoredObjects { bytes: stats.stored_bytes, packs: stats.packs, blobs: stats.blobs };
            record.last_prune = done.prune.as_ref().map(|_| now).or(record.last_prune);
            record.unused_ratio = done.prune.as_ref().and_then(|prune| prune.unused_ratio).or(record.unused_ratio);
            record.last_check = done.check.as_ref().filter(|check| check.good).map(|_| now).or(record.last_check);
            record.stored = done.stored.map(measured).or(record.stored);
        }
        ledger.maintenance = Some(record.clone());
    });
    recorded.and(look(settings))
}

/// The copies among these that are due.
pub fn due_copies<'a>(
    settings: &Settings,
    copies: Vec<&'a CopySettings>,
    now: DateTime<Utc>,
) -> Result<Vec<&'a CopySettings>, Error> {
    let known = Ledger::load(&settings.state_dir)?.copies;
    let record = |copy: &CopySettings| known.get(&copy.name).filter(|record| record.to == copy.to.to_string());
    let is_due = |copy: &&CopySettings| record(copy).is_none_or(|record| record.is_due(copy.every, now));
    Ok(copies.into_iter().filter(is_due).collect())
}

/// Records the result of copying the repository.
pub fn copied(settings: &Settings, copy: &CopySettings, result: &Copied) -> Result<(), Error> {
    let recorded = keep(settings, |ledger| {
        let to = copy.to.to_string();
        let mut record = ledger.copies.remove(&copy.name).filter(|known| known.to == to).unwrap_or_default();
        record.to = to;
        record.last_attempt = Some(result.started);
        record.last_error = result.error.as_ref().map(|error| engine::chain(error));
        if result.error.is_none() {
            record.last_success = Some(result.started);
        }
        if result.restore_points.is_some() {
            record.newest.clone_from(&result.newest);
        }
        ledger.copies.insert(copy.name.clone(), record);
    });
    recorded.and(look(settings))
}

/// The damaged restore points of the last survey.
pub fn damaged(settings: &Settings) -> Vec<DamagedPoint> {
    let survey = Survey::load(&settings.state_dir).inspect_err(|error| tracing::warn!("{}", engine::chain(error)));
    survey.ok().flatten().map_or_else(Vec::new, |survey| survey::damaged(&survey))
}

/// Takes a survey, and publishes the metrics.
pub fn look(settings: &Settings) -> Result<(), Error> {
    survey(settings, true)?;
    publish(settings)
}

/// Takes and saves a survey, even if libvirt does not respond. `config_ok`: whether the configuration of these settings
/// can still be read.
pub fn survey(settings: &Settings, config_ok: bool) -> Result<(), Error> {
    let previous = Survey::load(&settings.state_dir)?;
    let hypervisor = libvirt(&settings.libvirt_uri);
    let hypervisor = hypervisor.as_ref().ok().map(|hypervisor| hypervisor as &dyn Hypervisor);
    let survey = survey::take(settings, hypervisor, previous.as_ref());
    survey.save(&settings.state_dir)?;
    keep(settings, |ledger| {
        ledger.config_ok = config_ok;
        ledger.forget(&survey);
    })
}

/// Records that the configuration cannot be read: changes the ledger, and publishes the metrics to the textfile that
/// the file names, or else to the last one. Creates no ledger, because the file may name another state directory.
pub fn config_failed(errors: &config::Errors, change: impl FnOnce(&mut Ledger)) -> Result<(), Error> {
    let salvaged = &errors.salvaged;
    let state_dir = salvaged.state_dir.as_deref().unwrap_or(Path::new(config::STATE_DIR));
    if Ledger::exists(state_dir) {
        super::trusted_state(state_dir)?;
        let ledger = ledger::update(state_dir, change)?;
        let textfile = salvaged.textfile.as_ref().or(ledger.textfile.as_ref());
        return Ok(textfile.map_or(Ok(()), |path| metrics::publish(state_dir, path))?);
    }
    let Some(path) = &salvaged.textfile else { return Ok(()) };
    let text = metrics::text(&Ledger::default(), None, false)?;
    Ok(metrics::textfile::write(path, &text)?)
}

/// Changes the ledger, and publishes the metrics.
pub fn tell(settings: &Settings, change: impl FnOnce(&mut Ledger)) -> Result<(), Error> {
    keep(settings, change)?;
    publish(settings)
}

fn keep(settings: &Settings, change: impl FnOnce(&mut Ledger)) -> Result<(), Error> {
    ledger::update(&settings.state_dir, |ledger| {
        ledger.config_ok = true;
        ledger.textfile.clone_from(&settings.metrics.textfile);
        change(ledger);
    })?;
    Ok(())
}

/// Writes the textfile, if one is configured.
fn publish(settings: &Settings) -> Result<(), Error> {
    let textfile = settings.metrics.textfile.as_ref();
    Ok(textfile.map_or(Ok(()), |path| metrics::publish(&settings.state_dir, path))?)
}
