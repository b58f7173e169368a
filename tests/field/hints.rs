//! Faults reported by operators: a hint that does not solve its problem. Each test creates a situation on a real guest,
//! runs the commands of the hint as printed, and expects that `recover` then leaves nothing.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::guest_back::Scene;
use crate::lab::{DEADLINE, Disk, qemu_img, run, virsh, wait_until};

mod held;

/// The command of a printed hint that starts like this, up to the next sentence; `recover` comes last in every hint.
fn command(said: &str, start: &str) -> String {
    let mut hints =
        said.lines().filter_map(|line| line.split_once("hint: ").map(|(_, hint)| hint.trim_end_matches('"')));
    let hint = hints.next_back().unwrap_or_else(|| panic!("no hint: {said}"));
    assert!(hint.contains("; then: kvmbackup -c ") && hint.ends_with(" recover"), "{hint}");
    let at = hint.find(start).unwrap_or_else(|| panic!("no {start:?} in the hint: {hint}"));
    let command = hint[at..].split("; ").next().unwrap();
    // Text around the command.
    let ends = [" (if libvirt", ", and rm", ", because the commit"];
    let end = ends.iter().filter_map(|end| command.find(end)).min().unwrap_or(command.len());
    command[..end].to_owned()
}

/// Runs it.
fn types(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn killed(name: &str, pattern: u8) -> (Scene, String) {
    let scene = Scene::new(name);
    scene.kill();
    scene.guest.write("vda", pattern, 1 << 20, 65536);
    let overlay = scene.guest.disk_source("vda").unwrap().to_str().unwrap().to_owned();
    (scene, overlay)
}

#[test]
fn external_snapshot_above_the_overlay_is_committed_as_the_hint_says() {
    for off in [false, true] {
        let name = if off { "hint-cover-off" } else { "hint-cover" };
        let (scene, _) = killed(name, 0x11);
        let theirs = scene.lab.path("theirs.qcow2");
        let disk = format!("vda,file={}", theirs.display());
        virsh(&["snapshot-create-as", name, "--no-metadata", "--disk-only", "--diskspec", &disk]);
        scene.guest.write("vda", 0x12, 1 << 20, 65536);
        if off {
            scene.guest.destroy();
        }
        let said = scene.recovery_refuses("theirs.qcow2 over the overlay");
        types(
            &command(&said, if off { "virsh start" } else { "virsh blockcommit" })
                .replace(" and virsh", " --paused && virsh"),
        );
        scene.recover();
        scene.guest.assert_holds("vda", 0x12, 1 << 20, 65536);
    }
}

#[test]
fn overlay_abandoned_for_its_base_is_dropped_or_committed_as_the_hint_says() {
    for (name, pattern, start) in [("hint-drop", 0, "rm "), ("hint-by-hand", 0x21, "qemu-img commit")] {
        let (scene, _) = killed(name, 0x21);
        scene.guest.destroy();
        scene.define(&scene.defined);
        let said = scene.recovery_refuses("names the base");
        types(&command(&said, start));
        scene.recover();
        scene.guest.assert_holds("vda", pattern, 1 << 20, 65536);
    }
}

#[test]
fn overlay_of_a_missing_domain_is_committed_as_the_hint_says() {
    let (scene, _) = killed("hint-gone", 0x31);
    scene.guest.destroy();
    virsh(&["undefine", scene.guest.name()]);
    let said = scene.recovery_refuses("the domain no longer exists");
    types(&command(&said, "qemu-img commit"));
    assert_eq!(scene.program.run(&["recover"]).code, 0);
    scene.define(&scene.defined);
    scene.program.assert_no_leftovers(&scene.guest);
    scene.guest.assert_holds("vda", 0x31, 1 << 20, 65536);
}

#[test]
fn overlay_that_was_committed_and_removed_by_hand_closes_its_entry() {
    // As the hints of earlier versions said, with the definition still naming the overlay.
    let (scene, overlay) = killed("hint-earlier", 0x35);
    scene.guest.destroy();
    qemu_img(&["commit", "-q", "-f", "qcow2", &overlay]);
    fs::remove_file(&overlay).unwrap();
    let said = scene.recover();
    assert!(said.contains("was removed by another program"), "{said}");
    assert_eq!(scene.guest.inactive_xml(), scene.defined);
    scene.guest.assert_holds("vda", 0x35, 1 << 20, 65536);
}

#[test]
fn saved_guest_is_started_or_its_state_dropped_as_the_hint_says() {
    for (name, start) in [("hint-save-start", "virsh start"), ("hint-save-drop", "virsh managedsave-remove")] {
        let (scene, _) = killed(name, 0x41);
        virsh(&["resume", name]);
        virsh(&["managedsave", name]);
        let said = scene.recovery_refuses("may need the overlay");
        types(&command(&said, start));
        scene.recover();
        scene.guest.assert_holds("vda", 0x41, 1 << 20, 65536);
    }
}

/// QEMU 10 commits nothing of a guest that has been paused since it was restored, and starts no pull of it.
#[test]
fn guest_paused_since_it_was_restored_is_saved_or_resumed_as_the_hint_says() {
    for method in ["snapshot", "pull"] {
        let name = format!("hint-inactive-{method}");
        let mut scene = Scene::new(&name);
        scene.program = scene.program.domain(&name, json!({"method": method, "quiesce": "never"}));
        virsh(&["managedsave", &name]);
        virsh(&["start", &name]);
        assert_eq!(scene.guest.state(), "paused");
        let ran = scene.program.run(&["backup"]);
        if ran.code != 0 {
            assert_eq!(ran.code, if method == "pull" { 1 } else { 7 }, "{ran:#?}");
            assert!(ran.stdout.contains("virsh resume "), "{ran:#?}");
            types(&format!("virsh resume {name}"));
            scene.program.backup_well();
        }
        scene.recover();
    }
}

#[test]
fn internal_snapshots_in_the_overlay_are_deleted_as_the_hint_says() {
    for off in [false, true] {
        let name = if off { "hint-isnap-off" } else { "hint-isnap" };
        let (scene, _) = killed(name, 0x51);
        let [first, second] = ["first", "second one"].map(|snapshot| scene.guest.snapshot_inside(snapshot));
        if off {
            scene.guest.destroy();
        }
        let said = scene.recovery_refuses(&format!("internal snapshot {first}, {second}"));
        types(&command(&said, "virsh snapshot-delete"));
        scene.recover();
        scene.guest.assert_holds("vda", 0x51, 1 << 20, 65536);
    }
}

#[test]
fn bitmaps_of_a_stopped_guest_are_kept_by_starting_it_or_dropped_as_the_hint_says() {
    for (name, start) in [("hint-bitmap-start", "virsh start"), ("hint-bitmap-drop", "qemu-img bitmap")] {
        let (scene, _) = killed(name, 0x61);
        virsh(&["checkpoint-create-as", name, "mine"]);
        scene.guest.destroy();
        let said = scene.recovery_refuses("holds the bitmap mine");
        types(&command(&said, start));
        scene.recover();
        scene.guest.assert_holds("vda", 0x61, 1 << 20, 65536);
    }
}

#[test]
fn guest_moved_to_its_committed_overlay_again_is_shut_off_as_the_hint_says() {
    let scene = Scene::new("hint-stale");
    scene.kill();
    let on_overlay = scene.guest.inactive_xml();
    scene.guest.write("vda", 0x71, 1 << 20, 65536);
    scene.kill_at("OverlayRemove", "recover");
    scene.guest.destroy();
    scene.define(&on_overlay);
    scene.guest.start_paused();
    let said = scene.recovery_refuses("was already committed");
    types(&command(&said, "virsh destroy"));
    scene.recover();
    scene.guest.assert_holds("vda", 0x71, 1 << 20, 65536);
}

#[test]
fn block_job_of_an_operator_is_ended_as_the_hint_says() {
    let (scene, _) = killed("hint-copy", 0x81);
    let (name, copy) = (scene.guest.name(), scene.lab.path("copy.qcow2"));
    virsh(&["blockcopy", name, "vda", "--dest", copy.to_str().unwrap(), "--format", "qcow2", "--transient-job"]);
    wait_until(DEADLINE, "the copy to be ready", || scene.guest.live_xml().contains("ready='yes'"));
    let said = scene.recovery_refuses("another block job");
    types(&command(&said, "virsh blockjob"));
    scene.recover();
    scene.guest.assert_holds("vda", 0x81, 1 << 20, 65536);
}

#[test]
fn image_of_another_domain_above_the_overlay_is_moved_to_the_base_as_the_hint_says() {
    let (scene, overlay) = killed("hint-clone", 0x91);
    let clone = scene.lab.guest("hint-clone-of").disk(Disk::qcow2("vda").backing(&overlay)).define();
    let said = scene.recovery_refuses("in use by domain hint-clone-of (backing file of disk vda)");
    types(&command(&said, "qemu-img rebase"));
    scene.recover();
    clone.assert_holds("vda", 0x91, 1 << 20, 65536);
}

#[test]
fn process_with_the_overlay_open_is_ended_as_the_hint_says() {
    let (scene, overlay) = killed("hint-open", 0xa1);
    let mut reader = Command::new("tail").args(["-f", &overlay]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let said = scene.recovery_refuses("in use by process");
    types(&command(&said, "kill "));
    reader.wait().unwrap();
    scene.recover();
    scene.guest.assert_holds("vda", 0xa1, 1 << 20, 65536);
}

#[test]
fn missing_file_system_of_overlays_is_mounted_as_the_hint_says() {
    let name = "hint-mount";
    let scene = Scene::new(name);
    let folder = scene.lab.path("overlays");
    fs::create_dir(&folder).unwrap();
    let keys = json!({"method": "snapshot", "quiesce": "never", "overlay_dir": folder});
    let scene = Scene { program: scene.program.domain(name, keys), ..scene };
    scene.kill();
    scene.guest.write("vda", 0xb1, 1 << 20, 65536);
    scene.guest.destroy();
    let elsewhere = scene.lab.path("elsewhere");
    fs::rename(&folder, &elsewhere).unwrap();
    fs::create_dir(&folder).unwrap();
    let said = scene.recovery_refuses("which does not exist");
    assert_eq!(command(&said, "Mount the"), format!("Mount the file system of {}", folder.display()));
    fs::remove_dir(&folder).unwrap();
    fs::rename(&elsewhere, &folder).unwrap();
    scene.recover();
    scene.guest.assert_holds("vda", 0xb1, 1 << 20, 65536);
}

#[test]
fn definitions_on_the_overlay_and_on_the_base_are_distinguished_as_the_hint_says() {
    let (scene, overlay) = killed("hint-divided", 0xc1);
    let (name, on_overlay) = (scene.guest.name(), scene.guest.inactive_xml());
    scene.guest.destroy();
    scene.define(&scene.defined);
    let (start, end) = on_overlay.split_once("<uuid>").unwrap();
    let other = format!("{start}{}", end.split_once("</uuid>").unwrap().1).replace(name, "hint-divided-other");
    // The directory of the images has the guest's name, too.
    scene.define(&other.replace("images/hint-divided-other", "images/hint-divided"));
    let clone = scene.lab.adopt("hint-divided-other");
    assert!(clone.inactive_xml().contains(&overlay));
    let said = scene.recovery_refuses("hint-divided-other is on the overlay");
    types(&command(&said, "virsh detach-disk"));
    let said = scene.recovery_refuses("names the base");
    types(&command(&said, "qemu-img commit"));
    assert_eq!(scene.program.run(&["recover"]).code, 0);
    scene.guest.assert_holds("vda", 0xc1, 1 << 20, 65536);
    run("test", &["!", "-e", &overlay]);
}
