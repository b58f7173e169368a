//! Disks that are attached and detached while their guest is captured.

use std::fs;
use std::path::{Path, PathBuf};

use kvmbackup::sys::step::Step;
use serde_json::{Value, json};

use crate::lab::{Call, Disk, Gate, Guest, Lab, Program, Ran, Report, by_each_method, qemu_img, run, virsh};
use crate::steps::{self, Held};

by_each_method! {
    disk_attached_right_before_the_capture_is_saved
    disk_attached_right_after_the_capture_is_saved
    disk_detached_right_before_the_capture_is_not_reported_as_missing
}

/// A paused guest with one disk, and an image that is not attached yet.
struct Scene {
    guest: Guest,
    image: PathBuf,
    program: Program,
    lab: Lab,
}

impl Scene {
    fn new(name: &str, keys: Value) -> Scene {
        let lab = Lab::new();
        let image = lab.path("images").join(name).join("late.qcow2");
        fs::create_dir_all(image.parent().unwrap()).unwrap();
        qemu_img(&["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "8M"]);
        run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x6b 1M 64k", image.to_str().unwrap()]);
        let guest = lab.guest(name).disk(Disk::qcow2("vda")).paused();
        let program = Program::new(&lab).domain(name, keys);
        Scene { guest, image, program, lab }
    }

    fn attach(&self) {
        let image = self.image.to_str().unwrap();
        let options = ["--targetbus", "scsi", "--driver", "qemu", "--subdriver", "qcow2", "--live", "--config"];
        virsh(&[&["attach-disk", self.guest.name(), image, "sdb"], &options[..]].concat());
    }

    fn detach(&self) {
        virsh(&["detach-disk", self.guest.name(), "sdb", "--live", "--config"]);
    }

    fn hold(&self, step: Step) -> Held {
        let mut command = self.program.command();
        command.args(["backup", "--json"]);
        steps::hold(&mut command, step.into(), &self.lab.path("held"))
    }

    /// The report of a successful backup.
    fn finish(&self, held: Held) -> Report {
        let report = Report::from(Ran::from(held.finish()));
        assert_eq!(report.ran.code, 0, "{report:#?}");
        report
    }

    /// The late image as in the archive.
    fn assert_late_disk_in(&self, report: &Report) {
        assert_eq!(report.disks(self.guest.name()), ["vda", "sdb"]);
        let archive = self.program.unpack(report, self.guest.name());
        let read =
            run("qemu-io", &["-r", "-f", "qcow2", "-c", "read -P 0x6b 1M 64k", archive.disk("sdb").to_str().unwrap()]);
        assert!(read.contains("read 65536/65536") && !read.contains("verification failed"), "{read}");
    }

    /// No overlay exists: not under the guest, in its definition, beside its images, or in the journal.
    fn assert_no_leftovers(&mut self) {
        let found = fs::read_dir(self.image.parent().unwrap()).unwrap().map(|file| file.unwrap().file_name());
        let mut files: Vec<_> = found.collect();
        files.sort();
        assert_eq!(files, ["late.qcow2", "vda.qcow2"], "{}", self.guest.live_xml());
        self.guest.take_as_it_is();
        self.program.assert_no_leftovers(&self.guest);
        let is_on = |image: &Path| self.guest.disk_source("sdb").is_none_or(|source| source == image);
        assert!(!self.guest.live_xml().contains("sdb") || is_on(&self.image));
    }
}

fn steps_of(method: &str) -> (Step, Step) {
    match method {
        "pull" => (Step::PullBegin, Step::PullBegun),
        _ => (Step::Snapshot, Step::SnapshotTaken),
    }
}

fn disk_attached_right_before_the_capture_is_saved(method: &str) {
    let mut scene = Scene::new(&format!("attached-before-{method}"), json!({"method": method}));
    let held = scene.hold(steps_of(method).0);
    scene.attach();
    let report = scene.finish(held);
    scene.assert_late_disk_in(&report);
    scene.assert_no_leftovers();
}

fn disk_attached_right_after_the_capture_is_saved(method: &str) {
    let mut scene = Scene::new(&format!("attached-after-{method}"), json!({"method": method}));
    let held = scene.hold(steps_of(method).1);
    scene.attach();
    let report = scene.finish(held);
    scene.assert_late_disk_in(&report);
    scene.assert_no_leftovers();
}

fn disk_detached_right_before_the_capture_is_not_reported_as_missing(method: &str) {
    let mut scene = Scene::new(&format!("detached-{method}"), json!({"method": method}));
    scene.attach();
    let held = scene.hold(steps_of(method).0);
    scene.detach();
    let report = scene.finish(held);
    assert_eq!(report.disks(scene.guest.name()), ["vda"]);
    scene.assert_no_leftovers();
}

#[test]
fn run_killed_after_a_disk_was_attached_leaves_no_overlay_outside_the_journal() {
    let mut scene = Scene::new("attached-killed", json!({"method": "snapshot"}));
    let gate = Gate::new(&scene.lab);
    let keys = json!({"method": "snapshot"});
    scene.program = Program::new(&scene.lab).set("libvirt_uri", json!(gate.uri())).domain(scene.guest.name(), keys);
    gate.hold(Call::Snapshot);
    let mut run = scene.program.command().arg("backup").spawn().unwrap();
    gate.wait(&mut run);
    scene.attach();
    // The snapshot call reaches libvirt, but its result is not read any more.
    gate.hold(Call::GetXml);
    gate.wait(&mut run);
    gate.kill(&mut run);
    let recovered = scene.program.run(&["recover"]);
    assert_eq!(recovered.code, 0, "{recovered:#?}");
    scene.assert_no_leftovers();
}

#[test]
fn domain_whose_disks_keep_changing_fails_and_the_disk_is_named() {
    let mut scene = Scene::new("changing", json!({}));
    let (name, image) = (scene.guest.name().to_owned(), scene.image.display().to_string());
    let virsh = "virsh --quiet";
    let options = "--targetbus scsi --driver qemu --subdriver qcow2 --live --config";
    let text =
        format!("{virsh} attach-disk {name} {image} sdb {options} || {virsh} detach-disk {name} sdb --live --config");
    let script = scene.lab.script("change.sh", &text);
    let hook = json!({"name": "change", "phase": "pre-snapshot", "command": [script], "timeout": "1m"});
    scene.program = scene.program.domain(&name, json!({"hooks": [hook]}));
    let report = scene.program.backup();
    assert_eq!(report.ran.code, 1, "{report:#?}");
    let error = report.domain(&name)["error"].to_string();
    assert!(error.contains("disk sdb was attached") && error.contains("lab backup --force"), "{error}");
    scene.assert_no_leftovers();
}
