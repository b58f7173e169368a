//! Space that runs out while a disk is read: on the target, and under the guest's overlay.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::lab::{Contents, DEADLINE, Disk, Guest, Lab, Program, Ran, Report, by_each_method, run, wait_until};
use serde_json::{Value, json};

by_each_method! {
    capture_ends_before_its_space_runs_out
}

/// A separate file system, unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn new(lab: &Lab, name: &str, mib: u32) -> Self {
        let dir = lab.path(name);
        std::fs::create_dir(&dir).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}M"), "tmpfs", dir.to_str().unwrap()]);
        Small(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["--lazy", self.0.to_str().unwrap()]).status();
    }
}

/// A paused guest whose disk does not compress.
fn guest(lab: &Lab, name: &str) -> Guest {
    let image = lab.path("random/vda.raw");
    std::fs::create_dir(image.parent().unwrap()).unwrap();
    run("dd", &["if=/dev/urandom", &format!("of={}", image.display()), "bs=1M", "count=96", "status=none"]);
    lab.guest(name).disk(Disk::raw("vda").file(image)).paused()
}

fn start(program: &Program) -> Child {
    let run = program.command().args(["backup", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    run.expect("cannot run kvmbackup")
}

fn finish(run: Child) -> Report {
    Report::from(Ran::from(run.wait_with_output().unwrap()))
}

/// Size of the unfinished archive.
fn written(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

fn fails_with<'a>(report: &'a Report, guest: &Guest, why: &str) -> &'a Value {
    assert_eq!(report.ran.code, 1, "{report:#?}");
    let outcome = report.domain(guest.name());
    assert_eq!(outcome["outcome"], "failed", "{report:#?}");
    let message = outcome["error"]["message"].as_str().unwrap();
    assert!(message.contains(why), "{message}");
    outcome
}

#[test]
fn target_is_not_filled_below_min_free() {
    let lab = Lab::new();
    let guest = guest(&lab, "min-free");
    let target = Small::new(&lab, "target", 128);
    let program = Program::new(&lab)
        .set("backupdir", json!(target.0))
        .set("min_free", json!("64 MiB"))
        .domain(guest.name(), json!({}));
    let report = program.backup();
    let outcome = fails_with(&report, &guest, "`min_free` requires");
    assert!(outcome["error"]["hint"].as_str().unwrap().contains("Free space"), "{outcome:#}");
    assert_eq!(written(&target.0.join(guest.name())), 0, "the unfinished archive still exists");
    guest.assert_no_leftovers();
}

fn capture_ends_before_its_space_runs_out(method: &str) {
    let lab = Lab::new();
    // Before the guest: its QEMU has its own mounts.
    let own = Small::new(&lab, "own", 64);
    let guest = guest(&lab, &format!("room-{method}"));
    let contents = Contents::of(&lab, &guest, &["vda"]);
    let keys = json!({"method": method, "overlay_dir": own.0, "scratch_dir": own.0,
        "compression": {"method": "zstd", "level": 19}});
    let program = Program::new(&lab).domain(guest.name(), keys);
    let mut run = start(&program);
    wait_until(DEADLINE, "the first bytes of an archive", || {
        assert!(run.try_wait().unwrap().is_none(), "the backup has already ended");
        written(&program.backups().join(guest.name())) > 0
    });
    let mut full = std::process::Command::new("dd");
    full.args(["if=/dev/zero", "bs=1M", "status=none"]).arg(format!("of={}", own.0.join("others").display()));
    assert!(!full.status().unwrap().success(), "the file system should be full");
    let report = finish(run);
    let outcome = fails_with(&report, &guest, "free");
    assert!(outcome["error"]["hint"].as_str().unwrap().contains("overlay_dir"), "{outcome:#}");
    assert_eq!(guest.state(), "paused");
    program.assert_no_leftovers(&guest);
    contents.assert_still_on(&guest);
}
