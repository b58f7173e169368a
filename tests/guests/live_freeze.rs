//! Requests to a guest's agent, and their results: frozen, thawed again, and reported.

use crate::lab;
use crate::lab::{Disk, Guest, Lab, Program, Report, run, virsh};
use serde_json::{Value, json};

/// A guest whose agent calls a freeze hook.
fn hooked(lab: &Lab, name: &str) -> Guest {
    lab.guest(name).disk(Disk::qcow2("vda").size("256M")).system("kb.writer kb.freezehang=0").boot()
}

/// Sets the hook, which also logs the start and end of its calls, and clears the log.
fn set_hook(guest: &Guest, on_freeze: &str) {
    let hook = format!("#!/bin/sh\necho $1 >>/tmp/hook\n[ $1 != freeze ] || {on_freeze}\necho end of $1 >>/tmp/hook\n");
    let set = guest.agent_exec(&format!("rm -f /tmp/hook; cat >/bin/freeze-hook <<'END'\n{hook}END\n"));
    assert_eq!(set.code, 0, "{set:?}");
}

fn hook_log(guest: &Guest) -> String {
    guest.agent_exec("cat /tmp/hook; rm -f /tmp/hook").stdout
}

fn failures(of: &Value) -> String {
    serde_json::to_string(of).unwrap()
}

fn program(lab: &Lab, guest: &Guest, keys: Value) -> Program {
    Program::new(lab).domain(guest.name(), keys)
}

/// Panics unless a backup reported that it was only crash-consistent, and why.
fn assert_says_crash(program: &Program, report: &Report, guest: &Guest, why: &str) {
    let outcome = report.domain(guest.name());
    assert_eq!(outcome["consistency"], "crash", "{report:#?}");
    assert_eq!(outcome["frozen_ms"], Value::Null, "{report:#?}");
    let warnings = failures(&outcome["warnings"]);
    assert!(warnings.contains("only crash-consistent: ") && warnings.contains(why), "{warnings}");
    let text = program.run(&["report"]).stdout;
    assert!(text.contains("only crash-consistent: ") && text.contains("\ncrash-consistent: "), "{text}");
    let manifest = program.unpack(report, guest.name()).manifest();
    assert_eq!(manifest["consistency"], "crash", "{manifest:#}");
    assert!(failures(&manifest["warnings"]).contains(why), "{manifest:#}");
}

/// Panics unless a backup failed because of a missing freeze, and left nothing.
fn assert_refused(program: &Program, report: &Report, guest: &Guest) {
    assert_eq!(report.ran.code, 1, "{report:#?}");
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["outcome"], &outcome["point"]), (&json!("failed"), &Value::Null), "{report:#?}");
    assert!(failures(&outcome["error"]).contains("`quiesce: require` is set"), "{report:#?}");
    program.assert_no_leftovers(guest);
}

#[test]
fn file_systems_are_frozen_for_the_capture_and_thawed() {
    let lab = Lab::new();
    let guest = hooked(&lab, "freeze");
    for method in ["snapshot", "pull"] {
        set_hook(&guest, ":");
        let program = program(&lab, &guest, json!({"quiesce": "require", "method": method}));
        let report = program.backup_well();
        let outcome = report.domain(guest.name());
        assert_eq!((&outcome["method"], &outcome["consistency"]), (&json!(method), &json!("filesystem")));
        let frozen = outcome["frozen_ms"].as_u64().unwrap();
        assert!(frozen > 0, "{report:#?}");
        assert_eq!(outcome["warnings"], json!([]));
        program.assert_no_leftovers(&guest);
        assert!(!guest.is_frozen());
        assert_eq!(hook_log(&guest), "freeze\nend of freeze\nthaw\nend of thaw\n", "{method}");

        let archive = program.unpack(&report, guest.name());
        let manifest = archive.manifest();
        assert_eq!((&manifest["consistency"], &manifest["frozen_ms"]), (&json!("filesystem"), &json!(frozen)));
        // The journal of a frozen file system is empty, so it is clean.
        let raw = lab.path("frozen.raw");
        let [qcow2, raw] = [archive.disk("vda"), raw].map(|path| path.to_str().unwrap().to_owned());
        lab::qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &qcow2, &raw]);
        run("e2fsck", &["-f", "-n", &raw]);
        assert!(!run("dumpe2fs", &["-h", &raw]).contains("needs_recovery"));
    }

    set_hook(&guest, ":");
    let report = program(&lab, &guest, json!({"quiesce": "never"})).backup_well();
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["consistency"], &outcome["frozen_ms"]), (&json!("crash"), &Value::Null));
    assert_eq!(outcome["warnings"], json!([]), "no freeze was requested");
    assert_eq!(hook_log(&guest), "", "`never` must not freeze");
}

