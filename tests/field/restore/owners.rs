//! Restored guests start on a host with its default setup, where QEMU and swtpm run as their own users.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::lab::{Disk, Guest, Host, Lab, Program, run, sha256, virsh};

/// The mode, the user and the group of a file, as `stat` prints them.
fn rights(path: &Path) -> String {
    run("stat", &["--format", "%a %U:%G", path.to_str().unwrap()]).trim().to_owned()
}

fn uuid(guest: &Guest) -> String {
    virsh(&["domuuid", guest.name()]).trim().to_owned()
}

fn tpm(guest: &Guest) -> PathBuf {
    Path::new("/var/lib/libvirt/swtpm").join(uuid(guest))
}

fn restores(program: &Program, words: &[&str]) {
    let ran = program.run(&[&["restore"], words].concat());
    assert_eq!(ran.code, 0, "{ran:#?}");
}

#[test]
fn copy_in_a_new_directory_starts() {
    let lab = Lab::new();
    let guest = lab.guest("restore-readme").disk(Disk::qcow2("vda").size("8M")).uefi().paused();
    guest.write("vda", 0x21, 0, 65536);
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    let to = lab.path("new/copy");
    let words = ["--define", "--name", "restore-readme-copy", "--to", to.to_str().unwrap(), "--start"];
    restores(&program, &[&[guest.name()], &words[..]].concat());
    let copy = lab.adopt("restore-readme-copy");
    assert_eq!(copy.state(), "running");
    copy.assert_holds("vda", 0x21, 0, 65536);
    assert_eq!([rights(&to), rights(to.parent().unwrap())], ["711 root:root", "711 root:root"]);
    let image = copy.disk_source("vda").unwrap();
    assert_eq!(fs::metadata(&image).unwrap().mode() & 0o7777, 0o600, "others may read the image");

    // Directories with only unused files are not opened to others.
    let files = lab.path("files");
    restores(&program, &[guest.name(), "--to", files.to_str().unwrap()]);
    assert_eq!(rights(&files), "700 root:root");
}

#[test]
fn directory_that_qemu_cannot_enter_is_named_with_the_command_that_allows_it() {
    let lab = Lab::new();
    let guest = lab.guest("restore-barred").disk(Disk::qcow2("vda").size("4M")).define();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    let barred = lab.path("barred");
    fs::create_dir(&barred).unwrap();
    fs::set_permissions(&barred, fs::Permissions::from_mode(0o700)).unwrap();
    let to = barred.join("copy");
    let words = ["restore", guest.name(), "--define", "--name", "restore-barred-copy", "--to", to.to_str().unwrap()];
    let ran = program.run(&words);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let copy = lab.adopt("restore-barred-copy");
    let command = ran.stdout.split_once("to allow it: ").expect("the directory is named").1.lines().next().unwrap();
    run("sh", &["-c", command]);
    copy.start_paused();
}

#[test]
fn guest_with_a_tpm_starts_in_place_and_as_a_copy() {
    let lab = Lab::new();
    let guest = lab.guest("restore-tpm").disk(Disk::qcow2("vda").size("4M")).uefi().tpm().paused();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    guest.destroy();
    let state = |guest: &Guest| tpm(guest).join("tpm2/tpm2-00.permall");
    let before = sha256(&state(&guest));
    let as_libvirt_makes_it = |guest: &Guest| {
        let folder = tpm(guest);
        [folder.clone(), folder.join("tpm2"), state(guest)].map(|path| rights(&path))
    };
    let expected = as_libvirt_makes_it(&guest);
    let as_saved = guest.inactive_xml();

    // Both with other state on the host and without any.
    restores(&program, &[guest.name(), "--define", "--name", "restore-tpm-copy", "--start"]);
    let copy = lab.adopt("restore-tpm-copy");
    assert_eq!((copy.state().as_str(), as_libvirt_makes_it(&copy)), ("running", expected.clone()));
    drop(copy);
    // No definition says then that the images are there.
    let folder = guest.disk_source("vda").unwrap().parent().unwrap().to_str().unwrap().to_owned();
    virsh(&["pool-create-as", guest.name(), "dir", "--target", &folder]);
    virsh(&["undefine", guest.name(), "--nvram"]);
    assert!(!tpm_of(&as_saved).exists(), "libvirt left the state");
    restores(&program, &[guest.name(), "--define", "--overwrite"]);
    assert_eq!((as_libvirt_makes_it(&guest), sha256(&state(&guest))), (expected.clone(), before.clone()));
    guest.start_paused();
    guest.destroy();
    restores(&program, &[guest.name(), "--define", "--overwrite"]);
    assert_eq!((as_libvirt_makes_it(&guest), sha256(&state(&guest))), (expected, before));
    guest.start_paused();
    virsh(&["pool-destroy", guest.name()]);
}

/// The directory of the TPM state of a definition.
fn tpm_of(xml: &str) -> PathBuf {
    let uuid = xml.split_once("<uuid>").unwrap().1.split_once('<').unwrap().0;
    Path::new("/var/lib/libvirt/swtpm").join(uuid)
}

#[test]
fn image_keeps_its_owner_and_mode() {
    let lab = Lab::new();
    let guest = lab.guest("restore-owner").disk(Disk::qcow2("vda").size("4M")).define();
    let image = guest.disk_source("vda").unwrap();
    let own = |mode: u32| {
        chown(&image, Some(1234), Some(4321)).unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(mode)).unwrap();
    };
    let now = || {
        let status = fs::metadata(&image).unwrap();
        (status.uid(), status.gid(), status.mode() & 0o7777)
    };
    own(0o6642);
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let report = program.backup_well();
    let saved = &program.unpack(&report, guest.name()).manifest()["disks"][0]["owner"];
    assert_eq!((&saved["uid"], &saved["gid"]), (&json!(1234), &json!(4321)), "{saved}");

    // As saved, if nothing is in its place; never setuid, never writable for everyone.
    fs::remove_file(&image).unwrap();
    restores(&program, &[guest.name(), "--define", "--overwrite"]);
    assert_eq!(now(), (1234, 4321, 0o640));
    // As the replaced file, with and without a definition.
    own(0o664);
    restores(&program, &[guest.name(), "--define", "--overwrite"]);
    assert_eq!(now(), (1234, 4321, 0o664));
    let folder = image.parent().unwrap().to_str().unwrap();
    restores(&program, &[guest.name(), "--disk", "vda", "--to", folder, "--overwrite"]);
    assert_eq!(now(), (1234, 4321, 0o664));
}

#[test]
fn restored_guest_starts_if_libvirt_does_not_give_images_to_qemu() {
    let lab = Lab::new();
    let host = Host::with(&lab, "dynamic_ownership = 0");
    host.on(|| {
        let guest = lab.guest("restore-static").disk(Disk::qcow2("vda").size("4M")).uefi().define();
        let image = guest.disk_source("vda").unwrap();
        run("chown", &["libvirt-qemu:libvirt-qemu", image.to_str().unwrap()]);
        guest.start_paused();
        guest.destroy();
        let before = rights(&image);
        let program = Program::new(&lab).domain(guest.name(), json!({}));
        program.backup_well();
        restores(&program, &[guest.name(), "--define", "--overwrite", "--start"]);
        assert_eq!((guest.state().as_str(), rights(&image)), ("running", before));
        let to = lab.path("copies");
        let words = ["--define", "--name", "restore-static-copy", "--to", to.to_str().unwrap(), "--start"];
        restores(&program, &[&[guest.name()], &words[..]].concat());
        assert_eq!(lab.adopt("restore-static-copy").state(), "running");
    });
}
