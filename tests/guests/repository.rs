//! Running guests whose restore points are in a repository: with either method, killed at any moment, restored by
//! kvmbackup and by restic.

use std::path::Path;

use crate::lab::{Disk, Guest, Lab, Program, by_each_method, qemu_img};
use crate::steps;
use kvmbackup::sys::step::Step;
use serde_json::json;

by_each_method! {
    running_guest_is_saved_in_a_repository_and_restored_with_and_without_kvmbackup
    run_killed_while_it_writes_to_a_repository_costs_nothing
}

fn guest(lab: &Lab, name: &str) -> Guest {
    let guest = lab.guest(name).disk(Disk::qcow2("vda")).disk(Disk::raw("vdb")).paused();
    for target in ["vda", "vdb"] {
        guest.write(target, 0x11, 1 << 20, 3 << 20);
    }
    guest
}

/// Panics unless the newest point contains the disks as they are, for kvmbackup and for restic.
fn assert_saved(lab: &Lab, program: &Program, guest: &Guest) {
    let to = |name: &str| lab.path(name).to_str().unwrap().to_owned();
    let ran = program.run(&["restore", guest.name(), "--to", &to("restored")]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    program.restic(&["restore", "latest", "--host", guest.name(), "--target", &to("by-restic")]);
    for (target, format) in [("vda", "qcow2"), ("vdb", "raw")] {
        let contents = lab.path("contents");
        guest.copy_contents(target, &contents);
        let file = guest.disk_source(target).unwrap();
        let restored = lab.path("restored").join(file.file_name().unwrap());
        let raw = lab.path("by-restic").join(guest.name()).join(format!("disks/{target}.raw"));
        let same = |image: &Path, format: &str| {
            let paths = [&contents, image].map(|path: &Path| path.to_str().unwrap());
            qemu_img(&["compare", "-f", "raw", "-F", format, paths[0], paths[1]]);
        };
        same(&restored, format);
        same(&raw, "raw");
        std::fs::remove_file(contents).unwrap();
    }
    for name in ["restored", "by-restic"] {
        std::fs::remove_dir_all(lab.path(name)).unwrap();
    }
}

fn running_guest_is_saved_in_a_repository_and_restored_with_and_without_kvmbackup(method: &str) {
    let lab = Lab::new();
    let guest = guest(&lab, &format!("repository-{method}"));
    let program = Program::new(&lab).domain(guest.name(), json!({"method": method})).in_repository();
    program.backup_well();
    assert_saved(&lab, &program, &guest);
    guest.write("vda", 0x22, 2 << 20, 65536);
    let report = program.backup_well();
    let outcome = report.domain(guest.name());
    // Only what changed is stored.
    assert!(outcome["stored_bytes"].as_u64().unwrap() < 100_000, "{outcome:#}");
    assert_saved(&lab, &program, &guest);
    program.restic(&["check", "--read-data"]);
    program.assert_no_leftovers(&guest);
}

#[test]
fn running_guest_is_read_once_for_both_stores() {
    let lab = Lab::new();
    let guest = lab.guest("both-stores").disk(Disk::qcow2("vda")).paused();
    guest.write("vda", 0x11, 1 << 20, 3 << 20);
    let archives = lab.path("archives");
    let program = Program::new(&lab).domain(guest.name(), json!({})).in_repository();
    let program = program.set("backupdir", json!(archives)).set("store", json!("both"));
    program.backup_well();
    guest.write("vda", 0x22, 2 << 20, 65536);
    let report = program.backup_well();
    let disk = &report.domain(guest.name())["disks"][0];
    assert_eq!(disk["changed_bytes"], 65536, "{disk:#}");
    let contents = lab.path("contents");
    guest.copy_contents("vda", &contents);
    for store in ["archive", "repository"] {
        let to = lab.path(store);
        let ran = program.run(&["restore", guest.name(), "--store", store, "--to", to.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        let image = to.join(guest.disk_source("vda").unwrap().file_name().unwrap());
        qemu_img(&["compare", "-f", "raw", "-F", "qcow2", contents.to_str().unwrap(), image.to_str().unwrap()]);
    }
    program.assert_no_leftovers(&guest);
}

fn run_killed_while_it_writes_to_a_repository_costs_nothing(method: &str) {
    let lab = Lab::new();
    let guest = guest(&lab, &format!("repository-killed-{method}"));
    let program = Program::new(&lab).domain(guest.name(), json!({"method": method})).in_repository();
    program.backup_well();
    for step in [Step::DiskRead, Step::ArchiveEnd] {
        guest.write("vdb", 0x33, 5 << 20, 65536);
        steps::kill(program.command().arg("backup"), step.into());
        let recovered = program.run(&["recover"]);
        assert_eq!(recovered.code, 0, "{step:?}: {recovered:#?}");
        program.assert_no_leftovers(&guest);
    }
    program.backup_well();
    assert_saved(&lab, &program, &guest);
    // The lock of the killed runs is gone: restic takes an exclusive one.
    program.restic(&["prune"]);
    program.restic(&["check", "--read-data"]);
    let listed = program.run(&["list", "--json"]);
    assert!(listed.stdout.matches("\"id\"").count() == 2, "{listed:#?}");
}
