//! Faults reported by operators: returning from an overlay to the guest's own image, whatever was done to the guest
//! during its backup.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use kvmbackup::sys::step::Step;
use serde_json::json;

use crate::lab::{Disk, Guest, GuestBuilder, Lab, Program, Ran, virsh};
use crate::steps;

mod beneath;
mod forged;
mod lost;
mod older;
mod snapshots;

/// A guest without an operating system, and a program that backs it up with a snapshot.
pub struct Scene {
    pub guest: Guest,
    pub program: Program,
    /// The definition before any backup.
    pub defined: String,
    pub lab: Lab,
}

impl Scene {
    /// A paused guest with a qcow2 disk `vda`.
    pub fn new(name: &str) -> Scene {
        Scene::with(name, |guest| guest.disk(Disk::qcow2("vda")))
    }

    /// A paused guest with the disks that `build` adds.
    pub fn with(name: &str, build: impl FnOnce(GuestBuilder) -> GuestBuilder) -> Scene {
        let lab = Lab::new();
        let guest = build(lab.guest(name)).paused();
        let program = Program::new(&lab).domain(name, json!({"method": "snapshot", "quiesce": "never"}));
        Scene { defined: guest.inactive_xml(), guest, program, lab }
    }

    /// Runs this script as an operator in each backup, right before the overlays are committed.
    pub fn in_mid_backup(mut self, script: &str) -> Scene {
        let file = self.lab.script("operator.sh", &format!("set -e\n{script}"));
        let hook = json!({"name": "operator", "phase": "pre-commit", "command": [file], "on_error": "warn"});
        let keys = json!({"method": "snapshot", "quiesce": "never", "hooks": [hook]});
        self.program = self.program.domain(self.guest.name(), keys);
        self
    }

    /// Starts a backup and kills it while the guest is on its overlays; returns those, by target.
    pub fn kill(&self) {
        self.kill_at("CommitBegin", "backup");
    }

    /// Kills a command at a step.
    pub fn kill_at(&self, step: &str, command: &str) {
        let mut run = self.program.command();
        let ran = Ran::from(run.arg(command).env("KVMBACKUP_FAULT", format!("{step}:kill")).output().unwrap());
        assert_eq!(ran.code, 128 + 9, "{ran:#?}");
    }

    /// `kvmbackup recover` leaves nothing; returns its output.
    pub fn recover(&self) -> String {
        let ran = self.program.run(&["recover"]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        self.program.assert_no_leftovers(&self.guest);
        ran.stdout
    }

    /// `kvmbackup recover` leaves something to the operator; returns its output.
    pub fn recovery_refuses(&self, words: &str) -> String {
        let ran = self.program.run(&["recover"]);
        assert_eq!(ran.code, 7, "{ran:#?}");
        assert!(ran.stdout.contains("left: ") && ran.stdout.contains(words), "{ran:#?}");
        ran.stdout
    }
}

/// A disk whose source has more than a path.
fn rich_disk(lab: &Lab, target: &str) -> String {
    let folder = lab.path("rich");
    fs::create_dir_all(&folder).unwrap();
    let image = folder.join(format!("{target}.qcow2"));
    let image = image.to_str().unwrap();
    crate::lab::qemu_img(&["create", "-q", "-f", "qcow2", image, "64M"]);
    // libvirt does not change its owner.
    fs::set_permissions(image, fs::Permissions::from_mode(0o666)).unwrap();
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' discard='unmap'><metadata_cache>\
         <max_size unit='bytes'>1048576</max_size></metadata_cache></driver><source file='{image}' startupPolicy='mandatory'>\
         <seclabel model='dac' relabel='no'/></source><target dev='{target}' bus='virtio'/></disk>"
    )
}

/// A disk on a volume of its own pool, which ends with the lab's libvirtd.
fn volume_disk(lab: &Lab, pool: &str, target: &str) -> String {
    let folder = lab.path("pool");
    fs::create_dir_all(&folder).unwrap();
    virsh(&["pool-create-as", pool, "dir", "--target", folder.to_str().unwrap()]);
    virsh(&["vol-create-as", pool, "disk.qcow2", "64M", "--format", "qcow2"]);
    format!(
        "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='{pool}' volume='disk.qcow2'/>\
         <target dev='{target}' bus='virtio'/></disk>"
    )
}

