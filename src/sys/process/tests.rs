//! Tests the end of real process groups: by exit, SIGTERM and SIGKILL.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

/// Starts a script, whose first argument is the directory, and waits until it has created the file `runs` there.
fn start(script: &str, folder: &Path) -> (Process, PathBuf) {
    let script = format!("{script}\n");
    let mut command = program::command("/bin/sh");
    command.args(["-c", &script, "test", folder.to_str().unwrap()]);
    let process = Process::start(command, Stream::Null, Answer::Joined, BoundedOutput::new("sh", 64 << 10)).unwrap();
    let of = PathBuf::from(format!("/proc/{}", process.child.id()));
    let began = Instant::now();
    while !folder.join("runs").exists() {
        assert!(began.elapsed() < LONG, "the script does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    (process, of)
}

#[test]
fn a_process_has_time_to_end_after_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap 'sleep 0.3; touch $1/in-order; exit 0' TERM; touch $1/runs; while :; do sleep 0.05; done";
    let (mut process, of) = start(script, folder.path());
    process.stop();
    assert!(folder.path().join("in-order").exists());
    assert!(!of.exists(), "the process must be ended and reaped");
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_and_reaped() {
    let folder = tempfile::tempdir().unwrap();
    let (mut process, of) = start("trap '' TERM; touch $1/runs; while :; do sleep 0.05; done", folder.path());
    process.stop();
    assert!(process.ended().is_some() && !of.exists(), "the process must be ended and reaped");
    assert_eq!(process.finish(None).ended, Ended::Signal(Signal::KILL.as_raw()));
}

#[test]
fn dropping_a_process_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let (process, of) = start("touch $1/runs; exec sleep 600", folder.path());
    drop(process);
    assert!(!of.exists());
}

#[test]
fn output_at_the_end_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (mut process, of) = start("seq 1 10000; touch $1/runs", folder.path());
    // It ends although its output is not read, because the output fits into the pipe.
    let status = of.join("status");
    let began = Instant::now();
    while fs::read_to_string(&status).is_ok_and(|text| !text.contains("State:\tZ")) {
        assert!(began.elapsed() < LONG, "the script does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    process.step(Instant::now(), None).unwrap();
    let ran = process.finish(None);
    assert_eq!(ran.ended, Ended::Exit(0));
    assert!(ran.output.ends_with("\n9999\n10000\n"), "{}", ran.output.len());
}

#[test]
fn endless_output_of_another_process_does_not_delay_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        "setsid sh -c 'echo $$ >$0/other; exec yes' $1 & until [ -s $1/other ]; do sleep 0.01; done; touch $1/runs";
    let (mut process, _) = start(script, folder.path());
    while process.ended().is_none() {
        process.step(Instant::now() + SLICE, None).unwrap();
    }
    // This closes the pipe, which ends `yes`.
    assert_eq!(process.finish(None).ended, Ended::Exit(0));
}

fn shell(script: &str, answer: Answer) -> Process {
    let mut command = program::command("sh");
    command.args(["-c", script]);
    Process::start(command, Stream::Null, answer, BoundedOutput::new("sh", 100)).unwrap()
}

#[test]
fn activity_extends_the_deadline_and_an_idle_process_is_ended() {
    let stall = Duration::from_secs(3);
    let active = shell("for n in $(seq 20); do echo $n; sleep 0.2; done; exit 7", Answer::Kept(1000));
    let (ran, answer) = active.run_while_active(stall).unwrap();
    assert!(ran.time > stall && ran.ended == Ended::Exit(7) && answer.ends_with(b"\n20\n"), "{ran:?}");
    let (ran, _) = shell("exec sleep 600", Answer::Kept(1000)).run_while_active(Duration::from_millis(200)).unwrap();
    assert_eq!(ran.ended, Ended::TimedOut);
}

#[test]
fn kept_output_is_separate_from_errors_and_limited() {
    let (ran, answer) = shell("seq 9; echo wrong >&2", Answer::Kept(6)).run_while_active(LONG).unwrap();
    assert_eq!((ran.output.as_str(), answer.as_slice()), ("wrong\n", &b"1\n2\n3\n"[..]));
    let (ran, answer) = shell("exec head -c 9000000 /dev/zero", Answer::Kept(1 << 20)).run_while_active(LONG).unwrap();
    assert_eq!((ran.ended, answer.len()), (Ended::Signal(13), 1 << 20));
}

#[test]
fn input_is_passed_and_unread_input_does_not_block() {
    for (script, said) in [("sleep 0.1; wc -c", "1048576\n"), ("exit 0", "")] {
        let mut command = program::command("sh");
        command.args(["-c", script]);
        let mut process = Process::start(command, Stream::Pipe, Answer::Joined, BoundedOutput::new("sh", 100)).unwrap();
        process.write_input(vec![b'x'; 1 << 20]);
        assert_eq!(process.run(LONG, None).unwrap().output, said);
    }
}
