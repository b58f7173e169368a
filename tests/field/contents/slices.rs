//! A disk that is only a part of its file, or that hides parts of it: the archive contains exactly what the guest sees,
//! or nothing.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::lab::{Disk, Lab, Program, assert_same, qemu_img, run};

const MIB: u64 = 1 << 20;

/// A container file with the guest's disk in the middle, and the contents of that middle.
fn container(lab: &Lab) -> (PathBuf, PathBuf) {
    let [container, truth] = ["pieces/container.img", "truth.raw"].map(|name| lab.path(name));
    std::fs::create_dir(container.parent().unwrap()).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    std::fs::File::create(&container).unwrap().set_len(36 * MIB).unwrap();
    let writes = ["write -P 0xee 0 1M", "write -P 0x11 1M 2M", "write -P 0x22 30M 1M", "write -P 0xdd 33M 3M"];
    run("qemu-io", &[&["-f", "raw"], &writes.map(|write| ["-c", write]).concat()[..], &[&text(&container)]].concat());
    run(
        "dd",
        &[
            &format!("if={}", text(&container)),
            &format!("of={}", text(&truth)),
            "bs=1M",
            "skip=1",
            "count=32",
            "status=none",
        ],
    );
    (container, truth)
}

fn slice(container: &Path) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'><slices>\
         <slice type='storage' offset='1048576' size='33554432'/></slices></source>\
         <target dev='vdb' bus='virtio'/></disk>",
        container.display()
    )
}

#[test]
fn slice_of_a_file_is_pulled_from_a_running_guest() {
    let lab = Lab::new();
    let (container, truth) = container(&lab);
    let guest = lab.guest("slice-runs").disk(Disk::qcow2("vda")).devices(&slice(&container)).paused();
    let definition = guest.inactive_xml();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let report = program.backup_well();
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["method"], &outcome["outcome"]), (&json!("pull"), &json!("success")), "{outcome:#}");
    assert!(outcome["method_reason"].as_str().unwrap().contains("disk vdb is defined with <slices>"), "{outcome:#}");
    assert_same(&truth, "raw", &program.unpack(&report, guest.name()).disk("vdb"), "qcow2");
    assert_eq!(guest.inactive_xml(), definition);
    program.assert_no_leftovers(&guest);

    let to = lab.path("copy");
    let restore = ["restore", guest.name(), "--define", "--name", "slice-copy", "--to", to.to_str().unwrap()];
    let ran = program.run(&restore);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let copy = lab.adopt("slice-copy");
    assert!(!copy.inactive_xml().contains("slice "), "the image of the copy is a whole disk: {}", copy.inactive_xml());
    assert_same(&truth, "raw", &copy.disk_source("vdb").unwrap(), "raw");
}

/// `<backingStore/>` ends the chain: the guest does not see the file that the image header names.
#[test]
fn chain_is_not_read_beyond_its_end_in_the_definition() {
    let lab = Lab::new();
    let [base, image] = ["cut/base.qcow2", "cut/image.qcow2"].map(|name| lab.path(name));
    std::fs::create_dir(base.parent().unwrap()).unwrap();
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    qemu_img(&["create", "-q", "-f", "qcow2", &text(&base), "8M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x66 0 1M", &text(&base)]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", &text(&base), "-F", "qcow2", &text(&image)]);
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/><backingStore/>\
         <target dev='vda' bus='virtio'/></disk>",
        image.display()
    );
    let guest = lab.guest("chain-cut").devices(&disk).define();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let zeros = lab.path("zeros");
    std::fs::File::create(&zeros).unwrap().set_len(8 * MIB).unwrap();
    for _ in 0..2 {
        let report = program.backup_well();
        assert_same(&zeros, "raw", &program.unpack(&report, guest.name()).disk("vda"), "qcow2");
        if guest.state() == "shut off" {
            guest.start_paused();
        }
    }
    assert_eq!(program.backup_well().domain(guest.name())["method"], "snapshot");
}

#[test]
fn slice_of_a_file_is_missing_and_named_without_a_running_qemu() {
    let lab = Lab::new();
    let (container, _) = container(&lab);
    let guest = lab.guest("slice-off").disk(Disk::qcow2("vda")).devices(&slice(&container)).define();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let report = program.backup();
    assert_eq!(report.domain(guest.name())["outcome"], "partial", "{report:#?}");
    assert_eq!(report.disks(guest.name()), ["vda"]);
    let missed = report.skipped(guest.name(), "vdb");
    assert_eq!(missed["missed"], true);
    assert!(missed["reason"].as_str().unwrap().contains("<slices>"), "{missed:#}");
    assert!(missed["hint"].as_str().unwrap().contains("while the domain runs"), "{missed:#}");
    let check = program.run(&["check"]);
    assert!(check.stdout.contains("disk vdb cannot be backed up: defined with <slices>"), "{check:#?}");
    // A snapshot could not read it either, so the report names the method that can.
    guest.start_paused();
    let report = program.domain(guest.name(), json!({"method": "snapshot"})).backup();
    let missed = report.skipped(guest.name(), "vdb");
    assert!(missed["hint"].as_str().unwrap().contains("method: pull"), "{missed:#}");
}
