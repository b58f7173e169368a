//! Faults reported by operators: the target, its directories and retention.

use std::fs;
use std::os::unix::fs::{lchown, symlink};
use std::path::{Path, PathBuf};

use fuser::Errno;
use serde_json::{Value, json};

use super::faulty::{Call, Fault, Faulty, can_mount};
use super::lab::{Disk, Guest, Lab, Program, Ran, Report, next_second, run, virsh};

/// Backs up a domain in a second without other restore points.
fn backup_in_its_own_second(program: &Program, domain: &str) -> Report {
    next_second();
    let report = Report::from(program.run(&["backup", "--json", domain]));
    assert_eq!(report.ran.code, 0, "{report:#?}");
    report
}

/// The points that `list` shows, as pairs of domain and point.
fn listed(ran: &Ran) -> Vec<(String, String)> {
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    json["points"].as_array().unwrap().iter().map(|point| (text(&point["domain"]), text(&point["id"]))).collect()
}

fn uuid(guest: &Guest) -> String {
    virsh(&["domuuid", guest.name()]).trim().to_owned()
}

#[test]
fn rotation_keeps_the_points_of_another_guest_of_the_same_name() {
    let (lab, name) = (Lab::new(), "same-name");
    let program = Program::new(&lab).domain(name, json!({"rotate": 2}));
    let first = lab.guest(name).disk(Disk::qcow2("vda")).define();
    first.write_while_off("vda", 0x11, 1 << 20, 65536);
    let old = uuid(&first);
    let olds: Vec<PathBuf> = (0..2).map(|_| program.archive(&backup_in_its_own_second(&program, name), name)).collect();
    drop(first);

    let second = lab.guest(name).disk(Disk::qcow2("vda").file("new.qcow2")).define();
    let new = uuid(&second);
    assert_ne!(old, new);
    let news: Vec<_> = (0..3).map(|_| backup_in_its_own_second(&program, name)).collect();
    assert!(olds.iter().all(|path| path.exists()), "the old guest's points must stay");
    let outcome = news[2].domain(name);
    assert_eq!((&outcome["pruned"].as_array().unwrap().len(), &outcome["restore_points"]), (&1, &json!(2)));
    let warning =
        outcome["warnings"].as_array().unwrap().iter().find(|it| it["message"].as_str().unwrap().contains(&old));
    let warning = warning.unwrap_or_else(|| panic!("the report does not name the old guest: {outcome:#}"));
    assert!(warning["message"].as_str().unwrap().starts_with("2 restore points of another guest"), "{warning:#}");

    let list = program.run(&["list"]);
    assert_eq!(list.code, 0, "{list:?}");
    for guest in [&old, &new] {
        assert_eq!(list.stdout.lines().filter(|line| line.ends_with(guest.as_str())).count(), 2, "{}", list.stdout);
    }
    let prune = program.run(&["prune", "--dry-run"]);
    assert!(prune.code == 0 && prune.stdout.contains(&old) && !prune.stdout.contains("would remove"), "{prune:?}");
    let to = lab.path("restored");
    let restored = program.run(&["restore", name, "--to", to.to_str().unwrap()]);
    assert!(restored.code == 0 && restored.stdout.contains("2 more belong to other guests"), "{restored:?}");

    // The hint, as printed.
    let hint = warning["hint"].as_str().unwrap();
    run("sh", &["-c", &hint[hint.find("rm ").unwrap()..]]);
    assert!(olds.iter().all(|path| !path.exists()), "{hint}");
    let last = program.backup_well();
    assert_eq!(last.domain(name)["warnings"], json!([]));
}

/// Guests whose names are equal on exFAT and CIFS, each with its own contents.
fn folded_guests(lab: &Lab) -> Vec<(Guest, u8)> {
    let names = [("Fold", 0xaa), ("fold", 0xbb), ("fold.", 0xcc), ("con", 0xdd)];
    let define = |(name, pattern): (&str, u8)| {
        let guest = lab.guest(name).disk(Disk::qcow2("vda").file(format!("{pattern:x}.qcow2"))).define();
        guest.write_while_off("vda", pattern, 1 << 20, 65536);
        (guest, pattern)
    };
    names.into_iter().map(define).collect()
}

