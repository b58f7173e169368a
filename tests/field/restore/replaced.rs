//! What a restore in place removes, and what it cannot restore, is printed before anything is written.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::lab::{Disk, Lab, Program, Ran, run, virsh};

/// The output before the first line about a restored file.
fn told_before(ran: &Ran) -> &str {
    assert_eq!(ran.code, 0, "{ran:#?}");
    ran.stdout.split_once("\nrestored ").expect("the domain was restored").0
}

#[test]
fn snapshots_and_checkpoints_that_are_lost_with_the_images_are_named() {
    let lab = Lab::new();
    let mut guest = lab.guest("restore-states").disk(Disk::qcow2("vda").size("8M")).paused();
    let snapshot = guest.snapshot_inside("before it");
    virsh(&["checkpoint-create-as", guest.name(), "point"]);
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    guest.take_as_it_is();
    program.backup();
    guest.destroy();
    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    let told = told_before(&ran);
    assert!(told.contains(&format!("snapshot {snapshot} is lost with the replaced images")), "{ran:#?}");
    assert!(told.contains("checkpoint point is lost with the replaced images"), "{ran:#?}");
    // After following the hint, libvirt lists nothing that does not exist.
    for line in told.lines().filter(|line| line.contains("to remove it from libvirt: ")) {
        run("sh", &["-c", line.split_once("from libvirt: ").unwrap().1]);
    }
    for list in ["snapshot-list", "checkpoint-list"] {
        assert_eq!(virsh(&[list, guest.name(), "--name"]).trim(), "");
    }
    guest.start_paused();
}

#[test]
fn image_behind_a_link_is_replaced_at_its_real_path() {
    let lab = Lab::new();
    let real = lab.path("real");
    fs::create_dir(&real).unwrap();
    let images = lab.path("images/restore-link");
    fs::create_dir_all(&images).unwrap();
    let image = real.join("data.qcow2");
    crate::lab::qemu_img(&["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "4M"]);
    let link = images.join("a.qcow2");
    std::os::unix::fs::symlink(&image, &link).unwrap();
    let guest = lab.guest("restore-link").disk(Disk::qcow2("vda").file(&link)).define();
    guest.write_while_off("vda", 0x51, 0, 65536);
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    guest.write_while_off("vda", 0x52, 0, 65536);
    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "the link is gone");
    assert_eq!(guest.disk_source("vda").unwrap(), link);
    guest.assert_holds("vda", 0x51, 0, 65536);
    assert_eq!(fs::read_dir(&real).unwrap().count(), 1);

    // A link that leads to no image is named as the obstacle, and the hint works.
    fs::remove_file(&image).unwrap();
    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert!(ran.code == 1 && ran.stderr.contains("a symbolic link to"), "{ran:#?}");
    assert!(!ran.stderr.contains("--overwrite"), "the hint repeats a step that was already done: {ran:#?}");
    fs::remove_file(&link).unwrap();
    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    guest.assert_holds("vda", 0x51, 0, 65536);
}

#[test]
fn encrypted_disk_that_is_restored_unencrypted_is_reported() {
    let lab = Lab::new();
    let guest = lab.guest("restore-luks").disk(Disk::luks("vda").size("4M")).paused();
    guest.write("vda", 0x61, 0, 65536);
    let program = Program::new(&lab).domain(guest.name(), json!({"allow_plaintext": true}));
    program.backup();
    guest.destroy();
    let listed = program.run(&["list", guest.name()]);
    assert!(listed.stdout.contains("vda: encrypted by QEMU but not encrypted in this restore point"), "{listed:#?}");
    let json = program.run(&["list", guest.name(), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["points"][0]["plaintext"], json!(["vda"]));
    let to = lab.path("files");
    let files = ["restore", guest.name(), "--to", to.to_str().unwrap()];
    let tells = |ran: &Ran, path: &Path| {
        let told = told_before(ran);
        assert!(told.contains("disk vda was encrypted") && told.contains(path.to_str().unwrap()), "{ran:#?}");
    };
    tells(&program.run(&files), &to.join("vda.qcow2"));
    tells(&program.run(&["restore", guest.name(), "--define", "--overwrite"]), &guest.disk_source("vda").unwrap());
    assert!(!guest.inactive_xml().contains("<encryption"));
    guest.start_paused();
    guest.assert_holds("vda", 0x61, 0, 65536);
}
