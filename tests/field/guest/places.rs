//! Guests whose resources could be confused with those of others, and directories with long paths.

use std::fs;

use kvmbackup::sys::step::Step;
use serde_json::json;

use crate::lab::{DEADLINE, Disk, Host, Lab, Program, Ran, Report, by_each_method, run, save_exactly, wait_until};
use crate::steps;

by_each_method! {
    state_directory_with_a_long_path_works
    libvirt_that_does_not_change_owners_works
}

#[test]
fn guests_with_the_same_uuid_prefix_are_not_confused() {
    let lab = Lab::new();
    let guests = [("alike-1", 0x11), ("alike-2", 0x22)].map(|(name, pattern)| {
        let uuid = format!("<uuid>2f5a1c3e-7b9d-4e21-8a5c-0123456789{pattern:x}</uuid>");
        let guest = lab.guest(name).elements(&uuid).disk(Disk::raw("vda")).paused();
        guest.write("vda", pattern, 1 << 20, 65536);
        (guest, pattern)
    });
    let program = guests.iter().fold(Program::new(&lab), |program, (guest, _)| program.domain(guest.name(), json!({})));
    let program = program.set("parallel", json!(2));
    let mut command = program.command();
    // One pauses between its server's start and the first connection, while the other reads.
    let held = steps::hold(command.args(["backup", "--json"]), Step::ServerStarted.into(), &lab.path("held"));
    wait_until(DEADLINE, "the other guest's archive", || {
        program.backups().exists()
            && run("find", &[program.backups().to_str().unwrap(), "-name", "*.tar.zst"]).lines().count() == 1
    });
    let report = Report::from(Ran::from(held.finish()));
    assert_eq!(report.ran.code, 0, "{report:#?}");
    for (guest, pattern) in &guests {
        let archive = program.unpack(&report, guest.name());
        let read = format!("read -P {pattern} 1M 64k");
        let read = run("qemu-io", &["-r", "-f", "qcow2", "-c", &read, archive.disk("vda").to_str().unwrap()]);
        assert!(read.contains("read 65536/65536") && !read.contains("verification failed"), "{}: {read}", guest.name());
        program.assert_no_leftovers(guest);
    }
}

fn state_directory_with_a_long_path_works(method: &str) {
    let lab = Lab::new();
    let guest = lab.guest(&format!("long-state-{method}")).disk(Disk::qcow2("vda")).paused();
    guest.write("vda", 0x33, 1 << 20, 65536);
    let state = lab.path(&"s".repeat(150));
    let program = Program::new(&lab).set("state_dir", json!(state)).domain(guest.name(), json!({"method": method}));
    let report = program.backup_well();
    program.unpack(&report, guest.name());
    guest.assert_no_leftovers();
    assert_eq!(fs::read_dir(state.join("sockets")).map_or(0, |sockets| sockets.count()), 0);
    assert_eq!(fs::read_dir(state.join("journal")).unwrap().count(), 0);
}

fn libvirt_that_does_not_change_owners_works(method: &str) {
    let lab = Lab::new();
    let host = Host::with(&lab, "dynamic_ownership = 0");
    host.on(|| {
        let guest = lab.guest(&format!("owned-{method}")).disk(Disk::qcow2("vda")).disk(Disk::raw("sda")).define();
        for target in ["vda", "sda"] {
            let image = guest.disk_source(target).unwrap();
            run("chown", &["libvirt-qemu:kvm".as_ref(), image.as_os_str()]);
            run("chmod", &["600".as_ref(), image.as_os_str()]);
        }
        guest.start_paused();
        let keys = json!({"method": method, "compression": "none"});
        save_exactly(&lab, &guest, keys, &["vda", "sda"]).program.assert_no_leftovers(&guest);
    });
}

#[test]
fn guest_that_is_off_is_not_read_while_another_guest_writes_to_its_image() {
    let lab = Lab::new();
    let image = lab.path("shared.raw");
    let user = lab.guest("uses-the-image").disk(Disk::raw("vda").file(&image)).paused();
    let off = lab.guest("has-the-image-too").disk(Disk::raw("vda").file(&image)).define();
    let program = Program::new(&lab).domain(off.name(), json!({}));
    let report = program.backup();
    assert_eq!(report.ran.code, 1, "{report:#?}");
    let error = report.domain(off.name())["error"].to_string();
    assert!(error.contains("the running guest uses-the-image") && error.contains("lab backup --force"), "{error}");
    user.destroy();
    let report = program.backup_well();
    assert_eq!(report.domain(off.name())["consistency"], "offline");
}

#[test]
fn guest_that_is_off_is_read_while_another_guest_only_reads_its_image() {
    let lab = Lab::new();
    let image = lab.path("shared.raw");
    let _user = lab.guest("reads-the-image").disk(Disk::raw("vda").file(&image).readonly()).paused();
    let off = lab.guest("has-the-image").disk(Disk::raw("vda").file(&image)).define();
    let report = Program::new(&lab).domain(off.name(), json!({})).backup_well();
    assert_eq!(report.domain(off.name())["consistency"], "offline");
}
