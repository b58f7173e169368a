//! Checks for the command `check` whether a run could be mailed now. Must not print, or change anything on the host.

use handlebars::html_escape;
use uuid::Uuid;

use crate::config::{Mail, Secret, Settings, Smtp, Transport};
use crate::engine::chain;
use crate::engine::check::{Finding, Severity};
use crate::mail::{self, Error, Spool};
use crate::model::Failure;
use crate::model::command::typed;
use crate::sys::host::node_name;

/// Checks only files: who could change them, and the templates.
pub fn offline(settings: &Settings) -> Vec<Finding> {
    let Some(mail) = &settings.mail else { return Vec::new() };
    let untrusted = mail::untrusted(mail);
    let mut findings: Vec<_> = untrusted.iter().map(|error| problem("mail".to_owned(), error)).collect();
    findings.extend(of_templates(mail));
    findings
}

fn of_templates(mail: &Mail) -> Vec<Finding> {
    let Some(templates) = mail.templates.as_deref() else { return Vec::new() };
    let about = format!("mail templates {}", templates.display());
    let hint = "Start from the built-in templates; see docs/mail.md, \"Templates\".";
    if let Err(error) = std::fs::read_dir(templates) {
        let message = format!("cannot be read; using the built-in ones: {error}");
        return vec![Finding::new(about, Severity::Warning, message, Some(hint))];
    }
    match mail::check_templates(templates) {
        Ok(wrong) if wrong.is_empty() => vec![Finding::new(about, Severity::Good, "all render", None)],
        Ok(wrong) => {
            wrong.into_iter().map(|wrong| Finding::new(&about, Severity::Warning, wrong, Some(hint))).collect()
        }
        Err(error) => vec![problem(about, &error)],
    }
}

/// Checks the transport, and whether emails are waiting. With `send_test`, sends an email.
pub fn host(settings: &Settings, send_test: bool) -> Vec<Finding> {
    let Some(mail) = &settings.mail else { return vec![none(send_test)] };
    let mut findings: Vec<Finding> = open_password(mail).into_iter().collect();
    match send_test {
        true => findings.push(tried(settings, mail)),
        false if mail::untrusted(mail).is_empty() => findings.push(reached(mail)),
        // Already reported.
        false => {}
    }
    findings.extend(waiting(settings));
    findings
}

fn none(send_test: bool) -> Finding {
    let hint = "Add `mail: {to: root}` to the configuration; see docs/config.md, \"Mail\".";
    match send_test {
        true => Finding::new("mail", Severity::Problem, "the configuration has no `mail` section", Some(hint)),
        false => Finding::new("mail", Severity::Good, "not configured; cron mails the printed report", None),
    }
}

fn reached(mail: &Mail) -> Finding {
    if let Some(finding) = of_the_unit(mail) {
        return finding;
    }
    let how = match &mail.transport {
        Transport::Sendmail(_) => "executable",
        Transport::Smtp(Smtp { login: Some(_), .. }) => "responds and accepts the login",
        Transport::Smtp(_) => "responds",
    };
    match mail::reach(mail) {
        Ok(()) => Finding::new(mail::way(mail), Severity::Good, how, None),
        Err(error) => problem(mail::way(mail), &error),
    }
}

/// Sends a test email and reports its recipients.
fn tried(settings: &Settings, mail: &Mail) -> Finding {
    let about = "test email".to_owned();
    match send(settings, mail) {
        Ok(refused) if refused.is_empty() => {
            let message =
                format!("{} accepted a message for {}; check that it arrives", mail::way(mail), mail.to.join(", "));
            Finding::new(about, Severity::Good, message, None)
        }
        Ok(refused) => {
            let all: Vec<_> = refused.iter().map(|error| chain(error)).collect();
            let hint = refused.first().and_then(Error::hint);
            Finding::new(about, Severity::Problem, all.join("; "), hint.as_deref())
        }
        Err(error) => problem(about, &error),
    }
}

fn send(settings: &Settings, mail: &Mail) -> Result<Vec<Error>, Error> {
    let text = typed(&format!(
        "This test email was sent by `kvmbackup check --send-test` on {} ({}).\n\
         Mails about backups are sent in the same way. Nothing was backed up.\n",
        settings.host,
        node_name()
    ));
    let html =
        format!("<!DOCTYPE html>\n<html lang=\"en\"><body><p>{}</p></body></html>\n", html_escape(text.trim_end()));
    let message = mail::message(mail, Uuid::new_v4(), "TEST", &mail::test_subject(&settings.host), (text, html))?;
    mail::send(mail, &message)
}

/// Reports a password file that other users can read.
fn open_password(mail: &Mail) -> Option<Finding> {
    let secret = secret(mail)?;
    let Secret::File(path) = secret else { return None };
    secret.is_exposed().then(|| {
        let about = format!("password {}", path.display());
        let hint = format!("Restrict its mode: chmod 600 {}", path.display());
        Finding::new(about, Severity::Warning, "other users can read it", Some(&hint))
    })
}

/// Reports a password that systemd passes only to the unit.
fn of_the_unit(mail: &Mail) -> Option<Finding> {
    let Secret::Credential(name) = secret(mail)? else { return None };
    std::env::var_os("CREDENTIALS_DIRECTORY").is_none().then(|| {
        let hint = format!(
            "Try it as the unit does: systemd-run --pipe --wait -p LoadCredential={name}:FILE kvmbackup check --send-test"
        );
        let message = format!("not tried: systemd passes the credential {name} only to the unit");
        Finding::new(mail::way(mail), Severity::Warning, message, Some(&hint))
    })
}

fn secret(mail: &Mail) -> Option<&Secret> {
    match &mail.transport {
        Transport::Smtp(smtp) => smtp.login.as_ref().map(|login| &login.password),
        Transport::Sendmail(_) => None,
    }
}

fn waiting(settings: &Settings) -> Option<Finding> {
    let about = "emails of earlier runs";
    match Spool::of(&settings.state_dir).waiting() {
        Ok(waiting) if waiting.is_empty() => None,
        Ok(waiting) => {
            let message = format!("{} could not be sent yet", waiting.len());
            let hint = "The next run sends them. To test mail delivery: kvmbackup check --send-test";
            Some(Finding::new(about, Severity::Warning, message, Some(hint)))
        }
        Err(error) => Some(problem(about.to_owned(), &error)),
    }
}

fn problem(about: String, error: &Error) -> Finding {
    let failure = Failure { message: chain(error), hint: error.hint() };
    Finding::failed(about, Severity::Problem, failure)
}
