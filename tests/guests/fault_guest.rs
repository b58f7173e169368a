//! Other faults of a guest, of libvirt's helpers and of the host during a backup.

use crate::lab;
use crate::steps;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::lab::{DEADLINE, Disk, Guest, Lab, Program, Ran, Report, run, try_virsh, virsh, wait_until};
use crate::steps::Held;
use kvmbackup::sys::step::Step;
use serde_json::{Value, json};

/// A guest with a fault, another guest of the same run, and the program.
struct Scene {
    guest: Guest,
    other: Guest,
    program: Program,
    lab: Lab,
}

impl Scene {
    /// Both are paused machines; keys of the first one's entry.
    fn new(name: &str, disks: Vec<Disk>, keys: Value) -> Scene {
        let lab = Lab::new();
        let guest = disks.into_iter().fold(lab.guest(name), |guest, disk| guest.disk(disk)).paused();
        Scene::of(lab, guest, keys)
    }

    fn of(lab: Lab, guest: Guest, keys: Value) -> Scene {
        let other = lab.guest(&format!("{}-other", guest.name())).disk(Disk::qcow2("vda")).paused();
        let program = Program::new(&lab).domain(guest.name(), keys).domain(other.name(), json!({}));
        Scene { guest, other, program, lab }
    }

    /// Stops a backup at the first guest's step.
    fn hold(&self, step: Step) -> Held {
        let mut command = self.program.command();
        command.args(["backup", "--json"]);
        steps::hold(&mut command, step.into(), &self.lab.path("held"))
    }

    /// Returns the report, which says that the other guest was saved.
    fn finish(&self, held: Held) -> Report {
        let report = Report::from(Ran::from(held.finish()));
        assert_eq!(report.domain(self.other.name())["outcome"], "success", "{report:#?}");
        self.program.assert_no_leftovers(&self.other);
        report
    }

    fn outcome<'a>(&self, report: &'a Report) -> &'a Value {
        report.domain(self.guest.name())
    }

    /// Panics unless the first guest's backup failed, for this reason and with this text, and left nothing.
    fn assert_failed(&self, report: &Report, reason: &str, words: &str) {
        assert_eq!(report.ran.code, 1, "{report:#?}");
        let outcome = self.outcome(report);
        assert_eq!((&outcome["outcome"], &outcome["reason"]), (&json!("failed"), &json!(reason)), "{report:#?}");
        let told = outcome["error"].to_string();
        assert!(told.contains(words), "{told}");
        assert_eq!(outcome["leftovers"], json!([]), "{report:#?}");
        self.program.assert_no_leftovers(&self.guest);
    }

    /// The next backup is good, and has nothing to recover.
    fn assert_next_is_good(&self) {
        let report = self.program.backup_well();
        assert_eq!(report.json["recovered"], json!([]), "{report:#?}");
    }

    fn qemu(&self) -> String {
        let file = format!("/run/libvirt/qemu/{}.pid", self.guest.name());
        fs::read_to_string(file).unwrap().trim().to_owned()
    }
}

/// The process whose command line contains these words.
fn process(program: &str, words: &str) -> String {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let line = |pid: &String| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_it = |pid: &String| {
        let line = String::from_utf8_lossy(&line(pid)).into_owned();
        line.split('\0').next().is_some_and(|first| first.ends_with(program)) && line.contains(words)
    };
    let found: Vec<_> = pids.filter(|pid| pid.parse::<u32>().is_ok()).filter(is_it).collect();
    assert_eq!(found.len(), 1, "{program} with {words}: {found:?}");
    found[0].clone()
}

#[test]
fn reader_that_dies_fails_only_its_domain() {
    let scene = Scene::new("nbd-dies", vec![Disk::qcow2("vda")], json!({"method": "snapshot"}));
    scene.guest.write("vda", 0x11, 1 << 20, 4 << 20);
    let held = scene.hold(Step::DiskRead);
    let reader = process("qemu-nbd", scene.lab.dir().to_str().unwrap());
    run("kill", &["-KILL", &reader]);
    let is_gone = || fs::read(format!("/proc/{reader}/cmdline")).unwrap_or_default().is_empty();
    wait_until(DEADLINE, "the reader to die", is_gone);
    scene.guest.write("vda", 0x12, 8 << 20, 65536);
    let report = scene.finish(held);
    scene.assert_failed(&report, "copy", "disk vda: read failed");
    scene.guest.assert_holds("vda", 0x12, 8 << 20, 65536);
    scene.assert_next_is_good();
}

