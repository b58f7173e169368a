//! Owns: mailing a run: whether it is due, older mails first, what the ledger keeps of it. Must not: print.

use std::path::Path;

use chrono::{Local, Utc};

use super::Error;
use crate::config::{self, Mail, MailWhen, Settings, Transport};
use crate::engine;
use crate::ledger::{self, Channel, Ledger, Survey, Untold};
use crate::mail::{self, Facts, Spool};
use crate::metrics;
use crate::model::{Failure, RunReport};
use crate::report::ExitCode;
use crate::sys::step::{self, Step};

pub mod check;
pub mod known;

/// The result of mailing a run.
#[derive(Debug)]
pub struct Told {
    /// Whether mail has reported everything that `mail.when` asks for, so that nothing is printed for cron.
    pub settled: bool,
    /// What is wrong with templates of the operator.
    pub complaints: Vec<String>,
    /// Why it could not be sent, or another one that waited.
    pub errors: Vec<Error>,
}

/// Where a mail comes from: settings, or what could be read of a configuration that is wrong.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    mail: &'a Mail,
    state_dir: &'a Path,
    settings: Option<&'a Settings>,
}

impl<'a> Source<'a> {
    /// The mail that the settings ask for, if they do.
    pub fn of(settings: &'a Settings) -> Option<Source<'a>> {
        let mail = settings.mail.as_ref()?;
        Some(Source { mail, state_dir: &settings.state_dir, settings: Some(settings) })
    }

    /// The mail that a wrong configuration asks for, as far as it can be read, or else the one `known` from an earlier run.
    pub fn salvaged(errors: &'a config::Errors, known: Option<&'a Mail>) -> Option<Source<'a>> {
        let mail = errors.salvaged.mail.as_deref().or(known)?;
        Some(Source { mail, state_dir: state_dir(errors), settings: None })
    }

    fn channel(&self) -> Channel {
        match self.mail.transport {
            Transport::Smtp(_) => Channel::Smtp,
            Transport::Sendmail(_) => Channel::Sendmail,
        }
    }
}

/// The state folder of a wrong configuration.
fn state_dir(errors: &config::Errors) -> &Path {
    errors.salvaged.state_dir.as_deref().unwrap_or(Path::new(config::STATE_DIR))
}

/// A mail that is ready to leave.
#[derive(Debug)]
pub struct Ready {
    bytes: Vec<u8>,
    complaints: Vec<String>,
}

