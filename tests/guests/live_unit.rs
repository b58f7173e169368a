//! A running guest, saved within what kvmbackup.service leaves a run: systemd itself is not there.

use std::process::{Command, Stdio};

use crate::lab::{Disk, Lab, Program};

#[test]
fn a_running_guest_is_saved_within_the_limits_of_the_unit() {
    let lab = Lab::new();
    let guest = lab.guest("limited").disk(Disk::qcow2("vda")).system("").boot();
    let program = Program::new(&lab).domain(guest.name(), serde_json::json!({"quiesce": "require"}));
    let unit =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd/kvmbackup.service")).unwrap();
    let setting = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
    let dropped = setting("CapabilityBoundingSet").strip_prefix('~').unwrap().to_lowercase();
    let dropped = dropped.split_whitespace().map(|name| name.replace("cap_", "-")).collect::<Vec<_>>().join(",");
    // What ProtectSystem=true does: systemd.exec(5).
    assert_eq!(setting("ProtectSystem"), "true");
    let script = "mount --bind /usr /usr && mount -o remount,bind,ro /usr && mount --bind /boot /boot && mount -o remount,bind,ro /boot \
                  && limits=$1 && shift && exec setpriv --bounding-set=\"$limits\" --inh-caps=\"$limits\" -- \"$@\"";
    let within = program.command();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", &dropped]).arg(within.get_program()).args(within.get_args());
    let ran = command.arg("backup").stdin(Stdio::null()).output().unwrap();
    let [said, errors] = [&ran.stdout, &ran.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(ran.status.success() && said.contains("snap/fs"), "{said}\n{errors}");
    program.assert_no_leftovers(&guest);
}