#[test]
fn snapshot_that_fails_for_the_second_disk_leaves_the_first_on_its_base() {
    let disks = vec![Disk::qcow2("vda"), Disk::qcow2("sda")];
    let scene = Scene::new("second-disk", disks, json!({"method": "snapshot"}));
    let copy = scene.lab.path("copy.qcow2");
    let held = scene.hold(Step::Snapshot);
    virsh(&["blockcopy", scene.guest.name(), "sda", copy.to_str().unwrap(), "--transient-job"]);
    let report = scene.finish(held);
    virsh(&["blockjob", scene.guest.name(), "sda", "--abort"]);
    scene.assert_failed(&report, "snapshot", "cannot take a snapshot");
    scene.assert_next_is_good();
}

#[test]
fn guest_resumed_or_paused_during_the_backup_is_saved_and_keeps_its_state() {
    let scene = Scene::new("pause", vec![Disk::qcow2("vda")], json!({"method": "snapshot", "quiesce": "never"}));
    for (command, state) in [("resume", "running"), ("suspend", "paused")] {
        let held = scene.hold(Step::DiskRead);
        virsh(&[command, scene.guest.name()]);
        let report = scene.finish(held);
        assert_eq!(report.ran.code, 0, "{report:#?}");
        assert_eq!(scene.guest.state(), state);
        scene.program.assert_no_leftovers(&scene.guest);
    }
    scene.assert_next_is_good();
}

#[test]
fn guest_that_crashes_during_the_backup_is_saved_and_keeps_its_last_writes() {
    let scene = Scene::new("crashes", vec![Disk::qcow2("vda")], json!({"method": "snapshot"}));
    for step in [Step::DiskRead, Step::CommitBegin, Step::CommitBegun, Step::Pivot] {
        let held = scene.hold(step);
        scene.guest.write("vda", 0x21, 1 << 20, 65536);
        run("kill", &["-KILL", &scene.qemu()]);
        wait_until(DEADLINE, "libvirt to see it", || scene.guest.state() == "shut off");
        let report = scene.finish(held);
        assert_eq!(report.ran.code, 0, "{step:?}: {report:#?}");
        scene.program.assert_no_leftovers(&scene.guest);
        scene.guest.assert_holds("vda", 0x21, 1 << 20, 65536);
        scene.guest.start_paused();
    }
    scene.assert_next_is_good();
}

#[test]
fn guest_undefined_during_the_backup_keeps_running_on_its_base() {
    let scene = Scene::new("undefined", vec![Disk::qcow2("vda")], json!({"method": "snapshot"}));
    let (base, defined) = (scene.guest.disk_source("vda").unwrap(), scene.lab.path("defined.xml"));
    fs::write(&defined, scene.guest.inactive_xml()).unwrap();
    let held = scene.hold(Step::DiskRead);
    virsh(&["undefine", scene.guest.name()]);
    scene.guest.write("vda", 0x31, 1 << 20, 65536);
    let report = scene.finish(held);
    assert_eq!(report.ran.code, 0, "{report:#?}");
    assert_eq!((scene.guest.state().as_str(), scene.guest.disk_source("vda").unwrap()), ("paused", base));
    scene.guest.assert_holds("vda", 0x31, 1 << 20, 65536);
    virsh(&["define", defined.to_str().unwrap()]);
    scene.program.assert_no_leftovers(&scene.guest);
    scene.assert_next_is_good();
}

