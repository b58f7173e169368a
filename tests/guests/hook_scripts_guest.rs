//! The hooks for inside a guest, `hooks/guest/`, keep their promises: with scripts that log their calls, with Debian's
//! servers, and under a real guest agent.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::lab::{
    DEADLINE, Disk, Ended, Guest, Lab, MariaDb, PostgreSql, hook, hook_path, run_hook, try_virsh, virsh, wait_until,
};

const NOTE: &str = "#!/bin/sh\necho \"${0##*/} $1\" >>\"$NOTES\"\n";

#[test]
fn scripts_run_in_order_and_are_thawed_in_reverse() {
    let hooks = Folder::new(&[("20-b", NOTE), ("10-a", NOTE), ("30-c.dpkg-old", NOTE), ("4_d", NOTE)]);
    std::fs::write(hooks.dir.path().join("d/25-plain"), NOTE).unwrap();
    hooks.call("freeze").assert_good();
    hooks.call("thaw").assert_good();
    assert_eq!(hooks.notes(), "10-a freeze, 20-b freeze, 4_d freeze, 4_d thaw, 20-b thaw, 10-a thaw");
}

#[test]
fn failure_is_reported_and_undoes_earlier_scripts() {
    let failing = format!("{NOTE}echo no lock >&2; [ $1 = thaw ]");
    let hooks = Folder::new(&[("1", NOTE), ("2", &failing), ("3", NOTE)]);
    hooks.call("freeze").assert_failed("");
    assert_eq!(hooks.notes(), "1 freeze, 2 freeze, 2 thaw, 1 thaw");
    let log = hooks.log();
    assert!(log.contains("no lock") && log.contains("2 freeze failed with 1"), "{log}");
}

#[test]
fn hung_script_is_ended_and_undone() {
    let hanging = format!("{NOTE}[ $1 = thaw ] || sleep 600");
    let hooks = Folder::new(&[("1", NOTE), ("2", &hanging)]);
    hooks.call("freeze").assert_failed("");
    assert_eq!(hooks.notes(), "1 freeze, 2 freeze, 2 thaw, 1 thaw");
    assert!(hooks.log().contains("2 freeze failed with 124"), "{}", hooks.log());
}

#[test]
fn thaw_continues_after_a_failure_and_fails() {
    let failing = format!("{NOTE}[ $1 = freeze ]");
    let hooks = Folder::new(&[("1", NOTE), ("2", &failing)]);
    hooks.call("freeze").assert_good();
    hooks.call("thaw").assert_failed("");
    assert_eq!(hooks.notes(), "1 freeze, 2 freeze, 2 thaw, 1 thaw");
}

#[test]
fn missing_scripts_are_no_failure_and_a_missing_argument_is_one() {
    let hooks = Folder::new(&[]);
    hooks.call("freeze").assert_good();
    hooks.call("thaw").assert_good();
    run_hook(&mut hook("guest/fsfreeze-hook", &[])).assert_failed("usage");
}

#[test]
fn commits_wait_from_freeze_to_thaw() {
    let server = MariaDb::new(&[]);
    let writer = server.writer("InnoDB");
    let hooks = shipped("mariadb");
    std::fs::write(hooks.dir.path().join("my.cnf"), format!("[client]\nsocket={}\n", server.socket())).unwrap();
    hooks.call("freeze").assert_good();
    writer.assert_stands_still();
    hooks.call("thaw").assert_good();
    writer.assert_goes_on();

    // Without a thaw, the next freeze releases the lock and starts again.
    hooks.call("freeze").assert_good();
    hooks.call("freeze").assert_good();
    writer.assert_stands_still();
    server.disconnect_all();
    hooks.call("thaw").assert_failed("");
    assert!(hooks.log().contains("the lock was lost"), "{}", hooks.log());

    std::fs::write(hooks.dir.path().join("my.cnf"), "[client]\nsocket=/nowhere\n").unwrap();
    hooks.call("freeze").assert_failed("");
    assert!(hooks.log().contains("cannot connect"), "{}", hooks.log());
}

