//! The exit codes, each with the fault that causes it.

use crate::host;
use crate::host::Host;
use crate::steps;
use kvmbackup::sys::step::Step;

#[test]
fn invalid_configuration_is_2_with_all_problems_at_once_and_changes_nothing() {
    let host = Host::new(&["a"]);
    host.write_config(
        "desk:\n  backupdir: relative\n  domains:\n    a: {day_of_week: [Mno], rotate: 0}\n    b: {day_of_week: daily, quiece: never}\n\
         other:\n  backupdri: /b\n",
    );
    let before = host.everything();
    let ran = host.run("backup").ends(2);
    assert_eq!(ran.out, "");
    let file = host.path("config.yml").display().to_string();
    for (line, words) in [
        (2, ["desk.backupdir", "relative", "absolute path"]),
        (4, ["desk.domains.a.day_of_week", "Mno", "did you mean `Mon`?"]),
        (4, ["desk.domains.a.rotate", "\"0\"", "from 1"]),
        (5, ["desk.domains.b.quiece", "unknown key", "did you mean `quiesce`?"]),
        (7, ["other.backupdri", "unknown key", "did you mean `backupdir`?"]),
    ] {
        let place = format!("{file}:{line}:");
        let told = ran.err.lines().any(|told| told.contains(&place) && words.iter().all(|word| told.contains(word)));
        assert!(told, "{place} {words:?} in:\n{}", ran.err);
    }
    assert_eq!(host.everything(), before);
}

#[test]
fn missing_section_missing_file_and_wrong_arguments_are_2() {
    let host = Host::new(&["a"]);
    host.write_config("desc:\n  backupdir: /b\n  domains: {a: {day_of_week: daily}}\n");
    assert!(host.run("backup").ends(2).err.contains("did you mean `desc`?"));
    std::fs::remove_file(host.path("config.yml")).unwrap();
    assert!(host.run("backup").ends(2).err.contains("cannot be read"));
    host.run("backup --nosuch").ends(2);
    host.run("nosuch").ends(2);
}

