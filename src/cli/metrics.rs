//! Owns: the command `metrics`, and what other commands do for the textfile. Must not: keep a backup from being made, or
//! change what became of it: a textfile that cannot be written is told of, and is exit code 7 where there was none.

use std::path::{Path, PathBuf};

use chrono::Utc;

use super::args::{Global, Metrics};
use super::print;
use crate::config::{self, Errors, Settings};
use crate::engine::survey;
use crate::hypervisor::Hypervisor;
use crate::ledger::{self, Ledger, Survey};
use crate::report::ExitCode;
use crate::{app, metrics};

pub(super) fn run(global: &Global, words: &Metrics) -> Result<u8, app::Error> {
    let settings = app::settings(global).inspect_err(|error| {
        if let app::Error::Config(errors) = error {
            config_failed(errors, |ledger| ledger.config_ok = false);
        }
    })?;
    let textfile = settings.metrics.textfile.as_deref();
    if textfile.is_none() && !words.stdout {
        return Err(app::Error::NoTextfile);
    }
    look(&settings)?;
    match textfile.filter(|_| !words.stdout) {
        Some(path) => metrics::publish(&settings.state_dir, path)?,
        None => print(&metrics::current(&settings.state_dir)?),
    }
    Ok(ExitCode::Good.code())
}

/// Takes a new survey, and keeps it.
fn look(settings: &Settings) -> Result<(), app::Error> {
    let dir = &settings.state_dir;
    let hypervisor = app::libvirt(&settings.libvirt_uri).inspect_err(super::print_error).ok();
    let hypervisor = hypervisor.as_ref().map(|libvirt| libvirt as &dyn Hypervisor);
    let survey = survey::take(settings, hypervisor, Survey::load(dir)?.as_ref());
    survey.save(dir)?;
    ledger::update(dir, |ledger| {
        ledger.config_ok = true;
        ledger.textfile.clone_from(&settings.metrics.textfile);
        ledger.forget(&survey);
    })?;
    Ok(())
}

/// Writes the textfile, where one is wanted; the exit code with that.
pub(super) fn publish(settings: &Settings, code: u8) -> u8 {
    match &settings.metrics.textfile {
        Some(path) => told(metrics::publish(&settings.state_dir, path).map_err(app::Error::from), code),
        None => code,
    }
}

/// The exit code when metrics could be told, or not.
fn told(result: Result<(), app::Error>, code: u8) -> u8 {
    let Err(error) = result else { return code };
    super::print_error(&error);
    if code == ExitCode::Good.code() { ExitCode::Untidy.code() } else { code }
}

/// Lets those who watch know that the configuration cannot be read: where it says itself that metrics go, else where the
/// ledger says that they last went. Nothing is made where nobody watches.
pub(super) fn config_failed(errors: &Errors, change: impl FnOnce(&mut Ledger)) {
    let salvaged = &errors.salvaged;
    let state_dir = salvaged.state_dir.clone().unwrap_or_else(|| PathBuf::from(config::STATE_DIR));
    if let Err(error) = tell_of_config(&state_dir, salvaged.textfile.as_deref(), change) {
        super::print_error(&error);
    }
}

fn tell_of_config(dir: &Path, textfile: Option<&Path>, change: impl FnOnce(&mut Ledger)) -> Result<(), app::Error> {
    let Some(path) = textfile.map(Path::to_owned).or(Ledger::load(dir)?.textfile) else { return Ok(()) };
    ledger::update(dir, change)?;
    Ok(metrics::publish(dir, &path)?)
}
