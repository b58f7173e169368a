//! `hooks/postgresql` keeps its promises, against Debian's server.

use crate::lab;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::lab::{DEADLINE, ENDS, Ended, PostgreSql, Session, Writer, hook, run, run_hook, wait_until};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn no_write_is_acknowledged_while_blocked_and_writers_continue_regardless_of_its_end() {
    let server = PostgreSql::new(&[]);
    server.sql("CREATE SCHEMA s; CREATE TABLE s.\"A b\" (id bigint) PARTITION BY RANGE (id)");
    server.sql("CREATE TABLE s.part PARTITION OF s.\"A b\" DEFAULT");
    let plain = server.writer();
    let partitioned = Writer::start(server.client(), |n| format!("INSERT INTO s.\"A b\" VALUES ({n}) RETURNING id;"));
    for (end, code) in ENDS {
        let session = Session::held(the_hook(&server, &["--mode=block"]));
        plain.assert_stands_still();
        partitioned.assert_stands_still();
        assert_eq!(end(session).status.code(), code);
        plain.assert_goes_on();
        partitioned.assert_goes_on();
    }
}

#[test]
fn snapshot_contains_all_acknowledged_rows_only_while_blocked() {
    let server = PostgreSql::new(&[]);
    let writer = server.writer();
    let mut row = 1_000_000;
    wait_until(DEADLINE, "the control: a snapshot that lacks what was acknowledged", || {
        row += 1;
        server.sql(&format!("INSERT INTO t VALUES ({row})"));
        newest(&server.restored()) < row
    });
    server.sql("DELETE FROM t WHERE id > 1000000");

    let session = Session::held(the_hook(&server, &["--mode=block"]));
    let acknowledged = writer.acknowledged();
    let restored = server.restored();
    session.release().assert_good();
    assert!(newest(&restored) >= acknowledged, "{} of {acknowledged}", newest(&restored));
    restored.assert_sound();
}

#[test]
fn checkpoint_makes_earlier_commits_durable() {
    let server = PostgreSql::new(&[]);
    server.sql("CREATE TABLE t (id bigint)");
    run_hook(&mut the_hook(&server, &["--mode=checkpoint"])).assert_good();
    let mut row = 0;
    wait_until(DEADLINE, "the control: a snapshot that lacks what was acknowledged", || {
        row += 1;
        server.sql(&format!("INSERT INTO t VALUES ({row})"));
        newest(&server.restored()) < row
    });
    run_hook(&mut the_hook(&server, &["--mode=checkpoint"])).assert_good();
    assert_eq!(newest(&server.restored()), row);
}

#[test]
fn backup_that_was_copied_file_by_file_recovers_with_the_kept_label() {
    let archive = tempfile::tempdir().unwrap();
    run("chown", &["postgres", archive.path().to_str().unwrap()]);
    let command = format!("archive_command=cp %p {}/%f", archive.path().display());
    let server = PostgreSql::new(&["archive_mode=on", &command]);
    let space = tempfile::tempdir().unwrap();
    run("chown", &["postgres", space.path().to_str().unwrap()]);
    server.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.path().display()));
    let writer = server.writer();

    let artifacts = tempfile::tempdir().unwrap();
    let mut hook = the_hook(&server, &["--mode=backup", "--wait-for-archive"]);
    hook.env("KVMBACKUP_ARTIFACT_DIR", artifacts.path());
    let session = Session::held(hook);
    writer.assert_goes_on();
    // The table's file is much older than the rest, as on a volume that was snapshotted first.
    let early = server.image();
    let acknowledged = writer.acknowledged() + 50;
    wait_until(DEADLINE, "more rows", || writer.acknowledged() > acknowledged);
    server.sql("CHECKPOINT");
    let late = server.image();
    let table = server.sql("SELECT pg_relation_filepath('t')");
    std::fs::copy(early.path().join("data").join(&table), late.path().join("data").join(&table)).unwrap();
    session.release().assert_good();
    drop(writer);

    let data = late.path().join("data");
    for name in ["backup_label", "tablespace_map"] {
        let kept = std::fs::read_to_string(artifacts.path().join(name)).unwrap();
        assert!(kept.ends_with('\n') && !kept.ends_with("\n\n"), "{kept:?}");
        std::fs::write(data.join(name), kept).unwrap();
    }
    let label = std::fs::read_to_string(data.join("backup_label")).unwrap();
    assert!(label.contains(&format!("LABEL: kvmbackup {}", lab::RUN_ID)), "{label}");
    let map = std::fs::read_to_string(data.join("tablespace_map")).unwrap();
    assert!(map.contains(space.path().to_str().unwrap()), "{map}");
    std::fs::write(data.join("recovery.signal"), "").unwrap();
    std::fs::remove_file(data.join("postmaster.pid")).unwrap();
    run("chown", &["-R", "postgres", late.path().to_str().unwrap()]);
    let restore = format!("restore_command=cp {}/%f %p", archive.path().display());
    let restored = PostgreSql::start(late, &[&restore]);
    wait_until(DEADLINE, "the end of recovery", || restored.sql("SELECT pg_is_in_recovery()") == "f");
    assert!(newest(&restored) >= acknowledged, "{} of {acknowledged}", newest(&restored));
    restored.assert_sound();
}

