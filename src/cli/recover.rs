//! Owns: the command `recover`. Must not: need a configuration that is right: without one, the usual state folder is
//! looked at, and the exit code says that another may have been meant.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{Global, Recover};
use super::print;
use crate::config::Settings;
use crate::engine::recover::{self, Connect, Recovered};
use crate::engine::{self, RunHooks, journal::Journal};
use crate::model::Failure;
use crate::report::ExitCode;
use crate::report::table::printable;
use crate::sys::lock::Lock;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;
use crate::{app, config};

pub(super) fn run(global: &Global, words: &Recover) -> Result<u8, app::Error> {
    let (state_dir, patience, settings) = match app::settings(global) {
        Ok(settings) => (settings.state_dir.clone(), Patience::new(settings.stall_timeout), Some(settings)),
        Err(error) => {
            super::print_error(&error);
            tracing::warn!(
                "looking in {}, which may not be the state folder that the configuration means",
                config::STATE_DIR
            );
            (PathBuf::from(config::STATE_DIR), Patience::default(), None)
        }
    };
    let cancel = Cancel::on_signals().map_err(engine::Error::signals)?;
    let (patiently, unreachable) = (app::connect_within(Duration::from_secs(words.wait), &cancel), Cell::new(false));
    let connect = |uri: &str| patiently(uri).inspect_err(|_| unreachable.set(true));
    let recovered = first_by(&state_dir, &connect, settings.as_ref(), &patience, global.quiet, &cancel)?.recovered;
    if !global.quiet && recovered.done.is_empty() && recovered.left.is_empty() {
        print(&format!("nothing was left by an earlier run in {}\n", state_dir.display()));
    }
    let code = match (recovered.left.is_empty(), settings.is_some()) {
        (false, _) if unreachable.get() => ExitCode::Hypervisor,
        (false, _) => ExitCode::Untidy,
        (true, false) => ExitCode::Usage,
        (true, true) => ExitCode::Good,
    };
    Ok(code.code())
}

/// A state folder that nobody else changes now, and what was put right in it.
pub(super) struct First {
    pub journal: Journal,
    pub recovered: Recovered,
    _lock: Lock,
}

/// What comes before any change that an interrupted run, or one at work, must not meet: takes the lock, recovers, and tells
/// of that.
pub(super) fn first(state_dir: &Path, patience: &Patience, quiet: bool, cancel: &Cancel) -> Result<First, app::Error> {
    first_by(state_dir, &app::connect, None, patience, quiet, cancel)
}

fn first_by(
    state_dir: &Path,
    connect: &Connect<'_>,
    unknown: Option<&Settings>,
    patience: &Patience,
    quiet: bool,
    cancel: &Cancel,
) -> Result<First, app::Error> {
    let lock = app::lock(state_dir)?;
    let journal = app::journal(state_dir)?;
    RunHooks::sweep(state_dir);
    let mut recovered = recover::recover(&journal, connect, cancel, patience)?;
    // What the journal does not know is looked for as the configuration says; a libvirt that was told of once is enough.
    if let Some(settings) = unknown.filter(|_| recovered.stopped.is_none()) {
        match connect(&settings.libvirt_uri) {
            Ok(hypervisor) => recover::recover_unknown(&journal, &*hypervisor, settings, cancel, &mut recovered)?,
            Err(error) if recovered.left.is_empty() => {
                recovered.left.push(Failure { message: engine::chain(&error), hint: error.hint() });
            }
            Err(_) => {}
        }
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
        None => Ok(First { journal, recovered, _lock: lock }),
    }
}
