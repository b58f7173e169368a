//! Domains in a state that a backup must report or must not touch.

use crate::lab::{Contents, DEADLINE, Disk, Guest, Lab, Program, Report, by_each_method, virsh, wait_until};
use serde_json::{Value, json};

by_each_method! {
    disk_with_a_block_job_of_another_program_is_left_alone
    domain_with_a_backup_job_of_another_program_is_left_alone
}

/// A refused domain: it failed with a reason and a hint, and is unchanged.
fn assert_refused(program: &Program, guest: &Guest, why: &str, hint: &str) {
    let before = guest.live_xml();
    let report = program.backup();
    assert_eq!(report.ran.code, 1, "{report:#?}");
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["outcome"], &outcome["frozen_ms"]), (&json!("failed"), &Value::Null), "{report:#?}");
    let error = outcome["error"].to_string();
    assert!(error.contains(why) && error.contains(hint), "{error}");
    assert_eq!(guest.live_xml(), before);
    assert_eq!(std::fs::read_dir(program.state().join("journal")).unwrap().count(), 0);
}

fn disk_with_a_block_job_of_another_program_is_left_alone(method: &str) {
    let lab = Lab::new();
    let guest = lab.guest(&format!("busy-{method}")).disk(Disk::qcow2("vda")).disk(Disk::qcow2("vdb")).paused();
    let program = Program::new(&lab).domain(guest.name(), json!({"method": method}));
    let copy = lab.path("copy.qcow2");
    // A mirror: it stays until it is ended explicitly.
    virsh(&["blockcopy", guest.name(), "vdb", copy.to_str().unwrap(), "--transient-job"]);
    // After that, the definition does not change by itself.
    wait_until(DEADLINE, "the copy to be ready", || guest.live_xml().contains("ready='yes'"));
    assert_refused(&program, &guest, "a block job is running on it", "virsh blockjob");
    virsh(&["blockjob", guest.name(), "vdb", "--abort"]);
    program.backup_well();
    program.assert_no_leftovers(&guest);
}

fn domain_with_a_backup_job_of_another_program_is_left_alone(method: &str) {
    let lab = Lab::new();
    let guest = lab.guest(&format!("pulled-{method}")).disk(Disk::qcow2("vda")).paused();
    let program = Program::new(&lab).domain(guest.name(), json!({"method": method}));
    guest.begin_pull_of_another(&lab);
    assert_refused(&program, &guest, "another libvirt job is running on the domain: backup", "virsh domjobabort");
    virsh(&["domjobabort", guest.name()]);
    program.backup_well();
    program.assert_no_leftovers(&guest);
}

#[test]
fn paused_guest_is_not_frozen_and_fails_if_a_freeze_is_required() {
    let lab = Lab::new();
    let guest = lab.guest("paused-require").disk(Disk::qcow2("vda")).paused();
    let program = Program::new(&lab).domain(guest.name(), json!({"quiesce": "require"}));
    assert_refused(&program, &guest, "a guest that is paused", "Resume the guest");
    assert_eq!(guest.state(), "paused");
}

#[test]
fn saved_guest_is_backed_up_crash_consistent_and_resumes_afterwards() {
    let lab = Lab::new();
    let guest = lab.guest("saved").disk(Disk::qcow2("vda")).paused();
    guest.write("vda", 0x5a, 1 << 20, 65536);
    virsh(&["managedsave", guest.name(), "--paused"]);
    let contents = Contents::of(&lab, &guest, &["vda"]);
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let report: Report = program.backup_well();
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["method"], &outcome["consistency"]), (&json!("direct"), &json!("crash")), "{outcome:#}");
    assert!(outcome["warnings"].to_string().contains("has a saved state, which is not in the backup"), "{outcome:#}");
    let archive = program.unpack(&report, guest.name());
    assert_eq!(archive.manifest()["consistency"], "crash");
    contents.assert_saved_in(&archive);
    virsh(&["start", guest.name()]);
    assert_eq!(guest.state(), "paused");
    guest.assert_holds("vda", 0x5a, 1 << 20, 65536);
    program.assert_no_leftovers(&guest);
}