#[test]
fn abandoned_backup_is_an_error_or_over() {
    let server = PostgreSql::new(&[]);
    let artifacts = tempfile::tempdir().unwrap();
    let mut hook = the_hook(&server, &["--mode=backup"]);
    hook.env("KVMBACKUP_ARTIFACT_DIR", artifacts.path());
    let session = Session::held(hook);
    disconnect_all(&server);
    session.release().assert_failed("the backup was aborted");
    assert_eq!(std::fs::read_dir(artifacts.path()).unwrap().count(), 0, "a label although there is no backup");
    not_ready(the_hook(&server, &["--mode=backup"])).assert_failed("KVMBACKUP_ARTIFACT_DIR is not set");
}

#[test]
fn lock_request_behind_a_long_write_times_out_and_other_tables_stay_writable() {
    let server = PostgreSql::new(&[]);
    server.sql("CREATE TABLE long (id bigint)");
    let writer = server.writer();
    let (mut long, mut input) = transaction(&server, "INSERT INTO long VALUES (1);");
    let session = Session::start(the_hook(&server, &["--mode=block", "--lock-wait=2"]));
    writer.assert_goes_on();
    let mut session = session;
    session.end().assert_failed("lock timeout");
    writer.assert_goes_on();
    input.write_all(b"COMMIT;\n").unwrap();
    drop(input);
    assert!(long.wait().unwrap().success());
    assert_eq!(server.sql("SELECT count(*) FROM long"), "1");
}

#[test]
fn transaction_over_several_tables_does_not_become_a_deadlock() {
    let server = PostgreSql::new(&[]);
    server.sql("CREATE TABLE first (id bigint)");
    server.sql("CREATE TABLE second (id bigint)");
    let (mut open, mut input) = transaction(&server, "INSERT INTO second VALUES (1);");
    let mut session = Session::start(the_hook(&server, &["--mode=block", "--lock-wait=30"]));
    // The hook has the first table now, and waits for the second, at least once.
    let waits = "SELECT count(*) FROM pg_locks WHERE mode = 'ExclusiveLock' AND locktype = 'relation' AND NOT granted";
    wait_until(DEADLINE, "the hook to wait", || server.sql(waits) == "1");
    // After deadlock_timeout, every session that is still waiting has checked for a deadlock, and the next one to wait
    // becomes its victim.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    input.write_all(b"INSERT INTO first VALUES (1);\nCOMMIT;\n").unwrap();
    drop(input);
    assert!(open.wait().unwrap().success());
    session.wait_ready();
    assert_eq!(server.sql("SELECT count(*) FROM first, second"), "1");
    session.release().assert_good();
}

