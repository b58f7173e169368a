//! Tests hooks of this host with real processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::hooks::MAX_OUTPUT;

/// Longer than any test needs.
const LONG: Duration = Duration::from_secs(60);
/// For deadlines that are reached: even on a busy machine, a script has started by then.
const ENOUGH: Duration = Duration::from_secs(3);
/// Deadlines that no test reaches.
const FAR: Deadlines = Deadlines { ready: LONG, hold: LONG, release: LONG };

/// A script as a hook; its first argument is the directory of the test.
fn sh(script: &str, folder: &Path) -> Call {
    let argv = ["/bin/sh", "-c", script, "hook", folder.to_str().unwrap()].map(str::to_owned).to_vec();
    Call { argv, env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]) }
}

fn run(script: &str, timeout: Duration) -> Ran {
    run_in(script, Path::new("/"), timeout)
}

fn run_in(script: &str, folder: &Path, timeout: Duration) -> Ran {
    Host.run(&sh(script, folder), timeout, None).unwrap()
}

fn ready(script: &str, folder: &Path, deadlines: Deadlines) -> Box<dyn Held> {
    match Host.hold(&sh(script, folder), deadlines, None).unwrap() {
        Started::Ready(held) => held,
        Started::NotReady(ran) => panic!("not ready: {ran:?}"),
    }
}

fn not_ready(script: &str, ready: Duration, cancel: Option<&Cancel>) -> Ran {
    match Host.hold(&sh(script, Path::new("/")), Deadlines { ready, ..FAR }, cancel).unwrap() {
        Started::Ready(_) => panic!("ready"),
        Started::NotReady(ran) => ran,
    }
}

/// The process whose number a script wrote to a file.
struct Other(PathBuf);

impl Other {
    fn in_file(path: &Path) -> Other {
        wait_until("a process number", || fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n')));
        Other(Path::new("/proc").join(fs::read_to_string(path).unwrap().trim()))
    }

    /// A zombie that was not waited for has ended, too.
    fn runs(&self) -> bool {
        let status = fs::read_to_string(self.0.join("status")).unwrap_or_default();
        status.contains("State:") && !status.contains("State:\tZ")
    }
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn result_of_a_command_is_reported() {
    assert_eq!(run("exit 0", LONG).ended, Ended::Exit(0));
    assert_eq!(run("exit 75", LONG).ended, Ended::Exit(75));
    assert_eq!(run("kill -9 $$", LONG).ended, Ended::Signal(9));
}

#[test]
fn both_outputs_are_kept_in_order() {
    let ran = run("echo one; echo two >&2; printf three", LONG);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exit(0), "one\ntwo\nthree"));
}

#[test]
fn the_newest_output_is_kept() {
    let ran = run("seq 1 100000", LONG);
    assert!(ran.output.len() <= MAX_OUTPUT && ran.output.len() > MAX_OUTPUT - 10, "{}", ran.output.len());
    let first: u32 = ran.output.lines().next().unwrap().parse().unwrap();
    let want: String = (first..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(ran.output == want);
}

#[test]
fn hook_inherits_neither_environment_nor_directory_nor_input() {
    assert!(std::env::var_os("PATH").is_some(), "the test has an environment to inherit");
    let env = BTreeMap::from([("KVMBACKUP_API", "1"), ("EMPTY", "")].map(|(key, value)| (key.into(), value.into())));
    let call = Call { argv: vec!["/usr/bin/env".to_owned()], env };
    assert_eq!(Host.run(&call, LONG, None).unwrap().output, "EMPTY=\nKVMBACKUP_API=1\n");
    // `cat` reads an empty standard input.
    assert_eq!(run("pwd; cat", LONG).output, "/\n");
}

#[test]
fn command_is_ended_at_its_deadline_with_all_its_processes() {
    let folder = tempfile::tempdir().unwrap();
    // The grandchild ignores SIGTERM and also keeps the pipe open.
    let script = "(trap '' TERM; sh -c 'echo $PPID' >$1/pid; while :; do sleep 1; done) & echo started; wait";
    let ran = run_in(script, folder.path(), ENOUGH);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::TimedOut, "started\n"));
    let grandchild = Other::in_file(&folder.path().join("pid"));
    wait_until("the end of the grandchild", || !grandchild.runs());
}

#[test]
fn terminated_command_may_clean_up() {
    let ran = run("trap 'echo unlocked; exit 0' TERM; echo locked; sleep 60 & wait", ENOUGH);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::TimedOut, "locked\nunlocked\n"));
}

#[test]
fn grandchild_that_keeps_the_pipe_open_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run_in("sleep 600 & echo $! >$1/pid; echo done", folder.path(), LONG);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exit(0), "done\n"));
    let daemon = Other::in_file(&folder.path().join("pid"));
    assert!(daemon.runs(), "a process left by a finished command must not be terminated");
    run(&format!("kill {}", daemon.0.file_name().unwrap().to_str().unwrap()), LONG);
}

#[test]
fn cancelled_run_ends_its_hook() {
    let cancel = Cancel::default();
    let ran = thread::scope(|scope| {
        let running = scope.spawn(|| Host.run(&sh("echo on; sleep 600", Path::new("/")), LONG, Some(&cancel)).unwrap());
        thread::sleep(Duration::from_millis(100));
        cancel.cancel(15);
        running.join().unwrap()
    });
    assert_eq!(ran.ended, Ended::Cancelled);
}

