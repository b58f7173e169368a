//! Builds the metrics of a state directory and writes them to the textfile. Must not change the state.

use std::path::Path;

use super::error::file;
use super::{Error, text, textfile};
use crate::ledger::{Ledger, Survey};
use crate::sys::step::{self, Step};
use crate::sys::{durable, lock};

/// The lock of a run.
const RUN: &str = "lock";
/// The lock of the textfile.
const LOCK: &str = "textfile.lock";

/// The current metrics of a state directory. If it does not exist, they are those of an empty one.
///
/// # Errors
/// A file exists but cannot be read.
pub fn current(state_dir: &Path) -> Result<String, Error> {
    let run = state_dir.join(RUN);
    let running = lock::is_held(&run).map_err(file("check the lock", &run))?;
    text(&Ledger::load(state_dir)?, Survey::load(state_dir)?.as_ref(), running)
}

/// Replaces the textfile by [`current`]. A concurrent writer waits, and reads the state only afterwards, so that the
/// newer text stays.
///
/// # Errors
/// Like [`current`] and [`textfile::write`].
pub fn publish(state_dir: &Path, path: &Path) -> Result<(), Error> {
    let folder = step::reached(Step::StateFolder).and_then(|()| durable::create_private_dir(state_dir));
    folder.map_err(file("create the directory", state_dir))?;
    let own = state_dir.join(LOCK);
    let _lock = step::reached(Step::TextfileLock).and_then(|()| lock::wait(&own)).map_err(file("lock", &own))?;
    textfile::write(path, &current(state_dir)?)
}
