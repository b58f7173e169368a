//! An operator moves the disk to another image right before the snapshot of kvmbackup, so that the overlay is above
//! that image, or right before the commit.

use std::fs;
use std::path::{Path, PathBuf};

use kvmbackup::sys::step::Step;
use serde_json::json;

use super::Scene;
use crate::lab::{Disk, Guest, Ran, run, virsh};
use crate::steps::{self, Held};

/// A backup that pauses right after its snapshot. Right before the snapshot, the operator's hook acts once.
struct Beneath {
    scene: Scene,
    held: Held,
    /// The definition right after the operator's action.
    defined: PathBuf,
}

impl Beneath {
    /// `act` is a command of `virsh` without the domain's name; FILE is a path chosen by the operator.
    fn new(name: &str, act: &str) -> Beneath {
        let mut scene = Scene::with(name, |guest| guest.disk(Disk::qcow2("vda")));
        scene.guest.write("vda", 0x11, 2 << 20, 65536);
        let defined = scene.lab.path("defined.xml");
        let act = act.replace("FILE", theirs(&scene).to_str().unwrap()).replace("NAME", name);
        let seen = defined.display();
        let script = format!("set -e\n[ -e {seen} ] || {{ {act}; virsh -q dumpxml --inactive {name} >{seen}; }}");
        let hook = scene.lab.script("operator.sh", &script);
        let hook = json!({"name": "operator", "phase": "pre-snapshot", "command": [hook]});
        scene.program = scene.program.domain(name, json!({"method": "snapshot", "quiesce": "never", "hooks": [hook]}));
        let mut command = scene.program.command();
        let held = steps::hold(command.args(["backup", "--json"]), Step::SnapshotTaken.into(), &scene.lab.path("held"));
        scene.guest.write("vda", 0x22, 1 << 20, 65536);
        Beneath { scene, held, defined }
    }
}

fn theirs(scene: &Scene) -> PathBuf {
    scene.lab.path("images").join(scene.guest.name()).join("theirs.qcow2")
}

/// The disk contains all writes, is on this image, and nothing of kvmbackup is left.
fn assert_back(scene: &Scene, image: &Path) {
    let guest: &Guest = &scene.guest;
    assert_eq!(guest.disk_source("vda").unwrap(), image);
    guest.assert_holds("vda", 0x11, 2 << 20, 65536);
    guest.assert_holds("vda", 0x22, 1 << 20, 65536);
    let journal = scene.program.state().join("journal");
    for folder in [scene.lab.path("images"), journal] {
        let left = run("find", &[folder.to_str().unwrap(), "-name", "*kvmbackup*", "-o", "-name", "*.json"]);
        assert_eq!(left, "");
    }
}

const SNAPSHOT: &str = "virsh -q snapshot-create-as NAME --no-metadata --disk-only --diskspec vda,file=FILE >&2";
const COPY: &str = "virsh -q blockcopy NAME vda --dest FILE --format qcow2 --transient-job --wait --pivot >&2";

#[test]
fn disk_returns_to_the_image_that_an_operator_chose_right_before_the_snapshot() {
    for (name, act, killed, off) in [
        ("beneath-run", SNAPSHOT, false, false),
        ("beneath-off", SNAPSHOT, false, true),
        ("beneath-kill", SNAPSHOT, true, false),
        ("beneath-kill-off", SNAPSHOT, true, true),
        ("beneath-copy", COPY, false, false),
        ("beneath-copy-off", COPY, true, true),
    ] {
        let Beneath { scene, held, defined } = Beneath::new(name, act);
        if off {
            scene.guest.destroy();
        }
        if killed {
            held.kill();
            let ran = scene.program.run(&["recover"]);
            assert_eq!(ran.code, 0, "{ran:#?}");
        } else {
            let ran = Ran::from(held.finish());
            assert!(!ran.stdout.contains("cannot be committed") && ran.code != 7, "{ran:#?}");
        }
        assert_eq!(virsh(&["dumpxml", "--inactive", name]), fs::read_to_string(defined).unwrap(), "{name}");
        assert_back(&scene, &theirs(&scene));
    }
}

#[test]
fn overlay_without_a_backing_image_is_left_as_the_hint_says() {
    for (name, off) in [("beneath-pulled", false), ("beneath-pulled-off", true)] {
        let scene = Scene::new(name);
        scene.guest.write("vda", 0x11, 2 << 20, 65536);
        scene.kill();
        scene.guest.write("vda", 0x22, 1 << 20, 65536);
        virsh(&["blockpull", name, "vda", "--wait"]);
        if off {
            scene.guest.destroy();
        }
        let said = scene.recovery_refuses("not over the image of the backup");
        let hint = said.lines().find_map(|line| line.split_once("hint: ")).unwrap().1;
        let new = theirs(&scene);
        for command in crate::chaos::hints::commands(&hint.replace("NEWFILE", new.to_str().unwrap())) {
            let output = crate::chaos::hints::run(&command.replace("virsh start", "virsh start --paused"));
            assert!(output.status.success(), "{command}: {output:?}");
        }
        let ran = scene.program.run(&["recover"]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        assert_back(&scene, &new);
    }
}

#[test]
fn overlay_that_an_operator_adds_right_before_the_commit_is_reported() {
    let name = "above-commit";
    let scene = Scene::new(name);
    scene.guest.write("vda", 0x11, 2 << 20, 65536);
    let (image, theirs) = (scene.guest.disk_source("vda").unwrap(), theirs(&scene));
    let mut command = scene.program.command();
    let held = steps::hold(command.args(["backup", "--json"]), Step::CommitBegin.into(), &scene.lab.path("held"));
    let disk = format!("vda,file={}", theirs.display());
    virsh(&["snapshot-create-as", name, "--no-metadata", "--disk-only", "--diskspec", &disk]);
    scene.guest.write("vda", 0x22, 1 << 20, 65536);
    let ran = Ran::from(held.finish());
    assert!(ran.code == 7 && ran.stdout.contains("theirs.qcow2 over the overlay"), "{ran:#?}");
    let said = scene.recovery_refuses("theirs.qcow2 over the overlay");
    for command in crate::chaos::hints::commands(said.split_once("hint: ").unwrap().1) {
        let output = crate::chaos::hints::run(&command);
        assert!(output.status.success(), "{command}: {output:?}");
    }
    fs::remove_file(&theirs).unwrap();
    scene.recover();
    assert_back(&scene, &image);
}
