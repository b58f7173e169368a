//! `hooks/mariadb` keeps its promises, against Debian's server.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::lab::{DEADLINE, ENDS, Ended, MariaDb, Session, hook, run_hook, wait_until};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn no_write_is_acknowledged_while_locked_and_writers_continue_after_the_release() {
    let server = MariaDb::new(&[]);
    for lock in ["--lock=stage", "--lock=ftwrl"] {
        for engine in ["InnoDB", "MyISAM", "Aria", "Aria TRANSACTIONAL=0"] {
            let writer = server.writer(engine);
            let session = Session::held(the_hook(&server, &[lock]));
            writer.assert_stands_still();
            session.release().assert_good();
            writer.assert_goes_on();
            drop(writer);
            server.sql("DROP TABLE d.t");
        }
    }
}

#[test]
fn writers_continue_regardless_of_how_the_session_ends() {
    let server = MariaDb::new(&[]);
    let writer = server.writer("InnoDB");
    for (end, code) in ENDS {
        let session = Session::held(the_hook(&server, &[]));
        writer.assert_stands_still();
        assert_eq!(end(session).status.code(), code);
        writer.assert_goes_on();
    }
}

#[test]
fn snapshot_contains_all_acknowledged_rows_only_with_the_hook() {
    for lock in ["--lock=stage", "--lock=ftwrl"] {
        let server = MariaDb::new(&[]);
        let writer = server.writer("InnoDB");
        let mut row = 1_000_000;
        wait_until(DEADLINE, "the control: a snapshot that lacks what was acknowledged", || {
            row += 1;
            server.sql(&format!("INSERT INTO d.t VALUES ({row})"));
            newest(&server.restored()) < row
        });
        server.sql("DELETE FROM d.t WHERE id > 1000000");

        let session = Session::held(the_hook(&server, &[lock]));
        // At once, because an idle server writes its log after a while.
        let acknowledged = writer.acknowledged();
        let restored = server.restored();
        session.release().assert_good();
        assert!(newest(&restored) >= acknowledged, "{lock}: {} of {acknowledged}", newest(&restored));
        assert_eq!(check(&restored), "d.t\tcheck\tstatus\tOK");
        assert_eq!(server.sql("SELECT @@GLOBAL.innodb_flush_log_at_trx_commit"), "0", "as before");
    }
}

#[test]
fn commit_right_before_the_hook_is_in_a_snapshot_right_after_it() {
    for lock in ["--lock=stage", "--lock=ftwrl"] {
        let server = MariaDb::new(&[]);
        server.sql("CREATE TABLE d.t (id BIGINT PRIMARY KEY) ENGINE=InnoDB");
        let mut row = 0;
        wait_until(DEADLINE, "the control: a snapshot that lacks what was acknowledged", || {
            row += 1;
            server.sql(&format!("INSERT INTO d.t VALUES ({row})"));
            newest(&server.restored()) < row
        });
        row += 1;
        server.sql(&format!("INSERT INTO d.t VALUES ({row})"));
        let session = Session::held(the_hook(&server, &[lock]));
        let restored = server.restored();
        session.release().assert_good();
        assert_eq!(newest(&restored), row, "{lock}");
    }
}

#[test]
fn user_who_may_not_flush_the_log_waits_until_the_server_does() {
    let server = MariaDb::new(&[]);
    server.sql("CREATE USER weak@localhost; GRANT RELOAD ON *.* TO weak@localhost");
    server.sql("SET GLOBAL innodb_flush_log_at_timeout = 1");
    let writer = server.writer("InnoDB");
    let session = Session::held(the_hook(&server, &["--user=weak"]));
    let acknowledged = writer.acknowledged();
    let restored = server.restored();
    session.release().assert_good();
    assert!(newest(&restored) >= acknowledged, "{} of {acknowledged}", newest(&restored));
}

#[test]
fn snapshot_contains_intact_non_transactional_tables_only_with_the_hook() {
    for (lock, engine) in
        [("--lock=stage", "MyISAM"), ("--lock=ftwrl", "MyISAM"), ("--lock=stage", "Aria TRANSACTIONAL=0")]
    {
        let server = MariaDb::new(&["--key-buffer-size=1M"]);
        let writer = server.writer(engine);
        wait_until(DEADLINE, "the control: a snapshot with a table that is not closed", || {
            check(&server.restored()).contains("hasn't closed the table properly")
        });

        let session = Session::held(the_hook(&server, &[lock]));
        let acknowledged = writer.assert_stands_still();
        let restored = server.restored();
        session.release().assert_good();
        assert_eq!(check(&restored), "d.t\tcheck\tstatus\tOK", "{lock} {engine}");
        assert!(newest(&restored) >= acknowledged, "{lock} {engine}");
    }
}

#[test]
fn open_transactions_continue_under_the_backup_lock_and_wait_under_the_global_lock() {
    let server = MariaDb::new(&[]);
    assert!(transactions_go_on(&server, &["--lock=stage"]));
    assert!(!transactions_go_on(&server, &["--lock=ftwrl"]));
}

#[test]
fn hook_uses_the_lock_that_the_server_supports() {
    for (version, stage) in [("10.4.1-MariaDB", true), ("10.3.9-MariaDB", false), ("8.0.36", false)] {
        let server = MariaDb::new(&[&format!("--version={version}")]);
        assert_eq!(transactions_go_on(&server, &[]), stage, "{version}");
    }
}

