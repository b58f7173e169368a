//! Owns: the command `recover`. Must not: need a valid configuration. Without one, it uses the default state folder, and the
//! result says that another one may have been meant.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{Global, Recover};
use super::print;
use crate::app;
use crate::app::run::Exclusive;
use crate::config::{self, Settings};
use crate::engine;
use crate::engine::recover::{Connect, Recovered};
use crate::model::RunResult;
use crate::report::table::printable;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

pub(super) fn run(global: &Global, words: &Recover) -> Result<RunResult, app::Error> {
    let (state_dir, patience, settings) = match super::settings(global) {
        Ok(settings) => (settings.state_dir.clone(), Patience::new(settings.stall_timeout), Some(settings)),
        Err(error) => {
            super::print_error(&error);
            tracing::warn!("using {}, which may not be the configured state directory", config::STATE_DIR);
            (PathBuf::from(config::STATE_DIR), Patience::default(), None)
        }
    };
    let cancel = Cancel::on_signals().map_err(engine::Error::Signals)?;
    let (patiently, unreachable) = (app::connect_within(Duration::from_secs(words.wait), &cancel), Cell::new(false));
    let connect = |uri: &str| patiently(uri).inspect_err(|_| unreachable.set(true));
    let (_exclusive, recovered) =
        first_by(&state_dir, &connect, (settings.as_ref(), &patience), global.quiet, &cancel)?;
    if !global.quiet && recovered.done.is_empty() && recovered.left.is_empty() {
        print(&format!("no interrupted run in {}\n", state_dir.display()));
    }
    Ok(match (recovered.left.is_empty(), settings.is_some()) {
        (false, _) if unreachable.get() => RunResult::Hypervisor,
        (false, _) => RunResult::Untidy,
        (true, false) => RunResult::Usage,
        (true, true) => RunResult::Good,
    })
}

/// Takes the lock, recovers from interrupted runs, and prints the result. Commands call it before any change that would conflict
/// with such a run or with one in progress.
pub(super) fn first(
    state_dir: &Path,
    patience: &Patience,
    quiet: bool,
    cancel: &Cancel,
) -> Result<(Exclusive, Recovered), app::Error> {
    first_by(state_dir, &app::connect, (None, patience), quiet, cancel)
}

fn first_by(
    state_dir: &Path,
    connect: &Connect<'_>,
    (settings, patience): (Option<&Settings>, &Patience),
    quiet: bool,
    cancel: &Cancel,
) -> Result<(Exclusive, Recovered), app::Error> {
    let exclusive = Exclusive::take(state_dir)?;
    let (mut recovered, done) = exclusive.recover(connect, settings, patience, cancel);
    match done {
        // If an entry needed libvirt, the report already says that it is unreachable.
        Err(error @ app::Error::Hypervisor(_)) if recovered.left.is_empty() => recovered.left.push(error.failure()),
        Err(app::Error::Hypervisor(_)) => {}
        done => done?,
    }
    for line in recovered.done.iter().filter(|_| !quiet) {
        print(&format!("recovered: {}\n", printable(line)));
    }
    for failure in &recovered.left {
        print(&format!("left: {}\n", printable(&failure.message)));
        if let Some(hint) = super::hint("      ", failure) {
            print(&format!("{hint}\n"));
        }
    }
    match recovered.stopped {
        Some(signal) => Err(engine::Error::Cancelled(signal).into()),
        None => Ok((exclusive, recovered)),
    }
}
