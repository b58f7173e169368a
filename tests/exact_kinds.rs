//! Every kind of disk is in the archive byte for byte, whichever way it was captured, and the paused guest is left as it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

mod lab;

use lab::{Contents, Disk, Guest, Lab, Program, Report, Unpacked};
use serde_json::json;

/// Each test once for each way of capturing a running domain.
macro_rules! by_each_method {
    ($($test:ident)*) => {
        mod by_snapshot { $(#[test] fn $test() { super::$test("snapshot"); })* }
        mod by_pull { $(#[test] fn $test() { super::$test("pull"); })* }
    };
}

by_each_method! {
    qcow2_raw_and_block_devices_of_any_size_are_saved_exactly
}

/// Backs up a paused guest, and checks everything that holds of every backup that went well.
fn back_up(lab: &Lab, guest: &Guest, method: &str, targets: &[&str]) -> (Report, Unpacked) {
    let contents = Contents::of(lab, guest, targets);
    let definition = guest.inactive_xml();
    let program = Program::new(lab).domain(guest.name(), json!({"method": method}));
    let report = program.backup_well();
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["outcome"], &outcome["method"]), (&json!("success"), &json!(method)), "{outcome:#}");
    assert_eq!(outcome["consistency"], "crash", "a paused guest is not frozen");
    assert_eq!(report.disks(guest.name()), targets);
    let archive = program.unpack(&report, guest.name());
    contents.assert_saved_in(&archive);
    contents.assert_still_on(lab, guest);
    assert_eq!(guest.state(), "paused");
    assert_eq!(guest.inactive_xml(), definition);
    program.assert_no_leftovers(guest);
    (report, archive)
}

fn qcow2_raw_and_block_devices_of_any_size_are_saved_exactly(method: &str) {
    let lab = Lab::new();
    let guest = lab
        .guest(&format!("kinds-{method}"))
        .disk(Disk::qcow2("vda"))
        .disk(Disk::raw("vdb"))
        .disk(Disk::block("vdc"))
        .disk(Disk::raw("vdd").size("1000448"))
        .disk(Disk::qcow2("sda").size("65537K"))
        .paused();
    for (number, target) in ["vda", "vdb", "vdc", "vdd", "sda"].into_iter().enumerate() {
        let pattern = 0x11 * (number as u8 + 1);
        guest.write(target, pattern, 0, 512);
        guest.write(target, pattern, 65536 - 512, 70_144);
        guest.write(target, pattern ^ 0xff, 999_936, 512);
    }
    guest.write("vda", 0xee, (64 << 20) - 4096, 4096);
    guest.write("sda", 0xdd, (65537 << 10) - 512, 512);
    back_up(&lab, &guest, method, &["vda", "vdb", "vdc", "vdd", "sda"]);
}
