//! A target that fails while a paused guest is saved to it: the guest keeps running as before, earlier restore points
//! stay, no partial archive is listed, the report names the target and the cause, and the run ends.

#[path = "target/scene.rs"]
mod scene;

use std::io::Read;
use std::process::Stdio;

use crate::faulty::{Call, Fault, Faulty, can_mount};
use crate::lab::{DEADLINE, Guest, Lab, Program, run, wait_until};
use fuser::Errno;
use scene::{MIB, Scene, guest};
use serde_json::json;

#[test]
fn target_that_hangs_at_any_call_blocks_neither_the_guest_nor_the_end_of_the_run() {
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
        // The first directory is that of the trial before the first domain.
        scene.target.set(call, if call == Call::Create { 1 } else { 5 << 20 }, Fault::Hang);
        let (mut child, text) = scene.run_on_what_hangs(&["backup", "--force", "--json"]);
        assert!(scene.target.was_met(), "{call:?}");
        let report: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{call:?}: {error}: {text}"));
        let told = report.to_string();
        assert!(told.contains("no response for 3 s"), "{call:?}: {report:#}");
        assert!(
            told.contains(scene.target.path().to_str().unwrap()) && told.contains("findmnt"),
            "{call:?}: {report:#}"
        );
        guest.assert_no_leftovers();

        // The next run finds it still hung; no lock is in its way.
        let (mut next, text) = scene.run_on_what_hangs(&["recover"]);
        assert!(!text.contains("another run"), "{call:?}: {text}");
        scene.target.release();
        next.wait().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{call:?}: {report:#}");

        assert_eq!(scene.program.run(&["recover"]).code, 0, "{call:?}");
        let points = |files: Vec<String>| files.into_iter().filter(|name| !name.ends_with(".part")).collect::<Vec<_>>();
        let (before, after) = (points(before), points(scene.files()));
        // A rename that was in progress may have been done.
        assert!(before.iter().all(|point| after.contains(point)), "{call:?}: {before:?} {after:?}");
        scene.program.assert_no_leftovers(&guest);
    }
    let scene = scene.patient();
    scene.program.unpack(&scene.program.backup_well(), guest.name());
}

#[test]
fn hooks_run_and_the_mail_is_sent_while_the_target_hangs() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let guest = guest(&lab, "hooked-and-hung");
    let [log, mail] = ["log", "mail.eml"].map(|name| lab.path(name));
    let hook = lab.script("hook", &format!("echo $KVMBACKUP_PHASE >>{}", log.display()));
    let sendmail = lab.script("sendmail", &format!("cat >{}", mail.display()));
    let hooks = json!([{"name": "note", "phase": ["post-commit", "post-domain"], "command": [hook]}]);
    let scene = Scene::new(&lab, &[&guest]).impatient();
    let domain = json!({"method": "snapshot", "compression": "none", "hooks": hooks});
    let program = scene.program.domain(guest.name(), domain).set("mail", json!({"to": "root", "sendmail": sendmail}));
    let scene = Scene { program, ..scene };
    // Both are new processes, and do not inherit the open files of the target.
    let (code, told) = scene.hung(&["backup"], Call::Write, 5 << 20);
    assert_eq!(code, 1, "{told}");
    assert_eq!(std::fs::read_to_string(log).unwrap(), "post-commit\npost-domain\n");
    let mail = std::fs::read_to_string(mail).unwrap();
    assert!(mail.contains("no response for 3 s"), "{mail}");
    guest.assert_no_leftovers();
}

/// Runs a backup of two guests, one to the failing target and one to a directory beside it, and returns both results.
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
    assert_eq!(scene.files(), before, "{what}: the last good points, and no partial ones");
    scene.program.assert_no_leftovers(guest);
    let good = other.0.backup();
    assert_eq!(good.ran.code, 0, "{what}: {good:#?}");
    scene.target.heal();
}