#[test]
fn lock_request_behind_a_long_write_times_out_and_is_released() {
    let server = MariaDb::new(&[]);
    server.sql("CREATE TABLE d.t (id INT) ENGINE=MyISAM");
    let mut long = server.client().stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = long.stdin.take().unwrap();
    input.write_all(b"LOCK TABLES d.t WRITE;\n").unwrap();
    let locked = || server.try_sql("SET lock_wait_timeout=1; INSERT INTO d.t VALUES (1)").is_err();
    wait_until(DEADLINE, "the long write", locked);
    for lock in ["--lock=stage", "--lock=ftwrl"] {
        not_ready(the_hook(&server, &["--lock-wait=1", lock])).assert_failed("Lock wait timeout");
    }
    drop(input);
    long.wait().unwrap();
    server.sql("INSERT INTO d.t VALUES (2)");
}

#[test]
fn lost_lock_is_an_error() {
    let mut server = MariaDb::new(&[]);
    let mut session = Session::held(the_hook(&server, &[]));
    server.disconnect_all();
    session.end().assert_failed("the lock was lost");

    let session = Session::held(the_hook(&server, &[]));
    server.disconnect_all();
    session.release().assert_failed("the lock was lost");

    let mut session = Session::held(the_hook(&server, &[]));
    server.kill();
    session.end().assert_failed("the lock was lost");
}

#[test]
fn server_ends_a_silent_session_by_itself() {
    let server = MariaDb::new(&[]);
    let writer = server.writer("InnoDB");
    let mut command = the_hook(&server, &[]);
    // The lease is ten seconds longer than the lock, and the writer must be seen blocked for this long.
    command.env("KVMBACKUP_TIMEOUT", "-2");
    let session = Session::held(command);
    let script = Pid::from_raw(i32::try_from(session.id()).unwrap()).unwrap();
    kill_process(script, Signal::STOP).unwrap();
    writer.assert_stands_still();
    writer.assert_goes_on();
    kill_process(script, Signal::CONT).unwrap();
    session.release().assert_failed("the lock was lost");
}

#[test]
fn binary_log_position_is_kept() {
    let server = MariaDb::new(&["--log-bin=binlog", "--server-id=7"]);
    let writer = server.writer("InnoDB");
    let artifacts = tempfile::tempdir().unwrap();
    let mut command = the_hook(&server, &[]);
    command.env("KVMBACKUP_ARTIFACT_DIR", artifacts.path());
    let session = Session::held(command);
    writer.assert_stands_still();
    let status = server.sql("SHOW MASTER STATUS");
    let gtid = server.sql("SELECT @@gtid_binlog_pos");
    session.release().assert_good();
    let (file, position) = status.split_once('\t').unwrap();
    let expected = format!("file\t{file}\nposition\t{}\ngtid_binlog_pos\t{gtid}\n", position.trim());
    assert_eq!(std::fs::read_to_string(artifacts.path().join("binlog-position")).unwrap(), expected);
    assert!(gtid.starts_with("0-7-"));

    let server = MariaDb::new(&[]);
    let artifacts = tempfile::tempdir().unwrap();
    let mut command = the_hook(&server, &[]);
    command.env("KVMBACKUP_ARTIFACT_DIR", artifacts.path());
    Session::held(command).release().assert_good();
    assert_eq!(std::fs::read_dir(artifacts.path()).unwrap().count(), 0, "there is no binary log");
}

#[test]
fn unusable_setups_fail_before_ready() {
    let server = MariaDb::new(&[]);
    not_ready(the_hook(&server, &["--user=nobody"])).assert_failed("Access denied");
    not_ready(the_hook(&server, &["--socket=/nowhere"])).assert_failed("cannot connect");
    not_ready(the_hook(&server, &["--password=secret"])).assert_failed("a password on the command line");
    not_ready(the_hook(&server, &["-psecret"])).assert_failed("a password on the command line");
    not_ready(the_hook(&server, &["--lock=table"])).assert_failed("--lock=table");
    not_ready(the_hook(&server, &["--lock-wait=1; DROP DATABASE d"])).assert_failed("valid: 1 to 9999 seconds");
    server.sql("CREATE USER weak@localhost IDENTIFIED BY ''");
    not_ready(the_hook(&server, &["--user=weak"])).assert_failed("BACKUP STAGE START was refused");
    server.sql("SET GLOBAL innodb_flush_log_at_timeout = 1");
    server.sql("GRANT RELOAD, BINLOG MONITOR ON *.* TO weak@localhost");
    Session::held(the_hook(&server, &["--user=weak"])).release().assert_good();
}

fn the_hook(server: &MariaDb, arguments: &[&str]) -> Command {
    let mut command = hook("mariadb", &[]);
    command.args(server.client_options()).args(arguments);
    command
}

/// Whether a transaction can write while the lock is held. It is not committed.
fn transactions_go_on(server: &MariaDb, arguments: &[&str]) -> bool {
    server.sql("CREATE OR REPLACE TABLE d.t (id INT) ENGINE=InnoDB");
    let session = Session::held(the_hook(server, arguments));
    let written = server.try_sql("SET lock_wait_timeout=1; BEGIN; INSERT INTO d.t VALUES (1); ROLLBACK");
    session.release().assert_good();
    written.map_err(|error| assert!(error.contains("Lock wait timeout"), "{error}")).is_ok()
}

/// Runs a session that must not get its lock.
fn not_ready(mut command: Command) -> Ended {
    let ended = run_hook(&mut command);
    assert!(!ended.stdout.contains("READY"));
    ended
}

fn newest(server: &MariaDb) -> u64 {
    server.sql("SELECT COALESCE(MAX(id), 0) FROM d.t").parse().unwrap()
}

fn check(server: &MariaDb) -> String {
    server.sql("CHECK TABLE d.t EXTENDED")
}
