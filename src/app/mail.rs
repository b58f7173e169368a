//! Mails a run: decides whether an email is due, sends older emails first, and records it in the ledger. Must not print.

use std::path::Path;

use chrono::{Local, Utc};

use super::Error;
use crate::config::{self, Mail, MailWhen, Settings, Transport};
use crate::engine;
use crate::ledger::{self, Channel, Ledger, Mailed, Survey, Untold};
use crate::mail::{self, Background, Spool};
use crate::metrics;
use crate::model::{Failure, RunReport, RunResult};
use crate::sys::step::{self, Step};

pub mod check;
pub mod known;

/// The result of mailing a run.
#[derive(Debug)]
pub struct MailResult {
    /// Whether everything that `mail.when` asks for was mailed, so that nothing is printed for cron.
    pub settled: bool,
    /// Errors in the operator's templates.
    pub complaints: Vec<String>,
    /// Why this email, or a waiting one, could not be sent.
    pub errors: Vec<Error>,
}

/// How runs are mailed: from the settings, or from the readable part of an invalid configuration.
#[derive(Debug, Clone, Copy)]
pub struct MailSetup<'a> {
    mail: &'a Mail,
    state_dir: &'a Path,
    settings: Option<&'a Settings>,
}

impl<'a> MailSetup<'a> {
    /// `None` if the settings have no `mail`.
    pub fn of(settings: &'a Settings) -> Option<MailSetup<'a>> {
        let mail = settings.mail.as_ref()?;
        Some(MailSetup { mail, state_dir: &settings.state_dir, settings: Some(settings) })
    }

    /// From the readable part of an invalid configuration, or else as `known` from an earlier run.
    pub fn salvaged(errors: &'a config::Errors, known: Option<&'a Mail>) -> Option<MailSetup<'a>> {
        let mail = errors.salvaged.mail.as_deref().or(known)?;
        Some(MailSetup { mail, state_dir: state_dir(errors), settings: None })
    }

    fn channel(&self) -> Channel {
        match self.mail.transport {
            Transport::Smtp(_) => Channel::Smtp,
            Transport::Sendmail(_) => Channel::Sendmail,
        }
    }
}

/// The state directory of an invalid configuration.
fn state_dir(errors: &config::Errors) -> &Path {
    errors.salvaged.state_dir.as_deref().unwrap_or(Path::new(config::STATE_DIR))
}

/// An email that is ready to be sent.
#[derive(Debug)]
pub struct Ready {
    bytes: Vec<u8>,
    complaints: Vec<String>,
}

