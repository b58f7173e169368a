//! Owns: the text of what a state folder knows now, and putting it into the textfile. Must not: change what it knows.

use std::path::Path;

use super::error::file;
use super::{Error, text, textfile};
use crate::ledger::{Ledger, Survey};
use crate::sys::step::{self, Step};
use crate::sys::{durable, lock};

/// The lock of a run.
const RUN: &str = "lock";
/// The lock over the textfile.
const LOCK: &str = "textfile.lock";

/// The text of what a state folder knows now. One that is not there knows nothing.
///
/// # Errors
/// Something of it is there and cannot be read.
pub fn current(state_dir: &Path) -> Result<String, Error> {
    let run = state_dir.join(RUN);
    let running = lock::is_held(&run).map_err(file("look at the lock", &run))?;
    text(&Ledger::load(state_dir)?, Survey::load(state_dir)?.as_ref(), running)
}

/// Replaces the textfile by [`current`]. Who comes while another is at it waits, and reads the state only then, so that the
/// newer text stays.
///
/// # Errors
/// As of [`current`] and [`textfile::write`].
pub fn publish(state_dir: &Path, path: &Path) -> Result<(), Error> {
    let folder = step::reached(Step::StateFolder).and_then(|()| durable::create_private_dir(state_dir));
    folder.map_err(file("create the directory", state_dir))?;
    let own = state_dir.join(LOCK);
    let _lock = step::reached(Step::TextfileLock).and_then(|()| lock::wait(&own)).map_err(file("lock", &own))?;
    textfile::write(path, &current(state_dir)?)
}