#[test]
fn session_without_a_thaw_ends_by_itself() {
    let server = MariaDb::new(&[]);
    let writer = server.writer("InnoDB");
    let run = tempfile::tempdir().unwrap();
    let session = |word| {
        let script = hook_path("mariadb");
        let options = server.client_options();
        let mut command = hook("guest/hold-session", &[word, "m", "8", script.to_str().unwrap()]);
        command.args(options).env("KVMBACKUP_RUN", run.path());
        run_hook(&mut command)
    };
    session("freeze").assert_good();
    writer.assert_stands_still();
    writer.assert_goes_on();
    let thawed = session("thaw");
    assert!(!thawed.status.success(), "{thawed:?}");
}

#[test]
fn freeze_makes_commits_of_postgresql_durable() {
    let server = PostgreSql::new(&[]);
    server.sql("CREATE TABLE t (id bigint)");
    let hooks = shipped("postgresql");
    let freeze = || run_hook(hooks.command("freeze").env("PGHOST", server.socket_folder())).assert_good();
    freeze();
    let mut rows = 0;
    wait_until(DEADLINE, "the control: a snapshot that lacks what was acknowledged", || {
        rows += 1;
        server.sql("INSERT INTO t VALUES (1)");
        server.restored().sql("SELECT count(*) FROM t") != rows.to_string()
    });
    freeze();
    assert_eq!(server.restored().sql("SELECT count(*) FROM t"), rows.to_string());
}

#[test]
fn agent_refuses_a_freeze_that_a_script_refuses() {
    let lab = Lab::new();
    // This makes the agent call /bin/freeze-hook, whatever it contains.
    let guest = lab.guest("hook-driver").disk(Disk::qcow2("vda").size("64M")).system("kb.freezehang=0").boot();
    let driver = std::fs::read_to_string(hook_path("guest/fsfreeze-hook")).unwrap();
    put(&guest, "/bin/freeze-hook", &driver);
    put(&guest, "/bin/fsfreeze-hook.d/1", "#!/bin/sh\necho 1 $1 >>/run/notes\n");
    put(&guest, "/bin/fsfreeze-hook.d/2", "#!/bin/sh\necho 2 $1 >>/run/notes\n[ ! -e /run/refuse ]\n");

    virsh(&["domfsfreeze", guest.name()]);
    assert!(guest.is_frozen());
    virsh(&["domfsthaw", guest.name()]);
    assert_eq!(guest.agent_exec("cat /run/notes").stdout, "1 freeze\n2 freeze\n2 thaw\n1 thaw\n");

    guest.agent_exec("touch /run/refuse; rm /run/notes");
    assert!(try_virsh(&["domfsfreeze", guest.name()]).is_err());
    assert!(!guest.is_frozen());
    assert_eq!(guest.agent_exec("cat /run/notes").stdout, "1 freeze\n2 freeze\n2 thaw\n1 thaw\n");
}

/// Writes an executable file in a guest.
fn put(guest: &Guest, path: &str, text: &str) {
    let folder = Path::new(path).parent().unwrap().display();
    let written = guest.agent_exec(&format!(
        "mkdir -p {folder} && cat >{path}.new <<'KB-END'\n{text}\nKB-END\nchmod 755 {path}.new && mv {path}.new {path}"
    ));
    assert_eq!(written.code, 0, "{written:?}");
}

/// The driver with a directory of scripts.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new(scripts: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        for (name, text) in scripts {
            let path = dir.path().join("d").join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Folder { dir }
    }

    fn command(&self, word: &str) -> Command {
        let mut command = hook("guest/fsfreeze-hook", &[word]);
        command.env("FSFREEZE_HOOK_D", self.dir.path().join("d")).env("FSFREEZE_HOOK_LOG", self.dir.path().join("log"));
        command.env("FSFREEZE_HOOK_TIMEOUT", "10").env("NOTES", self.dir.path().join("notes"));
        command.env("KVMBACKUP_HOOKS", hook_path("")).env("KVMBACKUP_RUN", self.dir.path());
        command.env("MARIADB_CONFIG", self.dir.path().join("my.cnf"));
        command
    }

    fn call(&self, word: &str) -> Ended {
        run_hook(&mut self.command(word))
    }

    fn notes(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("notes")).unwrap().trim().replace('\n', ", ")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

/// The driver with one of the shipped scripts.
fn shipped(name: &str) -> Folder {
    let text = std::fs::read_to_string(hook_path("guest/fsfreeze-hook.d").join(name)).unwrap();
    Folder::new(&[(name, &text)])
}
