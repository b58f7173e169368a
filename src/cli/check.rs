//! Owns: the command `check`, and the example for an operator without a configuration. Must not: decide what is right; the
//! engine does.

use std::path::Path;

use chrono::Utc;

use super::args::{Check, Global};
use super::print;
use crate::app;
use crate::app::mail::check as mail;
use crate::config;
use crate::engine;
use crate::engine::check::{self, Finding, Severity};
use crate::model::command::typed;
use crate::model::{Failure, RunResult};
use crate::report::table::printable;
use crate::sys::host;

pub(super) fn run(global: &Global, words: &Check) -> Result<RunResult, app::Error> {
    let settings = match super::settings(global) {
        Ok(settings) => settings,
        Err(error) => return unreadable(global, words, &error),
    };
    let about = format!("configuration {}", global.config.display());
    let failure = Failure { message: "right".to_owned(), hint: None };
    let mut findings = vec![Finding { about, severity: Severity::Good, failure }];
    findings.extend(check::offline(&settings));
    findings.extend(mail::offline(&settings));
    let mut result = RunResult::Good;
    if !words.offline {
        findings.extend(check::host(&settings, Utc::now()));
        findings.extend(mail::host(&settings, words.send_test));
        let asked =
            app::libvirt(&settings.libvirt_uri).and_then(|hypervisor| Ok(check::guests(&settings, &hypervisor)?));
        match asked {
            Ok(of_guests) => findings.extend(of_guests),
            Err(error) => {
                result = error.result();
                findings.push(problem("libvirt", &error));
            }
        }
    }
    show(&findings, words)?;
    let bad = findings.iter().any(|finding| finding.severity == Severity::Problem);
    Ok(if bad { result.max(RunResult::Failed) } else { result })
}

/// Reports what is wrong with the configuration; without one, prints an example to begin with.
fn unreadable(global: &Global, words: &Check, error: &app::Error) -> Result<RunResult, app::Error> {
    let about = format!("configuration {}", global.config.display());
    let mut finding = problem(&about, error);
    let is_trusted = finding.failure.hint.is_none();
    let start = (is_trusted && is_blank(&global.config)).then(|| {
        let name = global.host.clone().unwrap_or_else(host::short_name);
        finding.failure.hint = Some(format!("Create it. A minimal one: {}", example(&name).replace('\n', " | ")));
        example(&name)
    });
    if words.json {
        show(&[finding], words)?;
    } else {
        let hint = finding.failure.hint.filter(|_| start.is_none());
        super::print_failure(&Failure { message: finding.failure.message, hint });
        if let Some(start) = start {
            print(&format!("A minimal configuration for {}:\n\n{start}", global.config.display()));
            print(&typed(
                "\nThen: `kvmbackup check`. Every key is in config.md and examples/config.yml of share/doc/kvmbackup.\n",
            ));
        }
    }
    Ok(error.result())
}

fn problem(about: &str, error: &app::Error) -> Finding {
    let failure = Failure { message: engine::chain(error), hint: error.hint() };
    Finding { about: about.to_owned(), severity: Severity::Problem, failure }
}

/// Whether the file does not exist, or is empty except for comments.
fn is_blank(path: &Path) -> bool {
    match config::read(path) {
        Ok(text) => text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#')),
        Err(_) => !path.exists(),
    }
}

/// The shortest configuration that backs up every domain of this host.
fn example(host: &str) -> String {
    format!(
        "\"{host}\":\n  backupdir: /mnt/backup\n  require_mount: true    # never fill the root file system\n  \
         day_of_week: daily\n  rotate: 7              # restore points to keep\n  domains:\n    \"*\": {{}}              # every domain\n"
    )
}

fn show(findings: &[Finding], words: &Check) -> Result<(), app::Error> {
    if words.json {
        let json = serde_json::to_string_pretty(&serde_json::json!({ "schema": 1, "findings": findings }));
        print(&(json.map_err(engine::Error::Json)? + "\n"));
    } else {
        findings.iter().for_each(|finding| print(&told(finding)));
    }
    Ok(())
}

fn told(finding: &Finding) -> String {
    let word = match finding.severity {
        Severity::Good => "ok",
        Severity::Warning => "WARNING",
        Severity::Problem => "PROBLEM",
    };
    let mut text = format!("{word:7} {}: {}\n", printable(&finding.about), printable(&finding.failure.message));
    text.extend(super::hint("        ", &finding.failure).map(|hint| hint + "\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_right_for_any_host() {
        for host in ["cloud1", "007", "null", "a-b"] {
            let settings = crate::config::parse(&example(host), Path::new("c.yml"), host).unwrap();
            assert!(settings.require_mount && settings.rule_for("any").is_some());
        }
    }
}
