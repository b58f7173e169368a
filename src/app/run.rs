//! Runs a backup under the lock of its state directory: recovery, the hooks of the run, ledger, metrics, mail, and the
//! result. Must not print, or know how a domain is backed up.

use std::path::Path;

use chrono::Utc;

use super::mail::MailSetup;
use super::{Error, libvirt, mail, serve, watch};
use crate::config::Settings;
use crate::engine::journal::Journal;
use crate::engine::recover::{self, Connect, Recovered};
use crate::engine::run::{self, Run};
use crate::engine::{self, Monitor, RunHooks};
use crate::model::{Failure, RunReport, RunResult};
use crate::plan::Selection;
use crate::report;
use crate::sys::durable;
use crate::sys::lock::Lock;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;
use crate::sys::step::{self, Step};

/// File name of the last run's report in the state directory.
pub const LAST: &str = "last-report.json";

/// A state directory that no other process changes as long as this value exists.
pub struct Exclusive {
    pub journal: Journal,
    _lock: Lock,
}

impl Exclusive {
    /// Takes the lock, and removes the context files that a killed run left for its hooks.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it.
    pub fn take(state_dir: &Path) -> Result<Exclusive, Error> {
        let lock = super::lock(state_dir)?;
        let journal = Journal::open(state_dir)?;
        RunHooks::sweep(state_dir);
        Ok(Exclusive { journal, _lock: lock })
    }

    /// Recovers from interrupted runs. With settings, also recovers from overlays of kvmbackup that the journal does
    /// not know, for example after the loss of the state directory. Returns what was done before an error together with
    /// the error.
    pub fn recover(
        &self,
        connect: &Connect<'_>,
        settings: Option<&Settings>,
        patience: &Patience,
        cancel: &Cancel,
    ) -> (Recovered, Result<(), Error>) {
        let mut recovered = match recover::recover(&self.journal, connect, cancel, patience) {
            Ok(recovered) => recovered,
            Err(error) => return (Recovered::default(), Err(error.into())),
        };
        let Some(settings) = settings.filter(|_| recovered.stopped.is_none()) else { return (recovered, Ok(())) };
        let adopted = connect(&settings.libvirt_uri).map_err(Error::from).and_then(|hypervisor| {
            let journal = &self.journal;
            Ok(recover::recover_unknown(journal, &*hypervisor, settings, cancel, &mut recovered)?)
        });
        (recovered, adopted)
    }
}

/// A run that has ended.
pub struct EndedRun {
    pub report: RunReport,
    pub result: RunResult,
    /// Why the report, the ledger, the metrics or an email could not be written or sent.
    pub complaints: Vec<Failure>,
    /// Whether everything that `mail.when` asks for was mailed, so that nothing is printed for cron.
    pub settled: bool,
}

/// Backs up all due domains, even if some fail, and updates ledger, metrics and mail.
///
/// # Errors
/// Only those that prevent the run from starting; see [`unable`].
pub fn backup(
    settings: &Settings,
    selection: &Selection,
    cancel: &Cancel,
    monitor: &dyn Monitor,
) -> Result<EndedRun, Error> {
    let exclusive = Exclusive::take(&settings.state_dir)?;
    let mut report = run::begin(settings, selection);
    let watched = watch::begin(settings, &mut report).and(mail::known::remember(settings));
    let served = serve::beside_run(settings);
    let mut hooks = RunHooks::new(settings, &report, cancel);
    let entered = hooks.enter(&report);
    let is_skipped = matches!(entered, Err(engine::Error::Skipped { .. }));
    let done = match entered {
        Ok(()) => back_up(&exclusive, settings, selection, (cancel, monitor), &mut report),
        Err(error) => Err(error.into()),
    };
    let failed = done.err().filter(|_| !is_skipped);
    report.errors.extend(failed.as_ref().map(Error::failure));
    report.finished = Utc::now();
    let bad = report.failure();
    hooks.leave(&mut report, bad.as_ref(), failed.is_some());
    let result = failed.map_or_else(|| report.result(), |error| error.result());
    let mut ended = EndedRun { report, result, complaints: Vec::new(), settled: false };
    ended.told(watched.and(watch::end(settings, &ended.report, ended.result)));
    ended.told(served.map(drop));
    ended.report.damaged = watch::damaged(settings);
    ended.keep(settings);
    ended.mail(MailSetup::of(settings));
    Ok(ended)
}

/// The backups themselves. After an error, the report contains everything that was done before it.
fn back_up(
    exclusive: &Exclusive,
    settings: &Settings,
    selection: &Selection,
    (cancel, monitor): (&Cancel, &dyn Monitor),
    report: &mut RunReport,
) -> Result<(), Error> {
    let patience = Patience::new(settings.stall_timeout);
    let (recovered, done) = exclusive.recover(&super::connect, Some(settings), &patience, cancel);
    report.recovered = recovered.done;
    report.leftovers = recovered.left;
    done?;
    let hypervisor = libvirt(&settings.libvirt_uri)?;
    let run = Run { settings, hypervisor: &hypervisor, journal: &exclusive.journal, selection, cancel, monitor };
    let (ran, done) = run.all(report.run_id, report.started);
    report.domains = ran.domains;
    report.not_due = ran.not_due;
    report.signal = ran.signal;
    Ok(done?)
}

/// Emails that a run could not start. The result of the command is that of the error.
pub fn unable(setup: Option<MailSetup<'_>>, host: String, error: &Error) -> Vec<Failure> {
    let report = mail::unable(host, error);
    let mut ended = EndedRun { report, result: error.result(), complaints: Vec::new(), settled: false };
    ended.mail(setup);
    ended.complaints
}

impl EndedRun {
    /// Records a report that could not be written or sent, which changes only a good result.
    fn told(&mut self, told: Result<(), Error>) {
        if let Err(error) = told {
            self.result = self.result.max(RunResult::Untidy);
            self.complaints.push(error.failure());
        }
    }

    /// Saves the report for `kvmbackup report`. Before the email, which may take minutes, in case the program is killed.
    fn keep(&mut self, settings: &Settings) {
        let path = settings.state_dir.join(LAST);
        let kept = report::json(&self.report).map_err(engine::Error::Json).and_then(|json| {
            let written = step::reached(Step::ReportWrite).and_then(|()| durable::write(&path, json.as_bytes()));
            written.map_err(engine::Error::file("write the report", &path))
        });
        self.told(kept.map_err(Error::from));
    }

    /// Mails the report if mail is configured and due.
    fn mail(&mut self, setup: Option<MailSetup<'_>>) {
        let Some(setup) = setup else { return };
        let told = mail::after_run(setup, &self.report, self.result);
        self.complaints.extend(told.complaints.into_iter().map(|message| Failure { message, hint: None }));
        self.settled = told.settled;
        told.errors.into_iter().for_each(|error| self.told(Err(error)));
    }
}
