//! Targets that refuse calls of a backup: read-only, or without modes. `check` and the run name the cause and a remedy.

use serde_json::json;

use crate::faulty::{Call, Fault, Faulty, can_mount};
use crate::lab::{Disk, Guest, Lab, Program, Ran, Small, run};
use fuser::Errno;

fn guest(lab: &Lab, name: &str) -> Guest {
    lab.guest(name).disk(Disk::qcow2("vda")).define()
}

/// Panics unless both name this cause and this hint, and no trial file is left.
#[track_caller]
fn refuses(program: &Program, causes: &[&str], guest: &Guest) {
    let check = program.run(&["check"]);
    let backup = program.run(&["backup", "--force"]);
    assert_eq!((check.code, backup.code), (1, 5), "{check:?}\n{backup:?}");
    let told = |ran: &Ran| format!("{}{}", ran.stdout, ran.stderr);
    for cause in causes {
        assert!(told(&check).contains(cause) && told(&backup).contains(cause), "{cause}: {check:?}\n{backup:?}");
    }
    assert!(check.stdout.contains("PROBLEM target"), "{check:?}");
    program.assert_no_leftovers(guest);
    nothing_but(program, &[]);
}

/// Panics unless the target contains only these directories.
#[track_caller]
fn nothing_but(program: &Program, names: &[&str]) {
    let listed = std::fs::read_dir(program.backups()).unwrap();
    let mut found: Vec<_> = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, names);
}

#[test]
fn read_only_target_is_named_by_check_and_the_run_exits_with_5() {
    let lab = Lab::new();
    let guest = guest(&lab, "read-only");
    let target = Small::mount(lab.path("backups"), "64m");
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let path = target.path().to_str().unwrap();
    run("mount", &["-o", "remount,ro", path]);
    refuses(&program, &["Read-only file system", "findmnt -T", "mount -o remount,rw"], &guest);
    // The directory that a run would create cannot be created either.
    let below = program.set("backupdir", json!(format!("{path}/vm")));
    let (check, backup) = (below.run(&["check"]), below.run(&["backup"]));
    assert_eq!((check.code, backup.code), (1, 5), "{check:?}\n{backup:?}");
    assert!(
        check.stdout.contains("mount -o remount,rw") && backup.stdout.contains("mount -o remount,rw"),
        "{backup:?}"
    );
    // The command in the hint repairs it.
    run("sh", &["-c", &format!("mount -o remount,rw \"$(findmnt -no TARGET -T {path})\"")]);
    let program = below.set("backupdir", json!(path));
    let check = program.run(&["check"]);
    assert!(check.code == 0 && check.stdout.contains("ok      target"), "{check:?}");
    nothing_but(&program, &[]);
    program.backup_well();
    nothing_but(&program, &[guest.name()]);
}

#[test]
fn target_that_refuses_chmod_is_used_only_if_its_files_are_private() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let guest = guest(&lab, "modeless");
    let target = Faulty::mount(&lab.path("backups"));
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    for mode in [0o755, 0o770, 0o707] {
        target.fix_mode(mode);
        refuses(&program, &["refuses chmod", &format!("its mode {mode:o}"), "umask=077", "file_mode=0600"], &guest);
    }
    target.fix_mode(0o700);
    let check = program.run(&["check"]);
    assert!(check.code == 0 && check.stdout.contains("ok      target"), "{check:?}");
    program.unpack(&program.backup_well(), guest.name());
    nothing_but(&program, &[guest.name()]);
    let to = target.path().join("restored");
    let restored = program.run(&["restore", guest.name(), "--to", to.to_str().unwrap()]);
    assert_eq!(restored.code, 0, "{restored:?}");
    let source = guest.disk_source("vda").unwrap();
    let restored = to.join(source.file_name().unwrap());
    run("qemu-img", &["compare", "-q", restored.to_str().unwrap(), source.to_str().unwrap()]);
}

#[test]
fn check_tries_every_operation_of_a_backup_on_the_target() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let guest = guest(&lab, "tried");
    let target = Faulty::mount(&lab.path("backups"));
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    for (call, after, error, causes) in [
        (Call::Create, 0, Errno::EDQUOT, ["cannot create", "quota exceeded", "fewer restore points"]),
        (Call::Create, 1, Errno::EACCES, ["create a private file", "ermission denied", "no_root_squash"]),
        (Call::Fsync, 0, Errno::ENOSPC, ["cannot sync", "No space left", "Free space"]),
        (Call::Rename, 0, Errno::EACCES, ["cannot rename", "ermission denied", "ls -ld"]),
        (Call::Unlink, 0, Errno::EACCES, ["cannot remove", "ermission denied", "ls -ld"]),
    ] {
        target.set(call, after, Fault::Error(error));
        let check = program.run(&["check"]);
        assert!(target.was_met() && check.code == 1, "{call:?}: {check:?}");
        let lower = check.stdout.to_lowercase();
        let told = |cause: &&str| lower.contains(&cause.to_lowercase());
        assert!(causes.iter().all(told), "{call:?}: {check:?}");
        target.heal();
    }
    // The trial file that could not be removed.
    std::fs::create_dir(target.path().join(format!(".kvmbackup-trial-{}-4294967", run("uname", &["-n"]).trim())))
        .unwrap();
    assert_eq!(program.run(&["check"]).code, 0);
    nothing_but(&program, &[]);
}

#[test]
fn target_on_the_same_file_system_as_the_images_causes_a_warning() {
    let lab = Lab::new();
    let guest = guest(&lab, "beside");
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    std::fs::create_dir(program.backups()).unwrap();
    let warns = |program: &Program| {
        let check = program.run(&["check"]);
        assert_eq!(check.code, 0, "{check:?}");
        let lines: Vec<_> =
            check.stdout.lines().filter(|line| line.contains("same file system as images of")).collect();
        assert!(lines.iter().all(|line| line.starts_with("WARNING target") && line.contains("beside")), "{check:?}");
        lines.len()
    };
    assert_eq!(warns(&program), 1);
    let _elsewhere = Small::mount(program.backups(), "64m");
    assert_eq!(warns(&program), 0);
}