#[test]
fn lost_locks_are_an_error() {
    let server = PostgreSql::new(&[]);
    let mut session = Session::held(the_hook(&server, &["--mode=block"]));
    disconnect_all(&server);
    session.end().assert_failed("the lock was lost");

    let session = Session::held(the_hook(&server, &["--mode=block"]));
    disconnect_all(&server);
    session.release().assert_failed("were lost before their release");
}

#[test]
fn server_ends_a_silent_session_by_itself() {
    let server = PostgreSql::new(&[]);
    let writer = server.writer();
    let mut command = the_hook(&server, &["--mode=block"]);
    // The lease is ten seconds longer than the lock, and the writer must be seen blocked for this long.
    command.env("KVMBACKUP_TIMEOUT", "-2");
    let session = Session::held(command);
    let script = Pid::from_raw(i32::try_from(session.id()).unwrap()).unwrap();
    kill_process(script, Signal::STOP).unwrap();
    writer.assert_stands_still();
    writer.assert_goes_on();
    kill_process(script, Signal::CONT).unwrap();
    session.release().assert_failed("lost");
}

#[test]
fn unusable_setups_fail_before_ready() {
    let server = PostgreSql::new(&[]);
    not_ready(the_hook(&server, &["--mode=checkpoint", "--username=nobody"])).assert_failed("cannot connect");
    not_ready(the_hook(&server, &["--mode=block", "--dbname=missing"])).assert_failed("cannot connect");
    not_ready(the_hook(&server, &["--mode=block", "host=/x password=secret"]))
        .assert_failed("a password on the command line");
    not_ready(the_hook(&server, &["--mode=block", "postgresql://a:secret@b/"]))
        .assert_failed("a password on the command line");
    not_ready(the_hook(&server, &["--mode=off"])).assert_failed("--mode=");
    not_ready(the_hook(&server, &["--mode=block", "--lock-wait=1'"])).assert_failed("valid: 1 to 9999 seconds");
    server.sql("CREATE ROLE weak LOGIN");
    not_ready(the_hook(&server, &["--mode=checkpoint", "--username=weak", "--dbname=postgres"]))
        .assert_failed("the checkpoint failed");
    server.sql("GRANT pg_checkpoint TO weak");
    run_hook(&mut the_hook(&server, &["--mode=checkpoint", "--username=weak", "--dbname=postgres"])).assert_good();
    server.sql("CREATE TABLE t (id bigint)");
    not_ready(the_hook(&server, &["--mode=block", "--username=weak", "--dbname=postgres"]))
        .assert_failed("permission denied");
    server.sql("GRANT pg_write_all_data TO weak");
    Session::held(the_hook(&server, &["--mode=block", "--username=weak", "--dbname=postgres"])).release().assert_good();
}

fn the_hook(server: &PostgreSql, arguments: &[&str]) -> Command {
    let mut command = hook("postgresql", &[]);
    command.args(server.client_options()).args(arguments);
    command
}

/// Runs a hook that must fail and must not get a lock.
fn not_ready(mut command: Command) -> Ended {
    let ended = run_hook(&mut command);
    assert!(!ended.stdout.contains("READY"));
    ended
}

/// A client in a transaction that has run `statement`, and its input.
fn transaction(server: &PostgreSql, statement: &str) -> (std::process::Child, std::process::ChildStdin) {
    let mut client = server.client();
    client.args(["--set=ON_ERROR_STOP=1"]).env("PGAPPNAME", "transaction").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut client = client.spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    writeln!(input, "BEGIN; {statement}").unwrap();
    let idle = "SELECT state FROM pg_stat_activity WHERE application_name = 'transaction' AND query LIKE 'INSERT%'";
    wait_until(DEADLINE, "the transaction", || server.sql(idle) == "idle in transaction");
    (client, input)
}

fn disconnect_all(server: &PostgreSql) {
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kvmbackup'");
}

/// The newest row; 0 if not even the table had become durable.
fn newest(server: &PostgreSql) -> u64 {
    match server.try_sql("SELECT COALESCE(MAX(id), 0) FROM t") {
        Err(error) if error.contains("relation \"t\" does not exist") => 0,
        found => found.unwrap().parse().unwrap(),
    }
}
