//! Real databases in real guests, written to continuously while they are backed up with the hooks of `hooks/`. Restored
//! and booted, they contain every row that was acknowledged before the freeze. Without the hook, they do not.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::lab::{DEADLINE, Database, DatabaseGuest, Lab, Program, Report, Writer, run, wait_until};
use serde_json::{Value, json};

/// A shipped hook, as an operator configures it.
fn shipped(lab: &Lab, hook: &str, options: &[&str], guest: &DatabaseGuest) -> Value {
    // Hooks belong to root, regardless of the owner of this checkout.
    let folder = lab.path("shipped");
    if !folder.exists() {
        run("cp", &["-r", concat!(env!("CARGO_MANIFEST_DIR"), "/hooks"), folder.to_str().unwrap()]);
        run("chown", &["-R", "root:root", folder.to_str().unwrap()]);
        run("chmod", &["-R", "go-w", folder.to_str().unwrap()]);
    }
    let mut command = vec![folder.join(hook).to_str().unwrap().to_owned()];
    command.extend(guest.client_options());
    // The client's own `--no-defaults` must be its first option.
    command.extend(options.iter().map(|option| (*option).to_owned()));
    json!({"name": "quiesce", "type": "session", "phase": "snapshot", "command": command})
}

/// Runs while the session holds its lock, and waits there until the test has looked.
struct Midst(PathBuf);

impl Midst {
    fn new(lab: &Lab, name: &str) -> Self {
        let midst = Midst(lab.path(name));
        std::fs::create_dir(&midst.0).unwrap();
        let script = format!(
            "cd {}\n: >$KVMBACKUP_PHASE\nuntil [ -e $KVMBACKUP_PHASE.seen ]; do sleep 0.02; done",
            midst.0.display()
        );
        lab.script(&format!("{name}/hook"), &script);
        midst
    }

    /// Starts after the session has its lock, and ends before the release.
    fn hook(&self, phases: &[&str]) -> Value {
        json!({"name": "midst", "order": 1, "phase": phases, "command": [self.0.join("hook")]})
    }

    /// The rows that were acknowledged to the writer at that phase.
    fn acknowledged(&self, phase: &str, writer: &Writer) -> u64 {
        wait_until(DEADLINE, phase, || self.0.join(phase).exists());
        let acknowledged = writer.acknowledged();
        std::fs::write(self.0.join(format!("{phase}.seen")), "").unwrap();
        acknowledged
    }
}

fn back_up(lab: &Lab, guest: &DatabaseGuest, hooks: &[Value]) -> (Program, Report) {
    let keys = json!({"quiesce": "require", "hooks": hooks});
    let program = Program::new(lab).domain(guest.guest.name(), keys);
    let report = program.backup();
    assert_eq!(report.ran.code, 0, "{report:#?}");
    (program, report)
}

fn point(report: &Report, guest: &DatabaseGuest) -> String {
    report.domain(guest.guest.name())["point"].as_str().unwrap().to_owned()
}

/// Restores a point under a new name and boots it.
fn restored(lab: &Lab, program: &Program, guest: &DatabaseGuest, point: &str, name: &str) -> DatabaseGuest {
    let to = lab.path(name);
    let words =
        ["restore", guest.guest.name(), "--at", point, "--define", "--name", name, "--to", to.to_str().unwrap()];
    let ran = program.run(&words);
    assert_eq!(ran.code, 0, "{ran:#?}");
    lab.restored_database_guest(name, guest)
}

/// Prints the measurements, even if the test passes: the output of macros is captured.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "    {line}");
}

/// Number of the first rows that exist.
fn rows(guest: &DatabaseGuest, table: &str, first: u64) -> u64 {
    guest.sql(&format!("SELECT COUNT(*) FROM {table} WHERE id <= {first}")).parse().unwrap()
}

