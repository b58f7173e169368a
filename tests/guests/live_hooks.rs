//! The operator's hooks around the backup of a running guest: sessions stay locked over the freeze and the snapshot,
//! and are released on every way out.

use crate::lab;
use std::path::Path;
use std::process::Stdio;

use crate::lab::{Call, DEADLINE, Disk, Gate, Lab, Program, Report, by_each_method, run, wait_until};
use serde_json::{Value, json};

by_each_method! {
    phases_before_and_after_the_snapshot_run_in_order
}

/// A command that logs when it runs, in each of these phases.
fn noting(lab: &Lab, name: &str, phases: &[&str]) -> Value {
    let log = lab.path("log");
    let path = lab.script(
        &format!("scripts/{name}"),
        &format!("echo {name} $KVMBACKUP_PHASE $KVMBACKUP_STATUS >>{}\n", log.display()),
    );
    json!({"name": name, "phase": phases, "command": [path]})
}

/// A session that logs when it locks, when it releases, and how.
fn session(lab: &Lab, name: &str) -> Value {
    let log = lab.path("log").display().to_string();
    let text = format!(
        "echo {name} held >>{log}\necho position >$KVMBACKUP_ARTIFACT_DIR/position\necho READY\n\
         if read word; then echo {name} $word >>{log}; else echo {name} alone >>{log}; fi\n"
    );
    json!({"name": name, "type": "session", "phase": "snapshot", "command": [lab.script(&format!("scripts/{name}"), &text)]})
}

fn log(lab: &Lab) -> Vec<String> {
    let text = std::fs::read_to_string(lab.path("log")).unwrap_or_default();
    let _ = std::fs::remove_file(lab.path("log"));
    text.lines().map(str::to_owned).collect()
}

fn hooks<'a>(of: &'a Value, name: &str) -> Vec<&'a Value> {
    of["hooks"].as_array().unwrap().iter().filter(|hook| hook["name"] == name).collect()
}

const ALL: [&str; 6] = ["pre-domain", "pre-snapshot", "post-snapshot", "pre-commit", "post-commit", "post-domain"];

fn phases_before_and_after_the_snapshot_run_in_order(method: &str) {
    let lab = Lab::new();
    let guest = lab.guest(&format!("hooked-{method}")).disk(Disk::qcow2("vda")).paused();
    let around_the_run = noting(&lab, "run", &["pre-run", "post-run"]);
    let program = Program::new(&lab)
        .set("hooks", json!([around_the_run]))
        .domain(guest.name(), json!({"method": method, "hooks": [noting(&lab, "all", &ALL), session(&lab, "lock")]}));
    let report = program.backup_well();
    let before =
        ["run pre-run running", "all pre-domain running", "all pre-snapshot running", "lock held", "lock RELEASE"];
    let after = [
        "all post-snapshot ok",
        "all pre-commit running",
        "all post-commit ok",
        "all post-domain ok",
        "run post-run ok",
    ];
    let expected = [before, after].concat().into_iter();
    let expected: Vec<_> = expected.filter(|line| method == "snapshot" || !line.contains("commit")).collect();
    assert_eq!(log(&lab), expected);

    let outcome = report.domain(guest.name());
    assert_eq!(outcome["consistency"], "crash", "a paused guest is not frozen, even with a session");
    let lock = hooks(outcome, "lock")[0];
    assert_eq!((&lock["status"], &lock["phase"]), (&json!("ok"), &json!("snapshot")));
    assert!(lock["held_ms"].is_u64() && lock["duration_ms"].as_u64() >= lock["held_ms"].as_u64(), "{lock}");
    assert_eq!(hooks(&report.json, "run").len(), 2);
    let archive = program.unpack(&report, guest.name());
    let saved = archive.path("hooks/lock/position");
    assert_eq!(std::fs::read_to_string(saved).unwrap(), "position\n");
    let manifest = archive.manifest();
    assert_eq!(manifest["artifacts"], json!(["hooks/lock/position"]));
    let known: Vec<_> =
        manifest["hooks"].as_array().unwrap().iter().map(|hook| hook["phase"].as_str().unwrap()).collect();
    assert_eq!(
        known,
        ["pre-domain", "pre-snapshot", "snapshot", "post-snapshot"],
        "the data known before the disks are read"
    );
    program.assert_no_leftovers(&guest);

    let planned = program.run(&["backup", "--dry-run"]);
    assert_eq!((planned.code, log(&lab)), (0, Vec::new()), "a dry run runs no hook");
}

