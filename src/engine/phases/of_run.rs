//! Runs the hooks around a whole run. Must not know what a run does.

use std::path::Path;

use super::{Error, Phases, Subject};
use crate::config::Settings;
use crate::model::{Failure, RunReport, Span};
use crate::sys::signals::Cancel;
use crate::sys::step::{self, Step};

/// The hooks of a run. When dropped, it leaves everything that was entered.
pub struct RunHooks<'a>(Phases<'a>);

impl<'a> RunHooks<'a> {
    /// Removes the files for hooks of a killed run. The caller has the lock.
    pub fn sweep(state_dir: &Path) {
        let _ = step::reached(Step::HooksSweep).and_then(|()| std::fs::remove_dir_all(state_dir.join("hooks")));
    }

    /// Runs no hooks yet.
    pub fn new(settings: &'a Settings, report: &RunReport, cancel: &'a Cancel) -> RunHooks<'a> {
        let Settings { host, state_dir, .. } = settings;
        let subject = Subject { run_id: report.run_id, host, domain: None, target: settings.target(), state_dir };
        RunHooks::sweep(state_dir);
        RunHooks(Phases::new(&settings.hooks, subject, None, cancel))
    }

    /// Runs the hooks before the run. If they fail, the run must not begin.
    pub fn enter(&mut self, report: &RunReport) -> Result<(), Error> {
        self.0.know(report);
        self.0.enter(Span::Run)
    }

    /// Runs the hooks after the run. `failed` is why the run was not good; `whole`, that it did no work at all.
    pub fn leave(mut self, report: &mut RunReport, failed: Option<&Failure>, whole: bool) {
        self.0.know(report);
        if let Err(error) = self.0.leave(Span::Run, failed) {
            report.errors.push(error.failure());
        }
        if let Some(failure) = failed.filter(|_| whole) {
            self.0.on_failure(failure);
        }
        let (results, warnings) = self.0.finish();
        report.hooks = results;
        report.warnings.extend(warnings);
    }
}
