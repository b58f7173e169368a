//! Files and devices that another guest or a program uses are not overwritten, whether the guest is running or not.

use std::path::Path;

use serde_json::json;

use crate::lab::{Disk, Guest, Lab, LoopDevice, Program, qemu_img, run, sha256, try_virsh, virsh};

/// A restore with these arguments is refused and names all of these.
fn refuses(program: &Program, words: &[&str], tells: &[&str]) {
    let ran = program.run(&[&["restore"], words].concat());
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert!(tells.iter().all(|text| ran.stderr.contains(text)), "{tells:?} is missing: {ran:#?}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Whether a device or raw file begins with 1 MiB of this byte.
fn begins_with(path: &Path, byte: u8) -> bool {
    let read = run("qemu-io", &["-r", "-U", "-f", "raw", "-c", &format!("read -P {byte:#x} 0 1M"), text(path)]);
    !read.contains("Pattern verification failed")
}

#[test]
fn restore_refuses_a_device_of_a_running_guest() {
    let lab = Lab::new();
    let guest = lab.guest("restore-device-runs").disk(Disk::block("vda").size("8M")).paused();
    guest.write("vda", 0x11, 0, 1 << 20);
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    guest.write("vda", 0x99, 0, 1 << 20);
    let device = guest.disk_source("vda").unwrap();
    let into_device = format!("vda={}", device.display());
    let name = guest.name();
    let running = ["in use by domain restore-device-runs (disk vda)", "virsh shutdown"];
    refuses(&program, &[name, "--disk", &into_device], &running);
    refuses(&program, &[name, "--define", "--name", "restore-device-copy", "--disk", &into_device], &running);
    assert!(begins_with(&device, 0x99), "the device was written");

    // A copy would share the device with a guest that is off.
    guest.destroy();
    let off = ["in use by domain restore-device-runs (disk vda)", "--to DIR"];
    refuses(&program, &[name, "--define", "--name", "restore-device-copy", "--disk", &into_device], &off);
    assert!(begins_with(&device, 0x99), "the device was written");
    assert!(try_virsh(&["domuuid", "restore-device-copy"]).is_err(), "the copy was defined");

    // Its own guest is off, and nothing else uses it.
    let ran = program.run(&["restore", name, "--disk", &into_device]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(begins_with(&device, 0x11));
}

#[test]
fn restore_refuses_images_below_those_of_other_guests() {
    let lab = Lab::new();
    let template = lab.guest("restore-template").disk(Disk::qcow2("vda").size("8M")).define();
    template.write_while_off("vda", 0x11, 0, 65536);
    let program = Program::new(&lab).domain(template.name(), json!({}));
    program.backup_well();
    template.write_while_off("vda", 0x55, 0, 65536);
    let image = template.disk_source("vda").unwrap();
    let before = sha256(&image);
    let clone = lab.guest("restore-clone").disk(Disk::qcow2("vda").backing(&image)).define();
    let name = template.name();
    let based = ["restore-clone (backing file of disk vda)", "--to DIR"];
    let folder = text(image.parent().unwrap());
    let in_place = [name, "--define", "--overwrite"];
    let file = [name, "--disk", "vda", "--to", folder, "--overwrite"];
    refuses(&program, &in_place, &based);
    refuses(&program, &file, &based);
    clone.start_paused();
    refuses(&program, &in_place, &["restore-clone", "virsh shutdown restore-clone"]);
    assert_eq!(sha256(&image), before);
    clone.assert_holds("vda", 0x55, 0, 65536);

    // The hint: an image of its own.
    clone.destroy();
    let top = clone.disk_source("vda").unwrap();
    let flat = top.with_extension("flat");
    qemu_img(&["convert", "-O", "qcow2", text(&top), text(&flat)]);
    std::fs::rename(&flat, &top).unwrap();
    let ran = program.run(&["restore", name, "--define", "--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    template.assert_holds("vda", 0x11, 0, 65536);
    clone.assert_holds("vda", 0x55, 0, 65536);
}

#[test]
fn restore_refuses_the_disk_of_another_guest() {
    let lab = Lab::new();
    let guest = lab.guest("restore-shares-1").disk(Disk::raw("vda").size("4M").shareable()).define();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    let image = guest.disk_source("vda").unwrap();
    let other: Guest = lab.guest("restore-shares-2").disk(Disk::raw("vdb").file(&image).shareable()).define();
    let tells = ["in use by domain restore-shares-2 (disk vdb)", "virsh undefine restore-shares-2"];
    refuses(&program, &[guest.name(), "--define", "--overwrite"], &tells);
    virsh(&["undefine", other.name()]);
    let ran = program.run(&["restore", guest.name(), "--define", "--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    guest.start_paused();
}

#[test]
fn restore_refuses_a_file_that_a_loop_device_is_on() {
    let lab = Lab::new();
    let guest = lab.guest("restore-loop").disk(Disk::raw("vda").size("4M")).define();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    let device = LoopDevice::attach(&guest.disk_source("vda").unwrap());
    let detach = format!("losetup -d {}", device.path().display());
    refuses(&program, &[guest.name(), "--define", "--overwrite"], &["loop device /dev/loop", &detach]);
}

#[test]
fn restore_reports_if_libvirt_cannot_be_asked_who_uses_a_file() {
    let lab = Lab::new();
    let guest = lab.guest("restore-unasked").disk(Disk::raw("vda").size("4M")).define();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    program.backup_well();
    let program = program.set("libvirt_uri", json!("qemu+unix:///system?socket=/run/nowhere"));
    let to = lab.path("files");
    let words = ["restore", guest.name(), "--to", text(&to), "--overwrite"];
    for is_told in [false, true] {
        let ran = program.run(&words);
        assert_eq!(ran.code, 0, "{ran:#?}");
        assert_eq!(ran.stdout.contains("cannot ask libvirt whether a guest"), is_told, "{ran:#?}");
    }
}
