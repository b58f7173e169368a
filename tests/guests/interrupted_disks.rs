//! After SIGKILL, other actions on the guest decide whether its overlay may be removed. Its data is never lost, and
//! never overwrites newer data.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::lab::{Call, DEADLINE, Disk, Gate, Guest, Lab, Program, Ran, run, virsh, wait_until};
use serde_json::json;

/// A paused guest with one disk, and the program behind a gate.
struct Scene {
    guest: Guest,
    gate: Gate,
    program: Program,
    base: PathBuf,
    /// The definition, on the base.
    defined: String,
    lab: Lab,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let lab = Lab::new();
        let guest = lab.guest(name).disk(Disk::raw("vda")).paused();
        let gate = Gate::new(&lab);
        let keys = json!({"method": "snapshot", "quiesce": "never"});
        let program = Program::new(&lab).set("libvirt_uri", json!(gate.uri())).domain(name, keys);
        let (base, defined) = (guest.disk_source("vda").unwrap(), guest.inactive_xml());
        Scene { guest, gate, program, base, defined, lab }
    }

    fn spawn(&self, command: &str) -> Child {
        self.program.command().arg(command).stdout(Stdio::null()).spawn().unwrap()
    }

    /// Kills the command right before the last of these calls.
    fn kill(&self, command: &str, calls: &[Call]) {
        self.gate.hold(calls[0]);
        let mut run = self.spawn(command);
        self.gate.wait(&mut run);
        for call in &calls[1..] {
            self.gate.hold(*call);
            self.gate.wait(&mut run);
        }
        self.gate.kill(&mut run);
    }

    /// Kills a backup whose overlay is in place, and writes to the overlay; returns it.
    fn kill_on_overlay(&self, pattern: u8) -> PathBuf {
        self.kill("backup", &[Call::Commit]);
        self.guest.write("vda", pattern, 1 << 20, 65536);
        let overlay = self.guest.disk_source("vda").unwrap();
        assert_ne!(overlay, self.base);
        overlay
    }

    fn define(&self, xml: &str) {
        let file = self.lab.path("define.xml");
        fs::write(&file, xml).unwrap();
        virsh(&["define", file.to_str().unwrap()]);
    }

    /// `kvmbackup recover` leaves this to the operator.
    fn recovery_refuses(&self, words: &str) {
        let ran = self.program.run(&["recover"]);
        assert_eq!(ran.code, 7, "{ran:#?}");
        assert!(ran.stdout.starts_with(&format!("left: {}: ", self.guest.name())), "{ran:#?}");
        assert!(ran.stdout.contains(words) && ran.stdout.contains("hint: "), "{ran:#?}");
    }

    /// `kvmbackup recover` recovers everything.
    fn recover(&self) -> Ran {
        let ran = self.program.run(&["recover"]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        assert!(ran.stdout.starts_with("recovered: "), "{ran:#?}");
        self.program.assert_no_leftovers(&self.guest);
        ran
    }
}

#[test]
fn overlay_with_data_stays_if_the_guest_was_moved_to_its_base_by_hand() {
    let scene = Scene::new("overlay-left");
    scene.kill("backup", &[Call::Commit]);
    scene.guest.destroy();
    scene.define(&scene.defined);
    scene.guest.start_paused();
    scene.recover();

    let overlay = scene.kill_on_overlay(0x11);
    scene.guest.destroy();
    scene.define(&scene.defined);
    scene.recovery_refuses("holds guest data");
    scene.guest.start_paused();
    scene.recovery_refuses("holds guest data");
    let overlay = overlay.to_str().unwrap();
    run("qemu-io", &["-U", "-r", "-f", "qcow2", "-c", "read -P 0x11 1M 64k", overlay]);
    fs::remove_file(overlay).unwrap();
    scene.recover();
}

#[test]
fn committed_overlay_is_removed_regardless_of_the_guest() {
    let scene = Scene::new("overlay-committed");
    let killed_after_pivot = || {
        scene.kill("backup", &[Call::Commit]);
        let (overlay, on_overlay) = (scene.guest.disk_source("vda").unwrap(), scene.guest.inactive_xml());
        scene.guest.write("vda", 0x21, 1 << 20, 65536);
        scene.kill("recover", &[Call::Pivot, Call::GetXml]);
        assert_eq!(scene.guest.disk_source("vda").unwrap(), scene.base);
        assert!(overlay.exists());
        on_overlay
    };
    killed_after_pivot();
    scene.guest.write("vda", 0x22, 1 << 20, 65536);
    scene.guest.destroy();
    scene.recover();
    scene.guest.assert_holds("vda", 0x22, 1 << 20, 65536);

    // An earlier definition must not bring back the older data.
    for running in [true, false] {
        scene.guest.start_paused();
        let on_overlay = killed_after_pivot();
        scene.guest.write("vda", 0x23, 1 << 20, 65536);
        scene.define(&on_overlay);
        if !running {
            scene.guest.destroy();
        }
        scene.recover();
        scene.guest.assert_holds("vda", 0x23, 1 << 20, 65536);
        if running {
            scene.guest.destroy();
        }
    }

    scene.guest.start_paused();
    scene.kill_on_overlay(0x24);
    scene.guest.destroy();
    scene.kill("recover", &[Call::DefineDisk, Call::GetXml]);
    assert_eq!(scene.guest.inactive_xml(), scene.defined);
    scene.recover();
    scene.guest.assert_holds("vda", 0x24, 1 << 20, 65536);
}

