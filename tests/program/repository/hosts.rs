//! Hosts that share a repository: backups at the same time as a maintenance, a lock that is taken away, and clocks that are
//! wrong.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use chrono::{TimeDelta, Utc};
use kvmbackup::sys::step::Step;

use super::{configure_at, expect_point, fill_with_noise, host, points, restic};
use crate::host::{Host, NAME, run};
use crate::mailbox::FAKETIME;
use crate::steps;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kvmbackup");

/// A command of the program on a host with this name.
fn named(host: &Host, name: &str, words: &str) -> Command {
    let mut command = host.command("unshare");
    command.args(["--uts", "sh", "-c", "hostname \"$0\" && exec \"$@\"", name, PROGRAM]);
    command.args(words.split(' ')).arg("--config").arg(host.path("config.yml")).args(["--host", NAME]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A command of the program with a fake time, such as `+1d`.
fn at(host: &Host, time: &str, words: &str) -> Command {
    let mut command = host.command(PROGRAM);
    command.args(words.split(' ')).arg("--config").arg(host.path("config.yml")).args(["--host", NAME]);
    command.env("LD_PRELOAD", FAKETIME).env("FAKETIME", time).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

/// A copy of the image of a guest as it is now.
fn copy(host: &Host, guest: &str, name: &str) -> PathBuf {
    let copy = host.path(name);
    fs::copy(host.image(guest), &copy).unwrap();
    copy
}

/// Changes some clusters of the image of a guest.
fn change(host: &Host, guest: &str, round: u64) {
    let write = format!("write -P {} {}k 200k", 1 + round, 100 + 700 * round);
    run("qemu-io", &["-c", &write, host.image(guest).to_str().unwrap()]);
}

#[test]
fn two_hosts_back_up_while_a_third_maintains() {
    let domains = "{\"*\": {day_of_week: daily, rotate: 2}}";
    let (first, second) = (host(&["a"], domains), Host::new(&["b"]));
    configure_at(&second, &first.path("repository"), "", domains);
    first.run("repository init").ends(0);
    let mut copies = Vec::new();
    for round in 0..3 {
        for (host, guest) in [(&first, "a"), (&second, "b")] {
            change(host, guest, round);
            copies.push((host, guest, copy(host, guest, &format!("copy-{round}"))));
        }
        let runs = [
            named(&first, "one", "backup --force").spawn().unwrap(),
            named(&second, "two", "backup --force").spawn().unwrap(),
            named(&first, "three", "maintain").spawn().unwrap(),
        ];
        for run in runs {
            let output = run.wait_with_output().unwrap();
            assert!(output.status.success(), "round {round}: {output:?}");
        }
    }
    restic(&first, &["check", "--read-data"]);
    assert_eq!(fs::read_dir(first.path("repository/locks")).unwrap().count(), 0);
    for (host, guest) in [(&first, "a"), (&second, "b")] {
        let points = points(host, guest);
        assert_eq!(points.len(), 2, "rotation keeps two points");
        let own: Vec<&PathBuf> = copies.iter().filter(|copy| copy.1 == guest).map(|copy| &copy.2).collect();
        points.iter().zip(&own[1..]).for_each(|(id, image)| expect_point(host, guest, id, image));
    }
}

#[test]
fn run_whose_lock_is_taken_away_makes_no_point_and_the_next_one_does() {
    let host = host(&["a"], "{\"*\": {day_of_week: daily, rotate: 3}}");
    fill_with_noise(&host, "a", 1, 8);
    host.run("repository init").ends(0);
    host.run("backup").ends(0);
    let before = copy(&host, "a", "before");
    change(&host, "a", 2);
    // While it reads the disk, and after all of it is stored.
    for step in [Step::DiskRead, Step::ArchiveEnd] {
        let mut command = named(&host, "one", "backup --force");
        let held = steps::hold(&mut command, step.into(), &host.path("mark"));
        restic(&host, &["unlock", "--remove-all"]);
        restic(&host, &["prune", "--max-unused", "0"]);
        let output = held.finish();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success() && said.contains("the lock of this process is lost"), "{said}");
        assert!(said.contains("restic unlock --remove-all"), "a hint names the cause: {said}");
        assert_eq!(points(&host, "a").len(), 1);
        restic(&host, &["check", "--read-data"]);
    }
    host.run("backup --force").ends(0);
    restic(&host, &["check", "--read-data"]);
    let points = points(&host, "a");
    expect_point(&host, "a", &points[0], &before);
    expect_point(&host, "a", &points[1], &host.image("a"));
}

#[test]
fn clock_that_is_set_back_loses_and_replaces_no_point() {
    let host = host(&["a"], "{\"*\": {day_of_week: daily, rotate: 9}}");
    host.run("repository init").ends(0);
    // Between the runs: ahead, right, behind. The last two begin in the same second.
    let same = (Utc::now() - TimeDelta::hours(20)).format("%Y-%m-%d %H:%M:%S").to_string();
    let mut copies = Vec::new();
    for (round, time) in (0..).zip(["+5h", "+0", "-4h", &same, &same]) {
        change(&host, "a", round);
        let report = host.finish(at(&host, time, "backup --force --json").env("TZ", "UTC")).ends(0).json();
        let point = report["domains"][0]["point"].as_str().unwrap().to_owned();
        copies.push((point, copy(&host, "a", &format!("copy-{round}"))));
    }
    // During a run, by four hours.
    change(&host, "a", 5);
    let clock = host.path("clock");
    fs::write(&clock, "+2h").unwrap();
    let mut command = at(&host, "", "backup --force --json");
    command
        .env_remove("FAKETIME")
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("TZ", "UTC");
    let held = steps::hold(&mut command, Step::DiskRead.into(), &host.path("mark"));
    fs::write(&clock, "-2h").unwrap();
    let output = held.finish();
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let point = report["domains"][0]["point"].as_str().unwrap().to_owned();
    copies.push((point, copy(&host, "a", "copy-5")));

    let mut made: Vec<String> = copies.iter().map(|(point, _)| point.clone()).collect();
    made.sort();
    assert_eq!(points(&host, "a"), made, "every point exists under its own ID");
    made.dedup();
    assert_eq!(made.len(), copies.len());
    copies.iter().for_each(|(point, image)| expect_point(&host, "a", point, image));
    restic(&host, &["check", "--read-data"]);
    assert_eq!(fs::read_dir(host.path("repository/locks")).unwrap().count(), 0);
}

#[test]
fn lock_of_a_run_that_was_killed_while_the_clock_was_ahead_blocks_nothing() {
    let host = host(&["a"], "{\"*\": {day_of_week: daily}}");
    host.run("repository init").ends(0);
    let locks = || fs::read_dir(host.path("repository/locks")).unwrap().count();
    for words in ["backup", "maintain"] {
        steps::kill(&mut at(&host, "+9h", "backup --force"), Step::ArchiveEnd.into());
        assert_eq!(locks(), 1);
        host.run(words).ends(0);
        assert_eq!(locks(), 0);
    }
}
