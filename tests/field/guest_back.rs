//! Faults reported by operators: the way back from an overlay to the guest's own image, whatever was done to the guest in
//! the middle of its backup.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::json;

use crate::lab::{Disk, Guest, GuestBuilder, Lab, Program, Ran, virsh};

/// A guest without a system, and the program that backs it up by a snapshot.
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

    /// Lets an operator run this script in each backup, right before the overlays are committed.
    pub fn in_mid_backup(mut self, script: &str) -> Scene {
        let file = self.lab.path("operator.sh");
        fs::write(&file, format!("#!/bin/sh\nset -e\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let hook = json!({"name": "operator", "phase": "pre-commit", "command": [file], "on_error": "warn"});
        let keys = json!({"method": "snapshot", "quiesce": "never", "hooks": [hook]});
        self.program = self.program.domain(self.guest.name(), keys);
        self
    }

    /// Backs up and is killed while the guest is on its overlays; those of its disks, by target.
    pub fn kill(&self) {
        self.kill_at("CommitBegin", "backup");
    }

    /// Kills a command at a step.
    pub fn kill_at(&self, step: &str, command: &str) {
        let mut run = self.program.command();
        let ran = Ran::from(run.arg(command).env("KVMBACKUP_FAULT", format!("{step}:kill")).output().unwrap());
        assert_eq!(ran.code, 128 + 9, "{ran:#?}");
    }

    /// Kills a backup whose overlay is in place, and writes to that; the overlay of `vda`.
    pub fn kill_on_overlay(&self, pattern: u8) -> PathBuf {
        self.kill();
        self.guest.write("vda", pattern, 1 << 20, 65536);
        self.guest.disk_source("vda").unwrap()
    }

    /// `kvmbackup recover` leaves nothing; what it printed.
    pub fn recover(&self) -> String {
        let ran = self.program.run(&["recover"]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        self.program.assert_no_leftovers(&self.guest);
        ran.stdout
    }

    /// `kvmbackup recover` leaves something to the operator; what it printed.
    pub fn recovery_refuses(&self, words: &str) -> String {
        let ran = self.program.run(&["recover"]);
        assert_eq!(ran.code, 7, "{ran:#?}");
        assert!(ran.stdout.contains("left: ") && ran.stdout.contains(words), "{ran:#?}");
        ran.stdout
    }
}

/// A disk whose source says more than a path.
fn rich_disk(lab: &Lab, target: &str) -> String {
    let folder = lab.path("rich");
    fs::create_dir_all(&folder).unwrap();
    let image = folder.join(format!("{target}.qcow2"));
    let image = image.to_str().unwrap();
    crate::lab::qemu_img(&["create", "-q", "-f", "qcow2", image, "64M"]);
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' discard='unmap'><metadata_cache>\
         <max_size unit='bytes'>1048576</max_size></metadata_cache></driver><source file='{image}' startupPolicy='mandatory'>\
         <seclabel model='dac' relabel='no'/></source><target dev='{target}' bus='virtio'/></disk>"
    )
}

/// A disk on a volume of a pool of its own, which ends with the lab's libvirtd.
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
fn a_definition_comes_back_byte_for_byte_whenever_the_guest_goes_off() {
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