#[test]
fn definition_is_restored_byte_for_byte_whenever_the_guest_stops() {
    for (name, goes_off) in [
        ("back-bytes-run", ""),
        ("back-bytes-off", "virsh destroy back-bytes-off"),
        ("back-bytes-kill", "kill -9 $PPID"),
    ] {
        let lab = Lab::new();
        let disks = rich_disk(&lab, "vda") + &volume_disk(&lab, name, "vdb");
        let guest = lab.guest(name).devices(&disks).disk(Disk::block("vdc")).paused();
        let program = Program::new(&lab);
        let scene = Scene { defined: guest.inactive_xml(), guest, program, lab }.in_mid_backup(goes_off);
        let ran = scene.program.run(&["backup"]);
        if goes_off.contains("kill") {
            scene.guest.write("vda", 0x11, 1 << 20, 65536);
            scene.guest.destroy();
            scene.recover();
            scene.guest.assert_holds("vda", 0x11, 1 << 20, 65536);
        } else {
            assert_eq!(ran.code, 0, "{ran:#?}");
        }
        assert_eq!(scene.guest.inactive_xml(), scene.defined, "{name}");
        if scene.guest.state() == "shut off" {
            scene.guest.start_paused();
        }
        assert_eq!(scene.guest.inactive_xml(), scene.defined, "{name}");
        scene.program.assert_no_leftovers(&scene.guest);
        virsh(&["pool-destroy", name]);
    }
}

impl Scene {
    /// Defines the guest again from its current definition under another UUID; it is off then.
    pub fn redefine(&self) {
        let xml = self.guest.inactive_xml();
        let (start, end) = xml.split_once("<uuid>").unwrap();
        let xml = format!("{start}{}", end.split_once("</uuid>").unwrap().1);
        self.guest.destroy();
        virsh(&["undefine", self.guest.name()]);
        self.define(&xml);
    }

    pub fn define(&self, xml: &str) {
        let file = self.lab.path("define.xml");
        fs::write(&file, xml).unwrap();
        virsh(&["define", file.to_str().unwrap()]);
    }
}

#[test]
fn guest_that_was_redefined_returns_to_its_base() {
    for (name, written, runs) in [
        ("anew-empty", false, false),
        ("anew-written", true, false),
        ("anew-empty-run", false, true),
        ("anew-written-run", true, true),
    ] {
        let scene = Scene::new(name);
        scene.guest.write("vda", 0x21, 2 << 20, 65536);
        scene.kill();
        if written {
            scene.guest.write("vda", 0x22, 1 << 20, 65536);
        }
        scene.redefine();
        if runs {
            scene.guest.start_paused();
        }
        scene.recover();
        if !runs {
            scene.guest.start_paused();
        }
        scene.guest.assert_holds("vda", 0x21, 2 << 20, 65536);
        scene.guest.assert_holds("vda", if written { 0x22 } else { 0 }, 1 << 20, 65536);
    }
}

#[test]
fn overlay_of_a_disk_detached_during_the_backup_is_committed_without_an_operator() {
    for (name, options) in [("unplug-live", "--live"), ("unplug-both", "--live --config")] {
        let scene = Scene::with(name, |guest| guest.disk(Disk::qcow2("vda")).disk(Disk::qcow2("sda")));
        let image = scene.guest.disk_source("sda").unwrap();
        let scene = scene.in_mid_backup(&format!("virsh detach-disk {name} sda {options}"));
        scene.program.backup_well();
        let is_defined = || scene.guest.inactive_xml().contains(image.to_str().unwrap());
        assert_eq!(is_defined(), options == "--live");
        let folder: Vec<_> =
            fs::read_dir(image.parent().unwrap()).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(folder.iter().all(|file| !file.to_string_lossy().contains("kvmbackup")), "{folder:?}");
        if options == "--live" {
            assert_eq!(scene.guest.inactive_xml(), scene.defined);
        }
    }
}

