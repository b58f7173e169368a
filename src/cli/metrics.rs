//! Owns: the command `metrics`. Must not: know any metric.

use super::args::{Global, Metrics};
use super::print;
use crate::app::{self, watch};
use crate::metrics;
use crate::model::RunResult;

pub(super) fn run(global: &Global, words: &Metrics) -> Result<RunResult, app::Error> {
    let settings = super::settings(global).inspect_err(|error| {
        if let app::Error::Config(errors) = error {
            let told = watch::config_failed(errors, |ledger| ledger.config_ok = false);
            super::watched(told, error.result());
        }
    })?;
    match &settings.metrics.textfile {
        _ if words.stdout => {
            watch::survey(&settings, true)?;
            print(&metrics::current(&settings.state_dir)?);
        }
        Some(_) => watch::look(&settings)?,
        None => return Err(app::Error::NoTextfile),
    }
    Ok(RunResult::Good)
}