#[test]
fn session_and_frozen_file_systems_are_application_consistent() {
    let lab = Lab::new();
    let guest = lab.guest("application").disk(Disk::qcow2("vda").size("64M")).system("kb.writer").boot();
    // It asks the guest itself, as an operator could; while frozen, the agent does nothing else.
    let log_file = lab.path("log").display().to_string();
    let asks = format!("virsh domfsinfo {} >/dev/null && echo answers >>{log_file}\n", guest.name());
    let asks = json!({"name": "asks", "phase": "post-snapshot", "command": [lab.script("scripts/asks", &asks)]});
    let in_guest = json!({"name": "inside", "phase": ["pre-snapshot", "post-snapshot"], "where": "guest",
        "command": ["/bin/sh", "-c", "echo $KVMBACKUP_PHASE >>/tmp/inside; echo seen >$KVMBACKUP_ARTIFACT_DIR/inside"]});
    let held = "echo held >>/tmp/inside; echo READY; read word; echo $word >>/tmp/inside";
    let held = json!({"name": "held", "type": "session", "phase": "snapshot", "where": "guest",
        "command": ["/bin/sh", "-c", held]});
    let program = Program::new(&lab)
        .domain(guest.name(), json!({"quiesce": "require", "hooks": [session(&lab, "lock"), asks, in_guest, held]}));
    let report = program.backup_well();
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["consistency"], &outcome["warnings"]), (&json!("application"), &json!([])), "{outcome:#}");
    assert_eq!(log(&lab), ["lock held", "answers", "lock RELEASE"]);
    assert_eq!(guest.agent_exec("cat /tmp/inside").stdout, "pre-snapshot\nheld\nRELEASE\npost-snapshot\n");
    assert_eq!(guest.agent_exec("ls -d /run/kvmbackup-*").code, 1, "something is left in the guest");
    let archive = program.unpack(&report, guest.name());
    assert_eq!(archive.manifest()["consistency"], "application");
    assert_eq!(archive.manifest()["artifacts"], json!(["hooks/lock/position", "hooks/_guest/inside"]));
    let lock = hooks(outcome, "lock")[0];
    assert!(lock["held_ms"].as_u64() >= outcome["frozen_ms"].as_u64(), "locked over the whole freeze: {outcome:#}");
    let text = program.run(&["report"]).stdout;
    assert!(text.contains("snap/app"), "{text}");
    let listed = program.run(&["list"]).stdout;
    assert!(listed.contains("application"), "{listed}");

    // Without a freeze the same session is not enough.
    let program = program.domain(guest.name(), json!({"quiesce": "never", "hooks": [session(&lab, "lock")]}));
    assert_eq!(program.backup_well().domain(guest.name())["consistency"], "crash");

    // A session that dies while it should hold its lock lowers the reported consistency.
    let pid = lab.path("dies.pid").display().to_string();
    let dies = lab.script("scripts/dies", &format!("echo $$ >{pid}\necho READY\nexit 0\n"));
    let dies = json!({"name": "dies", "type": "session", "phase": "snapshot", "command": [dies]});
    // A process that has ended and was not waited for has no command line any more.
    let dead = format!("while grep -q . /proc/$(cat {pid})/cmdline 2>/dev/null; do sleep 0.05; done\n");
    let dead =
        json!({"name": "dead", "phase": "pre-snapshot", "order": 1, "command": [lab.script("scripts/dead", &dead)]});
    let program = program.domain(guest.name(), json!({"quiesce": "require", "hooks": [dies, dead]}));
    let report = program.backup_well();
    let outcome = report.domain(guest.name());
    assert_eq!(outcome["consistency"], "filesystem");
    assert!(outcome["warnings"].to_string().contains("before it was released"), "{outcome:#}");
    assert_eq!(hooks(outcome, "dies")[0]["status"], "lost");
    program.assert_no_leftovers(&guest);
}