fn assert_restores(program: &Program, lab: &Lab, (guest, pattern): &(Guest, u8), round: &str) {
    let to = lab.path(&format!("{round}-{pattern:x}"));
    let restored = program.run(&["restore", guest.name(), "--to", to.to_str().unwrap()]);
    assert_eq!(restored.code, 0, "{restored:?}");
    let image = to.join(format!("{pattern:x}.qcow2"));
    let read = format!("read -P {pattern:#x} 1M 64k");
    let answer = run("qemu-io", &["-r", "-f", "qcow2", "-c", &read, image.to_str().unwrap()]);
    assert!(!answer.contains("failed"), "{}: {answer}", guest.name());
}

#[test]
fn names_that_are_equal_on_the_target_get_separate_directories() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let target = Faulty::mount(&lab.path("target"));
    target.fold_names();
    let guests = folded_guests(&lab);
    let program = Program::new(&lab).set("backupdir", json!(lab.path("target/vm")));
    let program = guests.iter().fold(program, |program, (guest, _)| program.domain(guest.name(), json!({"rotate": 2})));
    for _ in 0..3 {
        guests.iter().for_each(|(guest, _)| drop(backup_in_its_own_second(&program, guest.name())));
    }
    let list = program.run(&["list", "--json"]);
    for (guest, _) in &guests {
        let points = listed(&list).iter().filter(|(domain, _)| domain == guest.name()).count();
        assert_eq!(points, 2, "{}: {}", guest.name(), list.stdout);
    }
    let folders: Vec<_> =
        fs::read_dir(lab.path("target/vm")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(folders.len(), guests.len(), "{folders:?}");
    let verified = program.run(&["verify", "--all", "--json"]);
    assert_eq!((verified.code, listed(&verified).len()), (0, 8), "{verified:?}");
    guests.iter().for_each(|guest| assert_restores(&program, &lab, guest, "folders"));

    // As earlier versions left it: all in the directory that was created first.
    let folders: Vec<PathBuf> = folders.iter().map(|folder| lab.path("target/vm").join(folder)).collect();
    let shared = folders.iter().find(|folder| !folder.to_str().unwrap().contains('%')).unwrap();
    for folder in &folders {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        let is_folded = folder != shared && !folder.ends_with("%63%6F%6E");
        for file in files.iter().filter(|_| is_folded) {
            fs::rename(file, shared.join(file.file_name().unwrap())).unwrap();
        }
        if is_folded {
            fs::remove_dir(folder).unwrap();
        }
    }
    let verified = program.run(&["verify", "--all", "--json"]);
    assert_eq!((verified.code, listed(&verified).len()), (0, 8), "{verified:?}");
    guests.iter().for_each(|guest| assert_restores(&program, &lab, guest, "shared"));
    next_second();
    program.backup_well();
    let list = program.run(&["list", "--json"]);
    assert_eq!((list.code, listed(&list).len()), (0, 8), "{list:?}");
}

/// A target with the points of `TAG-open` and of `TAG-closed`, whose directory is a link to `elsewhere`.
fn two_domains(lab: &Lab, tag: &str, elsewhere: &Path) -> Program {
    let disk = || Disk::qcow2("vda").size("1M");
    let guests = ["open", "closed"].map(|name| lab.guest(&format!("{tag}-{name}")).disk(disk()).define());
    let program =
        guests.iter().fold(Program::new(lab), |program, guest| program.domain(guest.name(), json!({"rotate": 1})));
    program.backup_well();
    let closed = program.backups().join(format!("{tag}-closed"));
    fs::create_dir_all(elsewhere).unwrap();
    for file in fs::read_dir(&closed).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&file, elsewhere.join(file.file_name().unwrap())).unwrap();
    }
    fs::remove_dir_all(&closed).unwrap();
    symlink(elsewhere, &closed).unwrap();
    assert_eq!(program.run(&["verify", "--all"]).code, 0);
    program
}

/// Every command that lists the target reports why it cannot, continues with the other domain, and fails.
fn assert_told(program: &Program, why: &str) {
    for words in [&["list"][..], &["verify", "--all"], &["prune"], &["prune", "--dry-run"]] {
        let ran = program.run(words);
        assert_eq!(ran.code, 5, "{words:?}, {why}: {ran:?}");
        assert!(ran.stdout.contains("-open  ") && !ran.stdout.contains("no restore points"), "{words:?}: {ran:?}");
        assert!(ran.stdout.contains("-closed: ") && ran.stdout.contains(why), "{words:?}, {why}: {ran:?}");
        let hint = ran.stdout.lines().find(|line| line.starts_with("  hint: ")).unwrap_or_default();
        assert!(hint.contains("ls -ld "), "{words:?}: {ran:?}");
    }
    let check = program.run(&["check"]);
    assert!(check.code != 0 && format!("{check:?}").contains(why), "{check:?}");
}

