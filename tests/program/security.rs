//! Access to data, and control of the program: an exporter without privileges, links that other users put into the
//! target, and the memory of the program and its children.

use crate::host;
use crate::steps;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};

use crate::host::Host;
use crate::serving::Exporter;
use kvmbackup::sys::step::Step;

const NOBODY: u32 = 65534;

/// Panics if the test is impossible: only root can create files of other users.
fn root() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
}

#[test]
fn exporter_serves_as_an_unprivileged_user_with_read_access() {
    root();
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    let before = host.everything();
    let mut command = host.command("setpriv");
    let user = NOBODY.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--no-new-privs"]);
    for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
        command.arg(format!("{set}=-all,+dac_read_search"));
    }
    command.arg(env!("CARGO_BIN_EXE_kvmbackup")).args([
        "exporter",
        "--listen",
        "127.0.0.1:0",
        "--host",
        host::NAME,
        "-c",
    ]);
    let exporter = Exporter::spawn(command.arg(host.path("config.yml")));
    let status = std::fs::read_to_string(format!("/proc/{}/status", exporter.pid())).unwrap();
    assert!(status.contains("CapEff:\t0000000000000004") && status.contains("Uid:\t65534\t65534"), "{status}");
    let metrics = exporter.get("/metrics");
    assert_eq!(metrics.status(), 200);
    assert!(
        metrics.body.contains("kvmbackup_domain_restore_points{") && metrics.body.contains("domain=\"a\""),
        "{}",
        metrics.body
    );
    assert!(exporter.get("/").body.contains("The only guest is backed up"), "the page");
    // If a process may leave a core, its files in /proc belong to its own user; otherwise to root: proc(5).
    let secret = std::fs::metadata(format!("/proc/{}/environ", exporter.pid())).unwrap();
    assert_eq!(secret.uid(), 0, "its memory could be dumped");
    drop(exporter);
    assert_eq!(host.everything(), before, "it has only read");
}

#[test]
fn symlink_of_another_user_in_place_of_a_domain_directory_is_not_followed() {
    root();
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    let (folder, elsewhere) = (host.path("backups/a"), host.path("elsewhere"));
    std::fs::rename(&folder, &elsewhere).unwrap();
    let before: Vec<_> = std::fs::read_dir(&elsewhere).unwrap().map(|entry| entry.unwrap().path()).collect();
    // In a world-writable directory, any user can create a link.
    std::fs::set_permissions(host.path("backups"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    symlink(&elsewhere, &folder).unwrap();
    lchown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    // Reports are wrapped.
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let refused = host.run("backup --force").ends(1);
    assert!(flat(&refused.out).contains("a symbolic link owned by another user"), "{refused:?}");
    let listed = flat(&host.run("list").ends(5).out);
    assert!(listed.contains("a symbolic link owned by another user") && !listed.contains(".tar"), "{listed}");
    let after: Vec<_> = std::fs::read_dir(&elsewhere).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(before, after, "nothing was written through the link, and nothing removed");

    // With a link of their own, operators can keep a guest's archives elsewhere.
    lchown(&folder, Some(0), Some(0)).unwrap();
    host.run("backup --force").ends(0);
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), before.len() + 1);
}

#[test]
fn running_backup_and_its_children_leave_no_core() {
    let host = Host::new(&["a"]);
    let mut command = host.command("prlimit");
    command.args(["--core=unlimited", env!("CARGO_BIN_EXE_kvmbackup"), "backup", "--host", host::NAME, "-c"]);
    let held = steps::hold(command.arg(host.path("config.yml")), Step::DiskRead.into(), &host.path("held"));
    let threads = std::fs::read_dir(format!("/proc/{}/task", held.pid())).unwrap();
    let children = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap());
    let reader: String = children.collect();
    assert_eq!(reader.split_whitespace().count(), 1, "its qemu-nbd: {reader}");
    for pid in [held.pid().to_string().as_str(), reader.trim()] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let cores = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        assert_eq!(cores.split_whitespace().next(), Some("0"), "{limits}");
    }
    assert!(held.finish().status.success());
}
