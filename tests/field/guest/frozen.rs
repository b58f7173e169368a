//! Guests that another program has frozen, or does a job on.

use kvmbackup::sys::step::Step;
use serde_json::{Value, json};

use crate::lab::{Disk, Lab, Program, Ran, Report, virsh};
use crate::steps;

#[test]
fn a_freeze_of_another_program_is_used_and_left_as_it_is() {
    let lab = Lab::new();
    let guest = lab.guest("frozen-by-another").disk(Disk::qcow2("vda")).system("").boot();
    let program = Program::new(&lab).domain(guest.name(), json!({"method": "snapshot", "quiesce": "require"}));
    virsh(&["domfsfreeze", guest.name()]);
    let report = program.backup_well();
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["consistency"], &outcome["frozen_ms"]), (&json!("filesystem"), &Value::Null), "{outcome:#}");
    assert!(outcome["warnings"].to_string().contains("virsh domfsthaw"), "{outcome:#}");
    assert!(guest.is_frozen(), "it was not ours to thaw");

    // Thawed before we could see that it lasted.
    let program = program.domain(guest.name(), json!({"method": "snapshot", "quiesce": "prefer"}));
    let mut command = program.command();
    let held = steps::hold(command.args(["backup", "--json"]), Step::SnapshotTaken.into(), &lab.path("held"));
    virsh(&["domfsthaw", guest.name()]);
    let report = Report::from(Ran::from(held.finish()));
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["outcome"], &outcome["consistency"]), (&json!("success"), &json!("crash")), "{outcome:#}");
    assert!(outcome["warnings"].to_string().contains("only crash-consistent"), "{outcome:#}");
    program.assert_no_leftovers(&guest);
}

#[test]
fn a_guest_that_libvirt_does_another_job_on_is_not_frozen() {
    let lab = Lab::new();
    let guest = lab.guest("busy-running").disk(Disk::qcow2("vda")).system("").boot();
    let program = Program::new(&lab).domain(guest.name(), json!({"quiesce": "require"}));
    guest.begin_pull_of_another(&lab);
    let mut command = program.command();
    let output = command.args(["backup", "--json"]).env("KVMBACKUP_LOG", "kvmbackup::sys::step=debug").output();
    let report = Report::from(Ran::from(output.unwrap()));
    assert_eq!(report.ran.code, 1, "{report:#?}");
    let error = report.domain(guest.name())["error"].to_string();
    assert!(error.contains("another job of the domain: backup"), "{error}");
    assert!(!report.ran.stderr.contains("Freeze"), "{report:#?}");

    // The hint is right.
    assert!(error.contains("virsh domjobabort DOMAIN"), "{error}");
    virsh(&["domjobabort", guest.name()]);
    program.backup_well();
    program.assert_no_leftovers(&guest);
}

#[test]
fn a_job_that_begins_before_the_freeze_is_waited_for() {
    let lab = Lab::new();
    let guest = lab.guest("busy-late").disk(Disk::qcow2("vda")).paused();
    let program = Program::new(&lab).domain(guest.name(), json!({"method": "snapshot"}));
    let mut command = program.command();
    let held = steps::hold(command.args(["backup", "--json"]), Step::OverlayCreate.into(), &lab.path("held"));
    guest.begin_pull_of_another(&lab);
    let run = held.go_on();
    virsh(&["domjobabort", guest.name()]);
    let report = Report::from(Ran::from(run.wait_with_output().unwrap()));
    assert_eq!(report.ran.code, 0, "{report:#?}");
    program.assert_no_leftovers(&guest);
}
