//! Runs the commands `protect` and `unprotect`. Must not know how a point is protected.

use super::args::{Global, Protect};
use super::{print, when};
use crate::app;
use crate::engine::{self, points, target};
use crate::model::RunResult;
use crate::report::table::printable;

pub(super) fn run(global: &Global, words: &Protect, protected: bool) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    // Not during a run, which may build on the point or remove it.
    let _lock = app::lock(&settings.state_dir)?;
    let store = target::open(&settings, words.store)?;
    let point = points::find(&store, &words.domain, when(words.at))?;
    for copy in points::copies(&store, &point)? {
        store.protect(&copy, protected).map_err(engine::Error::from)?;
    }
    if !global.quiet {
        let what = if protected { "protected" } else { "not protected" };
        print(&format!("{} {}: {what}\n", printable(&point.domain), point.id));
    }
    Ok(RunResult::Good)
}
