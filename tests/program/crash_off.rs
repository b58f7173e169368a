//! SIGKILL at every step of the program that needs no running guest, each time it is reached.

use crate::steps;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::host::{Host, NAME, run};
use crate::steps::{At, DIRECT, LEFT, MAIL, SCENARIOS, SPOOL, VERIFY};
use chrono::Utc;
use kvmbackup::sys::step::Step;
use serde_json::Value;

/// A host with a guest that is off, and with everything that has its own steps: hooks, rotation, metrics; more keys.
fn scene(keys: &str) -> Host {
    let host = Host::new(&["a"]);
    let hook = host.script("hook", "exit 0");
    let keys = format!("metrics: {{textfile: {}}}\n{keys}", host.path("k.prom").display());
    let hook = format!("{{name: note, phase: [pre-domain, post-domain], command: [{hook:?}]}}");
    host.configure(&keys, &format!("{{a: {{day_of_week: daily, rotate: 2, hooks: [{hook}]}}}}"));
    host.run("backup --force").ends(0);
    make_old(&host);
    host
}

/// Creates two points of earlier days, so that the next backup removes one.
fn make_old(host: &Host) {
    let archives = host.archives("a");
    let (newest, others) = archives.split_last().unwrap();
    let today = Utc::now().format("a-%Y%m%d").to_string();
    if !newest.file_name().unwrap().to_str().unwrap().starts_with(&today) {
        return;
    }
    others.iter().for_each(|path| fs::remove_file(path).unwrap());
    host.age("a", &[1, 2]);
}

fn command(host: &Host, words: &[&str]) -> Command {
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    command.args(words).args(["--config", host.path("config.yml").to_str().unwrap(), "--host", NAME]);
    command
}

fn backup(host: &Host) -> Command {
    command(host, &["backup", "--force", "--json"])
}

/// Entries of the journal.
fn journal(host: &Host) -> usize {
    let files = fs::read_dir(host.path("state/journal")).into_iter().flatten().flatten();
    files.filter(|file| file.path().extension().is_some_and(|ending| ending == "json")).count()
}

/// Panics unless the next backup is good, reports the interrupted one if that had left anything, and leaves nothing.
fn assert_put_right(host: &Host, at: At) {
    let held = journal(host);
    let report: Value = host.finish(&mut backup(host)).ends(0).json();
    assert_eq!(report["recovered"].as_array().unwrap().len(), held, "{at:?}: {report:#}");
    assert_nothing_left(host, at);
}

fn assert_nothing_left(host: &Host, at: At) {
    let files: BTreeSet<_> = run("find", &[host.path("").to_str().unwrap(), "-type", "f", "-printf", "%P\n"])
        .lines()
        .filter(|file| !file.starts_with("backups/a/a-"))
        .map(str::to_owned)
        .collect();
    let stays = [
        "images/a.qcow2",
        "config.yml",
        "hook",
        "k.prom",
        "node.xml",
        "sendmail",
        "state/last-report.json",
        "state/ledger.json",
        "state/ledger.json.bad",
        "state/ledger.lock",
        "state/lock",
        "state/survey.json",
        "state/textfile.lock",
        "state/verified.json",
        "state/verified.lock",
    ];
    let left: Vec<_> = files.iter().filter(|file| !stays.contains(&file.as_str())).collect();
    assert!(left.is_empty(), "{at:?}: {left:?}");
    let sockets = fs::read_dir(host.path("state/sockets")).map_or(0, Iterator::count);
    assert_eq!(sockets, 0, "{at:?}");
    let archives = host.archives("a");
    // A point of the next second, because the previous run used this one, does not count for rotation.
    assert!((2..=3).contains(&archives.len()), "{at:?}: {archives:?}");
    assert!(archives.iter().all(|path| path.extension().is_some_and(|ending| ending == "zst")), "{archives:?}");
    host.run("verify --all").ends(0);
    let image = host.image("a");
    let began = Instant::now();
    // The kernel sends a signal to those of a killed program, and they end when they handle it.
    loop {
        let processes = run("ps", &["-eo", "args"]);
        let mut servers = processes.lines().filter(|line| line.contains("qemu-nbd"));
        if !servers.any(|line| line.contains(image.to_str().unwrap())) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{at:?}: {processes}");
    }
}

#[test]
fn every_step_of_the_list_is_reached_by_some_scenario() {
    let reached: BTreeSet<_> = SCENARIOS.concat().iter().map(|step| step.name()).collect();
    let missing: Vec<_> = Step::ALL.iter().map(|step| step.name()).filter(|name| !reached.contains(name)).collect();
    assert!(missing.is_empty(), "no scenario reaches {missing:?}");
}