/// Without the hook rows are lost, with it none; the restored database is intact.
fn proven(lab: &Lab, guest: &DatabaseGuest, table: &str, hook: &Value, lazy: impl Fn(bool)) {
    let name = guest.guest.name().to_owned();
    lazy(true);
    let writer = guest.writer(table);
    wait_until(DEADLINE, "some rows", || writer.acknowledged() > 20);
    let midst = Midst::new(lab, "without");
    let (program, before, without) = std::thread::scope(|scope| {
        let run = scope.spawn(|| back_up(lab, guest, &[midst.hook(&["pre-snapshot"])]));
        let before = midst.acknowledged("pre-snapshot", &writer);
        let (program, report) = run.join().unwrap();
        assert_eq!(report.domain(&name)["consistency"], "filesystem");
        (program, before, point(&report, guest))
    });
    lazy(false);

    let midst = Midst::new(lab, "with");
    let (held, with) = std::thread::scope(|scope| {
        let run = scope.spawn(|| back_up(lab, guest, &[hook.clone(), midst.hook(&["pre-snapshot", "post-snapshot"])]));
        let first = midst.acknowledged("pre-snapshot", &writer);
        let held = midst.acknowledged("post-snapshot", &writer);
        // One answer may have been in transit since before the lock was acquired. Its row must be in the backup, too.
        assert!(held <= first + 1, "commits were acknowledged while the database was locked: {first}, then {held}");
        let (_, report) = run.join().unwrap();
        assert_eq!(report.domain(&name)["consistency"], "application", "{report:#?}");
        (held, point(&report, guest))
    });
    writer.assert_goes_on();
    // The waiting time of writers is only printed. A check that works on any machine: after the thaw, writers do not
    // wait, however long the disks are read.
    writer.longest_wait();
    let midst = Midst::new(lab, "thawed");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| back_up(lab, guest, &[hook.clone(), midst.hook(&["pre-commit"])]));
        wait_until(DEADLINE, "the disks to have been read", || midst.0.join("pre-commit").exists());
        writer.assert_goes_on();
        midst.acknowledged("pre-commit", &writer);
        let (_, report) = run.join().unwrap();
        let (waited, outcome) = (writer.longest_wait(), report.domain(&name));
        let (held, frozen) = (&outcome["hooks"][0]["held_ms"], &outcome["frozen_ms"]);
        tell(&format!("{name}: a writer waited {waited} ms: held for {held} ms, frozen for {frozen} ms"));
    });
    drop(writer);
    guest.guest.destroy();

    let lost = restored(lab, &program, guest, &without, &format!("{name}-without"));
    let there = rows(&lost, table, before);
    tell(&format!("{name}: without the hook, {there} of {before} acknowledged rows are there"));
    assert!(there < before, "the case does not need the hook");
    lost.guest.destroy();

    let kept = restored(lab, &program, guest, &with, &format!("{name}-with"));
    kept.assert_sound();
    let there = rows(&kept, table, held);
    tell(&format!("{name}: with the hook, {there} of {held} acknowledged rows are there"));
    assert_eq!(there, held, "acknowledged rows are lost: {}", kept.log());
}

#[test]
#[ignore = "soak: boots a database guest three times under emulation"]
fn mariadb_keeps_every_row_it_has_acknowledged() {
    let lab = Lab::new();
    let guest = lab.database_guest("mariadb", Database::MariaDb);
    // Commits are acknowledged before they are written, and are not written for a long time.
    guest.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 0; SET GLOBAL innodb_flush_log_at_timeout = 2700");
    guest.sql("CREATE TABLE d.t (id BIGINT PRIMARY KEY)");
    let hook = shipped(&lab, "mariadb", &[], &guest);
    proven(&lab, &guest, "d.t", &hook, |_| ());
}

#[test]
#[ignore = "soak: boots a database guest three times under emulation"]
fn postgresql_keeps_every_row_it_has_acknowledged() {
    let lab = Lab::new();
    let guest = lab.database_guest("postgresql", Database::PostgreSql);
    guest.sql("ALTER SYSTEM SET synchronous_commit = off");
    guest.sql("ALTER SYSTEM SET wal_writer_delay = '10s'");
    guest.sql("SELECT pg_reload_conf()");
    guest.sql("CREATE TABLE t (id BIGINT PRIMARY KEY)");
    guest.sql("CHECKPOINT");
    let hook = shipped(&lab, "postgresql", &["--mode=block"], &guest);
    // Background writes would make the loss a matter of chance.
    proven(&lab, &guest, "t", &hook, |lazy| {
        let signal = if lazy { "STOP" } else { "CONT" };
        let background = "postgres: (walwriter|background writer|checkpointer)";
        let each = "for p in /proc/[0-9]*; do ! grep -qE";
        let done =
            guest.guest.agent_exec(&format!("{each} '^{background}' $p/cmdline || kill -{signal} ${{p#/proc/}}; done"));
        assert_eq!(done.code, 0, "{done:?}");
    });
}

#[test]
fn hooks_are_at_the_documented_paths() {
    for hook in ["mariadb", "postgresql", "redis", "healthchecks"] {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("hooks").join(hook).exists(), "{hook}");
    }
}
