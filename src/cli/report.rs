//! Owns: the command `report`, which shows the last run again. Must not: make a report.

use super::args::{Global, Report, ReportFormat};
use super::{colour, print};
use crate::model::RunReport;
use crate::{app, engine, report};

/// The file of the last report in the state folder.
pub(super) const LAST: &str = "last-report.json";

pub(super) fn run(global: &Global, words: &Report) -> Result<u8, app::Error> {
    let path = app::settings(global)?.state_dir.join(LAST);
    let json = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => engine::Error::Other {
            message: format!("{}: there is no report, for no run has ended yet", path.display()),
            hint: Some("`kvmbackup backup` makes one; look at `state_dir` of the configuration".into()),
        },
        _ => engine::Error::file("read the last report", &path)(error),
    })?;
    match words.format {
        ReportFormat::Json => print(&json),
        ReportFormat::Text => {
            let last: RunReport = serde_json::from_str(&json).map_err(engine::Error::json)?;
            print(&report::text(&last, colour()));
        }
    }
    Ok(report::ExitCode::Good.code())
}
