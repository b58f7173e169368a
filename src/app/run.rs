//! Owns: a run under the lock of its state folder: recovery, the hooks of the run, ledger, metrics and mail, the exit code. Must
//! not: print, or know how a domain is backed up.

use std::path::Path;

use chrono::Utc;

use super::{Error, libvirt, mail, serve, watch};
use crate::config::Settings;
use crate::engine::journal::Journal;
use crate::engine::recover::{self, Connect, Recovered};
use crate::engine::run::{self, Run};
use crate::engine::{self, Monitor, RunHooks};
use crate::model::{Failure, RunReport};
use crate::plan::Selection;
use crate::report;
use crate::sys::durable;
use crate::sys::lock::Lock;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;
use crate::sys::step::{self, Step};

/// The report of the last run, in the state folder.
pub const LAST: &str = "last-report.json";

/// A state folder that no other process changes as long as this lives.
pub struct Exclusive {
    /// What interrupted runs left.
    pub journal: Journal,
    _lock: Lock,
}

impl Exclusive {
    /// Takes the lock, and removes the context files that a killed run left for its hooks.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process has it.
    pub fn take(state_dir: &Path) -> Result<Exclusive, Error> {
        let lock = super::lock(state_dir)?;
        let journal = Journal::open(state_dir)?;
        RunHooks::sweep(state_dir);
        Ok(Exclusive { journal, _lock: lock })
    }

    /// Undoes what interrupted runs left. With settings, also looks for overlays of ours that the journal does not know, as after
    /// the loss of the state folder. What was done before an error is returned with it.
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
pub struct Ended {
    /// What it did.
    pub report: RunReport,
    /// What the program ends with.
    pub code: u8,
    /// Why the report, the ledger, the metrics or a mail could not be written or sent.
    pub complaints: Vec<Failure>,
    /// Whether mail has reported everything that `mail.when` asks for, so that nothing is printed for cron.
    pub settled: bool,
}

/// Backs up all due domains, even if some fail, and updates ledger, metrics and mail.
///
/// # Errors
/// Only those that keep the run from beginning; see [`unable`].
pub fn backup(
    settings: &Settings,
    request: &Selection,
    cancel: &Cancel,
    monitor: &dyn Monitor,
) -> Result<Ended, Error> {
    let exclusive = Exclusive::take(&settings.state_dir)?;
    let mut report = run::begin(settings, request);
    let watched = watch::begin(settings, &mut report).and(mail::known::remember(settings));
    let served = serve::beside_run(settings);
    let mut hooks = RunHooks::new(settings, &report, cancel);
    let entered = hooks.enter(&report);
    let is_skipped = matches!(entered, Err(engine::Error::Skipped { .. }));
    let done = match entered {
        Ok(()) => back_up(&exclusive, settings, request, (cancel, monitor), &mut report),
        Err(error) => Err(error.into()),
    };
    let failed = done.err().filter(|_| !is_skipped);
    report.errors.extend(failed.as_ref().map(Error::failure));
    report.finished = Utc::now();
    let bad = report::failure(&report);
    hooks.leave(&mut report, bad.as_ref(), failed.is_some());
    let code = failed.map_or_else(|| report::exit_code(&report), |error| error.exit_code());
    let mut ended = Ended { report, code, complaints: Vec::new(), settled: false };
    ended.told(watched.and(watch::end(settings, &ended.report, ended.code)));
    ended.told(served.map(drop));
    ended.report.damaged = watch::damaged(settings);
    ended.keep(settings);
    ended.mail(mail::Source::of(settings));
    Ok(ended)
}

/// The run itself. Whatever happens, what was done before it is in the report.
fn back_up(
    exclusive: &Exclusive,
    settings: &Settings,
    request: &Selection,
    (cancel, monitor): (&Cancel, &dyn Monitor),
    report: &mut RunReport,
) -> Result<(), Error> {
    let patience = Patience::new(settings.stall_timeout);
    let (recovered, done) = exclusive.recover(&super::connect, Some(settings), &patience, cancel);
    report.recovered = recovered.done;
    report.leftovers = recovered.left;
    done?;
    let hypervisor = libvirt(&settings.libvirt_uri)?;
    let run = Run { settings, hypervisor: &hypervisor, journal: &exclusive.journal, request, cancel, monitor };
    let (ran, done) = run.all(report.run_id, report.started);
    report.domains = ran.domains;
    report.not_due = ran.not_due;
    report.signal = ran.signal;
    Ok(done?)
}

/// Mails that a run could not begin. The program ends with the code of that error anyway.
pub fn unable(source: Option<mail::Source<'_>>, host: String, error: &Error) -> Vec<Failure> {
    let report = mail::unable(host, error);
    let mut ended = Ended { report, code: error.exit_code(), complaints: Vec::new(), settled: false };
    ended.mail(source);
    ended.complaints
}

impl Ended {
    /// Records a report that could not be written or sent. It changes the exit code only if that was 0.
    fn told(&mut self, told: Result<(), Error>) {
        if let Err(error) = told {
            self.code = report::untold(self.code);
            self.complaints.push(error.failure());
        }
    }

    /// Keeps the report for `kvmbackup report`. Before the mail: that may take minutes, and the program may be ended meanwhile.
    fn keep(&mut self, settings: &Settings) {
        let path = settings.state_dir.join(LAST);
        let kept = report::json(&self.report).map_err(engine::Error::Json).and_then(|json| {
            let written = step::reached(Step::ReportWrite).and_then(|()| durable::write(&path, json.as_bytes()));
            written.map_err(engine::Error::file("write the report", &path))
        });
        self.told(kept.map_err(Error::from));
    }

    /// Mails the report if that is wanted and due.
    fn mail(&mut self, source: Option<mail::Source<'_>>) {
        let Some(source) = source else { return };
        let told = mail::after_run(source, &self.report, self.code);
        self.complaints.extend(told.complaints.into_iter().map(|message| Failure { message, hint: None }));
        self.settled = told.settled;
        told.errors.into_iter().for_each(|error| self.told(Err(error)));
    }
}