#[test]
fn held_lock_is_3_and_the_holder_is_named() {
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    let lock = std::fs::File::open(host.path("state/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    // The device is never opened.
    let changing =
        ["backup --force", "recover", "prune", "restore a --define --overwrite", "restore a --disk vda=/dev/null"];
    for words in changing {
        let ran = host.run(words).ends(3);
        assert!(ran.err.contains("another run holds the lock") && ran.err.contains("pid"), "{}", ran.err);
    }
    assert_eq!(host.archives("a").len(), 1);
    host.run("backup --dry-run").ends(0);
    host.run(&format!("restore a --to {}", host.path("to").display())).ends(0);
    // Closing the file is not enough: a process that another test is starting has inherited it until it executes its
    // program.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::Unlock).unwrap();
    host.run("backup --force").ends(0);
}

#[test]
fn libvirt_that_does_not_answer_is_4() {
    let host = Host::new(&["a"]);
    host.configure("libvirt_uri: 'qemu+unix:///system?socket=/nonexistent/libvirt-sock'", "{a: {day_of_week: daily}}");
    for words in ["backup", "backup --dry-run"] {
        let ran = host.run(words).ends(4);
        let told = format!("{}{}", ran.out, ran.err);
        assert!(told.contains("cannot connect to libvirt") && told.contains("hint"), "{told}");
        assert_eq!(
            told.matches("/nonexistent/libvirt-sock").count(),
            told.matches("at qemu+unix").count() * 2,
            "{told}"
        );
    }
}

#[test]
fn target_that_is_not_mounted_is_5() {
    let host = Host::new(&["a"]);
    // In the root directory, which is on the root file system on every host.
    host.configure("require_mount: true\nbackupdir: /kvmbackup-is-not-mounted", "{a: {day_of_week: daily}}");
    let ran = host.run("backup").ends(5);
    assert!(ran.out.contains("require_mount"), "{ran:?}");
    assert!(!std::path::Path::new("/kvmbackup-is-not-mounted").exists());
    host.run("backup --dry-run").ends(0);
}

#[test]
fn target_that_is_no_directory_or_has_no_parent_is_5() {
    let host = Host::new(&["a"]);
    std::fs::write(host.path("backups"), "a file").unwrap();
    host.run("backup").ends(5).tells(&["backups is unusable"]);
    std::fs::remove_file(host.path("backups")).unwrap();
    host.configure(&format!("backupdir: {}", host.path("no/such").display()), "{a: {day_of_week: daily}}");
    host.run("backup").ends(5).tells(&["hint", "Mount the target"]);
    assert!(!host.path("no").exists());
}

#[test]
fn full_target_is_5_only_if_something_is_due() {
    let host = Host::new(&["a"]);
    host.configure("min_free: 100%", "{a: {day_of_week: daily}}");
    host.run("backup").ends(5).tells(&["min_free"]);
    assert!(host.archives("a").is_empty());
    host.configure("min_free: 100%", &format!("{{a: {{day_of_week: {}}}}}", host.another_day()));
    host.run("backup").ends(0).tells(&["nothing is due today"]);
}

#[test]
fn failed_cleanup_is_7_and_reported_beside_good_backups() {
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    std::fs::write(host.path("state/journal/0.json"), "{").unwrap();
    host.run("backup")
        .ends(7)
        .tells(&["1 of 1 good, but cleanup is incomplete"])
        .tells(&["hint", "A journal entry that cannot be read"]);
    host.run("recover").ends(7).tells(&["0.json"]);
    host.run("backup nosuch").ends(1);
    std::fs::remove_file(host.path("state/journal/0.json")).unwrap();
    host.run("recover").ends(0).tells(&["no interrupted run"]);
}

#[test]
fn signal_ends_the_run_cleanly_with_128_plus_its_number() {
    let host = Host::new(&["a"]);
    let big = host.path("big.raw");
    std::fs::write(&big, vec![0x5a; 192 << 20]).unwrap();
    std::fs::remove_file(host.image("a")).unwrap();
    let image = host.image("a");
    host::run("qemu-img", &["convert", "-O", "qcow2", big.to_str().unwrap(), image.to_str().unwrap()]);
    let config = host.path("config.yml");
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    command.arg("-c").arg(&config).args(["--host", host::NAME]);
    let held = steps::hold(&mut command, Step::DiskRead.into(), &host.path("held"));
    let is_part = |path: &std::path::PathBuf| path.extension().is_some_and(|ending| ending == "part");
    assert!(host.archives("a").iter().any(is_part), "no archive was started");
    host::run("kill", &["-TERM", &held.pid().to_string()]);
    let output = held.finish();
    assert_eq!(output.status.code(), Some(143));
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(report.contains("INTERRUPTED by signal 15"), "{report}");
    assert_eq!(host.archives("a"), Vec::<std::path::PathBuf>::new());
    assert_eq!(std::fs::read_dir(host.path("state/journal")).unwrap().count(), 0);
}

#[test]
fn damage_is_6_and_its_place_is_named() {
    let host = Host::new(&["a", "b"]);
    host.run("backup").ends(0);
    host.run("verify").ends(0).tells(&["good", "a"]).tells(&["good", "b"]);
    let archive = host.archives("a").remove(0);
    let whole = std::fs::read(&archive).unwrap();
    for at in [whole.len() / 4, whole.len() / 2, whole.len() - 5] {
        let mut bytes = whole.clone();
        // A decoder may ignore a single bit.
        bytes[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0xff);
        std::fs::write(&archive, bytes).unwrap();
        let ran = host.run("verify").ends(6).tells(&["DAMAGED", "a"]).tells(&["good", "b"]);
        assert!(ran.out.contains(archive.to_str().unwrap()), "{}", ran.out);
        host.run("verify --json").ends(6);
        host.run("verify b").ends(0);
    }
    host.run("list").tells(&["a", "DAMAGED"]);
    std::fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
    host.run("verify a").ends(6);
    std::fs::write(&archive, whole).unwrap();
    host.run("verify").ends(0);
    host.run("list").ends(0);
}

#[test]
fn commands_that_need_a_target_exit_with_5_without_one() {
    let host = Host::new(&["a"]);
    for words in ["list", "verify", "prune", "restore a --to /nonexistent"] {
        let ran = host.run(words).ends(5);
        assert!(ran.err.contains("is unusable") && ran.err.contains("hint"), "{words}: {}", ran.err);
    }
    host.run("backup").ends(0);
    host.run("list nosuch").ends(1);
    host.run("verify nosuch").ends(1);
    host.run("restore nosuch --to /nonexistent").ends(1);
}
