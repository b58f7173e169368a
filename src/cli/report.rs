//! Runs the command `report`, which shows or mails the last report. Must not create one.

use std::io::Write;
use std::path::Path;

use super::args::{Global, Report, ReportFormat};
use super::{print, print_error, print_failure, print_report};
use crate::app::mail::MailSetup;
use crate::app::{mail, watch};
use crate::config::Settings;
use crate::model::{Failure, RunReport, RunResult, version};
use crate::sys::{durable, opened};
use crate::{app, engine, report};

/// Maximum size of a report in bytes; each domain needs a few kilobytes.
const MAX: u64 = 64 << 20;

pub(super) fn run(global: &Global, words: &Report) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    let json = last(&settings)?;
    let parsed = || -> Result<RunReport, engine::Error> {
        let path = settings.state_dir.join(app::run::LAST);
        let last: RunReport = version::parse(json.as_bytes(), RunReport::SCHEMA)
            .map_err(|source| engine::Error::Format { path, source })?;
        // A later verification may have found damage, or found it resolved.
        Ok(RunReport { damaged: watch::damaged(&settings), ..last })
    };
    if words.send {
        let last = parsed()?;
        let (complaints, refused) = mail::send(setup(&settings)?, &last)?;
        complaints.into_iter().for_each(|message| print_failure(&Failure { message, hint: None }));
        print("the email was sent\n");
        if !refused.is_empty() {
            refused.into_iter().for_each(|error| print_error(&error.into()));
            return Ok(RunResult::Untidy);
        }
    } else if let Some(path) = &words.render_to {
        let last = parsed()?;
        let ready = mail::make(setup(&settings)?, &last, last.result())?;
        write(path, ready.bytes())?;
    } else {
        match words.format {
            ReportFormat::Json => print(&report::json(&parsed()?).map_err(engine::Error::Json)?),
            ReportFormat::Text => print_report(&parsed()?),
            ReportFormat::Html => {
                let last = parsed()?;
                print(&mail::html(&settings, &last)?);
            }
        }
    }
    Ok(RunResult::Good)
}

fn last(settings: &Settings) -> Result<String, app::Error> {
    let path = settings.state_dir.join(app::run::LAST);
    let json = opened::read_file(&path, MAX).and_then(opened::text).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => engine::Error::Rejected {
            message: format!("{}: no report, because no run has finished yet", path.display()),
            hint: Some("Run `kvmbackup backup` first, or check `state_dir` in the configuration.".into()),
        },
        _ => engine::Error::file("read the last report", &path)(error),
    })?;
    Ok(json)
}

fn setup(settings: &Settings) -> Result<MailSetup<'_>, app::Error> {
    MailSetup::of(settings).ok_or(app::Error::NoMail)
}

/// Writes a new file; an existing file is not replaced.
fn write(path: &Path, bytes: &[u8]) -> Result<(), engine::Error> {
    let written = durable::create_private(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(engine::Error::file("write the email", path))
}
