//! Volumes of a storage pool that is inactive or gone.

use std::path::PathBuf;

use serde_json::json;

use crate::lab::{Contents, Disk, Lab, Program, try_virsh, virsh};

/// A persistent storage pool on a directory.
struct Pool(&'static str);

impl Pool {
    /// With a volume `d.qcow2`; returns its path.
    fn new(lab: &Lab, name: &'static str) -> (Pool, PathBuf) {
        let folder = lab.path(name);
        std::fs::create_dir(&folder).unwrap();
        virsh(&["pool-define-as", name, "dir", "--target", folder.to_str().unwrap()]);
        let pool = Pool(name);
        virsh(&["pool-start", name]);
        virsh(&["vol-create-as", name, "d.qcow2", "32M", "--format", "qcow2"]);
        (pool, folder.join("d.qcow2"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = try_virsh(&["pool-destroy", self.0]);
        let _ = try_virsh(&["pool-undefine", self.0]);
    }
}

#[test]
fn volume_of_an_inactive_pool_is_read_through_qemu_or_named() {
    let lab = Lab::new();
    let (pool, volume) = Pool::new(&lab, "field-pool");
    let disk = "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>\
                <source pool='field-pool' volume='d.qcow2'/><target dev='vdb' bus='virtio'/></disk>";
    let guest = lab.guest("pool-stopped").disk(Disk::qcow2("vda")).devices(disk).paused();
    guest.qemu_io("vdb", &["write -P 0x5b 1M 2M", "flush"]);
    let mut contents = Contents::of(&lab, &guest, &["vda"]);
    contents.add("vdb", &volume, "qcow2");
    let definition = guest.inactive_xml();
    let program = Program::new(&lab).domain(guest.name(), json!({}));

    virsh(&["pool-destroy", pool.0]);
    let report = program.backup_well();
    assert_eq!(report.domain(guest.name())["method"], "pull", "{report:#?}");
    contents.assert_saved_in(&program.unpack(&report, guest.name()));
    assert_eq!(guest.inactive_xml(), definition);
    program.assert_no_leftovers(&guest);

    guest.destroy();
    let check = program.run(&["check"]);
    assert!(check.stdout.contains("disk vdb cannot be backed up: storage pool field-pool is not active"), "{check:#?}");
    let report = program.backup();
    let missed = report.skipped(guest.name(), "vdb").clone();
    assert_eq!((&missed["missed"], &missed["reason"]), (&json!(true), &json!("storage pool field-pool is not active")));

    // The hint names what is missing.
    let hint = missed["hint"].as_str().unwrap();
    assert_eq!(hint, "Start it: virsh pool-start field-pool");
    virsh(&hint.split(' ').skip(3).collect::<Vec<_>>());
    let report = program.backup_well();
    contents.assert_saved_in(&program.unpack(&report, guest.name()));

    std::fs::rename(&volume, lab.path("moved")).unwrap();
    virsh(&["pool-refresh", pool.0]);
    let report = program.backup();
    let missed = report.skipped(guest.name(), "vdb");
    assert!(missed["reason"].as_str().unwrap().contains("volume d.qcow2 not found in storage pool"), "{missed:#}");
    assert!(missed["hint"].as_str().unwrap().contains("virsh pool-refresh field-pool"), "{missed:#}");

    drop(pool);
    let report = program.backup();
    let missed = report.skipped(guest.name(), "vdb");
    assert!(missed["reason"].as_str().unwrap().contains("storage pool field-pool not found"), "{missed:#}");
    assert!(missed["hint"].as_str().unwrap().contains("virsh pool-list --all"), "{missed:#}");
}