impl Ready {
    /// The email as it is sent, RFC 5322.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Mails a run with this result if an email is due. Waiting emails are sent first.
pub fn after_run(setup: MailSetup<'_>, report: &RunReport, result: RunResult) -> MailResult {
    match try_mail(setup, report, result) {
        Ok(told) => told,
        Err(error) => MailResult { settled: false, complaints: Vec::new(), errors: vec![error] },
    }
}

/// Mails the damage that a verification found, except for points that an earlier email has named.
pub fn after_check(setup: MailSetup<'_>, mut report: RunReport) -> MailResult {
    let (ledger, _) = known(setup.state_dir);
    report.damaged.retain(|point| !ledger.mailed.names(point));
    match report.damaged.is_empty() {
        true => MailResult { settled: true, complaints: Vec::new(), errors: Vec::new() },
        false => after_run(setup, &report, RunResult::Damaged),
    }
}

/// What is known of earlier runs. Unreadable files count as unknown and only cause a warning, because their writers
/// report the error.
fn known(state_dir: &Path) -> (Ledger, Option<Survey>) {
    let warn = |error: &ledger::Error| tracing::warn!("{}", engine::chain(error));
    let ledger = Ledger::load(state_dir).inspect_err(warn).unwrap_or_default();
    (ledger, Survey::load(state_dir).inspect_err(warn).unwrap_or_default())
}

fn try_mail(setup: MailSetup<'_>, report: &RunReport, result: RunResult) -> Result<MailResult, Error> {
    let (ledger, survey) = known(setup.state_dir);
    let late = late(&ledger, survey.as_ref(), report);
    let gist = mail::gist(report, result, &late);
    let now = Local::now().fixed_offset();
    let is_due = match report.maintenance {
        Some(_) => mail::is_maintenance_due(setup.mail.when, &gist, &ledger.mailed_maintenance, now),
        None => mail::is_due(setup.mail.when, &gist, &ledger.mailed, now),
    };
    if !is_due {
        let untold = Untold { time: report.started, status: gist.status, subject: mail::subject(&report.host, &gist) };
        keep(setup, |ledger| {
            ledger.mailed.leave(untold);
            ledger.mailed.name(&report.damaged);
        })?;
        let Flushed { refused, stuck, partly } = flush(setup);
        let errors = refused.into_iter().chain(partly).map(Error::from).chain(stuck).collect();
        return Ok(MailResult { settled: true, complaints: Vec::new(), errors });
    }
    let ready = make(setup, report, result)?;
    // The email of this run reports rejected recipients. Reporting them for the older emails as well would repeat them.
    let Flushed { refused, stuck, partly: _ } = flush(setup);
    let sent = stuck.map_or_else(|| deliver(setup, &ready), Err);
    let kept = if sent.is_err() { spool(setup, &ready) } else { Ok(()) };
    keep(setup, |ledger| {
        ledger.delivered(setup.channel(), sent.as_ref().map(|_| Utc::now()).map_err(|_| ()));
        mailed(ledger, report).told(gist.status, &gist.names, Utc::now());
        ledger.mailed.name(&report.damaged);
    })?;
    kept?;
    let settled = sent.is_ok();
    let of_this = match sent {
        Ok(some) => some.into_iter().map(Error::from).collect(),
        Err(error) => vec![error],
    };
    let errors = refused.map(Error::from).into_iter().chain(of_this).collect();
    Ok(MailResult { settled, complaints: ready.complaints, errors })
}

/// What the recipients know of runs, or of the maintenance of the repository.
fn mailed<'a>(ledger: &'a mut Ledger, report: &RunReport) -> &'a mut Mailed {
    if report.maintenance.is_some() { &mut ledger.mailed_maintenance } else { &mut ledger.mailed }
}

/// Sends the email of a run now, even if it is not due. Returns template errors and the rejected recipients.
pub fn send(setup: MailSetup<'_>, report: &RunReport) -> Result<(Vec<String>, Vec<mail::Error>), Error> {
    let ready = make(setup, report, report.result())?;
    let sent = deliver(setup, &ready);
    keep(setup, |ledger| ledger.delivered(setup.channel(), sent.as_ref().map(|_| Utc::now()).map_err(|_| ())))?;
    sent.map(|refused| (ready.complaints, refused))
}

pub fn make(setup: MailSetup<'_>, report: &RunReport, result: RunResult) -> Result<Ready, Error> {
    let (mut ledger, survey) = known(setup.state_dir);
    let late = late(&ledger, survey.as_ref(), report);
    let gist = mail::gist(report, result, &late);
    let untold: Vec<Untold> = std::mem::take(&mut mailed(&mut ledger, report).untold).into();
    let facts =
        Background { gist: &gist, settings: setup.settings, survey: survey.as_ref(), late: &late, untold: &untold };
    let bodies = mail::bodies(report, facts, setup.mail.templates.as_deref())?;
    // A digest has the status of its worst run. Any other mail compares its run with the previous one, and may report a
    // recovery.
    let is_digest = setup.mail.when == MailWhen::Digest;
    let (own, subject) = (gist.status, mail::subject(&report.host, &gist));
    let worse = untold.iter().filter(|run| is_digest && run.status > own).max_by_key(|run| run.status);
    let (status, subject) = worse.map_or((own, subject), |run| (run.status, run.subject.clone()));
    let bytes = mail::message(setup.mail, report.run_id, status.name(), &subject, (bodies.text, bodies.html))?;
    Ok(Ready { bytes, complaints: bodies.complaints })
}

