//! Tests the checks of the host. Domains are tested in tests/program/cli_check.rs, running guests in
//! tests/guests/live_hooks.rs.

use std::fs;

use uuid::Uuid;

use super::*;
use crate::engine::journal::Journal;
use crate::model::{Codec, DomainRef};
use crate::store::fixture::{DOMAIN, Fixture};
use crate::sys::lock;

fn settings(fixture: &Fixture, more: &str) -> Settings {
    let [backup, state] = ["backup", "state"].map(|name| fixture.path(name).display().to_string());
    let text = format!(
        "h:\n  backupdir: {backup}\n  state_dir: {state}\n{more}  domains: {{\"*\": {{day_of_week: daily}}}}\n"
    );
    crate::config::parse(&text, Path::new("c.yml"), "h").unwrap()
}

fn found(settings: &Settings, now: &str) -> Vec<(Severity, String)> {
    let findings = host(settings, now.parse().unwrap());
    for finding in findings.iter().filter(|finding| finding.severity != Severity::Good) {
        assert!(finding.failure.hint.is_some(), "no hint: {finding:?}");
    }
    findings
        .into_iter()
        .map(|finding| (finding.severity, format!("{}: {}", finding.about, finding.failure.message)))
        .collect()
}

#[track_caller]
fn tells(found: &[(Severity, String)], severity: Severity, words: &[&str]) {
    let tells = |(own, text): &(Severity, String)| *own == severity && words.iter().all(|word| text.contains(word));
    assert!(found.iter().any(tells), "no {severity:?} with {words:?} in {found:#?}");
}

const NOW: &str = "2026-11-23T12:00:00Z";

#[test]
fn healthy_host_has_only_good_findings_and_is_not_changed() {
    let fixture = Fixture::new();
    let found = found(&settings(&fixture, ""), NOW);
    // The test's directory may be on the root file system.
    let bad: Vec<_> = found
        .iter()
        .filter(|(how, text)| *how != Severity::Good && !text.contains("on the root file system"))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(!fixture.path("state").exists(), "a check must not create the state directory");
}

#[test]
fn unusable_target_is_a_problem() {
    let fixture = Fixture::new();
    tells(&found(&settings(&fixture, "  min_free: 100%\n"), NOW), Severity::Problem, &["target"]);
    fs::remove_dir(fixture.path("backup")).unwrap();
    tells(&found(&settings(&fixture, ""), NOW), Severity::Good, &["target", "first run creates it"]);
    // The test's own directory may be on a mounted file system.
    let backupdir = Some("/kvmbackup-is-not-mounted".into());
    let unmounted = Settings { backupdir, ..settings(&fixture, "  require_mount: true\n") };
    tells(&found(&unmounted, NOW), Severity::Problem, &["target"]);
    fs::write(fixture.path("backup"), "").unwrap();
    tells(&found(&settings(&fixture, ""), NOW), Severity::Problem, &["target", "cannot be used"]);
}

#[test]
fn restore_point_in_the_future_is_a_warning() {
    let fixture = Fixture::new();
    let disks = fixture.usual_disks();
    fixture.point("2026-11-23T12:04:00Z", Codec::Zstd(1), &disks);
    let settings = settings(&fixture, "");
    let is_future = |(_, text): &(Severity, String)| text.contains("future");
    assert!(!found(&settings, NOW).iter().any(is_future));
    tells(&found(&settings, "2026-11-23T11:50:00Z"), Severity::Warning, &[DOMAIN, "20261123T120400Z", "future"]);
}

#[test]
fn leftovers_are_reported_unless_a_run_is_in_progress() {
    let fixture = Fixture::new();
    let settings = settings(&fixture, "  metrics: {textfile: /nowhere/at/all.prom}\n");
    let journal = Journal::open(&settings.state_dir).unwrap();
    let domain = DomainRef { name: "db".into(), uuid: Uuid::new_v4() };
    journal.begin(Uuid::new_v4(), NOW.parse().unwrap(), "test:///default", &domain).unwrap();
    fs::write(settings.state_dir.join("journal/0.json"), "{").unwrap();
    let unfinished = fixture.begin(NOW, Codec::Zstd(1));
    let all = found(&settings, NOW);
    tells(&all, Severity::Warning, &["domain db", "interrupted"]);
    tells(&all, Severity::Problem, &["journal", "0.json"]);
    tells(&all, Severity::Warning, &[DOMAIN, unfinished.path().to_str().unwrap()]);
    tells(&all, Severity::Warning, &["textfile", "No such file"]);
    let _lock = lock::take(&settings.state_dir.join("lock")).unwrap();
    let all = found(&settings, NOW);
    tells(&all, Severity::Good, &["in progress"]);
    assert!(!all.iter().any(|(_, text)| text.contains("interrupted")));
}