#[test]
fn full_or_failing_target_keeps_the_last_good_point_and_no_partial_archive() {
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
        ("full at the first byte", Call::Write, 0, full, ["No space left", "Free space on the target"]),
        ("full in the middle", Call::Write, (MIB / 2) << 20, full, ["No space left", "Free space on the target"]),
        ("full at the sync", Call::Fsync, 0, full, ["No space left", "Free space on the target"]),
        ("broken in the middle", Call::Write, (MIB / 2) << 20, broken, ["Input/output error", "the archive failed"]),
        ("broken at the sync", Call::Fsync, 0, broken, ["Input/output error", "the archive failed"]),
        ("broken at the rename", Call::Rename, 0, broken, ["Input/output error", "publish"]),
        ("full at the new file", Call::Create, 1, full, ["No space left", "Free space on the target"]),
    ] {
        scene.target.set(call, after, Fault::Error(error));
        fails_alone(&scene, &guest, &other, &causes, what);
    }
    let report = scene.program.backup_well();
    scene.program.unpack(&report, guest.name());
}

#[test]
fn target_that_vanishes_is_named_and_the_next_run_removes_the_leftovers() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let guest = guest(&lab, "vanishes");
    let scene = Scene::new(&lab, &[&guest]);
    // The backup waits in the middle of the archive, and the target vanishes there.
    scene.target.set(Call::Write, 5 << 20, Fault::Hang);
    let mut child = scene.program.command().args(["backup", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_until(DEADLINE, "the archive to be half written", || scene.target.was_met());
    // Of sockets, only the directory counts, because QEMU's tools create them accessible to all.
    let open = run("find", &[scene.program.state().to_str().unwrap(), "!", "-type", "s", "-perm", "/077"]);
    assert_eq!(open, "", "files of a run are private to their owner");
    scene.target.vanish();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{text}");
    let told = serde_json::from_str::<serde_json::Value>(&text).unwrap().to_string();
    assert!(told.contains("abort") || told.contains("not connected"), "{told}");
    guest.assert_no_leftovers();
    let left = scene.program.run(&["recover"]);
    assert_eq!(left.code, 7, "the leftovers cannot be removed now: {left:#?}");
    assert!(left.stdout.contains(scene.target.path().to_str().unwrap()), "{left:#?}");
    let Scene { target, program } = scene;
    drop(target);
    std::fs::create_dir_all(program.backups().join(guest.name())).unwrap();
    assert_eq!(program.run(&["recover"]).code, 0);
}

#[test]
fn run_ends_on_a_mount_that_accepts_no_calls_and_other_guests_fail_with_the_same_cause() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let guests = [guest(&lab, "deaf-a"), guest(&lab, "deaf-b")];
    let scene = Scene::new(&lab, &[&guests[0], &guests[1]]).impatient();
    // The trial is over, the directory of the first guest is created, and that was the last answer.
    scene.target.set(Call::Create, 1, Fault::Deaf);
    let report = scene.program.backup();
    assert_eq!(report.ran.code, 1, "{report:#?}");
    for guest in &guests {
        let told = report.domain(guest.name())["error"].to_string();
        assert!(told.contains("no response for 3 s"), "{report:#?}");
        guest.assert_no_leftovers();
    }
    assert_eq!(report.domain("deaf-b")["consistency"], serde_json::Value::Null, "it was not captured: {report:#?}");
    scene.target.release();
    let scene = scene.patient();
    assert_eq!(scene.program.run(&["recover"]).code, 0);
    let report = scene.program.backup_well();
    guests.iter().for_each(|guest| drop(scene.program.unpack(&report, guest.name())));
}

