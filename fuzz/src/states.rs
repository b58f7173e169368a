//! Owns: the entry for the files of the state folder. Must not: write any as the program does.
//!
//! Mails that wait in the spool are not read by the program, only sent on as they are: there is nothing to feed.

use std::time::Duration;

use kvmbackup::config::Mail;
use kvmbackup::engine::verified::Verified;
use kvmbackup::ledger::{Ledger, Survey};
use kvmbackup::model::RunReport;
use kvmbackup::{mail, metrics, report};

use super::{folder, journal};

/// A file of the state folder; the first byte says which. What can be read is told on, as the program does.
pub fn state(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let dir = folder();
    let write = |name: &str| std::fs::write(dir.join(name), rest).unwrap();
    match kind % 6 {
        0 => {
            write("ledger.json");
            drop(metrics::text(&Ledger::load(dir).unwrap(), None, false));
            drop(metrics::exporter_text(true, Duration::ZERO));
        }
        1 => {
            write("survey.json");
            if let Some(survey) = Survey::load(dir).unwrap() {
                let mut ledger = Ledger::default();
                ledger.forget(&survey);
                drop(metrics::text(&ledger, Some(&survey), true));
            }
        }
        2 => {
            write("verified.json");
            drop(Verified::load(dir));
        }
        3 => journal(rest),
        5 => known(rest),
        _ => told(rest),
    }
}

/// How runs are mailed while the configuration cannot be read: no address adds a header to a mail.
fn known(bytes: &[u8]) {
    let Ok(known) = serde_json::from_slice::<Mail>(bytes) else { return };
    let text = String::new;
    if let Ok(message) = mail::message(&known, uuid::Uuid::nil(), "ok", "a run", (text(), text())) {
        let head = String::from_utf8_lossy(&message);
        let head = head.split("\r\n\r\n").next().unwrap_or_default();
        let names = [
            "From",
            "To",
            "Subject",
            "Date",
            "Message-ID",
            "Auto-Submitted",
            "List-Id",
            "MIME-Version",
            "Content-Type",
        ];
        for line in head.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])) {
            let (name, _) = line.split_once(": ").unwrap_or_default();
            assert!(names.contains(&name) || name.starts_with("X-Kvmbackup-"), "{line:?}");
            assert!(!line.contains(['\r', '\n']), "{line:?}");
        }
    }
}

/// The last report: shown in every form.
fn told(bytes: &[u8]) {
    let Ok(last) = serde_json::from_slice::<RunReport>(bytes) else { return };
    drop((report::text(&last, true, report::WIDTH), last.failure(), report::json(&last)));
    let gist = mail::gist(&last, last.result(), &[]);
    drop(mail::subject(&last.host, &gist));
    let facts = mail::Background { gist: &gist, settings: None, survey: None, late: &[], untold: &[] };
    mail::bodies(&last, facts, None).unwrap();
    Ledger::default().record(&last, last.result());
}
