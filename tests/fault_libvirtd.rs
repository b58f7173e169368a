//! Tests with a libvirtd that is not up yet, is down for good, or restarts during a backup.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

mod lab;
mod steps;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvmbackup::sys::step::Step;
use lab::{DEADLINE, Disk, Guest, Lab, Program, Ran, Report, run, try_virsh, wait_until};
use serde_json::json;

/// Runs one test at a time, because the others need libvirtd.
static ALONE: Mutex<()> = Mutex::new(());

/// A paused guest, the program, and a libvirtd connection that can be cut.
struct Scene {
    guest: Guest,
    program: Program,
    way: PathBuf,
    lab: Lab,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab::new();
        let guest = lab.guest(name).disk(Disk::qcow2("vda")).paused();
        let way = lab.path("late.sock");
        let uri = format!("qemu+unix:///system?socket={}", way.display());
        let program = Program::new(&lab).set("libvirt_uri", json!(uri)).domain(name, json!({"method": "snapshot"}));
        let scene = Scene { guest, program, way, lab, _alone };
        scene.open_the_way();
        scene
    }

    fn open_the_way(&self) {
        symlink("/run/libvirt/libvirt-sock", &self.way).unwrap();
    }

    fn close_the_way(&self) {
        fs::remove_file(&self.way).unwrap();
    }

    /// Kills a backup whose overlay is in place, and writes to the overlay.
    fn interrupt(&self) {
        let mut backup = self.program.command();
        steps::kill(backup.arg("backup"), Step::DiskRead.into());
        self.guest.write("vda", 0x11, 1 << 20, 65536);
    }

    fn assert_right(&self) {
        self.program.assert_no_leftovers(&self.guest);
        self.guest.assert_holds("vda", 0x11, 1 << 20, 65536);
    }

    /// Starts a recovery without libvirtd and waits until it prints that it waits.
    fn recovery_that_waits(&self) -> (Child, BufReader<std::process::ChildStderr>) {
        let mut recover = self.program.command();
        recover.args(["recover", "--wait", "120"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut recover = recover.spawn().unwrap();
        let mut said = BufReader::new(recover.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("waiting up to 120 s"), "{line}");
        (recover, said)
    }
}

#[test]
fn recovery_waits_until_libvirtd_is_up() {
    let scene = Scene::new("late-libvirt");
    scene.interrupt();
    scene.close_the_way();
    let (recover, _said) = scene.recovery_that_waits();
    scene.open_the_way();
    let recovered = Ran::from(recover.wait_with_output().unwrap());
    assert_eq!(recovered.code, 0, "{recovered:#?}");
    assert!(recovered.stdout.contains("committed vda back to its base"), "{recovered:#?}");
    scene.assert_right();
    let again = scene.program.run(&["recover"]);
    assert!(again.code == 0 && again.stdout.starts_with("no interrupted run in "), "{again:#?}");
}

#[test]
fn recovery_times_out_without_libvirtd_and_keeps_the_journal_entry() {
    let scene = Scene::new("no-libvirt");
    scene.interrupt();
    scene.close_the_way();
    for _ in 0..2 {
        let ran = scene.program.run(&["recover", "--wait", "1"]);
        assert_eq!(ran.code, 4, "{ran:#?}");
        assert!(ran.stdout.starts_with("left: no-libvirt: cannot connect to libvirt"), "{ran:#?}");
        assert!(ran.stdout.contains("hint: Check that libvirtd runs"), "{ran:#?}");
    }
    let (recover, _said) = scene.recovery_that_waits();
    run("kill", &["-TERM", &recover.id().to_string()]);
    assert_eq!(Ran::from(recover.wait_with_output().unwrap()).code, 143);
    scene.open_the_way();
    assert_eq!(scene.program.run(&["recover"]).code, 0);
    scene.assert_right();
}

#[test]
fn recovery_needs_no_configuration() {
    let scene = Scene::new("no-config");
    let program = Program::new(&scene.lab).set("state_dir", json!("/var/lib/kvmbackup"));
    let program = program.domain(scene.guest.name(), json!({"method": "snapshot"}));
    let mut backup = program.command();
    steps::kill(backup.arg("backup"), Step::DiskRead.into());
    scene.guest.write("vda", 0x11, 1 << 20, 65536);
    fs::remove_file(program.config()).unwrap();
    let recovered = program.run(&["recover"]);
    assert_eq!(recovered.code, 2, "no hint at another state directory: {recovered:#?}");
    assert!(recovered.stdout.starts_with("recovered: no-config: "), "{recovered:#?}");
    scene.guest.assert_no_leftovers();
    scene.guest.assert_holds("vda", 0x11, 1 << 20, 65536);
}

/// Stops the lab's libvirtd; guests keep running.
fn stop_libvirtd() {
    let pid = fs::read_to_string(pid_file()).unwrap();
    let process = PathBuf::from(format!("/proc/{}", pid.trim()));
    run("kill", &["-TERM", pid.trim()]);
    wait_until(DEADLINE, "libvirtd to end", || !process.exists());
}

/// Starts it again, as `tests/lab/enter` does.
fn start_libvirtd() {
    let ended = Command::new("libvirtd").args(["--daemon", "--pid-file"]).arg(pid_file()).status().unwrap();
    assert!(ended.success());
    wait_until(DEADLINE, "libvirtd to answer", || try_virsh(&["connect"]).is_ok());
}

fn pid_file() -> PathBuf {
    PathBuf::from(std::env::var_os("KVMBACKUP_LAB").unwrap()).join("libvirtd.pid")
}

#[test]
fn restart_of_libvirtd_during_a_backup_does_no_harm() {
    let scene = Scene::new("restart");
    for step in [Step::DiskRead, Step::CommitBegin, Step::CommitBegun, Step::Pivot, Step::Pivoted] {
        let mut backup = scene.program.command();
        let held = steps::hold(backup.args(["backup", "--json"]), step.into(), &scene.lab.path("held"));
        stop_libvirtd();
        start_libvirtd();
        if step != Step::Pivot {
            scene.guest.write("vda", 0x11, 1 << 20, 65536);
        }
        let report = Report::from(Ran::from(held.finish()));
        assert_eq!(report.ran.code, 0, "{step:?}: {} {report:#?}", report.ran.stderr);
        scene.program.unpack(&report, scene.guest.name());
        scene.program.assert_no_leftovers(&scene.guest);
    }
    scene.assert_right();
}

#[test]
fn commit_waits_while_libvirtd_is_down_for_a_moment() {
    let scene = Scene::new("away");
    let mut backup = scene.program.command();
    let held = steps::hold(backup.args(["backup", "--json"]), Step::ServerEnd.into(), &scene.lab.path("held"));
    stop_libvirtd();
    let mut backup = held.go_on();
    let mut said = BufReader::new(backup.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    start_libvirtd();
    let report = Report::from(Ran::from(backup.wait_with_output().unwrap()));
    assert_eq!(report.ran.code, 0, "{line}: {report:#?}");
    scene.guest.write("vda", 0x11, 1 << 20, 65536);
    scene.assert_right();
}

#[test]
#[ignore = "soak: waits a minute for libvirtd"]
fn libvirtd_that_stays_down_is_reported_and_its_guest_recovered_later() {
    let scene = Scene::new("gone");
    let mut backup = scene.program.command();
    let held = steps::hold(backup.args(["backup", "--json"]), Step::ServerEnd.into(), &scene.lab.path("held"));
    stop_libvirtd();
    let report = Report::from(Ran::from(held.finish()));
    start_libvirtd();
    assert_ne!(report.ran.code, 0, "{report:#?}");
    assert!(report.ran.stdout.contains("cannot connect to libvirt"), "{report:#?}");
    scene.guest.write("vda", 0x11, 1 << 20, 65536);
    let next = scene.program.backup_well();
    assert_eq!(next.json["recovered"].as_array().unwrap().len(), 1, "{next:#?}");
    scene.assert_right();
}
