//! Each disk gets what it needs: a disk without contents worth saving is left out and listed, one that cannot be saved
//! is reported as missing, one that cannot be snapshotted is pulled, and foreign snapshots are left alone.

use crate::lab::{Contents, Disk, Guest, Lab, Program, by_each_method, save_exactly, sha256, virsh};
use serde_json::{Value, json};

by_each_method! {
    removable_media_and_excluded_disks_are_left_out_and_listed
    disk_with_snapshot_no_is_saved_anyway
    read_only_and_transient_disks_are_saved_with_others
    foreign_external_snapshot_is_left_alone
    foreign_internal_snapshot_is_left_alone
}

fn removable_media_and_excluded_disks_are_left_out_and_listed(method: &str) {
    let lab = Lab::new();
    let guest = lab
        .guest(&format!("removable-{method}"))
        .disk(Disk::qcow2("vda"))
        .disk(Disk::qcow2("vdb"))
        .disk(Disk::cdrom("sdx"))
        .disk(Disk::cdrom("sdy").file("medium.iso"))
        .disk(Disk::floppy("fda"))
        .paused();
    guest.write("vda", 0xaa, 0, 4096);
    let saved = save_exactly(&lab, &guest, json!({"method": method, "exclude_disks": ["vdb"]}), &["vda"]);
    let reasons = [
        ("vdb", "excluded by the configuration"),
        ("sdx", "no medium"),
        ("sdy", "removable medium"),
        ("fda", "removable medium"),
    ];
    for (target, reason) in reasons {
        let skipped = saved.skipped(target);
        assert_eq!((&skipped["reason"], &skipped["missed"]), (&json!(reason), &json!(false)));
    }
    assert_eq!(saved.archive.manifest()["skipped"], saved.outcome()["skipped"]);
}

fn disk_with_snapshot_no_is_saved_anyway(method: &str) {
    let lab = Lab::new();
    let guest = lab
        .guest(&format!("says-no-{method}"))
        .disk(Disk::qcow2("vda"))
        .disk(Disk::qcow2("vdb").snapshot("no"))
        .disk(Disk::raw("vdc").snapshot("internal"))
        .paused();
    let targets = ["vda", "vdb", "vdc"];
    targets.iter().for_each(|target| guest.write(target, 0xbb, 1 << 20, 65536));
    save_exactly(&lab, &guest, json!({"method": method}), &targets);
}

/// The guest's writes to a transient disk are dropped when it stops: the backup contains the image below.
fn read_only_and_transient_disks_are_saved_with_others(method: &str) {
    let lab = Lab::new();
    let guest = lab
        .guest(&format!("still-{method}"))
        .disk(Disk::qcow2("vda"))
        .disk(Disk::qcow2("vdb").readonly())
        .disk(Disk::raw("sda").readonly())
        .disk(Disk::qcow2("vdc").transient())
        .define();
    for target in ["vdb", "sda", "vdc"] {
        guest.write_while_off(target, 0xcc, 1 << 20, 65536);
    }
    let transient = Contents::of(&lab, &guest, &["vdc"]);
    guest.start_paused();
    guest.write("vda", 0xdd, 1 << 20, 65536);
    guest.write("vdc", 0xee, 1 << 20, 65536);
    let written = sha256(&guest.disk_source("vdc").unwrap());

    let mut contents = Contents::of(&lab, &guest, &["vda", "vdb", "sda"]);
    contents.join(&transient);
    let program = Program::new(&lab).domain(guest.name(), json!({"method": method}));
    let report = program.backup_well();
    contents.assert_saved_in(&program.unpack(&report, guest.name()));
    program.assert_no_leftovers(&guest);
    let warnings = report.domain(guest.name())["warnings"].to_string();
    assert!(warnings.contains("vdc is transient: data written since the guest started is not backed up"), "{warnings}");
    assert_eq!(sha256(&guest.disk_source("vdc").unwrap()), written, "the guest's changes to vdc");
}

/// The disk is on another program's overlay. The backup contains what the guest sees, and the disk stays there.
fn foreign_external_snapshot_is_left_alone(method: &str) {
    let lab = Lab::new();
    let mut guest = lab.guest(&format!("foreign-{method}")).disk(Disk::qcow2("vda")).paused();
    guest.write("vda", 0x01, 0, 8 << 20);
    let base = guest.disk_source("vda").unwrap();
    virsh(&["snapshot-create-as", guest.name(), "before the upgrade", "--disk-only"]);
    let overlay = guest.disk_source("vda").unwrap();
    assert_ne!(overlay, base);
    guest.take_as_it_is();
    guest.write("vda", 0x02, 4 << 20, 8 << 20);
    let before = sha256(&base);

    save_exactly(&lab, &guest, json!({"method": method}), &["vda"]);
    assert_eq!(guest.disk_source("vda"), Some(overlay));
    assert_eq!(sha256(&base), before, "the image below the foreign snapshot was written to");
}

