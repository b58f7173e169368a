//! A clock that was set back: records of the program are in the future, but no backup is lost or skipped because of
//! that.

use crate::steps;
use std::fs;
use std::process::Command;

use crate::host::{Host, NAME};
use crate::mailbox::FAKETIME;
use chrono::{Days, TimeDelta, Utc};
use kvmbackup::sys::step::Step;
use serde_json::Value;

fn backup(host: &Host) -> Command {
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    command.args(["backup", "--json", "--config", host.path("config.yml").to_str().unwrap(), "--host", NAME]);
    command
}

/// Moves every time in a file some years into the future.
fn put_into_the_future(path: &std::path::Path) {
    let text = fs::read_to_string(path).unwrap();
    // An hour ago may have been last year.
    let years = [Utc::now(), Utc::now() - TimeDelta::hours(1)].map(|time| time.format("%Y-").to_string());
    let later = years.iter().fold(text.clone(), |text, year| text.replace(year, "2090-"));
    assert_ne!(later, text);
    fs::write(path, later).unwrap();
}

#[test]
fn records_in_the_future_prevent_no_backup() {
    let host = Host::new(&["a"]);
    host.configure("", "{a: {day_of_week: daily, rotate: 2}}");
    host.run("backup").ends(0);
    // Three points in the future fill all places of rotation.
    let now = host.archives("a").pop().unwrap();
    for days in [100, 101, 102] {
        let later = Utc::now().checked_add_days(Days::new(days)).unwrap();
        fs::copy(&now, now.with_file_name(format!("a-{}.tar.zst", later.format("%Y%m%dT%H%M%SZ")))).unwrap();
    }
    fs::remove_file(now).unwrap();
    steps::kill(&mut backup(&host), Step::DiskRead.into());
    for entry in fs::read_dir(host.path("state/journal")).unwrap() {
        put_into_the_future(&entry.unwrap().path());
    }
    for file in ["ledger.json", "survey.json", "last-report.json"] {
        put_into_the_future(&host.path("state").join(file));
    }

    for _ in 0..3 {
        let report: Value = host.finish(&mut backup(&host)).ends(0).json();
        assert_eq!(report["domains"][0]["outcome"], "success", "the guest is due, and saved: {report:#}");
        let point = report["domains"][0]["point"].as_str().unwrap();
        let is_there = || host.archives("a").iter().any(|path| path.to_str().unwrap().contains(point));
        assert!(is_there(), "the newest is never removed, even with points in the future: {report:#}");
    }
    host.run("verify --all").ends(0);
    host.run("metrics --stdout").ends(0);
    host.run("report").ends(0);
    assert_eq!(fs::read_dir(host.path("state/journal")).unwrap().count(), 0);
}

/// A backup by a program with a fake time, such as `+400d`.
fn backup_at(host: &Host, time: &str) -> Value {
    let mut command = backup(host);
    command.env("LD_PRELOAD", FAKETIME).env("FAKETIME", time);
    host.finish(&mut command).json()
}

fn mails(host: &Host) -> usize {
    fs::read_to_string(host.path("mails")).map_or(0, |mails| mails.matches("\nX-Kvmbackup-Run: ").count())
}

fn metric(host: &Host, name: &str) -> f64 {
    let metrics = host.run("metrics --stdout").ends(0).out;
    let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn clock_that_was_ahead_suppresses_no_mail_and_no_alert() {
    let host = Host::new(&["a"]);
    let sendmail = host.script("sendmail", &format!("cat >>{}", host.path("mails").display()));
    let mail = format!("mail: {{to: root, sendmail: {}}}", sendmail.display());
    let day = |days: i64| (Utc::now() - TimeDelta::days(days)).format("%A").to_string();
    // Not due today but yesterday, and there is no point of yesterday.
    host.configure(&mail, &format!("{{a: {{day_of_week: {}, catch_up: true}}}}", day(1)));
    let ahead = backup_at(&host, "+365d");
    assert_eq!(ahead["domains"][0]["outcome"], "success", "{ahead:#}");
    assert_eq!(mails(&host), 1, "the first run is mailed");

    let now = Utc::now().timestamp() as f64;
    let believed = |name: &str| assert!(metric(&host, name) <= now + 3600.0, "{name}");
    for time in ["attempt", "success"] {
        believed(&format!("kvmbackup_domain_last_{time}_timestamp_seconds{{"));
    }
    believed("kvmbackup_job_last_success_timestamp_seconds{");

    let report = backup_at(&host, "+0");
    assert_eq!(report["domains"][0]["outcome"], "success", "it is caught up: {report:#}");
    let warning = report["warnings"][0].to_string();
    assert!(warning.contains("in the future") && warning.contains("timedatectl"), "{report:#}");
    assert_eq!(mails(&host), 2, "the warning is mailed");
    let first = metric(&host, "kvmbackup_domain_last_success_timestamp_seconds{");
    assert!(first > now - 3600.0, "the current success counts");

    // It is mailed once, and a failure is newer than every success.
    fs::remove_file(host.image("a")).unwrap();
    let mut command = backup(&host);
    let report = host.finish(command.args(["--force", "a"])).json();
    assert_eq!(
        (report["domains"][0]["outcome"].as_str(), &report["warnings"]),
        (Some("failed"), &serde_json::json!([]))
    );
    let attempt = metric(&host, "kvmbackup_domain_last_attempt_timestamp_seconds{");
    assert!(
        attempt > metric(&host, "kvmbackup_domain_last_success_timestamp_seconds{"),
        "the alert KvmBackupFailed fires"
    );
}

#[test]
fn clock_that_was_behind_suppresses_no_mail_and_no_alert() {
    let host = Host::new(&["a"]);
    let behind = backup_at(&host, "-400d");
    assert_eq!(behind["domains"][0]["outcome"], "success", "{behind:#}");
    let report = backup_at(&host, "+0");
    assert_eq!(report["domains"][0]["outcome"], "success", "{report:#}");
    assert_eq!(report["warnings"], serde_json::json!([]));
    assert_eq!(host.archives("a").len(), 2);
}