pub fn html(settings: &Settings, report: &RunReport) -> Result<String, Error> {
    let (ledger, survey) = known(&settings.state_dir);
    let late = late(&ledger, survey.as_ref(), report);
    let gist = mail::gist(report, report.result(), &late);
    let facts = Background { gist: &gist, settings: Some(settings), survey: survey.as_ref(), late: &late, untold: &[] };
    Ok(mail::html(report, facts)?)
}

/// The report of a run that could not start.
pub fn unable(host: String, error: &Error) -> RunReport {
    let errors = vec![Failure { message: engine::chain(error), hint: error.hint() }];
    RunReport { errors, ..RunReport::new(host, uuid::Uuid::new_v4(), Utc::now()) }
}

fn late(ledger: &Ledger, survey: Option<&Survey>, report: &RunReport) -> Vec<String> {
    // A run that could not start has backed up no guest, and its error shows that.
    let survey = survey.filter(|_| report.errors.is_empty() && report.maintenance.is_none());
    survey.map_or_else(Vec::new, |survey| mail::late(ledger, survey, report))
}

fn may_send() -> Result<(), Error> {
    Ok(step::reached(Step::MailSend)
        .map_err(|error| engine::Error::Rejected { message: error.to_string(), hint: None })?)
}

/// Returns the rejected recipients if others were accepted.
fn deliver(setup: MailSetup<'_>, ready: &Ready) -> Result<Vec<mail::Error>, Error> {
    may_send()?;
    Ok(mail::send(setup.mail, ready.bytes())?)
}

/// Keeps an email for the next run, if the state directory exists.
fn spool(setup: MailSetup<'_>, ready: &Ready) -> Result<(), Error> {
    if !setup.state_dir.is_dir() {
        return Ok(());
    }
    Ok(Spool::of(setup.state_dir).put(ready.bytes())?)
}

/// The result of sending the waiting emails.
#[derive(Debug, Default)]
struct Flushed {
    /// How many emails were rejected permanently, and why the last one was.
    refused: Option<mail::Error>,
    /// Why one cannot be sent now. Later ones were not tried.
    stuck: Option<Error>,
    /// The rejected recipients of the last email that others accepted.
    partly: Vec<mail::Error>,
}

/// Sends the waiting emails, oldest first, to the recipients of the current configuration. A permanently rejected mail
/// is set aside. Any other failure ends the loop.
fn flush(setup: MailSetup<'_>) -> Flushed {
    let mut flushed = Flushed::default();
    let mut refused = Vec::new();
    flushed.stuck = try_flush(setup, &mut refused, &mut flushed.partly).err();
    let count = refused.len();
    flushed.refused = refused.pop().map(|error| mail::Error::Dropped { count, source: Box::new(error) });
    flushed
}

fn try_flush(setup: MailSetup<'_>, refused: &mut Vec<mail::Error>, partly: &mut Vec<mail::Error>) -> Result<(), Error> {
    let spool = Spool::of(setup.state_dir);
    let waiting = spool.waiting()?;
    if waiting.is_empty() {
        return Ok(());
    }
    for (at, path) in waiting.iter().enumerate() {
        may_send()?;
        match mail::send(setup.mail, &spool.read(path)?) {
            Ok(some) => {
                spool.done(path)?;
                *partly = some;
            }
            // A server may also reject the login permanently, which is not the fault of the email.
            Err(error) if error.is_final() && mail::reach(setup.mail).is_ok() => {
                spool.refused(path)?;
                refused.push(error);
            }
            Err(error) => {
                return Err(mail::Error::Waiting { count: waiting.len() - at, source: Box::new(error) }.into());
            }
        }
    }
    Ok(())
}

/// Changes the ledger if it exists, and publishes the metrics.
fn keep(setup: MailSetup<'_>, change: impl FnOnce(&mut Ledger)) -> Result<(), Error> {
    if !Ledger::exists(setup.state_dir) {
        return Ok(());
    }
    let ledger = ledger::update(setup.state_dir, change)?;
    Ok(ledger.textfile.as_ref().map_or(Ok(()), |path| metrics::publish(setup.state_dir, path))?)
}
