//! A clock that was set back: what the program wrote is of the future, and no backup is lost or left out for that.

use crate::steps;
use std::fs;
use std::process::Command;

use crate::host::{Host, NAME};
use chrono::{Days, TimeDelta, Utc};
use kvmbackup::sys::step::Step;
use serde_json::Value;

fn backup(host: &Host) -> Command {
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    command.args(["backup", "--json", "--config", host.path("config.yml").to_str().unwrap(), "--host", NAME]);
    command
}

/// Has every time in a file be some years later.
fn put_into_the_future(path: &std::path::Path) {
    let text = fs::read_to_string(path).unwrap();
    // It may have been last year, an hour ago.
    let years = [Utc::now(), Utc::now() - TimeDelta::hours(1)].map(|time| time.format("%Y-").to_string());
    let later = years.iter().fold(text.clone(), |text, year| text.replace(year, "2090-"));
    assert_ne!(later, text);
    fs::write(path, later).unwrap();
}

#[test]
fn what_was_written_in_the_future_keeps_no_guest_from_its_backup() {
    let host = Host::new(&["a"]);
    host.configure("", "{a: {day_of_week: daily, rotate: 2}}");
    host.run("backup").ends(0);
    // Three points of the future fill all places that rotation has.
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
        assert_eq!(report["domains"][0]["outcome"], "success", "it is due, and saved: {report:#}");
        let point = report["domains"][0]["point"].as_str().unwrap();
        let is_there = || host.archives("a").iter().any(|path| path.to_str().unwrap().contains(point));
        assert!(is_there(), "the newest is never removed, whatever lies in the future: {report:#}");
    }
    host.run("verify --all").ends(0);
    host.run("metrics --stdout").ends(0);
    host.run("report").ends(0);
    assert_eq!(fs::read_dir(host.path("state/journal")).unwrap().count(), 0);
}
