//! The runbooks of docs/operations.md: their restore commands are run here, on a host whose guests are off. Restores
//! into block devices, and guests that boot, are in the tests of restore.

use crate::host;
use std::path::Path;
use std::process::Command;

use crate::host::{Host, NAME};

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap()
}

/// The shell blocks below a heading.
fn blocks(heading: &str) -> Vec<String> {
    let document = document();
    let (_, rest) = document.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let section = rest.split("\n## ").next().unwrap();
    let blocks: Vec<_> =
        section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect();
    assert!(!blocks.is_empty(), "{heading}");
    blocks
}

/// Runs the kvmbackup commands of a runbook, with paths of this host in place of those of the document; returns their
/// number.
#[track_caller]
fn follow(host: &Host, heading: &str) -> usize {
    let lines = blocks(heading).concat();
    // A restore in place needs a directory where guests may have images; the hidden directory of this host is none.
    // Definitions that a host refuses need a real host: `field::restore::definition` runs those commands.
    let untyped = ["/dev/", "--overwrite", "--machine", "--xml"];
    let elsewhere = |line: &&str| !untyped.iter().any(|word| line.contains(word));
    let lines: Vec<_> = lines.lines().filter(|line| line.starts_with("kvmbackup ")).filter(elsewhere).collect();
    for line in &lines {
        let line = line.split(" #").next().unwrap().trim_start_matches("kvmbackup ");
        let line =
            ["/srv/restored", "/srv/old", "/var/lib/libvirt/images"].iter().fold(line.to_owned(), |line, place| {
                line.replace(place, host.path(&format!("new{}", place.replace('/', "-"))).to_str().unwrap())
            });
        let id = host.archives("web-1")[0].display().to_string();
        let id = id.rsplit_once("web-1-").unwrap().1.split('.').next().unwrap().to_owned();
        let line = line.replace("--host cloud1", "").replace("2026-11-22", &id).replace("2023-11-05", &id);
        let ran = host.run(&line);
        assert_eq!(ran.code, 0, "{line}: {ran:?}");
    }
    lines.len()
}

#[test]
fn every_line_of_shell_is_valid() {
    let document = document();
    let mut checked = 0;
    for block in document.split("```sh\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let output = Command::new("bash").args(["-n", "-c", block]).output().unwrap();
        assert!(output.status.success(), "{block}: {}", String::from_utf8_lossy(&output.stderr));
        checked += 1;
    }
    assert!(checked > 20);
}

#[test]
fn restore_commands_of_the_runbooks_work() {
    let mut host = Host::new(&["web-1"]);
    host.run("backup").ends(0);
    assert!(follow(&host, "Restoring one disk") >= 2);
    assert!(host.path("new-srv-restored/web-1.qcow2").exists());
    assert!(follow(&host, "Restoring a whole guest") >= 1);
    host.undefine("web-1");
    std::fs::remove_dir_all(host.path("new-var-lib-libvirt-images")).unwrap();
    assert!(follow(&host, "Restoring on a new host") >= 2);
    assert!(follow(&host, "Archives of the kvmBackup script") >= 3);
}

#[test]
fn lost_guest_is_restored_as_the_runbook_says() {
    // The other guest keeps its image in the same directory, so images may be restored there.
    let mut host = Host::new(&["other", "web-1"]);
    host.run("backup").ends(0);
    host.undefine("web-1");
    std::fs::remove_file(host.image("web-1")).unwrap();
    assert_eq!(follow(&host, "Restoring a lost guest"), 1);
    assert!(host.image("web-1").exists());
}

#[test]
fn new_host_reads_the_section_of_the_old_one() {
    let mut host = Host::new(&["web-1"]);
    host.run("backup").ends(0);
    host.undefine("web-1");
    let config = host.path("config.yml");
    let text = std::fs::read_to_string(&config).unwrap().replace(&format!("{NAME}:"), "cloud1:");
    host.write_config(&text);
    let to = host.path("new");
    let words = ["--config", config.to_str().unwrap(), "--host", "cloud1"];
    let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
    let ran = host.finish(command.args(words).args(["restore", "web-1", "--define", "--to"]).arg(&to));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(to.join("web-1.qcow2").exists());
}

#[test]
fn archive_is_opened_without_kvmbackup_as_the_runbook_says() {
    let host = Host::new(&["web-1"]);
    host.run("backup").ends(0);
    let [block] = blocks("Without this tool").try_into().unwrap();
    let told = block.split_whitespace().find(|word| word.starts_with("/mnt/")).unwrap();
    let archive = host.archives("web-1").into_iter().find(|path| path.extension().is_some_and(|own| own == "zst"));
    let block = block.replace(told, archive.unwrap().to_str().unwrap());
    let output = Command::new("bash").args(["-ec", &block]).current_dir(host.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("disks/vda.qcow2: OK"), "{said}");
    let compared = host::run(
        "qemu-img",
        &["compare", host.path("out/disks/vda.qcow2").to_str().unwrap(), host.image("web-1").to_str().unwrap()],
    );
    assert!(compared.contains("identical"), "{compared}");
}
