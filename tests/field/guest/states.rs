//! Guests that stop in other ways than by `virsh suspend`. Code in the first sector of their disk brings them there, so
//! they need no operating system.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use kvmbackup::sys::step::Step;
use serde_json::{Value, json};

use crate::lab::{DEADLINE, Disk, Guest, Lab, Program, virsh, wait_until};
use crate::steps;

/// `mov dx, 0x505; mov al, 1; out dx, al; jmp $`: writes to the port of the panic device.
const CRASH: &[u8] = b"\xba\x05\x05\xb0\x01\xee\xeb\xfe";
/// `mov dx, 0x604; mov ax, 0x2400; out dx, ax; jmp $`: makes the chipset of the machine q35 suspend to memory.
const SUSPEND: &[u8] = b"\xba\x04\x06\xb8\x00\x24\xef\xeb\xfe";

/// A guest that has run this code and has reached this state.
fn guest_in(lab: &Lab, name: &str, code: &[u8], state: &str) -> Guest {
    let image = lab.path("images").join(name).join("vda.raw");
    fs::create_dir_all(image.parent().unwrap()).unwrap();
    let file = File::create(&image).unwrap();
    file.set_len(8 << 20).unwrap();
    file.write_all_at(code, 0).unwrap();
    file.write_all_at(b"\x55\xaa", 510).unwrap();
    let guest = lab
        .guest(name)
        .elements("<pm><suspend-to-mem enabled='yes'/></pm><on_crash>preserve</on_crash>")
        .devices("<panic model='isa'/>")
        .disk(Disk::raw("vda").file(image))
        .define();
    virsh(&["start", name]);
    wait_until(DEADLINE, state, || guest.state() == state);
    guest
}

fn method_and_consistency(outcome: &Value) -> [&str; 2] {
    ["method", "consistency"].map(|key| outcome[key].as_str().unwrap())
}

#[test]
fn crashed_guest_with_a_live_qemu_is_backed_up_and_returned_to_its_base() {
    let lab = Lab::new();
    let guest = guest_in(&lab, "crashed", CRASH, "crashed");
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let report = program.backup_well();
    assert_eq!(method_and_consistency(report.domain(guest.name())), ["snapshot", "crash"]);
    program.assert_no_leftovers(&guest);

    let mut command = program.command();
    steps::kill(command.arg("backup"), Step::CommitBegin.into());
    assert!(guest.live_xml().contains(".kvmbackup-"), "the guest is on its overlay");
    let recovered = program.run(&["recover"]);
    assert_eq!(recovered.code, 0, "{recovered:#?}");
    assert_eq!(guest.state(), "crashed");
    program.assert_no_leftovers(&guest);
}

#[test]
fn guest_suspended_to_memory_is_pulled_and_the_report_explains_why() {
    let lab = Lab::new();
    let guest = guest_in(&lab, "suspended", SUSPEND, "pmsuspended");
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let report = program.backup_well();
    let outcome = report.domain(guest.name());
    assert_eq!(method_and_consistency(outcome), ["pull", "crash"]);
    assert!(outcome["method_reason"].to_string().contains("suspended to memory"), "{outcome:#}");
    assert_eq!(guest.state(), "pmsuspended");
    program.assert_no_leftovers(&guest);

    // The hint works.
    let program = program.domain(guest.name(), json!({"method": "snapshot"}));
    let report = program.backup();
    assert_eq!(report.ran.code, 1, "{report:#?}");
    let error = report.domain(guest.name())["error"].to_string();
    assert!(error.contains("suspended to memory") && error.contains("`method: pull`"), "{error}");
    program.domain(guest.name(), json!({"method": "pull"})).backup_well();
}

#[test]
fn overlay_of_a_guest_that_suspends_itself_during_the_backup_is_committed() {
    let lab = Lab::new();
    let guest = guest_in(&lab, "suspends", SUSPEND, "pmsuspended");
    let program = Program::new(&lab).domain(guest.name(), json!({"method": "snapshot"}));
    guest.destroy();
    guest.start_paused();
    let mut command = program.command();
    let held = steps::hold(command.args(["backup", "--json"]), Step::DiskRead.into(), &lab.path("held"));
    virsh(&["resume", guest.name()]);
    wait_until(DEADLINE, "pmsuspended", || guest.state() == "pmsuspended");
    let ran = crate::lab::Ran::from(held.finish());
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert_eq!(guest.state(), "pmsuspended");
    program.assert_no_leftovers(&guest);
}