fn foreign_internal_snapshot_is_left_alone(method: &str) {
    let lab = Lab::new();
    let mut guest = lab.guest(&format!("internal-{method}")).disk(Disk::qcow2("vda")).define();
    guest.write_while_off("vda", 0x01, 0, 8 << 20);
    virsh(&["snapshot-create-as", guest.name(), "inner"]);
    guest.take_as_it_is();
    guest.start_paused();
    guest.write("vda", 0x02, 4 << 20, 8 << 20);

    save_exactly(&lab, &guest, json!({"method": method}), &["vda"]);
    guest.destroy();
    virsh(&["snapshot-revert", guest.name(), "inner"]);
    guest.assert_holds("vda", 0x01, 0, 8 << 20);
    guest.assert_holds("vda", 0x00, 8 << 20, 4 << 20);
}

#[test]
fn shareable_disk_is_pulled_with_a_reason() {
    let (lab, guest) = with_shareable("share-auto");
    let saved = save_exactly(&lab, &guest, json!({"method": "auto"}), &["vda", "vdb"]);
    let outcome = saved.outcome();
    assert_eq!(outcome["method"], "pull");
    assert!(outcome["method_reason"].as_str().unwrap().contains("vdb is shareable"), "{outcome:#}");
}

#[test]
fn shareable_disk_makes_a_snapshot_partial() {
    let (lab, guest) = with_shareable("share-snapshot");
    let outcome = save_partly(&lab, &guest, json!({"method": "snapshot"}), &["vda"], "vdb");
    assert_eq!(outcome["method"], "snapshot");
}

fn with_shareable(name: &str) -> (Lab, Guest) {
    let lab = Lab::new();
    let guest = lab.guest(name).disk(Disk::qcow2("vda")).disk(Disk::raw("vdb").shareable()).paused();
    guest.write("vda", 0x0a, 1 << 20, 65536);
    guest.write("vdb", 0x0b, 1 << 20, 65536);
    (lab, guest)
}

/// Neither method may write the contents of an encrypted disk to an overlay or an archive unless that is allowed.
#[test]
fn encrypted_disk_is_refused_and_the_others_are_saved() {
    let lab = Lab::new();
    let guest = lab.guest("luks-refused").disk(Disk::qcow2("vda")).disk(Disk::luks("vdb")).paused();
    guest.write("vda", 0x0a, 1 << 20, 65536);
    guest.write("vdb", 0x0b, 1 << 20, 65536);
    for method in ["auto", "snapshot", "pull"] {
        let outcome = save_partly(&lab, &guest, json!({"method": method}), &["vda"], "vdb");
        assert!(outcome["skipped"][0]["hint"].as_str().unwrap().contains("allow_plaintext: true"), "{outcome:#}");
    }
    // Allowed or not: an overlay would not be encrypted.
    let outcome = save_partly(&lab, &guest, json!({"method": "snapshot", "allow_plaintext": true}), &["vda"], "vdb");
    assert!(outcome["skipped"][0]["reason"].as_str().unwrap().contains("overlay"), "{outcome:#}");
}

#[test]
fn encrypted_disk_is_pulled_if_allowed() {
    let lab = Lab::new();
    let guest = lab.guest("luks-allowed").disk(Disk::qcow2("vda")).disk(Disk::luks("vdb")).paused();
    guest.write("vda", 0x0a, 1 << 20, 65536);
    guest.write("vdb", 0x0b, 1 << 20, 65536);
    let saved = save_exactly(&lab, &guest, json!({"allow_plaintext": true}), &["vda", "vdb"]);
    let outcome = saved.outcome();
    assert_eq!(outcome["method"], "pull");
    assert!(outcome["warnings"].to_string().contains("unencrypted"), "{outcome:#}");
}

#[test]
fn guest_with_only_an_encrypted_disk_fails_with_a_hint() {
    let lab = Lab::new();
    let guest = lab.guest("luks-only").disk(Disk::luks("vda")).paused();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let report = program.backup();
    assert_eq!(report.ran.code, 1);
    let outcome = report.domain(guest.name());
    assert_eq!(outcome["outcome"], "failed");
    assert!(outcome["error"]["hint"].as_str().unwrap().contains("allow_plaintext: true"), "{outcome:#}");
    assert!(outcome["error"]["message"].as_str().unwrap().contains("vda"), "{outcome:#}");
    program.assert_no_leftovers(&guest);
}

/// Backs up a paused guest with one disk that cannot be saved: exit code 1, the disk is named, the others are exact.
fn save_partly(lab: &Lab, guest: &Guest, keys: Value, targets: &[&str], missed: &str) -> Value {
    let contents = Contents::of(lab, guest, targets);
    let program = Program::new(lab).domain(guest.name(), keys);
    let report = program.backup();
    assert_eq!(report.ran.code, 1, "{report:#?}");
    let outcome = report.domain(guest.name());
    assert_eq!(outcome["outcome"], "partial");
    assert_eq!(report.skipped(guest.name(), missed)["missed"], true);
    contents.assert_saved_in(&program.unpack(&report, guest.name()));
    program.assert_no_leftovers(guest);
    let text = program.run(&["report"]).stdout;
    assert!(text.contains(&format!("{missed}:")) || text.contains(&format!("disk {missed}")), "{text}");
    outcome.clone()
}
