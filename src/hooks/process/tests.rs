//! The end of real process groups: by itself, by a word, by force.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::*;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

/// Starts a script, whose first argument is the folder, and waits until it has written its number there.
fn start(script: &str, folder: &Path) -> (Process, PathBuf) {
    let script = format!("{script}\n");
    let argv = ["/bin/sh", "-c", &script, "hook", folder.to_str().unwrap()].map(str::to_owned).to_vec();
    let call = Call { argv, env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]) };
    let process = Process::start(&call, Stream::Null).unwrap();
    let of = PathBuf::from(format!("/proc/{}", process.child.id()));
    let began = Instant::now();
    while !folder.join("runs").exists() {
        assert!(began.elapsed() < LONG, "it does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    (process, of)
}

#[test]
fn who_ends_in_order_is_given_time_to() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap 'sleep 0.3; touch $1/in-order; exit 0' TERM; touch $1/runs; while :; do sleep 0.05; done";
    let (mut process, of) = start(script, folder.path());
    process.stop();
    assert!(folder.path().join("in-order").exists());
    assert!(!of.exists(), "ended, and waited for");
}

#[test]
fn who_is_deaf_is_killed_and_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (mut process, of) = start("trap '' TERM; touch $1/runs; while :; do sleep 0.05; done", folder.path());
    process.stop();
    assert!(process.ended().is_some() && !of.exists(), "ended, and waited for");
    assert_eq!(process.finish(None).ended, Ended::Signal(Signal::KILL.as_raw()));
}

#[test]
fn nobody_is_left_when_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (process, of) = start("touch $1/runs; exec sleep 600", folder.path());
    drop(process);
    assert!(!of.exists());
}

#[test]
fn all_that_it_said_at_its_end_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (mut process, of) = start("seq 1 10000; touch $1/runs", folder.path());
    // It ends without being read, as what it says fits in the pipe.
    let status = of.join("status");
    let began = Instant::now();
    while fs::read_to_string(&status).is_ok_and(|text| !text.contains("State:\tZ")) {
        assert!(began.elapsed() < LONG, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    process.step(Instant::now(), None).unwrap();
    let ran = process.finish(None);
    assert_eq!(ran.ended, Ended::Exit(0));
    assert!(ran.output.ends_with("\n9999\n10000\n"), "{}", ran.output.len());
}

#[test]
fn who_writes_on_for_ever_is_not_listened_to_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        "setsid sh -c 'echo $$ >$0/other; exec yes' $1 & until [ -s $1/other ]; do sleep 0.01; done; touch $1/runs";
    let (mut process, _) = start(script, folder.path());
    while process.ended().is_none() {
        process.step(Instant::now() + SLICE, None).unwrap();
    }
    // Its end of the pipe is closed with this: `yes` ends of it.
    assert_eq!(process.finish(None).ended, Ended::Exit(0));
}