/// A small separate file system, unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn new(lab: &Lab, mib: u32) -> Small {
        let dir = lab.path("small");
        fs::create_dir(&dir).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}M"), "tmpfs", dir.to_str().unwrap()]);
        Small(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A guest that writes, whose overlay has little space. The backup is stopped with the overlay in place, until an I/O
/// error has paused the guest.
fn paused_by_a_full_overlay(scene: &Scene) -> Held {
    let held = scene.hold(Step::DiskRead);
    let reason = || virsh(&["domstate", "--reason", scene.guest.name()]);
    wait_until(DEADLINE, "the overlay to be full", || reason().contains("I/O error"));
    held
}

#[test]
fn guest_paused_by_a_full_overlay_is_resumed_by_the_backup_or_by_recovery() {
    let lab = Lab::new();
    let small = Small::new(&lab, 6);
    let guest = lab.guest("overlay-full").disk(Disk::qcow2("vda")).system("kb.writer").boot();
    let keys = json!({"method": "snapshot", "overlay_dir": small.0, "quiesce": "never"});
    let scene = Scene::of(lab, guest, keys);
    let goes_on = || {
        assert_eq!(scene.guest.state(), "running");
        scene.program.assert_no_leftovers(&scene.guest);
        let before = scene.guest.check_writer_sums("vda");
        wait_until(DEADLINE, "the writer to go on", || scene.guest.check_writer_sums("vda") > before);
    };

    let held = paused_by_a_full_overlay(&scene);
    let report = scene.finish(held);
    // The disk may have been read completely before the free space was checked.
    assert!(matches!(report.ran.code, 0 | 1), "{report:#?}");
    goes_on();

    // If the backup is killed in between, recovery resumes the guest, even if a recovery is killed right before that.
    let held = paused_by_a_full_overlay(&scene);
    held.kill();
    let mut recover = scene.program.command();
    steps::kill(recover.arg("recover"), Step::Resume.into());
    assert_eq!(scene.guest.state(), "paused");
    let recovered = scene.program.run(&["recover"]);
    assert_eq!(recovered.code, 0, "{recovered:#?}");
    goes_on();
}

/// The power button of the guest kills its agent once and starts it again after this many seconds. It works while the
/// file systems are frozen.
fn agent_dies_by_the_power_button(guest: &Guest, back_after: u32) {
    let again = "qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -f /run/qemu-ga.pid -t /run -d";
    let dies = format!("killall -KILL qemu-ga\nsleep {back_after}\nrm -f /run/qemu-ga.pid\n{again}\n");
    let button = format!("#!/bin/sh\nmkdir /run/pressed || exit\n{dies}");
    let set = guest.agent_exec(&format!("cat >/sbin/shutdown <<'END'\n{button}END\n"));
    assert_eq!(set.code, 0, "{set:?}");
}

/// Stops a backup while the guest is frozen, and kills the agent.
fn held_without_an_agent(scene: &Scene) -> Held {
    let held = scene.hold(Step::Frozen);
    virsh(&["shutdown", "--mode", "acpi", scene.guest.name()]);
    wait_until(DEADLINE, "the agent to die", || scene.guest.try_agent("guest-ping").is_err());
    held
}

#[test]
fn guest_whose_agent_dies_while_it_is_frozen_is_thawed_when_the_agent_returns() {
    let lab = Lab::new();
    let guest = lab.guest("agent-dies").disk(Disk::qcow2("vda")).system("kb.writer kb.freezehang=0").boot();
    let scene = Scene::of(lab, guest, json!({"method": "snapshot", "quiesce": "prefer"}));
    agent_dies_by_the_power_button(&scene.guest, 4);
    let held = held_without_an_agent(&scene);
    let report = scene.finish(held);
    assert_eq!(report.ran.code, 0, "{report:#?}");
    assert!(!scene.guest.is_frozen());
    scene.program.assert_no_leftovers(&scene.guest);
    let before = scene.guest.check_writer_sums("vda");
    wait_until(DEADLINE, "the writer to go on", || scene.guest.check_writer_sums("vda") > before);
}

#[test]
#[ignore = "soak: asks the guest for two minutes to thaw"]
fn guest_whose_agent_does_not_return_is_reported_and_thawed_by_recovery() {
    let lab = Lab::new();
    let guest = lab.guest("agent-dead").disk(Disk::qcow2("vda")).system("kb.writer kb.freezehang=0").boot();
    let scene = Scene::of(lab, guest, json!({"method": "snapshot", "quiesce": "prefer"}));
    agent_dies_by_the_power_button(&scene.guest, 240);
    let held = held_without_an_agent(&scene);
    // The journal records the remaining work, so the state directory is not empty.
    let report = Report::from(Ran::from(held.finish()));
    assert_eq!(report.domain(scene.other.name())["outcome"], "success", "{report:#?}");
    assert_eq!(report.ran.code, 1, "{report:#?}");
    let outcome = scene.outcome(&report);
    assert_eq!(outcome["reason"], "quiesce", "{report:#?}");
    assert!(
        outcome["error"].to_string().contains("still frozen") && outcome["error"].to_string().contains("domfsthaw")
    );
    wait_until(lab::BOOT_DEADLINE, "the agent to be back", || scene.guest.try_agent("guest-ping").is_ok());
    // The new agent may find the last thaw request in its input and obey it.
    let recovered = scene.program.run(&["recover"]);
    assert_eq!(recovered.code, 0, "{recovered:#?}");
    assert!(!scene.guest.is_frozen());
    for guest in [&scene.guest, &scene.other] {
        scene.program.assert_no_leftovers(guest);
    }
}

/// QEMU is stopped, and another client's command has locked the domain: libvirt refuses other changes of its state.
#[test]
#[ignore = "soak: libvirt times out after half a minute"]
fn commit_waits_while_another_client_locks_the_domain_for_a_minute() {
    let scene = Scene::new("state-lock", vec![Disk::qcow2("vda")], json!({"method": "snapshot"}));
    let held = scene.hold(Step::CommitBegin);
    let qemu = scene.qemu();
    run("kill", &["-STOP", &qemu]);
    let mut holder = Command::new("virsh")
        .args(["qemu-monitor-command", scene.guest.name(), "--hmp", "info status"])
        .spawn()
        .unwrap();
    let backup = held.go_on();
    thread::sleep(std::time::Duration::from_secs(60));
    run("kill", &["-CONT", &qemu]);
    holder.wait().unwrap();
    let report = Report::from(Ran::from(backup.wait_with_output().unwrap()));
    assert_eq!(report.ran.code, 0, "{report:#?}");
    scene.program.assert_no_leftovers(&scene.guest);
}

/// The guest writes faster than its overlay is committed. QEMU applies a bandwidth limit only until the job is ready,
/// so the commit must be large enough for the limit to be set before that.
#[test]
#[ignore = "soak: a commit without progress is abandoned after ten minutes"]
fn commit_outrun_by_the_guest_is_abandoned_and_completed_later() {
    let scene = Scene::new("outruns", vec![Disk::qcow2("vda").size("1G")], json!({"method": "snapshot"}));
    let bandwidth = |bytes| try_virsh(&["blockjob", scene.guest.name(), "vda", "--bytes", "--bandwidth", bytes]);
    let write = |round: u64| scene.guest.write("vda", (round % 250) as u8 + 1, round % 64 * 65536, 65536);
    let held = scene.hold(Step::CommitBegin);
    scene.guest.write("vda", 0xff, 0, 512 << 20);
    let ended = AtomicBool::new(false);
    let report = thread::scope(|threads| {
        threads.spawn(|| {
            while bandwidth("4096").is_err() && !ended.load(Ordering::Relaxed) {}
            (0..).take_while(|_| !ended.load(Ordering::Relaxed)).for_each(write);
        });
        let report = Report::from(Ran::from(held.finish()));
        ended.store(true, Ordering::Relaxed);
        report
    });
    assert_eq!(report.ran.code, 7, "the point is good, but the guest is not on its base: {report:#?}");
    let left = scene.outcome(&report)["leftovers"].to_string();
    assert!(left.contains("made no progress for 10 minutes") && left.contains("lab recover"), "{left}");
    write(1000);
    let unlimited = bandwidth("0");
    assert!(unlimited.is_ok(), "{unlimited:?}");
    let recovered = scene.program.run(&["recover"]);
    assert_eq!(recovered.code, 0, "{recovered:#?}");
    scene.program.assert_no_leftovers(&scene.guest);
    scene.guest.assert_holds("vda", 1, 1000 % 64 * 65536, 65536);
    scene.guest.assert_holds("vda", 0xff, 4 << 20, 508 << 20);
}