#[test]
fn backup_killed_at_any_step_is_recovered_by_the_next() {
    let host = scene("");
    let steps = steps::of(&mut backup(&host));
    steps::assert_reached(&steps, &[DIRECT]);
    for at in steps {
        make_old(&host);
        steps::kill(&mut backup(&host), at);
        assert_put_right(&host, at);
    }
}

#[test]
fn first_backup_killed_at_any_step_does_not_affect_the_next() {
    let steps = steps::of(&mut backup(&Host::new(&["a"])));
    for at in steps::firsts(&steps) {
        let host = Host::new(&["a"]);
        steps::kill(&mut backup(&host), at);
        host.finish(&mut backup(&host)).ends(0);
        host.run("verify --all").ends(0);
        assert_eq!(journal(&host), 0, "{at:?}");
    }
}

/// The damaged ledger, the temporary file beside the journal, the archive that was started.
#[test]
fn backup_killed_while_it_recovers_another_is_recovered_by_the_next() {
    let host = scene("");
    let leave = || {
        make_old(&host);
        steps::kill(&mut backup(&host), Step::DiskRead.into());
        fs::write(host.path("state/journal/.0-killed.json.tmp"), "{").unwrap();
        fs::write(host.path("state/ledger.json"), "{").unwrap();
    };
    leave();
    let reached = steps::of(&mut backup(&host));
    steps::assert_reached(&reached, &[LEFT]);
    let until = reached.iter().position(|at| at.step == Step::PartialRemove).unwrap() + 4;
    for at in reached.into_iter().take(until) {
        leave();
        steps::kill(&mut backup(&host), at);
        let report: Value = host.finish(&mut backup(&host)).ends(0).json();
        assert!(report["recovered"].as_array().unwrap().len() <= 2, "{at:?}: {report:#}");
        assert_nothing_left(&host, at);
    }
}

#[test]
fn mail_is_sent_at_least_once_even_if_its_sender_is_killed_at_any_step() {
    let host = Host::new(&["a"]);
    let program = host.script("sendmail", &format!("cat >>{}/mails; exit 1", host.path("").display()));
    let keys = format!("mail: {{to: root, when: always, sendmail: {program:?}}}");
    host.configure(&keys, "{a: {day_of_week: daily}}");
    let refused = |words: &[&str]| {
        let mut command = command(&host, words);
        command.env("KVMBACKUP_LOG", "kvmbackup::sys::step=debug").env("NO_COLOR", "1");
        host.finish(&mut command).ends(7)
    };
    // Files that only a first run creates exist from then on.
    refused(&["backup", "--force"]);
    let reached = steps::in_trace(&refused(&["backup", "--force"]).err);
    steps::assert_reached(&reached, &[SPOOL]);
    let spool = || fs::read_dir(host.path("state/mail-spool")).unwrap().flatten().map(|file| file.path());
    let from = reached.iter().position(|at| at.step == Step::MailSend).unwrap();
    for at in reached.into_iter().skip(from) {
        steps::kill(&mut command(&host, &["backup", "--force"]), at);
        refused(&["backup", "--force"]);
        assert!(spool().all(|path| path.extension().is_some_and(|ending| ending == "eml")), "{at:?}");
    }
    let waiting = spool().count();

    host.script("sendmail", &format!("cat >>{}/mails", host.path("").display()));
    let _ = fs::remove_file(host.path("mails"));
    let subjects = || fs::read_to_string(host.path("mails")).unwrap_or_default().matches("Subject: ").count();
    steps::kill(&mut command(&host, &["backup", "--force"]), At { step: Step::MailSpoolRemove, time: 2 });
    let reached = steps::of(&mut command(&host, &["backup", "--force"]));
    steps::assert_reached(&reached, &[MAIL]);
    assert_eq!(spool().count(), 0);
    assert_eq!(subjects(), waiting + 2, "all waiting mails, one of them twice, and that of this run");
}

#[test]
fn check_killed_while_it_is_recorded_is_repeated() {
    let host = scene("");
    let verify = || command(&host, &["verify", "--all"]);
    let reached = steps::of(&mut verify());
    steps::assert_reached(&reached, &[VERIFY]);
    for at in reached {
        make_old(&host);
        steps::kill(&mut verify(), at);
        host.finish(&mut verify()).ends(0);
        assert_put_right(&host, at);
    }
}
