//! A target that fails while a paused guest is saved to it: the guest goes on as it was, what was saved before stays, nothing
//! half is listed, the report names the target and the cause, and the run ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

mod faulty;
mod lab;

use std::io::Read;
use std::process::{Child, Stdio};

use faulty::{Call, Fault, Faulty, can_mount};
use fuser::Errno;
use lab::{DEADLINE, Disk, Guest, Lab, Program, run, wait_until};
use serde_json::json;

/// More than goes into the buffers of an archive before the first byte is written.
const MIB: u64 = 24;

/// A paused guest whose disk does not compress.
fn guest(lab: &Lab, name: &str) -> Guest {
    let image = lab.path(&format!("random/{name}/vda.raw"));
    std::fs::create_dir_all(image.parent().unwrap()).unwrap();
    run(
        "dd",
        &["if=/dev/urandom", &format!("of={}", image.display()), "bs=1M", &format!("count={MIB}"), "status=none"],
    );
    lab.guest(name).disk(Disk::raw("vda").file(image)).paused()
}

/// A target that can fail, and a program that saves to it.
struct Scene {
    target: Faulty,
    program: Program,
}

impl Scene {
    fn new(lab: &Lab, guests: &[&Guest]) -> Scene {
        let target = Faulty::mount(&lab.path("backups"));
        let program = Program::new(lab);
        let program = guests.iter().fold(program, |program, guest| {
            program.domain(guest.name(), json!({"method": "snapshot", "compression": "none"}))
        });
        Scene { target, program }
    }

    /// The same with a deadline that is reached.
    fn impatient(self) -> Scene {
        Scene { program: self.program.set("stall_timeout", json!("3s")), ..self }
    }

    /// The same with one that is not.
    fn patient(self) -> Scene {
        Scene { program: self.program.set("stall_timeout", json!("5m")), ..self }
    }

