//! Faults reported by operators: hosts with the setup of distributions.

use std::fs;

use serde_json::json;

use crate::chaos::hints;
use crate::lab::{Disk, Host, Lab, Program, Ran, Report, virsh};
use crate::steps;

#[test]
fn guest_migrated_during_the_backup_is_reported_and_the_hint_closes_the_entry() {
    migrated("migrated-away", false);
}

#[test]
fn guest_migrated_with_an_image_above_the_overlay_is_never_started_here() {
    migrated("migrated-covered", true);
}

fn migrated(name: &str, is_covered: bool) {
    let lab = Lab::new();
    let host = Host::start(&lab);
    let guest = lab.guest(name).disk(Disk::qcow2("vda")).paused();
    virsh(&["resume", guest.name()]);
    let keys = json!({"method": "snapshot", "quiesce": "never"});
    let program = Program::new(&lab).domain(guest.name(), keys);
    let mut backup = program.command();
    let step = kvmbackup::sys::step::Step::DiskRead;
    let held = steps::hold(backup.args(["backup", "--json"]), step.into(), &lab.path("held"));
    let defined = lab.path("defined.xml");
    fs::write(&defined, guest.inactive_xml()).unwrap();
    if is_covered {
        let disk = format!("vda,file={}", lab.path("theirs.qcow2").display());
        virsh(&["snapshot-create-as", name, "--no-metadata", "--disk-only", "--diskspec", &disk]);
    }
    virsh(&["migrate", "--live", "--unsafe", guest.name(), &host.uri(), "tcp://127.0.0.1"]);
    host.on(|| guest.write("vda", 0x33, 1 << 20, 65536));
    let report = Report::from(Ran::from(held.finish()));

    assert_eq!(report.ran.code, 7, "{report:#?}");
    let left = &report.domain(guest.name())["leftovers"][0];
    assert!(left["message"].as_str().unwrap().contains("was migrated"), "{report:#?}");
    let commands = hints::commands(left["hint"].as_str().unwrap());
    assert!(commands.len() == 2 && commands[0].starts_with("virsh blockcommit"), "{commands:?}");
    for command in commands {
        let output = host.on(|| hints::run(&command));
        assert!(output.status.success(), "{command}: {output:?}");
    }
    let mut recovered = program.run(&["recover"]);
    if is_covered {
        assert!(recovered.stdout.contains(&format!("virsh edit {name}")), "{recovered:#?}");
        virsh(&["define", defined.to_str().unwrap()]);
        recovered = program.run(&["recover"]);
    }
    assert_eq!(recovered.code, 0, "{recovered:#?}");
    program.assert_no_leftovers(&guest);
    host.on(|| guest.assert_holds("vda", 0x33, 1 << 20, 65536));
}