#[test]
fn untrusted_program_is_not_started() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hook");
    fs::write(&path, format!("#!/bin/sh\ntouch {}/ran\n", folder.path().display())).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o775)).unwrap();
    let call = Call { argv: vec![path.to_str().unwrap().to_owned()], env: BTreeMap::new() };
    assert!(matches!(Host.run(&call, LONG, None), Err(Error::Untrusted { .. })));
    assert!(matches!(Host.hold(&call, FAR, None), Err(Error::Untrusted { .. })));
    assert!(matches!(Host.run(&Call::default(), LONG, None), Err(Error::Empty)));
    assert!(!folder.path().join("ran").exists());
}

/// A session that keeps a lock, which is a file, until it is released, and then prints the reason.
const SESSION: &str = "trap 'rm -f $1/lock' EXIT; echo $$ >$1/lock; echo READY; read word; echo \"told $word\"; \
                       read more || echo end";

#[test]
fn session_stays_ready_until_it_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("lock");
    let held = ready(SESSION, folder.path(), FAR);
    assert!(lock.exists());
    let released = held.release();
    assert!(!lock.exists());
    assert!(released.kept && released.held <= released.ran.time);
    assert_eq!(released.ran.ended, Ended::Exit(0));
    assert_eq!(released.ran.output, "READY\ntold RELEASE\nend\n");
}

#[test]
fn dropped_session_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let held = ready(SESSION, folder.path(), FAR);
    assert!(folder.path().join("lock").exists());
    drop(held);
    assert!(!folder.path().join("lock").exists());
}

#[test]
fn session_sees_the_end_of_its_input_if_kvmbackup_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("lock");
    let mut process = start(&sh(SESSION, folder.path()), Stream::Pipe).unwrap();
    wait_until("the lock", || lock.exists());
    // The kernel does the same if kvmbackup is killed: the pipe is closed, and no RELEASE is written.
    drop(process.take_input());
    wait_until("the end of the lock", || !lock.exists());
}

#[test]
fn session_that_dies_before_its_release_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo $$ >$1/pid; echo READY; until [ -e $1/fault ]; do sleep 0.01; done; exit 3";
    let held = ready(script, folder.path(), FAR);
    let session = Other::in_file(&folder.path().join("pid"));
    fs::write(folder.path().join("fault"), "").unwrap();
    wait_until("the end of the session", || !session.runs());
    let released = held.release();
    assert!(!released.kept);
    assert_eq!(released.ran.ended, Ended::Exit(3));
}

#[test]
fn session_with_closed_input_is_lost() {
    let held = ready("exec <&-; echo READY; exec sleep 0.1", Path::new("/"), FAR);
    assert!(!held.release().kept);
}

#[test]
fn session_that_ends_after_ready_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let held = ready("echo $$ >$1/pid; echo READY; exit 75", folder.path(), FAR);
    let session = Other::in_file(&folder.path().join("pid"));
    wait_until("the end of the session", || !session.runs());
    let released = held.release();
    assert!(!released.kept);
    assert_eq!(released.ran.ended, Ended::Exit(75));
}

#[test]
fn session_is_released_at_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("lock");
    let held = ready(SESSION, folder.path(), Deadlines { hold: Duration::from_millis(200), ..FAR });
    wait_until("the end of the lock", || !lock.exists());
    let released = held.release();
    assert!(!released.kept && released.held >= Duration::from_millis(200));
    assert_eq!((released.ran.ended, released.ran.output.as_str()), (Ended::Exit(0), "READY\ntold RELEASE\nend\n"));
}

#[test]
fn session_that_ignores_its_release_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo READY; while :; do sleep 1; done";
    let held = ready(script, folder.path(), Deadlines { release: Duration::from_millis(200), ..FAR });
    let released = held.release();
    assert!(released.kept);
    assert_eq!(released.ran.ended, Ended::TimedOut);
}

#[test]
fn no_process_outlives_its_session() {
    let folder = tempfile::tempdir().unwrap();
    // The session ends by itself, but its client still has the lock.
    let script = "sleep 600 & echo $! >$1/pid; echo READY; read word";
    let held = ready(script, folder.path(), FAR);
    let client = Other::in_file(&folder.path().join("pid"));
    assert!(client.runs());
    assert!(held.release().kept);
    wait_until("the end of the client", || !client.runs());
}

#[test]
fn session_that_is_not_ready_in_time_is_ended() {
    let ran = not_ready("echo connecting; sleep 600; echo READY", ENOUGH, None);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::TimedOut, "connecting\n"));
}

#[test]
fn a_session_may_decline() {
    let ran = not_ready("echo 'a replica lags'; exit 75", LONG, None);
    assert_eq!((ran.ended, ran.output.as_str()), (Ended::Exit(75), "a replica lags\n"));
}

#[test]
fn cancelled_run_does_not_wait_for_a_session() {
    let cancel = Cancel::default();
    cancel.cancel(2);
    assert_eq!(not_ready("sleep 600", LONG, Some(&cancel)).ended, Ended::Cancelled);
}
