//! Owns: the command `check`. Must not: decide what is right; the engine does.

use super::args::{Check, Global};
use super::print;
use crate::app;
use crate::engine;
use crate::engine::check::{self, Finding, Severity};
use crate::report::ExitCode;
use crate::report::table::printable;

pub(super) fn run(global: &Global, words: &Check) -> Result<u8, app::Error> {
    let settings = app::settings(global)?;
    let mut findings = check::offline(&settings);
    if !words.offline {
        let hypervisor = app::libvirt(&settings.libvirt_uri)?;
        findings.extend(check::guests(&settings, &hypervisor)?);
    }
    if words.json {
        let json = serde_json::to_string_pretty(&serde_json::json!({ "schema": 1, "findings": findings }));
        print(&(json.map_err(engine::Error::json)? + "\n"));
    } else {
        print(&format!("{:7} configuration {}: right\n", "ok", global.config.display()));
        findings.iter().for_each(|finding| print(&told(finding)));
    }
    let bad = findings.iter().any(|finding| finding.severity == Severity::Problem);
    Ok(if bad { ExitCode::Failed } else { ExitCode::Good }.code())
}

fn told(finding: &Finding) -> String {
    let word = match finding.severity {
        Severity::Good => "ok",
        Severity::Warning => "WARNING",
        Severity::Problem => "PROBLEM",
    };
    let mut text = format!("{word:7} {}: {}\n", printable(&finding.about), printable(&finding.failure.message));
    if let Some(hint) = &finding.failure.hint {
        text.push_str(&format!("        hint: {}\n", printable(hint)));
    }
    text
}