#[test]
fn guest_started_while_its_definition_is_restored_keeps_its_writes() {
    let scene = Scene::new("started-on-overlay");
    scene.kill_on_overlay(0x31);
    scene.guest.destroy();
    scene.gate.hold(Call::DefineDisk);
    let mut recovery = scene.spawn("recover");
    scene.gate.wait(&mut recovery);
    scene.guest.start_paused();
    scene.guest.write("vda", 0x32, 1 << 20, 65536);
    scene.gate.open();
    assert!(recovery.wait().unwrap().success());
    scene.program.assert_no_leftovers(&scene.guest);
    scene.guest.assert_holds("vda", 0x32, 1 << 20, 65536);
}

#[test]
fn guest_that_is_off_gets_its_exact_definition_back() {
    let mut scene = Scene::new("definition-kept");
    let genid = "<genid>6a0c4a52-1111-4222-8333-444444444444</genid>";
    scene.guest.destroy();
    scene.define(&scene.defined.replace("</uuid>", &format!("</uuid>{genid}")));
    scene.defined = scene.guest.inactive_xml();
    assert!(scene.defined.contains(genid));
    scene.guest.start_paused();
    scene.kill_on_overlay(0x41);
    scene.guest.destroy();
    scene.recover();
    assert_eq!(scene.guest.inactive_xml(), scene.defined);
    scene.guest.assert_holds("vda", 0x41, 1 << 20, 65536);
}

#[test]
fn saved_guest_keeps_the_overlay_that_it_needs_to_resume() {
    let scene = Scene::new("overlay-saved");
    let overlay = scene.kill_on_overlay(0x51);
    virsh(&["managedsave", scene.guest.name()]);
    scene.recovery_refuses("virsh managedsave-remove");
    assert!(overlay.exists() && scene.guest.inactive_xml().contains(overlay.to_str().unwrap()));
    virsh(&["start", scene.guest.name()]);
    // QEMU 10 commits nothing of a guest that has been paused since it was restored.
    virsh(&["resume", scene.guest.name()]);
    scene.recover();
    scene.guest.assert_holds("vda", 0x51, 1 << 20, 65536);
}

#[test]
fn block_job_of_another_program_is_not_taken_for_a_commit() {
    let scene = Scene::new("overlay-copied");
    scene.kill_on_overlay(0x61);
    let (name, copy) = (scene.guest.name(), scene.lab.path("copy.qcow2"));
    virsh(&["blockcopy", name, "vda", "--dest", copy.to_str().unwrap(), "--format", "qcow2", "--transient-job"]);
    let is_ready = || scene.guest.live_xml().contains("ready='yes'");
    wait_until(DEADLINE, "the copy to be ready", is_ready);
    scene.recovery_refuses("another block job");
    assert!(is_ready(), "the copy continues");
    virsh(&["blockjob", name, "vda", "--abort"]);
    fs::remove_file(copy).unwrap();
    scene.recover();
    scene.guest.assert_holds("vda", 0x61, 1 << 20, 65536);
}

#[test]
fn unfinished_archive_on_a_missing_target_stays_in_the_journal() {
    let scene = Scene::new("target-away");
    scene.kill("backup", &[Call::Snapshot]);
    let away = scene.lab.path("away");
    fs::rename(scene.program.backups(), &away).unwrap();
    fs::create_dir(scene.program.backups()).unwrap();
    scene.recovery_refuses("Mount the target");
    fs::remove_dir(scene.program.backups()).unwrap();
    fs::rename(away, scene.program.backups()).unwrap();
    let recovered = scene.recover();
    assert!(recovered.stdout.contains("removed the unfinished archive"), "{recovered:#?}");

    scene.kill("backup", &[Call::Snapshot]);
    let recovered = scene.recover();
    assert!(!recovered.stdout.contains("committed"), "no overlay existed: {recovered:#?}");
}

#[test]
fn recovery_waits_for_a_snapshot_that_libvirt_still_executes() {
    let scene = Scene::new("snapshot-late");
    let pid = fs::read_to_string(format!("/run/libvirt/qemu/{}.pid", scene.guest.name())).unwrap();
    scene.gate.hold(Call::Snapshot);
    let mut backup = scene.spawn("backup");
    scene.gate.wait(&mut backup);
    // QEMU is stopped, so libvirt cannot finish the call.
    run("kill", &["-STOP", pid.trim()]);
    scene.gate.open();
    let status = format!("/run/libvirt/qemu/{}.xml", scene.guest.name());
    wait_until(DEADLINE, "libvirt to begin the snapshot", || {
        fs::read_to_string(&status).is_ok_and(|status| status.contains("async='snapshot'"))
    });
    scene.gate.kill(&mut backup);
    scene.gate.hold(Call::JobInfo);
    let mut recovery = scene.spawn("recover");
    scene.gate.wait(&mut recovery);
    scene.gate.open();
    run("kill", &["-CONT", pid.trim()]);
    assert!(recovery.wait().unwrap().success());
    scene.program.assert_no_leftovers(&scene.guest);
}