impl Ready {
    /// The mail as it leaves, RFC 5322.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Mails a run that ends with this code, if it is due, after those that wait in the spool.
pub fn after_run(source: Source<'_>, report: &RunReport, code: u8) -> Told {
    match try_mail(source, report, code) {
        Ok(told) => told,
        Err(error) => Told { settled: false, complaints: Vec::new(), errors: vec![error] },
    }
}

/// Mails the damage that a check found, except of points that a mail has named before.
pub fn after_check(source: Source<'_>, mut report: RunReport) -> Told {
    let (ledger, _) = known(source.state_dir);
    report.damaged.retain(|point| !ledger.mailed.names(point));
    match report.damaged.is_empty() {
        true => Told { settled: true, complaints: Vec::new(), errors: Vec::new() },
        false => after_run(source, &report, ExitCode::Damaged.code()),
    }
}

/// What is known of earlier runs. Files that cannot be read count as unknown and only warn, because their writers report the error.
fn known(state_dir: &Path) -> (Ledger, Option<Survey>) {
    let warn = |error: &ledger::Error| tracing::warn!("{}", engine::chain(error));
    let ledger = Ledger::load(state_dir).inspect_err(warn).unwrap_or_default();
    (ledger, Survey::load(state_dir).inspect_err(warn).unwrap_or_default())
}

fn try_mail(source: Source<'_>, report: &RunReport, code: u8) -> Result<Told, Error> {
    let (ledger, survey) = known(source.state_dir);
    let late = late(&ledger, survey.as_ref(), report);
    let gist = mail::gist(report, code, &late);
    let now = Local::now().fixed_offset();
    if !mail::is_due(source.mail.when, &gist, &ledger.mailed, now) {
        let untold = Untold { time: report.started, status: gist.status, subject: mail::subject(&report.host, &gist) };
        keep(source, |ledger| {
            ledger.mailed.leave(untold);
            ledger.mailed.name(&report.damaged);
        })?;
        let Flushed { refused, stuck, partly } = flush(source);
        let errors = refused.into_iter().chain(partly).map(Error::from).chain(stuck).collect();
        return Ok(Told { settled: true, complaints: Vec::new(), errors });
    }
    let ready = make(source, report, code)?;
    // The mail of this run reports refused recipients. Reporting them for the older mails as well would repeat them.
    let Flushed { refused, stuck, partly: _ } = flush(source);
    let sent = stuck.map_or_else(|| deliver(source, &ready), Err);
    let kept = if sent.is_err() { spool(source, &ready) } else { Ok(()) };
    keep(source, |ledger| {
        ledger.delivered(source.channel(), sent.as_ref().map(|_| Utc::now()).map_err(|_| ()));
        ledger.mailed.told(gist.status, &gist.names, Utc::now());
        ledger.mailed.name(&report.damaged);
    })?;
    kept?;
    let settled = sent.is_ok();
    let of_this = match sent {
        Ok(some) => some.into_iter().map(Error::from).collect(),
        Err(error) => vec![error],
    };
    let errors = refused.map(Error::from).into_iter().chain(of_this).collect();
    Ok(Told { settled, complaints: ready.complaints, errors })
}

/// Sends the mail of a run now, due or not. What is wrong with templates, and which recipients were refused.
pub fn send(source: Source<'_>, report: &RunReport, code: u8) -> Result<(Vec<String>, Vec<mail::Error>), Error> {
    let ready = make(source, report, code)?;
    let sent = deliver(source, &ready);
    keep(source, |ledger| ledger.delivered(source.channel(), sent.as_ref().map(|_| Utc::now()).map_err(|_| ())))?;
    sent.map(|refused| (ready.complaints, refused))
}

/// The mail of a run.
pub fn make(source: Source<'_>, report: &RunReport, code: u8) -> Result<Ready, Error> {
    let (ledger, survey) = known(source.state_dir);
    let late = late(&ledger, survey.as_ref(), report);
    let gist = mail::gist(report, code, &late);
    let untold: Vec<Untold> = ledger.mailed.untold.into_iter().collect();
    let facts = Facts { gist: &gist, settings: source.settings, survey: survey.as_ref(), late: &late, untold: &untold };
    let bodies = mail::bodies(report, facts, source.mail.templates.as_deref())?;
    // A digest is named after its worst run. Any other mail compares its run with the one before, and may report a recovery.
    let is_digest = source.mail.when == MailWhen::Digest;
    let (own, subject) = (gist.status, mail::subject(&report.host, &gist));
    let worse = untold.iter().filter(|run| is_digest && run.status > own).max_by_key(|run| run.status);
    let (status, subject) = worse.map_or((own, subject), |run| (run.status, run.subject.clone()));
    let bytes = mail::message(source.mail, report.run_id, status.name(), &subject, (bodies.text, bodies.html))?;
    Ok(Ready { bytes, complaints: bodies.complaints })
}

/// The HTML of a report.
pub fn html(settings: &Settings, report: &RunReport, code: u8) -> Result<String, Error> {
    let (ledger, survey) = known(&settings.state_dir);
    let late = late(&ledger, survey.as_ref(), report);
    let gist = mail::gist(report, code, &late);
    let facts = Facts { gist: &gist, settings: Some(settings), survey: survey.as_ref(), late: &late, untold: &[] };
    Ok(mail::html(report, facts)?)
}

/// The report of a run that could not begin.
pub fn unable(host: String, error: &Error) -> RunReport {
    let errors = vec![Failure { message: engine::chain(error), hint: error.hint() }];
    RunReport { errors, ..RunReport::new(host, uuid::Uuid::new_v4(), Utc::now()) }
}

fn late(ledger: &Ledger, survey: Option<&Survey>, report: &RunReport) -> Vec<String> {
    // A run that could not begin has backed up no guest, and its error says so.
    let survey = survey.filter(|_| report.errors.is_empty());
    survey.map_or_else(Vec::new, |survey| mail::late(ledger, survey, report))
}

fn may_send() -> Result<(), Error> {
    Ok(step::reached(Step::MailSend)
        .map_err(|error| engine::Error::Rejected { message: error.to_string(), hint: None })?)
}

/// Those recipients that were refused while others were taken.
fn deliver(source: Source<'_>, ready: &Ready) -> Result<Vec<mail::Error>, Error> {
    may_send()?;
    Ok(mail::send(source.mail, ready.bytes())?)
}

/// Keeps a mail for the next run, where there is a state folder.
fn spool(source: Source<'_>, ready: &Ready) -> Result<(), Error> {
    if !source.state_dir.is_dir() {
        return Ok(());
    }
    Ok(Spool::of(source.state_dir).put(ready.bytes())?)
}

/// The result of sending the mails that waited.
#[derive(Debug, Default)]
struct Flushed {
    /// Those that no server takes, and why the last was refused.
    refused: Option<mail::Error>,
    /// Why one cannot be sent now; those behind it were not tried.
    stuck: Option<Error>,
    /// The recipients that were refused while others were taken, of the last such mail.
    partly: Vec<mail::Error>,
}

/// Sends what waits, oldest first, to those who get mail now. One that is refused for good is set aside, the first that cannot be
/// sent for another reason ends it.
fn flush(source: Source<'_>) -> Flushed {
    let mut flushed = Flushed::default();
    let mut refused = Vec::new();
    flushed.stuck = try_flush(source, &mut refused, &mut flushed.partly).err();
    let count = refused.len();
    flushed.refused = refused.pop().map(|error| mail::Error::Dropped { count, source: Box::new(error) });
    flushed
}

fn try_flush(source: Source<'_>, refused: &mut Vec<mail::Error>, partly: &mut Vec<mail::Error>) -> Result<(), Error> {
    let spool = Spool::of(source.state_dir);
    let waiting = spool.waiting()?;
    if waiting.is_empty() {
        return Ok(());
    }
    for (at, path) in waiting.iter().enumerate() {
        may_send()?;
        match mail::send(source.mail, &spool.read(path)?) {
            Ok(some) => {
                spool.done(path)?;
                *partly = some;
            }
            // A server refuses a login for good, too: that says nothing of the mail.
            Err(error) if error.is_final() && mail::reach(source.mail).is_ok() => {
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

/// Changes the ledger where there is one, and tells Prometheus.
fn keep(source: Source<'_>, change: impl FnOnce(&mut Ledger)) -> Result<(), Error> {
    if !Ledger::exists(source.state_dir) {
        return Ok(());
    }
    let ledger = ledger::update(source.state_dir, change)?;
    Ok(ledger.textfile.as_ref().map_or(Ok(()), |path| metrics::publish(source.state_dir, path))?)
}
