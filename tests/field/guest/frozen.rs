//! Guests that another program has frozen, or on which it runs a job.

use std::process::Command;

use kvmbackup::sys::step::Step;
use serde_json::{Value, json};

use crate::lab::{DEADLINE, Disk, Host, Lab, Program, Ran, Report, Small, try_virsh, virsh, wait_until};
use crate::steps;

#[test]
fn freeze_by_another_program_is_used_and_not_thawed() {
    let lab = Lab::new();
    let guest = lab.guest("frozen-by-another").disk(Disk::qcow2("vda")).system("").boot();
    let program = Program::new(&lab).domain(guest.name(), json!({"method": "snapshot", "quiesce": "require"}));
    virsh(&["domfsfreeze", guest.name()]);
    let report = program.backup_well();
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["consistency"], &outcome["frozen_ms"]), (&json!("filesystem"), &Value::Null), "{outcome:#}");
    assert!(outcome["warnings"].to_string().contains("virsh domfsthaw"), "{outcome:#}");
    assert!(guest.is_frozen(), "the freeze of another program was thawed");

    // Thawed before kvmbackup could see that it lasted.
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
fn guest_in_migration_is_not_frozen() {
    let lab = Lab::new();
    let host = Host::start(&lab);
    let guest = lab.guest("being-migrated").disk(Disk::qcow2("vda")).system("").boot();
    let program = Program::new(&lab).domain(guest.name(), json!({"quiesce": "require"}));
    let filled = guest.agent_exec("dd if=/dev/urandom of=/tmp/fill bs=1M count=60");
    assert_eq!(filled.code, 0, "{filled:?}");
    let mut migration = Command::new("virsh")
        .args(["--quiet", "migrate", "--live", "--unsafe", "--bandwidth", "1", guest.name()])
        .args([&host.uri(), "tcp://127.0.0.1"])
        .spawn()
        .unwrap();
    let job = || try_virsh(&["domjobinfo", guest.name()]).unwrap_or_default();
    wait_until(DEADLINE, "the migration to be under way", || job().contains("Outgoing migration"));
    let mut command = program.command();
    let output = command.args(["backup", "--json"]).env("KVMBACKUP_LOG", "kvmbackup::sys::step=debug").output();
    let report = Report::from(Ran::from(output.unwrap()));
    assert_eq!(report.ran.code, 1, "{report:#?}");
    let error = report.domain(guest.name())["error"].to_string();
    assert!(error.contains("another libvirt job is running on the domain: outgoing migration"), "{error}");
    assert!(!report.ran.stderr.contains("Freeze"), "{report:#?}");

    // The hint works.
    assert!(error.contains("virsh domjobabort being-migrated"), "{error}");
    virsh(&["domjobabort", guest.name()]);
    migration.wait().unwrap();
    program.backup_well();
    program.assert_no_leftovers(&guest);
}

#[test]
fn backup_waits_for_a_job_that_starts_before_the_freeze() {
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

#[test]
fn guest_paused_by_an_io_error_of_another_disk_stays_paused() {
    let lab = Lab::new();
    let small = Small::mount(lab.path("small"), "24M");
    let other = Disk::raw("vdb").file(small.path().join("vdb.raw"));
    let guest = lab.guest("stopped-by-another").disk(Disk::qcow2("vda")).disk(other).system("").boot();
    let keys = json!({"method": "snapshot", "quiesce": "never", "exclude_disks": ["vdb"]});
    let program = Program::new(&lab).domain(guest.name(), keys);
    let mut command = program.command();
    let held = steps::hold(command.args(["backup", "--json"]), Step::DiskRead.into(), &lab.path("held"));
    // The guest does not answer any more after the disk is full.
    let fill = "dd if=/dev/urandom of=/mnt/vdb/fill bs=1M count=50 conv=fsync";
    let write = json!({"path": "/bin/sh", "arg": ["-c", fill]});
    guest.agent("guest-exec", &write);
    let reason = || virsh(&["domstate", "--reason", guest.name()]);
    wait_until(DEADLINE, "the disk to be full", || reason().contains("I/O error"));
    let ran = Ran::from(held.finish());
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(reason().contains("paused (I/O error)"), "{}", reason());
    guest.destroy();
    program.assert_no_leftovers(&guest);
}
