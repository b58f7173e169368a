//! Owns: the entry for the files of the state folder. Must not: write any as the program does.
//!
//! Mails that wait in the spool are not read by the program, only sent on as they are: there is nothing to feed.

use std::time::Duration;

use kvmbackup::engine::journal::Journal;
use kvmbackup::engine::verified::Verified;
use kvmbackup::ledger::{Ledger, Survey};
use kvmbackup::model::RunReport;
use kvmbackup::{mail, metrics, report};

use super::folder;

/// A file of the state folder; the first byte says which. What can be read is told on, as the program does.
pub fn state(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let dir = folder();
    let write = |name: &str| std::fs::write(dir.join(name), rest).unwrap();
    match kind % 5 {
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
        3 => {
            let journal = Journal::open(dir).unwrap();
            write("journal/00000001790000000000-00000000-0000-0000-0000-000000000000.json");
            for record in journal.left().unwrap().into_iter().flatten() {
                drop(record.entry().clone());
            }
        }
        _ => told(rest),
    }
}

/// The last report: shown in every form.
fn told(bytes: &[u8]) {
    let Ok(last) = serde_json::from_slice::<RunReport>(bytes) else { return };
    let code = report::exit_code(&last);
    drop((report::text(&last, true), report::failure(&last), report::json(&last)));
    let gist = mail::gist(&last, code, &[]);
    drop(mail::subject(&last.host, &gist));
    let facts = mail::Facts { gist: &gist, settings: None, survey: None, late: &[], untold: &[] };
    mail::bodies(&last, facts, None).unwrap();
    Ledger::default().record(&last, code);
}