#[test]
fn unreadable_directory_is_not_treated_as_empty() {
    let lab = Lab::new();
    let elsewhere = lab.path("elsewhere");
    let program = two_domains(&lab, "link", &elsewhere);
    let closed = program.backups().join("link-closed");

    let away = lab.path("away");
    fs::rename(&elsewhere, &away).unwrap();
    assert_told(&program, "it is a dangling symbolic link");
    // The guest was seen before, so it must not look like one without restore points.
    let survey: Value = serde_json::from_slice(&fs::read(program.state().join("survey.json")).unwrap()).unwrap();
    assert_eq!(survey["domains"]["link-closed"]["points"]["count"], 1, "{survey:#}");
    fs::rename(&away, &elsewhere).unwrap();

    lchown(&closed, Some(65534), None).unwrap();
    assert_told(&program, "it is a symbolic link owned by another user");
    lchown(&closed, Some(0), None).unwrap();

    fs::remove_file(&closed).unwrap();
    symlink("link-closed", &closed).unwrap();
    assert_told(&program, "Too many levels of symbolic links");
    fs::remove_file(&closed).unwrap();

    // The name file says which domain a shortened directory name belongs to.
    let shortened = program.backups().join(format!("{}%-{}", "x".repeat(166), "0".repeat(32)));
    fs::create_dir(&shortened).unwrap();
    for words in ["list", "prune"] {
        let ran = program.run(&[words]);
        assert!(ran.code == 5 && ran.stdout.contains(shortened.to_str().unwrap()), "{ran:?}");
    }
}

#[test]
fn directory_on_failing_storage_is_not_treated_as_empty() {
    if !can_mount() {
        return;
    }
    let lab = Lab::new();
    let storage = Faulty::mount(&lab.path("storage"));
    let program = two_domains(&lab, "fuse", &lab.path("storage/closed"));
    for (error, why) in [(Errno::EIO, "Input/output error"), (Errno::EACCES, "Permission denied")] {
        storage.set(Call::Readdir, 0, Fault::Error(error));
        assert_told(&program, why);
        storage.heal();
    }
    assert_eq!(program.run(&["list"]).code, 0);
    storage.vanish();
    assert_told(&program, "Transport endpoint is not connected");
}

#[test]
fn file_with_a_stale_handle_is_not_reported_as_damaged() {
    if !can_mount() {
        return;
    }
    let (lab, name) = (Lab::new(), "stale");
    let storage = Faulty::mount(&lab.path("storage"));
    let guest = lab.guest(name).disk(Disk::qcow2("vda")).define();
    guest.write_while_off("vda", 0xa5, 0, 16 << 20);
    let program = Program::new(&lab).domain(name, json!({"compression": "none"}));
    program.backup_well();
    let folder = program.backups().join(name);
    fs::create_dir(lab.path("storage/points")).unwrap();
    for file in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&file, lab.path("storage/points").join(file.file_name().unwrap())).unwrap();
    }
    fs::remove_dir_all(&folder).unwrap();
    symlink(lab.path("storage/points"), &folder).unwrap();
    assert_eq!(program.run(&["verify"]).code, 0);
    for after in [0, 2 << 20] {
        for error in [Errno::ESTALE, Errno::ETIMEDOUT] {
            storage.set(Call::Read, after, Fault::Error(error));
            let verify = program.run(&["verify"]);
            assert_eq!(verify.code, 5, "{error:?} after {after}: {verify:?}");
            assert!(verify.stdout.contains("UNCHECKED") && !verify.stdout.contains("DAMAGED"), "{verify:?}");
            assert!(verify.stdout.contains("findmnt"), "{error:?} after {after}: {verify:?}");
            storage.heal();
        }
    }
    storage.set(Call::Read, 2 << 20, Fault::Error(Errno::EIO));
    assert_eq!(program.run(&["verify"]).code, 6, "an unreadable sector is damage");
    storage.heal();
    assert_eq!(program.run(&["verify"]).code, 0);
}
