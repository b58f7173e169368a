//! Runs the commands `export` and `import`. Must not read or write restore points itself.

use super::args::{Export, Global, Import};
use super::{monitor, print, when};
use crate::app;
use crate::engine::transfer::{Copying, Transfer};
use crate::engine::{self, points, target};
use crate::model::size::bytes;
use crate::model::{Failure, RunResult};
use crate::report::table::printable;
use crate::store::{Point, Store};
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

pub(super) fn export(global: &Global, words: &Export) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    let cancel = Cancel::on_signals().map_err(engine::Error::Signals)?;
    let from = target::open(&settings, words.store)?;
    let to = Store::at(&words.to, &Patience::new(settings.stall_timeout)).map_err(engine::Error::from)?;
    let monitor = monitor(global, false);
    let point = points::find(&from, &words.domain, when(words.at))?;
    let copying = Copying { from: &from, to: &to, settings: &settings, monitor: &*monitor, cancel: &cancel };
    let result = copying.one(&point, &mut |_| Ok(()))?;
    tell(global, &point, Ok(&result));
    match result {
        Transfer::Copied(_) | Transfer::Present => Ok(RunResult::Good),
        Transfer::NoManifest => Ok(RunResult::Failed),
    }
}

pub(super) fn import(global: &Global, words: &Import) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    let cancel = Cancel::on_signals().map_err(engine::Error::Signals)?;
    // A run would apply retention to points that are only partly imported.
    let _lock = app::lock(&settings.state_dir)?;
    let from = Store::at(&words.from, &Patience::new(settings.stall_timeout)).map_err(engine::Error::from)?;
    let to = target::open(&settings, None)?;
    let monitor = monitor(global, false);
    let copying = Copying { from: &from, to: &to, settings: &settings, monitor: &*monitor, cancel: &cancel };
    let (mut copied, mut present, mut failed) = (0, 0, 0);
    copying.all(&words.domains, &mut |point, result| {
        match result {
            Ok(Transfer::Copied(_)) => copied += 1,
            Ok(Transfer::Present) => present += 1,
            Ok(Transfer::NoManifest) | Err(_) => failed += 1,
        }
        tell(global, point, result.as_ref());
    })?;
    print(&format!("{copied} imported, {present} already present, {failed} not imported\n"));
    Ok(if failed == 0 { RunResult::Good } else { RunResult::Failed })
}

fn tell(global: &Global, point: &Point, result: Result<&Transfer, &engine::Error>) {
    let about = format!("{} {}", printable(&point.domain), point.id);
    let said = match result {
        Ok(Transfer::Copied(copy)) if !global.quiet => {
            format!("{about}: {}, {}\n", printable(&copy.location().display().to_string()), bytes(copy.bytes))
        }
        Ok(Transfer::Present) if !global.quiet => format!("{about}: already present\n"),
        Ok(Transfer::Copied(_) | Transfer::Present) => return,
        Ok(Transfer::NoManifest) => {
            format!("{about}: not copied, because an archive of the legacy script has no manifest\n")
        }
        Err(error) => failed(&about, &error.failure()),
    };
    print(&said);
}

fn failed(about: &str, failure: &Failure) -> String {
    let hint = super::hint("  ", failure).map_or(String::new(), |hint| format!("{hint}\n"));
    format!("{about}: NOT COPIED: {}\n{hint}", printable(&failure.message))
}
