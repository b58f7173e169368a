//! Owns: the command `metrics`. Must not: know what is told, or how.

use super::args::{Global, Metrics};
use super::print;
use crate::app::{self, watch};
use crate::metrics;
use crate::report::ExitCode;

pub(super) fn run(global: &Global, words: &Metrics) -> Result<u8, app::Error> {
    let settings = super::settings(global).inspect_err(|error| {
        if let app::Error::Config(errors) = error {
            let told = watch::config_failed(errors, |ledger| ledger.config_ok = false);
            super::watched(told, error.exit_code());
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
    Ok(ExitCode::Good.code())
}
