//! Real guests with the restrictions that the units put on runs, recovery and metrics; systemd itself is not used.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::lab::{Call, DEADLINE, Disk, Gate, Host, Lab, Program, run, wait_until};
use crate::units::limits;

const RUN: &str = "kvmbackup.service";

#[test]
fn running_guest_is_saved_within_the_limits_of_the_unit() {
    let lab = Lab::new();
    let guest = lab.guest("limited").disk(Disk::qcow2("vda")).system("").boot();
    let program = Program::new(&lab).domain(guest.name(), json!({"quiesce": "require"})).within(limits(RUN));
    let ran = program.run(&["backup"]);
    assert!(ran.code == 0 && ran.stdout.contains("snap/fs"), "{ran:#?}");
    program.assert_no_leftovers(&guest);
}

/// Overlays get QEMU's user as their owner, images of other users are read, and processes of other users are inspected.
#[test]
fn guests_of_another_user_are_saved_and_detected_within_the_limits_of_the_unit() {
    let lab = Lab::new();
    let host = Host::with(&lab, "dynamic_ownership = 0");
    host.on(|| {
        let guest = lab.guest("limited-owned").disk(Disk::qcow2("vda")).define();
        let image = guest.disk_source("vda").unwrap();
        run("chown", &["libvirt-qemu:kvm".as_ref(), image.as_os_str()]);
        run("chmod", &["600".as_ref(), image.as_os_str()]);
        for method in ["snapshot", "pull"] {
            let keys = json!({"method": method});
            let program = Program::new(&lab).domain(guest.name(), keys).within(limits(RUN));
            guest.start_paused();
            assert_eq!(program.backup_well().domain(guest.name())["method"], method);
            program.assert_no_leftovers(&guest);
            guest.destroy();
            program.backup_well();
        }
        // Another process that writes to the image is detected although it belongs to another user.
        let mut writer = Command::new("setpriv");
        writer.args([
            "--reuid",
            "libvirt-qemu",
            "--regid",
            "kvm",
            "--clear-groups",
            "sh",
            "-c",
            "exec sleep 600 <>\"$1\"",
            "sh",
        ]);
        let mut writer = writer.arg(&image).spawn().unwrap();
        wait_until(DEADLINE, "the image to be open", || {
            fs::read_link(format!("/proc/{}/fd/0", writer.id())).is_ok_and(|open| open == image)
        });
        let ran = Program::new(&lab).domain(guest.name(), json!({})).within(limits(RUN)).run(&["backup"]);
        writer.kill().unwrap();
        writer.wait().unwrap();
        assert!(ran.code == 1 && ran.stdout.contains("sleep"), "{ran:#?}");
    });
}

#[test]
fn killed_run_is_detected_and_recovered_within_the_limits_of_the_units() {
    let lab = Lab::new();
    let gate = Gate::new(&lab);
    let guest = lab.guest("limited-killed").disk(Disk::qcow2("vda")).paused();
    let file = lab.path("kvmbackup.prom");
    let program = || {
        let program = Program::new(&lab).set("metrics", json!({"textfile": file})).domain(guest.name(), json!({}));
        program.set("libvirt_uri", json!(gate.uri()))
    };
    gate.hold(Call::Commit);
    let run = program().within(limits(RUN));
    let mut running = run.command().arg("backup").stdout(Stdio::null()).spawn().unwrap();
    gate.wait(&mut running);
    gate.kill(&mut running);
    let metrics = program().within(limits("kvmbackup-metrics.service"));
    let told = |leftovers: u32| {
        let ran = metrics.run(&["metrics"]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        let text = fs::read_to_string(&file).unwrap();
        let leftover = format!("kvmbackup_domain_leftover_overlays{{domain=\"limited-killed\"}} {leftovers}\n");
        assert!(text.contains("\nkvmbackup_survey_libvirt_up 1\n") && text.contains(&leftover), "{text}");
    };
    told(1);
    let ran = run.run(&["recover"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    told(0);
    run.assert_no_leftovers(&guest);
}
