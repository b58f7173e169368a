//! Internal snapshots that an operator takes while the guest is on its overlay.

use std::fs;

use kvmbackup::sys::step::Step;

use super::Scene;
use crate::lab::{DEADLINE, Ran, virsh, wait_until};
use crate::steps::{self, CANCEL};

/// Reverts to the operator's snapshot and deletes it. The disk then contains the data of the snapshot.
fn goes_back(scene: &Scene) {
    let name = scene.guest.name();
    virsh(&["snapshot-revert", name, "mine", "--paused"]);
    scene.guest.assert_holds("vda", 0x41, 1 << 20, 65536);
    virsh(&["snapshot-delete", name, "mine"]);
    scene.recover();
    scene.guest.assert_holds("vda", 0x41, 1 << 20, 65536);
}

#[test]
fn internal_snapshot_of_an_operator_during_the_backup_is_kept() {
    let name = "isnap-kept";
    let scene = Scene::new(name).in_mid_backup(&format!("virsh snapshot-create-as {name} mine"));
    scene.guest.write("vda", 0x41, 1 << 20, 65536);
    let report = scene.program.backup();
    assert_eq!(report.ran.code, 7, "{report:#?}");
    let left = report.domain(name)["leftovers"].to_string();
    assert!(
        left.contains("internal snapshot mine") && left.contains("virsh snapshot-delete isnap-kept mine"),
        "{left}"
    );
    scene.guest.write("vda", 0x42, 1 << 20, 65536);
    scene.recovery_refuses("internal snapshot mine");
    goes_back(&scene);
}

#[test]
fn internal_snapshot_of_an_operator_right_before_the_commit_is_kept() {
    let name = "isnap-late";
    let scene = Scene::new(name);
    scene.guest.write("vda", 0x41, 1 << 20, 65536);
    let mut command = scene.program.command();
    let held = steps::hold(command.args(["backup", "--json"]), Step::CommitBegin.into(), &scene.lab.path("held"));
    virsh(&["snapshot-create-as", name, "mine"]);
    let ran = Ran::from(held.finish());
    assert!(ran.code == 7 && ran.stdout.contains("virsh snapshot-delete isnap-late mine"), "{ran:#?}");
    assert!(ran.stdout.contains("may be in the snapshot"), "{ran:#?}");
    scene.guest.write("vda", 0x42, 1 << 20, 65536);
    goes_back(&scene);
}

#[test]
fn kill_before_the_commit_of_an_overlay_with_a_snapshot_ends_loses_nothing() {
    let name = "isnap-killed";
    let scene = Scene::new(name);
    let mut command = scene.program.command();
    let [held, killed] = [scene.lab.path("held"), scene.lab.path("killed")];
    let faults = format!("CommitBegin:hold={};{:?}:hold={}", held.display(), CANCEL[0], killed.display());
    let mut run = command.arg("backup").env("KVMBACKUP_FAULT", faults).spawn().unwrap();
    wait_until(DEADLINE, "the commit to begin", || held.exists());
    virsh(&["snapshot-create-as", name, "mine"]);
    scene.guest.write("vda", 0x45, 1 << 20, 65536);
    fs::remove_file(&held).unwrap();
    wait_until(DEADLINE, "the commit to be ended", || killed.exists());
    run.kill().unwrap();
    run.wait().unwrap();
    let said = scene.recovery_refuses("internal snapshot mine");
    assert!(said.contains("virsh snapshot-delete isnap-killed mine"), "{said}");
    virsh(&["snapshot-delete", name, "mine"]);
    scene.recover();
    scene.guest.assert_holds("vda", 0x45, 1 << 20, 65536);
}