#[test]
fn target_that_hangs_during_reads_ends_verify_and_restore_and_is_not_reported_as_damage() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let guest = guest(&lab, "unread");
    let scene = Scene::new(&lab, &[&guest]).impatient();
    scene.program.backup_well();
    let scene = Scene { program: scene.program.domain(guest.name(), json!({"compression": "zstd"})), ..scene };
    let report = scene.program.backup_well();
    let out = lab.path("out");
    let (name, to) = (guest.name(), out.to_str().unwrap());
    let target = scene.target.path().to_str().unwrap();
    for (what, words) in [
        ("verify", vec!["verify", "--all", name]),
        ("restore", vec!["restore", name, "--to", to]),
        ("salvage", vec!["restore", name, "--salvage", "--to", to]),
    ] {
        for after in [0, 6 << 20] {
            let (code, told) = scene.hung(&words, Call::Read, after);
            assert_eq!(code, 5, "{what} {after}: {told}");
            assert!(told.contains("no response for 3 s") && told.contains("findmnt"), "{what} {after}: {told}");
            assert!(told.contains(target) && !told.contains("DAMAGED"), "{what} {after}: {told}");
            assert!(!out.exists(), "{what} {after}: nothing is left of the unreadable files");
        }
    }
    // Nothing was recorded against the archives, and they can be read now.
    let verified = scene.program.run(&["verify", "--all"]);
    assert_eq!(verified.code, 0, "{verified:#?}");
    let restored = scene.program.run(&["restore", name, "--to", to]);
    assert_eq!(restored.code, 0, "{restored:#?}");
    scene.program.unpack(&report, name);
}

#[test]
fn prune_on_a_hung_target_ends_and_the_next_one_removes_what_is_due() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let guest = guest(&lab, "unpruned");
    let scene = Scene::new(&lab, &[&guest]).impatient();
    (0..3).for_each(|_| drop(scene.program.backup_well()));
    let scene = Scene { program: scene.program.domain(guest.name(), json!({"rotate": 1})), ..scene };
    let (code, told) = scene.hung(&["prune"], Call::Unlink, 0);
    assert!(told.contains("no response for 3 s") && told.contains("findmnt"), "{told}");
    assert!(code == 7 && told.contains("NOT REMOVED"), "{told}");
    let next = scene.program.run(&["prune"]);
    assert_eq!(next.code, 0, "{next:#?}");
    assert_eq!(scene.files().len(), 1, "{:?}", scene.files());
}

#[test]
fn restore_to_a_hung_directory_ends_and_the_next_one_completes_it() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let guest = guest(&lab, "unwritten");
    let mount = Faulty::mount(&lab.path("restored"));
    let program = Program::new(&lab).set("stall_timeout", json!("3s")).domain(guest.name(), json!({}));
    let scene = Scene { target: mount, program };
    scene.program.backup_well();
    let [folder, left] = ["unwritten", "left"].map(|name| scene.target.path().join(name));
    let (name, to, left) = (guest.name(), folder.to_str().unwrap(), left.to_str().unwrap());
    let restore = vec!["restore", name, "--to", to];
    let salvage = vec!["restore", name, "--salvage", "--to", left];
    for (call, words) in [
        (Call::Statfs, &restore),
        (Call::Create, &restore),
        (Call::Write, &restore),
        (Call::Write, &salvage),
        (Call::Fsync, &restore),
        (Call::Rename, &restore),
    ] {
        let (code, told) = scene.hung(words, call, if call == Call::Create { 0 } else { 5 << 20 });
        assert_eq!(code, 1, "{call:?}: {told}");
        assert!(told.contains("no response for 3 s") && told.contains("findmnt"), "{call:?}: {told}");
        assert!(words.last().is_some_and(|folder| told.contains(folder)), "{call:?}: {told}");
    }
    let restored = scene.program.run(&["restore", name, "--to", to, "--overwrite"]);
    assert_eq!(restored.code, 0, "{restored:#?}");
    let files = run("ls", &["-A", to]);
    assert!(!files.contains("-part"), "the unfinished files were replaced: {files}");
    let written = std::fs::read(folder.join("vda.raw")).unwrap();
    assert!(written == std::fs::read(lab.path("random/unwritten/vda.raw")).unwrap());
}