#[test]
fn freeze_that_exceeds_its_deadline_leaves_no_guest_frozen() {
    let lab = Lab::new();
    let guest = hooked(&lab, "freeze-hangs");
    // libvirt times out after 5 s both for a thaw and for a status query, and the slow freeze outlasts both together.
    // The deadline is long enough for the freeze request to reach the guest.
    for (quiesce, hook) in [("prefer", "sleep 17"), ("require", "sleep 8")] {
        set_hook(&guest, hook);
        let program = program(&lab, &guest, json!({"quiesce": quiesce, "freeze_timeout": "5s"}));
        let report = program.backup();
        if quiesce == "prefer" {
            assert_eq!(report.ran.code, 0, "{report:#?}");
            assert_says_crash(&program, &report, &guest, "cannot freeze its file systems");
        } else {
            assert_refused(&program, &report, &guest);
        }
        program.assert_no_leftovers(&guest);
        assert!(!guest.is_frozen());
        let log = hook_log(&guest);
        assert!(log.starts_with("freeze\nend of freeze\nthaw\n"), "it was frozen late, and thawed: {log}");
    }
    // The deadline was for the backup alone, but libvirt stores it with the domain.
    set_hook(&guest, "sleep 6");
    virsh(&["domfsfreeze", guest.name()]);
    virsh(&["domfsthaw", guest.name()]);
    // The agent is stopped from inside the guest, so the answer to that command may or may not arrive.
    let _ = lab::try_virsh(&[
        "qemu-agent-command",
        guest.name(),
        "--timeout",
        "5",
        r#"{"execute":"guest-exec","arguments":{"path":"/bin/killall","arg":["-STOP","qemu-ga"]}}"#,
    ]);
    lab::wait_until(lab::DEADLINE, "the agent to stop", || guest.try_agent("guest-ping").is_err());
    let program = program(&lab, &guest, json!({"quiesce": "prefer"}));
    let report = program.backup_well();
    assert_says_crash(&program, &report, &guest, "cannot query the guest agent");
}

#[test]
fn missing_agent_is_handled_as_configured() {
    let lab = Lab::new();
    let guest = lab.guest("no-agent").disk(Disk::qcow2("vda")).system("kb.noagent").define();
    virsh(&["start", guest.name()]);
    let required = program(&lab, &guest, json!({"quiesce": "require"}));
    let report = required.backup();
    assert_refused(&required, &report, &guest);
    assert!(report.domain(guest.name())["error"]["hint"].as_str().unwrap().contains("qemu-guest-agent"), "{report:#?}");
    assert_eq!(guest.state(), "running");
    for method in ["snapshot", "pull"] {
        let program = program(&lab, &guest, json!({"method": method}));
        let report = program.backup_well();
        assert_says_crash(&program, &report, &guest, "agent");
        program.assert_no_leftovers(&guest);
    }
    let program = program(&lab, &guest, json!({"quiesce": "never"}));
    assert_eq!(program.backup_well().domain(guest.name())["warnings"], json!([]));
}

/// The agent reports success with zero frozen file systems: without a mounted disk there is nothing to freeze.
#[test]
fn freeze_of_no_file_system_does_not_count() {
    let lab = Lab::new();
    let guest = lab.guest("nothing-mounted").disk(Disk::qcow2("vda")).system("").boot();
    assert_eq!(guest.agent_exec("umount /mnt/vda").code, 0);
    let required = program(&lab, &guest, json!({"quiesce": "require"}));
    assert_refused(&required, &required.backup(), &guest);
    let program = program(&lab, &guest, json!({}));
    let report = program.backup_well();
    assert_says_crash(&program, &report, &guest, "it froze no file systems");
    assert!(!guest.is_frozen());
}

/// Three file systems, the middle one on a device that accepts no more bytes. In either order, the agent has frozen one
/// when the kernel refuses.
fn with_a_file_system_that_cannot_be_frozen(guest: &Guest) {
    let made = guest.agent_exec(
        "set -e; umount /mnt/vdb; mkdir /small /mnt/bad; mount -t tmpfs -o size=8M tmpfs /small
         dd if=/dev/zero of=/small/image bs=1k count=1 seek=65535; /bin/mke2fs -q -F -t ext4 /small/image
         losetup /dev/loop0 /small/image; mount -t ext4 /dev/loop0 /mnt/bad; mount -t ext4 /dev/vdb /mnt/vdb
         dd if=/dev/zero of=/small/rest bs=64k || dd if=/dev/urandom of=/mnt/bad/data bs=64k count=32",
    );
    assert_eq!(made.code, 0, "{made:?}");
    let mounts = guest.agent_exec("sed -n 's,.* /mnt/\\([a-z]*\\) .*,\\1,p' /proc/mounts").stdout;
    assert_eq!(mounts, "vda\nbad\nvdb\n");
}

#[test]
fn freeze_that_fails_for_one_file_system_leaves_the_others_thawed() {
    let lab = Lab::new();
    let disks = ["vda", "vdb"].map(|target| Disk::qcow2(target).size("64M"));
    let guest = disks.into_iter().fold(lab.guest("half-frozen"), |guest, disk| guest.disk(disk));
    let guest = guest.system("kb.freezehang=0").boot();
    let other = lab.guest("half-frozen-other").disk(Disk::qcow2("vda")).paused();
    with_a_file_system_that_cannot_be_frozen(&guest);
    for quiesce in ["require", "prefer"] {
        set_hook(&guest, ":");
        let program = program(&lab, &guest, json!({"quiesce": quiesce})).domain(other.name(), json!({}));
        let report = program.backup();
        assert_eq!(report.domain(other.name())["outcome"], "success", "{report:#?}");
        program.assert_no_leftovers(&other);
        if quiesce == "require" {
            assert_refused(&program, &report, &guest);
            let error = &report.domain(guest.name())["error"];
            assert!(failures(error).contains("failed to freeze /mnt/bad"), "{error:#}");
            assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("quiesce: prefer")), "{error:#}");
        } else {
            assert_eq!(report.ran.code, 0, "{report:#?}");
            assert_says_crash(&program, &report, &guest, "failed to freeze /mnt/bad");
            program.assert_no_leftovers(&guest);
        }
        assert!(!guest.is_frozen());
        let log = hook_log(&guest);
        assert!(log.starts_with("freeze\nend of freeze\nthaw\n"), "{log}");
        let written = guest.agent_exec("for disk in vda vdb; do date >/mnt/$disk/written && sync -f /mnt/$disk; done");
        assert_eq!(written.code, 0, "{written:?}");
    }
}
