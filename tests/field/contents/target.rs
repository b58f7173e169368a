//! A target directory that is missing on a mounted file system.

use serde_json::json;

use crate::lab::{Disk, Lab, Program, run};

/// A mounted file system; unmounted when dropped.
struct Mount(String);

impl Mount {
    fn new(lab: &Lab) -> Mount {
        let folder = lab.path("m");
        std::fs::create_dir_all(&folder).unwrap();
        let folder = folder.to_str().unwrap().to_owned();
        run("mount", &["-t", "tmpfs", "none", &folder]);
        Mount(folder)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[&self.0]);
    }
}

#[test]
fn missing_directory_on_a_mounted_target_is_created_and_a_missing_parent_is_named() {
    let lab = Lab::new();
    let guest = lab.guest("target-folder").disk(Disk::qcow2("vda")).define();
    let mount = Mount::new(&lab);
    let at = |folder: &str| {
        let program = Program::new(&lab).set("require_mount", json!(true)).domain(guest.name(), json!({}));
        program.set("backupdir", json!(format!("{}/{folder}", mount.0)))
    };
    let check = at("cloud1").run(&["check"]);
    assert!(check.stdout.contains("cloud1: does not exist yet; the first run creates it"), "{check:#?}");
    at("cloud1").backup_well();
    assert!(lab.path("m/cloud1").join(guest.name()).is_dir());

    let report = at("no/such").backup();
    assert_eq!(report.ran.code, 5, "{report:#?}");
    let error = report.json["errors"][0].to_string();
    assert!(!error.contains("not on a mounted file system") && error.contains("mkdir -p"), "{error}");
    let check = at("no/such").run(&["check"]);
    assert!(check.stdout.contains("mkdir -p") && !check.stdout.contains("not on a mounted"), "{check:#?}");
}