#[test]
fn change_of_the_definition_while_a_disk_is_returned_to_its_base_stays() {
    let name = "back-changed";
    let scene = Scene::with(name, |guest| guest.disk(Disk::qcow2("vda")).disk(Disk::qcow2("sda")));
    let image = scene.guest.disk_source("vda").unwrap();
    scene.kill();
    scene.guest.destroy();
    let mut command = scene.program.command();
    let held = steps::hold(command.arg("recover"), Step::DefinitionWrite.into(), &scene.lab.path("held"));
    virsh(&["detach-disk", name, "sda", "--config"]);
    virsh(&["desc", name, "--config", "a-new-title", "--title"]);
    let ran = Ran::from(held.finish());
    assert!([0, 7].contains(&ran.code), "{ran:#?}");
    // The overlay of the detached disk is removed by the next recovery at the latest.
    assert_eq!(scene.program.run(&["recover"]).code, 0);
    let xml = scene.guest.inactive_xml();
    assert!(!xml.contains("dev='sda'") && xml.contains("a-new-title"), "{xml}");
    assert_eq!(scene.guest.disk_source("vda").unwrap(), image);
}

#[test]
fn writes_to_the_overlay_of_a_detached_disk_are_in_its_image() {
    let scene = Scene::with("unplug-killed", |guest| guest.disk(Disk::qcow2("vda")).disk(Disk::raw("sda")));
    let image = scene.guest.disk_source("sda").unwrap();
    scene.kill();
    scene.guest.write("sda", 0x31, 1 << 20, 65536);
    virsh(&["detach-disk", scene.guest.name(), "sda", "--live", "--config"]);
    let ran = scene.program.run(&["recover"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let read = crate::lab::run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0x31 1M 64k", image.to_str().unwrap()]);
    assert!(!read.contains("verification failed"), "{read}");
    assert!(fs::read_dir(image.parent().unwrap()).unwrap().count() == 2, "something is left beside the images");
}

#[test]
fn checkpoint_that_an_operator_creates_during_the_backup_survives_the_commit() {
    let name = "checkpoint-kept";
    let scene = Scene::new(name).in_mid_backup(&format!("virsh checkpoint-create-as {name} mine"));
    scene.program.backup_well();
    scene.guest.write("vda", 0x51, 1 << 20, 65536);
    // libvirt needs its bitmap for that.
    virsh(&["checkpoint-dumpxml", name, "mine", "--size"]);
    virsh(&["checkpoint-delete", name, "mine"]);
}

#[test]
fn guest_saved_to_a_file_during_the_backup_can_be_restored_as_the_report_says() {
    let name = "saved-to-file";
    let scene = Scene::new(name);
    let file = scene.lab.path("saved");
    let scene = scene.in_mid_backup(&format!("virsh save {name} {}", file.display()));
    scene.guest.write("vda", 0x61, 1 << 20, 65536);
    let report = scene.program.backup();
    assert_eq!(report.ran.code, 0, "{report:#?}");
    scene.program.assert_no_leftovers(&scene.guest);
    assert_eq!(scene.guest.inactive_xml(), scene.defined);
    let warnings = report.domain(name)["warnings"].to_string();
    assert!(
        warnings.contains("virsh save-image-edit FILE") && warnings.contains("still names the overlay"),
        "{warnings}"
    );

    // As the hint says: the base as the source, and no <backingStore>.
    let xml = virsh(&["save-image-dumpxml", file.to_str().unwrap(), "--security-info"]);
    let base = scene.guest.disk_source("vda").unwrap();
    let (start, rest) = xml.split_once("<source file='").unwrap();
    let (disk, rest) = rest.split_once("<backingStore").unwrap();
    let (_, end) = rest.rsplit_once("</backingStore>").unwrap();
    let disk = disk.split_once('\'').unwrap().1;
    let edited = scene.lab.path("edited.xml");
    fs::write(&edited, format!("{start}<source file='{}'{disk}{end}", base.display())).unwrap();
    virsh(&["save-image-define", file.to_str().unwrap(), edited.to_str().unwrap()]);
    virsh(&["restore", file.to_str().unwrap(), "--paused"]);
    scene.guest.assert_holds("vda", 0x61, 1 << 20, 65536);
}

#[test]
fn overlay_of_a_guest_saved_right_after_the_snapshot_is_reported_despite_a_new_capture() {
    let name = "saved-after-snapshot";
    let scene = Scene::new(name);
    let mut command = scene.program.command();
    let step = Step::SnapshotTaken.into();
    let held = steps::hold(command.args(["backup", "--json"]), step, &scene.lab.path("held"));
    virsh(&["save", name, scene.lab.path("saved").to_str().unwrap()]);
    let ran = Ran::from(held.finish());
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.stdout.contains("\"direct\"") && ran.stdout.contains("virsh save-image-edit FILE"), "{ran:#?}");
    scene.program.assert_no_leftovers(&scene.guest);
}