#[test]
fn session_releases_its_lock_when_kvmbackup_is_killed() {
    let lab = Lab::new();
    let gate = Gate::new(&lab);
    let guest = lab.guest("hook-killed").disk(Disk::qcow2("vda")).paused();
    let program = Program::new(&lab)
        .set("libvirt_uri", json!(gate.uri()))
        .domain(guest.name(), json!({"hooks": [session(&lab, "lock")]}));
    gate.hold(Call::Snapshot);
    let mut run = program.command().arg("backup").stdout(Stdio::null()).spawn().unwrap();
    gate.wait(&mut run);
    assert_eq!(log(&lab), ["lock held"]);
    gate.kill(&mut run);
    // The shell creates the file before it writes to it.
    wait_until(DEADLINE, "the session to see its input end", || {
        std::fs::read_to_string(lab.path("log")).is_ok_and(|text| text == "lock alone\n")
    });
    assert_eq!(log(&lab), ["lock alone"]);
    program.backup_well();
    assert_eq!(log(&lab), ["lock held", "lock RELEASE"]);
    program.assert_no_leftovers(&guest);
}

#[test]
fn signal_ends_entered_phases_and_starts_no_new_ones() {
    let lab = Lab::new();
    let guest = lab.guest("hook-signal").disk(Disk::qcow2("vda")).paused();
    let file = lab.path("asleep");
    let sleeps = lab.script("scripts/sleeps", &format!("touch {}; sleep 600\n", file.display()));
    let sleeps = json!({"name": "sleeps", "phase": "pre-snapshot", "order": 1, "command": [sleeps]});
    let others = [noting(&lab, "all", &ALL), session(&lab, "lock"), noting(&lab, "failed", &["on-failure"])];
    let program = Program::new(&lab).domain(guest.name(), json!({"hooks": [others[0], others[1], others[2], sleeps]}));
    let run =
        program.command().args(["backup", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(DEADLINE, "the hook", || file.exists());
    lab::run("kill", &["-s", "TERM", &run.id().to_string()]);
    let report = Report::from(lab::Ran::from(run.wait_with_output().unwrap()));
    assert_eq!(report.ran.code, 143, "{report:#?}");
    let seen = log(&lab);
    let expected =
        ["all pre-domain running", "all pre-snapshot running", "lock held", "lock RELEASE", "all post-snapshot failed"];
    assert_eq!(seen[..5], expected);
    assert_eq!(seen[5..], ["all post-domain failed", "failed on-failure failed"], "no commit, no other phase");
    program.assert_no_leftovers(&guest);
}

#[test]
fn failing_hook_never_keeps_an_overlay() {
    let lab = Lab::new();
    let guest = lab.guest("hook-commit").disk(Disk::qcow2("vda")).paused();
    let fails = lab.script("scripts/fails", "echo no room on the application\nexit 9\n");
    for phase in ["pre-snapshot", "post-snapshot", "pre-commit", "post-commit"] {
        let fails = json!({"name": "fails", "phase": phase, "command": [fails], "on_error": "fail_domain"});
        let program = Program::new(&lab).domain(guest.name(), json!({"hooks": [fails]}));
        let report = program.backup();
        assert_eq!(report.ran.code, 1, "{report:#?}");
        let outcome = report.domain(guest.name());
        assert_eq!((&outcome["outcome"], &outcome["point"]), (&json!("failed"), &Value::Null), "{phase}");
        let message = outcome["error"]["message"].as_str().unwrap();
        assert_eq!(message, format!("hook fails ({phase}): exit status 9"));
        program.assert_no_leftovers(&guest);
        let text = program.run(&["report"]).stdout;
        assert!(text.contains("HOOK OUTPUT") && text.contains("    | no room on the application"), "{text}");
    }
}

#[test]
fn operator_can_try_hooks_without_a_backup() {
    let lab = Lab::new();
    let guest = lab.guest("hook-test").disk(Disk::qcow2("vda")).paused();
    let program =
        Program::new(&lab).domain(guest.name(), json!({"hooks": [session(&lab, "lock"), noting(&lab, "all", &ALL)]}));
    let listed = program.run(&["hooks", "list", "--domain", guest.name()]);
    let whens: Vec<_> = listed.stdout.lines().skip(1).map(|line| line.split("  ").next().unwrap().trim()).collect();
    assert_eq!(whens[..3], ["pre-domain", "snapshot (session)", "pre-snapshot"], "{listed:#?}");
    assert_eq!((listed.code, log(&lab)), (0, Vec::new()));

    let tested = program.run(&["hooks", "test", "--domain", guest.name()]);
    assert_eq!(tested.code, 0, "{tested:#?}");
    assert_eq!(log(&lab), ["lock held", "all pre-snapshot running", "all post-snapshot ok", "lock RELEASE"]);
    assert!(tested.stdout.contains("lock (snapshot)") && tested.stdout.contains(", held "), "{tested:#?}");
    assert!(tested.stdout.contains("would be stored: hooks/lock/position (9 bytes)"), "{tested:#?}");
    let tested = program.run(&["hooks", "test", "--domain", guest.name(), "--phase", "post-domain"]);
    assert_eq!((tested.code, log(&lab)), (0, vec!["all post-domain ok".to_owned()]));
    assert!(!Path::new(&program.backups()).exists(), "nothing is backed up");

    let open = lab.script("scripts/open", ":\n");
    run("chmod", &["777", open.to_str().unwrap()]);
    let open = json!({"name": "open", "phase": "pre-snapshot", "command": [open]});
    let program = program.domain(guest.name(), json!({"hooks": [open]}));
    let refused = program.run(&["hooks", "test", "--domain", guest.name()]);
    assert_eq!(refused.code, 1, "{refused:#?}");
    assert!(refused.stdout.contains("writable"), "{refused:#?}");
}

#[test]
fn check_reports_hooks_that_would_fail_in_a_run() {
    let lab = Lab::new();
    let guest = lab.guest("checked").disk(Disk::qcow2("vda")).system("").boot();
    let good = lab.script("scripts/good", ":\n");
    let hook = json!({"name": "good", "phase": "pre-snapshot", "command": [good]});
    let in_guest = json!({"name": "in", "phase": "pre-snapshot", "where": "guest", "command": ["/bin/true"]});
    let program = Program::new(&lab).domain(guest.name(), json!({"hooks": [hook, in_guest]}));
    let checked = program.run(&["check"]);
    assert_eq!(checked.code, 0, "{checked:#?}");
    assert!(
        checked.stdout.contains("ok      hook good: ") && !checked.stdout.contains("WARNING domain"),
        "{checked:#?}"
    );
    let told = |text: &str| assert!(checked.stdout.contains(text), "{text}: {checked:#?}");
    told("ok      libvirt: libvirt ");
    told("QEMU ");
    told("ok      domain checked: all selected disks are readable: vda");
    told("ok      domain checked: the guest agent answers");

    // Scripts that look valid.
    guest.agent_exec("mkdir -p /etc/qemu/fsfreeze-hook.d; : >/etc/qemu/fsfreeze-hook.d/database");
    run("chmod", &["775", good.to_str().unwrap()]);
    let checked = program.run(&["check"]);
    assert_eq!(checked.code, 1, "{checked:#?}");
    assert!(
        checked
            .stdout
            .contains("WARNING domain checked: the guest agent does not run the scripts in /etc/qemu/fsfreeze-hook.d"),
        "{checked:#?}"
    );
    assert!(checked.stdout.contains("PROBLEM hook good: ") && checked.stdout.contains("hint: "), "{checked:#?}");
    guest.agent_exec("printf '[general]\\nfsfreeze-hook=/etc/qemu/fsfreeze-hook\\n' >/etc/qemu/qemu-ga.conf");
    assert!(!program.run(&["check"]).stdout.contains("WARNING domain"), "the agent is recognized by its configuration");
    let offline = program.run(&["check", "--offline", "--json"]);
    let findings: Value = serde_json::from_str(&offline.stdout).unwrap();
    let findings = findings["findings"].as_array().unwrap();
    assert_eq!((findings.len(), &findings[1]["severity"]), (2, &json!("problem")), "no guest was asked: {findings:#?}");
    assert_eq!(guest.agent_exec("ls -d /run/kvmbackup-*").code, 1, "something is left in the guest");
}
