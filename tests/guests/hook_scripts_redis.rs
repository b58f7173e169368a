//! `hooks/redis` keeps its promises, against Debian's server.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::lab::{DEADLINE, ENDS, Ended, Redis, Session, hook, run_hook, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const APPEND_ONLY: [&str; 6] = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""];
const RDB: [&str; 2] = ["--save", "3600 1"];

#[test]
fn no_write_is_acknowledged_while_paused_and_writers_continue_regardless_of_its_end() {
    let server = Redis::new(&APPEND_ONLY);
    let writer = server.writer();
    for (end, code) in ENDS {
        let session = Session::held(the_hook(&server, &["--no-fsync", "--lease=5"]));
        writer.assert_stands_still();
        wait_until(DEADLINE, "reads to go on, and the writer to have heard of its last write", || {
            server.command(&["GET", "n"]) == writer.acknowledged().to_string()
        });
        assert_eq!(end(session).status.code(), code);
        // After a kill, when the lease has expired.
        writer.assert_goes_on();
    }
}

#[test]
fn pause_is_renewed_beyond_its_lease() {
    let server = Redis::new(&RDB);
    let writer = server.writer();
    let session = Session::held(the_hook(&server, &["--lease=5"]));
    let before = writer.assert_stands_still();
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert!(writer.assert_stands_still() <= before + 1, "only writes that were already in progress");
    session.release().assert_good();
    writer.assert_goes_on();
}

#[test]
fn snapshot_contains_all_acknowledged_writes() {
    for (options, arguments) in [(&APPEND_ONLY[..], &["--no-fsync"][..]), (&APPEND_ONLY, &[]), (&RDB, &[])] {
        let server = Redis::new(options);
        let writer = server.writer();
        let session = Session::held(the_hook(&server, arguments));
        let acknowledged = writer.assert_stands_still();
        let restored = server.restored();
        session.release().assert_good();
        let found: u64 = restored.command(&["GET", "n"]).parse().unwrap();
        assert!(found >= acknowledged, "{options:?}: {found} of {acknowledged}");
    }
}

#[test]
fn rdb_file_lacks_acknowledged_writes_without_the_hook() {
    let server = Redis::new(&RDB);
    server.command(&["SET", "n", "1"]);
    assert_eq!(
        server.restored().command(&["GET", "n"]),
        "",
        "control: with durable writes the test would prove nothing"
    );
}

#[test]
fn lost_pause_is_an_error() {
    let mut server = Redis::new(&APPEND_ONLY);
    let mut session = Session::held(the_hook(&server, &["--no-fsync"]));
    server.restart();
    session.end().assert_failed("the pause was lost");

    let session = Session::held(the_hook(&server, &["--no-fsync"]));
    server.restart();
    session.release().assert_failed("the pause was lost");
}

#[test]
fn gap_in_the_pause_is_an_error() {
    let server = Redis::new(&RDB);
    let writer = server.writer();
    let session = Session::held(the_hook(&server, &["--lease=5"]));
    let script = Pid::from_raw(i32::try_from(session.id()).unwrap()).unwrap();
    kill_process(script, Signal::STOP).unwrap();
    writer.assert_goes_on();
    kill_process(script, Signal::CONT).unwrap();
    session.release().assert_failed("the pause has expired");
}

#[test]
fn unwritable_file_is_an_error_and_writers_continue() {
    let server = Redis::new(&RDB);
    server.command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    let writer = server.writer();
    server.remove_data();
    not_ready(the_hook(&server, &[])).assert_failed("the server cannot write its RDB file");
    writer.assert_goes_on();
}

#[test]
fn unusable_setups_fail_before_ready() {
    let server = Redis::new(&["--requirepass", "secret"]);
    not_ready(the_hook(&server, &[])).assert_failed("NOAUTH");
    not_ready(the_hook(&server, &["-a", "secret"])).assert_failed("a password on the command line");
    not_ready(the_hook(&server, &["-u", "redis://u:secret@h"])).assert_failed("a password on the command line");
    not_ready(the_hook(&server, &["--password-file=/nowhere"])).assert_failed("cannot read /nowhere");
    not_ready(the_hook(&server, &["-s", "/nowhere"])).assert_failed("cannot read the state");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(file.path(), "secret\n").unwrap();
    let by_file = format!("--password-file={}", file.path().display());
    Session::held(the_hook(&server, &[&by_file])).release().assert_good();
    let mut by_environment = the_hook(&server, &[]);
    by_environment.env("REDISCLI_AUTH", "secret");
    Session::held(by_environment).release().assert_good();

    let server = Redis::new(&["--appendonly", "yes", "--appendfsync", "no"]);
    not_ready(the_hook(&server, &[])).assert_failed("--no-fsync");
    Session::held(the_hook(&server, &["--no-fsync"])).release().assert_good();
}

fn the_hook(server: &Redis, arguments: &[&str]) -> Command {
    let mut command = hook("redis", &["-s", &server.socket()]);
    command.args(arguments);
    command
}

/// Runs a session that must not get its lock.
fn not_ready(mut command: Command) -> Ended {
    let ended = run_hook(&mut command);
    assert!(!ended.stdout.contains("READY"));
    ended
}
