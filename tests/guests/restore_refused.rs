//! Restores that are refused and change nothing: over domains that exist, run or are saved, on file systems without
//! space, and over images below an overlay.

use crate::lab;
use std::path::PathBuf;
use std::process::Stdio;

use crate::lab::{Call, Contents, Disk, Gate, Guest, Lab, Program, run, sha256, virsh};
use serde_json::json;

/// A paused guest with one restore point, and the contents of its disk at that time.
fn saved(lab: &Lab, name: &str) -> (Guest, Contents, Program) {
    let guest = lab.guest(name).disk(Disk::qcow2("vda").size("8M")).paused();
    guest.write("vda", 0x33, 1 << 20, 65536);
    let contents = Contents::of(lab, &guest, &["vda"]);
    let program = Program::new(lab).domain(guest.name(), json!({}));
    program.backup_well();
    (guest, contents, program)
}

/// Panics unless a restore with these arguments is refused with this message and leaves the domain as it is.
fn refuses(program: &Program, guest: &Guest, words: &[&str], tells: &[&str]) {
    let image = guest.disk_source("vda").unwrap();
    let before = (guest.state(), guest.inactive_xml(), sha256(&image));
    let ran = program.run(&[&["restore", guest.name()], words].concat());
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert!(tells.iter().all(|text| ran.stderr.contains(text)), "{tells:?} is missing: {ran:#?}");
    assert_eq!((guest.state(), guest.inactive_xml(), sha256(&image)), before);
    program.assert_no_leftovers(guest);
}

#[test]
fn restore_over_a_domain_that_exists_runs_or_is_saved_is_refused() {
    let lab = Lab::new();
    let (guest, contents, program) = saved(&lab, "there");
    guest.write("vda", 0x44, 2 << 20, 65536);
    let in_place = ["--define", "--overwrite"];
    let elsewhere = lab.path("elsewhere");
    let to_elsewhere = [&in_place[..], &["--to", elsewhere.to_str().unwrap()]].concat();
    refuses(&program, &guest, &["--define"], &["the domain there already exists and is running", "--name NEW"]);
    refuses(&program, &guest, &in_place, &["the domain there already exists and is running", "virsh shutdown"]);
    virsh(&["managedsave", guest.name()]);
    refuses(&program, &guest, &in_place, &["has a saved state", "virsh managedsave-remove"]);
    refuses(&program, &guest, &to_elsewhere, &["has a saved state"]);
    assert!(
        virsh(&["dominfo", guest.name()]).lines().any(|line| line.starts_with("Managed save:") && line.contains("yes"))
    );
    virsh(&["managedsave-remove", guest.name()]);
    refuses(&program, &guest, &["--define"], &["the domain there already exists", "--overwrite"]);
    assert!(!elsewhere.exists());

    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    contents.assert_still_on(&guest);
    program.assert_no_leftovers(&guest);
}

/// A tmpfs, unmounted when this is dropped. The lab has its own mounts.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(path: PathBuf, size: &str) -> Tmpfs {
        std::fs::create_dir(&path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", path.to_str().unwrap()]);
        Tmpfs(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = lab::try_run("umount", &[&self.0]);
    }
}

#[test]
fn restore_without_enough_space_is_refused_before_anything_is_written() {
    let lab = Lab::new();
    let guest = lab.guest("no room").disk(Disk::qcow2("vda").size("8M")).disk(Disk::raw("vdb").size("8M")).paused();
    guest.write("vda", 0x33, 0, 2 << 20);
    guest.write("vdb", 0x34, 0, 2 << 20);
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    // Each disk fits by itself.
    let small = Tmpfs::new(lab.path("small"), "3M");
    let to = small.0.join("new");
    for words in [&["--to", to.to_str().unwrap()][..], &["--define", "--name", "never", "--to", to.to_str().unwrap()]] {
        refuses(&program, &guest, words, &["needs ", "Free space"]);
        // Running out of space during the restore would give another error, which names the file.
        assert_eq!(std::fs::read_dir(&small.0).unwrap().count(), 0);
    }
    assert!(lab::try_virsh(&["domuuid", "never"]).is_err());
    let salvage = &["--salvage", "--to", to.to_str().unwrap()][..];
    refuses(&program, &guest, salvage, &["needs ", "Free space"]);
    assert_eq!(std::fs::read_dir(&small.0).unwrap().count(), 0);
    let enough = Tmpfs::new(lab.path("enough"), "32M");
    let ran = program.run(&["restore", guest.name(), "--to", enough.0.join("to").to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:#?}");
}

/// A guest on an overlay that a killed backup has left, with an earlier restore point.
fn interrupted(lab: &Lab, name: &str) -> (Guest, Contents, Program) {
    let (guest, contents, _) = saved(lab, name);
    let gate = Gate::new(lab);
    let program = Program::new(lab).set("libvirt_uri", json!(gate.uri())).domain(name, json!({"method": "snapshot"}));
    gate.hold(Call::Commit);
    let mut backup = program.command().args(["backup", "--force"]).stdout(Stdio::null()).spawn().unwrap();
    gate.wait(&mut backup);
    gate.kill(&mut backup);
    guest.write("vda", 0x55, 3 << 20, 65536);
    assert!(is_on_overlay(&guest));
    (guest, contents, program)
}

fn is_on_overlay(guest: &Guest) -> bool {
    guest.live_xml().contains(".kvmbackup-")
}

#[test]
fn restore_over_a_domain_is_refused_until_an_interrupted_run_is_recovered() {
    let lab = Lab::new();
    let (guest, contents, program) = interrupted(&lab, "unsettled");
    guest.destroy();
    let files = lab.path("files");
    let ran = program.run(&["restore", guest.name(), "--to", files.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(is_on_overlay(&guest), "restoring files into a directory must not touch a guest");

    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.stdout.starts_with("recovered: unsettled: "), "{ran:#?}");
    contents.assert_still_on(&guest);
    program.assert_no_leftovers(&guest);
    guest.start_paused();
}

#[test]
fn image_below_an_overlay_that_recovery_must_leave_is_not_replaced() {
    let lab = Lab::new();
    let (guest, contents, program) = interrupted(&lab, "unsettleable");
    let overlay = guest.disk_source("vda").unwrap();
    let base = overlay.parent().unwrap().join("vda.qcow2");
    // The saved state names the overlay.
    virsh(&["managedsave", guest.name()]);
    let before = [sha256(&overlay), sha256(&base)];
    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert!(ran.stderr.contains(overlay.to_str().unwrap()) && ran.stderr.contains("lab recover"), "{ran:#?}");
    assert_eq!([sha256(&overlay), sha256(&base)], before);

    let to = lab.path("copies");
    let copied = ["--define", "--name", "beside it", "--to", to.to_str().unwrap()];
    let ran = program.run(&[&["restore", guest.name()], &copied[..]].concat());
    assert_eq!(ran.code, 7, "a copy is good, and leftovers are reported: {ran:#?}");
    let copy = lab.adopt("beside it");
    contents.assert_still_on(&copy);
    assert_eq!([sha256(&overlay), sha256(&base)], before);

    virsh(&["start", guest.name()]);
    // QEMU 10 commits nothing of a guest that has been paused since it was restored.
    virsh(&["resume", guest.name()]);
    guest.assert_holds("vda", 0x55, 3 << 20, 65536);
    assert_eq!(program.run(&["recover"]).code, 0);
    program.assert_no_leftovers(&guest);
}
