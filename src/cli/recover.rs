//! Owns: the command `recover`. Must not: need a configuration that is right: without one, the usual state folder is
//! looked at.

use std::path::PathBuf;

use super::args::Global;
use super::print;
use crate::engine::{self, recover};
use crate::report::ExitCode;
use crate::sys::signals::Cancel;
use crate::{app, config};

pub(super) fn run(global: &Global) -> Result<u8, app::Error> {
    let state_dir = match app::settings(global) {
        Ok(settings) => settings.state_dir,
        Err(error) => {
            tracing::warn!("{error}");
            PathBuf::from(config::STATE_DIR)
        }
    };
    let cancel = Cancel::on_signals().map_err(engine::Error::signals)?;
    let _lock = app::lock(&state_dir)?;
    let journal = app::journal(&state_dir)?;
    let recovered = recover::recover(&journal, &app::connect, &cancel)?;
    for line in &recovered.done {
        print(&format!("recovered: {line}\n"));
    }
    for failure in &recovered.left {
        print(&format!("left: {}\n", failure.message));
        if let Some(hint) = &failure.hint {
            print(&format!("      hint: {hint}\n"));
        }
    }
    if let Some(signal) = recovered.stopped {
        return Err(engine::Error::Cancelled(signal).into());
    }
    if recovered.done.is_empty() && recovered.left.is_empty() {
        print("nothing was left by an earlier run\n");
    }
    Ok(if recovered.left.is_empty() { ExitCode::Good } else { ExitCode::Untidy }.code())
}
