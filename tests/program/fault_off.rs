//! A signal, or a failure, at every step of a backup that needs no running guest. Steps that need one are in
//! `tests/guests/fault_steps.rs`.

use crate::steps::{self, At, DIRECT, HARMLESS, OF_RUN, SIGNALS};
use std::process::Command;

use crate::host::{Host, NAME, Run, run};
use kvmbackup::sys::step::Step;
use serde_json::{Value, json};

const GUESTS: [&str; 2] = ["a", "b"];

/// Two guests that are off, with hooks, metrics and rotation.
fn scene() -> Host {
    let host = Host::new(&GUESTS);
    let hook = host.script("hook", "exit 0");
    let keys = format!("metrics: {{textfile: {}}}", host.path("k.prom").display());
    let hook = format!("{{name: note, phase: [pre-domain, post-domain], command: [{hook:?}]}}");
    host.configure(&keys, &format!("{{\"*\": {{day_of_week: daily, rotate: 2, hooks: [{hook}]}}}}"));
    (0..2).for_each(|_| drop(host.run("backup --force").ends(0)));
    host
}

fn backup(host: &Host) -> Command {
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    let config = host.path("config.yml");
    command.args(["backup", "--force", "--json", "--host", NAME, "--config"]).arg(config);
    command
}

/// Each step the first time it is reached.
fn steps_of(host: &Host) -> Vec<At> {
    let steps = steps::of(&mut backup(host));
    steps::assert_reached(&steps, &[DIRECT]);
    steps::firsts(&steps)
}

fn run_with(host: &Host, at: At, action: &str) -> Run {
    host.finish(steps::fault(&mut backup(host), at, action))
}

fn saved(report: &Value) -> usize {
    let domains = report["domains"].as_array().unwrap();
    GUESTS
        .iter()
        .filter(|name| domains.iter().any(|domain| domain["domain"] == **name && domain["outcome"] == "success"))
        .count()
}

/// Panics unless nothing unfinished remains, and the points of both guests are good.
fn assert_right(host: &Host, at: At) {
    let unfinished = run("find", &[host.path("").to_str().unwrap(), "-name", "*.tmp", "-o", "-name", "*.part"]);
    assert_eq!(unfinished, "", "{at:?}");
    let entries = std::fs::read_dir(host.path("state/journal")).map_or(0, Iterator::count);
    let sockets = std::fs::read_dir(host.path("state/sockets")).map_or(0, Iterator::count);
    assert_eq!((entries, sockets), (0, 0), "{at:?}: journal entries, and sockets");
    host.run("verify --all").ends(0);
    assert!(GUESTS.iter().all(|guest| host.archives(guest).len() >= 2), "{at:?}: the last good points stay");
}

#[test]
fn signal_at_any_step_ends_the_run_cleanly() {
    let host = scene();
    for (number, at) in steps_of(&host).into_iter().enumerate() {
        let (name, value) = SIGNALS[number % SIGNALS.len()];
        let ran = run_with(&host, at, &format!("signal={name}"));
        let report = ran.json();
        let expected = report["signal"].as_i64().map_or(0, |signal| 128 + signal as i32);
        assert_eq!(ran.code, expected, "{at:?} {name}: {ran:?}");
        // The run's work is done only after the last domain.
        assert!(saved(&report) == GUESTS.len() || expected == 128 + value, "{at:?} {name}: {ran:?}");
        assert_eq!(report["recovered"], json!([]), "{at:?} {name}: the previous run ended cleanly");
        assert_right(&host, at);
    }
}

#[test]
fn failure_at_any_step_is_reported_and_affects_no_other_domain() {
    let host = scene();
    for at in steps_of(&host) {
        let ran = run_with(&host, at, "fail");
        let printed = format!("{}{}", ran.out, ran.err);
        let cause = printed.contains(&format!("injected at the step {}", at.step.name()));
        assert!(cause || ran.code == 0 && HARMLESS.contains(&at.step), "{at:?}: {ran:?}");
        if !OF_RUN.contains(&at.step) && at.step != Step::StateFolder {
            assert!(saved(&ran.json()) >= 1, "{at:?}: the other domain is saved: {ran:?}");
        }
        host.run("recover").ends(0);
        host.finish(&mut backup(&host)).ends(0);
        assert_right(&host, at);
    }
}