    /// A run whose process may stay: what it prints ends when it ends by itself, and the kernel keeps only the shell of it.
    fn run_on_what_hangs(&self, words: &[&str]) -> (Child, String) {
        let mut command = self.program.command();
        let mut child = command.args(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (child, text)
    }

    /// Names of files of the target, all of them.
    fn files(&self) -> Vec<String> {
        let tree = self.target.tree();
        let files = tree.paths().into_iter().filter(|(_, node)| node.kind == faulty::tree::Kind::File);
        files.map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_target_that_hangs_at_any_call_keeps_no_guest_on_its_overlay_and_no_run_from_its_end() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let guest = guest(&lab, "hangs");
    let scene = Scene::new(&lab, &[&guest]);
    scene.program.backup_well();
    let scene = scene.impatient();
    for (call, code) in [
        (Call::Write, 1),
        (Call::Fsync, 1),
        (Call::Rename, 1),
        (Call::Create, 1),
        (Call::Statfs, 5),
        (Call::Readdir, 5),
    ] {
        let before = scene.files();
        scene.target.set(call, 5 << 20, Fault::Hang);
        let (mut child, text) = scene.run_on_what_hangs(&["backup", "--force", "--json"]);
        assert!(scene.target.was_met(), "{call:?}");
        let report: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{call:?}: {error}: {text}"));
        let told = report.to_string();
        assert!(told.contains("it hangs: no answer for 3 s"), "{call:?}: {report:#}");
        assert!(
            told.contains(scene.target.path().to_str().unwrap()) && told.contains("findmnt"),
            "{call:?}: {report:#}"
        );
        guest.assert_no_leftovers();

        // The next run finds it hanging still; no lock is in its way.
        let (mut next, text) = scene.run_on_what_hangs(&["recover"]);
        assert!(!text.contains("another run"), "{call:?}: {text}");
        scene.target.release();
        next.wait().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{call:?}: {report:#}");

        assert_eq!(scene.program.run(&["recover"]).code, 0, "{call:?}");
        let points = |files: Vec<String>| files.into_iter().filter(|name| !name.ends_with(".part")).collect::<Vec<_>>();
        let (before, after) = (points(before), points(scene.files()));
        // A rename that was under way may have been done.
        assert!(before.iter().all(|point| after.contains(point)), "{call:?}: {before:?} {after:?}");
        scene.program.assert_no_leftovers(&guest);
    }
    let scene = scene.patient();
    scene.program.unpack(&scene.program.backup_well(), guest.name());
}

/// Runs a backup of two guests, one to the target that fails and one to a folder beside it, and takes back what came of both.
fn fails_alone(scene: &Scene, guest: &Guest, other: &(Program, Guest), causes: &[&str], what: &str) {
    let before = scene.files();
    let report = scene.program.backup();
    assert!(scene.target.was_met(), "{what}");
    assert_eq!(report.ran.code, 1, "{what}: {report:#?}");
    let outcome = report.domain(guest.name());
    let told = outcome["error"].to_string();
    let target = scene.target.path().to_str().unwrap();
    assert!(causes.iter().chain([&target]).all(|cause| told.contains(cause)), "{what}: {report:#?}");
    assert_eq!((&outcome["outcome"], &outcome["leftovers"]), (&json!("failed"), &json!([])), "{what}: {report:#?}");
    assert_eq!(scene.files(), before, "{what}: the last good points, and nothing half");
    scene.program.assert_no_leftovers(guest);
    let good = other.0.backup();
    assert_eq!(good.ran.code, 0, "{what}: {good:#?}");
    scene.target.heal();
}

#[test]
fn a_target_that_is_full_or_fails_leaves_the_last_good_point_and_nothing_half() {
    if !can_mount() {
        return;
    }
    let (lab, other_lab) = (Lab::new(), Lab::new());
    let (guest, second) = (guest(&lab, "fails"), guest(&other_lab, "goes-on"));
    let scene = Scene::new(&lab, &[&guest]);
    let other = (Program::new(&other_lab).domain(second.name(), json!({"rotate": 1})), second);
    scene.program.backup_well();
    let (full, broken) = (Errno::ENOSPC, Errno::EIO);
    for (what, call, after, error, causes) in [
        ("full at the first byte", Call::Write, 0, full, ["No space left", "free space on the target"]),
        ("full in the middle", Call::Write, (MIB / 2) << 20, full, ["No space left", "free space on the target"]),
        ("full at the sync", Call::Fsync, 0, full, ["No space left", "free space on the target"]),
        ("broken in the middle", Call::Write, (MIB / 2) << 20, broken, ["Input/output error", "the archive failed"]),
        ("broken at the sync", Call::Fsync, 0, broken, ["Input/output error", "the archive failed"]),
        ("broken at the rename", Call::Rename, 0, broken, ["Input/output error", "publish"]),
        ("full at the new file", Call::Create, 0, full, ["No space left", "free space on the target"]),
    ] {
        scene.target.set(call, after, Fault::Error(error));
        fails_alone(&scene, &guest, &other, &causes, what);
    }
    let report = scene.program.backup_well();
    scene.program.unpack(&report, guest.name());
}

#[test]
fn a_target_that_vanishes_is_named_and_the_next_run_takes_away_what_it_kept() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let guest = guest(&lab, "vanishes");
    let scene = Scene::new(&lab, &[&guest]);
    // It waits in the middle of the archive, and that is where it vanishes.
    scene.target.set(Call::Write, 5 << 20, Fault::Hang);
    let mut child = scene.program.command().args(["backup", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_until(DEADLINE, "the archive to be half written", || scene.target.was_met());
    // Of sockets, the folder counts: QEMU's tools make them for all.
    let open = run("find", &[scene.program.state().to_str().unwrap(), "!", "-type", "s", "-perm", "/077"]);
    assert_eq!(open, "", "what a run holds is its owner's alone");
    scene.target.vanish();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{text}");
    let told = serde_json::from_str::<serde_json::Value>(&text).unwrap().to_string();
    assert!(told.contains("abort") || told.contains("not connected"), "{told}");
    guest.assert_no_leftovers();
    let left = scene.program.run(&["recover"]);
    assert_eq!(left.code, 7, "what it kept cannot be taken away now: {left:#?}");
    assert!(left.stdout.contains(scene.target.path().to_str().unwrap()), "{left:#?}");
    let Scene { target, program } = scene;
    drop(target);
    std::fs::create_dir_all(program.backups().join(guest.name())).unwrap();
    assert_eq!(program.run(&["recover"]).code, 0);
}

#[test]
fn a_run_is_gone_from_a_mount_that_takes_no_call_any_more_and_its_other_guests_fail_with_the_same_cause() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let guests = [guest(&lab, "deaf-a"), guest(&lab, "deaf-b")];
    let scene = Scene::new(&lab, &[&guests[0], &guests[1]]).impatient();
    // The folder of the first guest is made, and that was the last answer.
    scene.target.set(Call::Create, 0, Fault::Deaf);
    let report = scene.program.backup();
    assert_eq!(report.ran.code, 1, "{report:#?}");
    for guest in &guests {
        let told = report.domain(guest.name())["error"].to_string();
        assert!(told.contains("it hangs: no answer for 3 s"), "{report:#?}");
        guest.assert_no_leftovers();
    }
    assert_eq!(report.domain("deaf-b")["consistency"], serde_json::Value::Null, "it was not captured: {report:#?}");
    scene.target.release();
    let scene = scene.patient();
    assert_eq!(scene.program.run(&["recover"]).code, 0);
    let report = scene.program.backup_well();
    guests.iter().for_each(|guest| drop(scene.program.unpack(&report, guest.name())));
}
