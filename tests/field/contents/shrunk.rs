//! A truncated or emptied image is readable without an error. It must not replace a good restore point.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};

use crate::lab::{Disk, Guest, Lab, LoopDevice, Program, Report, next_second, run};

const MIB: u64 = 1 << 20;

fn fill(image: &Path) {
    run("qemu-io", &["-f", "raw", "-c", "write -P 0x5a 1M 80M", image.to_str().unwrap()]);
}

/// The restore points of the only domain, oldest first.
fn points(program: &Program) -> Vec<Value> {
    let list: Value = serde_json::from_str(&program.run(&["list", "--json"]).stdout).unwrap();
    list["points"].as_array().unwrap().clone()
}

/// A backup in a second without other restore points, because they are named by the second.
fn backup(program: &Program, options: &[&str]) -> Report {
    next_second();
    Report::from(program.run(&[&["backup", "--json"], options].concat()))
}

fn program(lab: &Lab, guest: &Guest) -> Program {
    Program::new(lab).domain(guest.name(), json!({"rotate": 1}))
}

#[test]
fn empty_disk_fails_the_backup_and_the_good_point_stays() {
    let lab = Lab::new();
    let guest = lab.guest("emptied").disk(Disk::raw("vda")).disk(Disk::qcow2("vdb")).define();
    let program = program(&lab, &guest);
    assert_eq!(backup(&program, &[]).ran.code, 0);
    let good = points(&program);

    let image = guest.disk_source("vda").unwrap();
    File::options().write(true).open(&image).unwrap().set_len(0).unwrap();
    let report = backup(&program, &[]);
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["outcome"], &outcome["reason"]), (&json!("failed"), &json!("copy")), "{outcome:#}");
    let error = outcome["error"]["message"].as_str().unwrap();
    assert!(error.contains("disk vda: its image is empty (0 bytes)"), "{outcome:#}");
    assert!(outcome["error"]["hint"].is_string(), "{outcome:#}");
    assert_eq!(points(&program), good);
    let check = program.run(&["check"]);
    assert!(check.stdout.contains("disk vda") && check.stdout.contains("is empty"), "{check:#?}");
}

/// Like a detached loop device: size 0, without an error. A really detached one would soon be used by another test.
#[test]
fn empty_block_device_fails_the_backup() {
    let lab = Lab::new();
    let file = lab.path("device.img");
    File::create(&file).unwrap().set_len(8 * MIB).unwrap();
    let device = LoopDevice::attach(&file);
    let disk = format!(
        "<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='{}'/>\
         <target dev='vda' bus='virtio'/></disk>",
        device.path().display()
    );
    let guest = lab.guest("detached").devices(&disk).define();
    let program = program(&lab, &guest);
    assert_eq!(backup(&program, &[]).ran.code, 0);
    File::create(&file).unwrap();
    run("losetup", &[Path::new("--set-capacity"), device.path()]);
    let report = backup(&program, &[]);
    assert_eq!(report.domain(guest.name())["outcome"], "failed", "{report:#?}");
    assert_eq!(points(&program).len(), 1);
}

#[test]
fn disk_that_lost_its_data_causes_a_warning_and_rotation_keeps_the_good_point() {
    let lab = Lab::new();
    let guest = lab.guest("collapsed").disk(Disk::raw("vda").size("128M")).define();
    let image = guest.disk_source("vda").unwrap();
    fill(&image);
    let program = program(&lab, &guest);
    assert_eq!(backup(&program, &[]).ran.code, 0);
    let good = points(&program)[0]["id"].clone();

    for length in [0, 128 * MIB] {
        File::options().write(true).open(&image).unwrap().set_len(length).unwrap();
    }
    // Any number of times, and with either command.
    for _ in 0..2 {
        let report = backup(&program, &[]);
        let outcome = report.domain(guest.name());
        assert_eq!((report.ran.code, &outcome["outcome"]), (0, &json!("success")), "{report:#?}");
        assert_eq!(outcome["disks"][0]["shrunk"], true, "{outcome:#}");
        let warning = &outcome["warnings"][0];
        assert!(warning["message"].as_str().unwrap().contains("disk vda: it holds 0 B of data"), "{warning:#}");
        let hint = warning["hint"].as_str().unwrap();
        assert!(
            hint.contains(&format!("--at {}", good.as_str().unwrap())) && hint.contains("--accept-smaller"),
            "{hint}"
        );
        program.run(&["prune"]);
        let left = points(&program);
        assert_eq!((left.len(), &left[0]["id"]), (2, &good), "{left:#?}");
    }
    let prune = program.run(&["prune", "--dry-run"]).stdout;
    assert!(prune.contains("rotation is on hold"), "{prune}");

    // The hint for one case, then for the other.
    let to = lab.path("restored");
    let restore = ["restore", guest.name(), "--at", good.as_str().unwrap(), "--to", to.to_str().unwrap()];
    assert_eq!(program.run(&restore).code, 0);
    run("qemu-io", &["-f", "raw", "-c", "read -P 0x5a 1M 80M", to.join("vda.raw").to_str().unwrap()]);
    let report = backup(&program, &["--force", guest.name(), "--accept-smaller"]);
    assert_eq!(report.domain(guest.name())["warnings"], json!([]), "{report:#?}");
    assert_eq!(points(&program).len(), 1);
    assert_eq!(backup(&program, &[]).domain(guest.name())["warnings"], json!([]));
}

#[test]
fn smaller_disk_causes_a_warning_until_it_has_its_size_again() {
    let lab = Lab::new();
    let guest = lab.guest("shrank").disk(Disk::raw("vda")).define();
    let image = guest.disk_source("vda").unwrap();
    let program = program(&lab, &guest);
    let resize = |length| File::options().write(true).open(&image).unwrap().set_len(length).unwrap();
    assert_eq!(backup(&program, &[]).ran.code, 0);
    resize(32 * MIB);
    let report = backup(&program, &[]);
    let message = report.domain(guest.name())["warnings"][0]["message"].as_str().unwrap();
    assert!(message.contains("disk vda: its size is") && points(&program).len() == 2, "{report:#?}");
    resize(64 * MIB);
    let report = backup(&program, &[]);
    assert_eq!(report.domain(guest.name())["warnings"], json!([]), "{report:#?}");
    assert_eq!(points(&program).len(), 1);
}
