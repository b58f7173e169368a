//! Restore points are copied between archives and a repository: nothing is lost, and what cannot be copied is named.

use std::fs;
use std::process::Command;

use crate::host::{Host, run};
use crate::repository::{expect_same, host, restic};

const DOMAINS: &str = "{\"*\": {day_of_week: daily}}";

/// Writes to a guest's image.
fn write(host: &Host, guest: &str, what: &str) {
    run("qemu-io", &["-c", what, host.image(guest).to_str().unwrap()]);
}

/// A host with two archives of each guest, whose configuration names an empty repository now.
fn moved_host() -> Host {
    let host = Host::new(&["a", "b"]);
    host.configure("", DOMAINS);
    write(&host, "a", "write -P 0xab 1M 3M");
    host.run("backup").ends(0);
    write(&host, "a", "write -P 0xcd 2M 64k");
    host.run("backup --force").ends(0);
    crate::repository::configure(&host, DOMAINS);
    host.run("repository init").ends(0);
    host
}

fn ids(host: &Host, guest: &str) -> Vec<String> {
    let listed = host.run("list --json").ends(0).json();
    let points = listed["points"].as_array().unwrap().iter().filter(|point| point["domain"] == guest);
    points.map(|point| point["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn archives_are_imported_into_a_repository_and_restored_from_it() {
    let host = moved_host();
    let archives = host.archives("a");
    let from = host.path("backups").display().to_string();
    let imported = host.run(&format!("import --from {from}")).ends(0);
    assert!(imported.out.ends_with("4 imported, 0 already present, 0 not imported\n"), "{}", imported.out);
    assert_eq!(host.archives("a"), archives, "the archives are still there");
    let of_archives: Vec<_> = archives
        .iter()
        .map(|path| path.to_str().unwrap()[path.to_str().unwrap().len() - 24..][..16].to_owned())
        .collect();
    assert_eq!(ids(&host, "a"), of_archives);
    host.run("verify --all").ends(0);
    restic(&host, &["check", "--read-data"]);

    // Each point has its own contents.
    for (n, id) in ids(&host, "a").iter().enumerate() {
        let to = host.path(&format!("restored-{n}"));
        fs::create_dir(&to).unwrap();
        host.run(&format!("restore a --at {id} --to {}", to.display())).ends(0);
        let parts = host.path(&format!("parts-{n}"));
        fs::create_dir(&parts).unwrap();
        crate::host::unpack(&archives[n], &parts);
        expect_same(&parts.join("disks/vda.qcow2"), "qcow2", &to.join("a.qcow2"), "qcow2");
        for file in ["domain.xml", "domain-inactive.xml"] {
            assert_eq!(fs::read(parts.join(file)).unwrap(), fs::read(to.join(file)).unwrap(), "{file}");
        }
    }
    let again = host.run(&format!("import --from {from} a")).ends(0);
    assert!(again.out.ends_with("0 imported, 2 already present, 0 not imported\n"), "{}", again.out);
    // The next backup builds on what was imported.
    let ran = host.run("backup --force --json a").ends(0).json();
    assert!(ran["domains"][0]["stored_bytes"].as_u64().unwrap() < 20_000, "{ran:#}");
}

#[test]
fn point_of_a_repository_is_exported_as_an_archive_that_tar_and_zstd_read() {
    let host = host(&["a"], DOMAINS);
    host.run("repository init").ends(0);
    host.run("backup").ends(0);
    write(&host, "a", "write -P 0xab 1M 3M");
    host.run("backup --force").ends(0);
    let ids = ids(&host, "a");
    let to = host.path("usb");
    fs::create_dir(&to).unwrap();
    let exported = host.run(&format!("export a --to {}", to.display())).ends(0);
    let archive = fs::read_dir(to.join("a")).unwrap().next().unwrap().unwrap().path();
    assert!(exported.out.contains(archive.to_str().unwrap()), "{}", exported.out);
    let listed = run("sh", &["-c", &format!("zstd -dc {} | tar -t", archive.display())]);
    assert!(listed.contains("disks/vda.qcow2") && listed.starts_with("manifest.json"), "{listed}");
    let parts = host.path("parts");
    fs::create_dir(&parts).unwrap();
    crate::host::unpack(&archive, &parts);
    expect_same(&parts.join("disks/vda.qcow2"), "qcow2", &host.image("a"), "qcow2");
    assert!(host.run(&format!("export a --to {}", to.display())).ends(0).out.contains("already present"));
    // A point that is a few seconds older than the exported one keeps its time.
    host.run(&format!("export a --at {} --to {}", ids[0], to.display())).ends(0);
    for id in &ids {
        assert!(to.join(format!("a/a-{id}.tar.zst")).exists(), "{id}");
    }

    // The directory is a target of archives like any other.
    host.configure(&format!("backupdir: {}", to.display()), DOMAINS);
    host.run("verify --all").ends(0);
    assert!(host.run("export a --at 20010101T000000Z --to /").err.contains("no restore point"));
    assert!(host.run("export nobody --to /tmp").code != 0);
}

#[test]
fn what_cannot_be_imported_is_named_and_does_not_keep_the_rest() {
    let host = moved_host();
    let archives = host.archives("a");
    let mut bytes = fs::read(&archives[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archives[0], bytes).unwrap();
    let folder = host.path("backups");
    fs::create_dir(folder.join("old")).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-czf"]).arg(folder.join("old/old.tar.gz")).arg("-C").arg(host.image("a").parent().unwrap());
    assert!(tar.arg(host.image("a").file_name().unwrap()).status().unwrap().success());
    let imported = host.run(&format!("import --from {}", folder.display())).ends(1);
    assert!(
        imported.out.contains("NOT COPIED: ") && imported.out.contains(archives[0].to_str().unwrap()),
        "{}",
        imported.out
    );
    assert!(imported.out.ends_with("3 imported, 0 already present, 2 not imported\n"), "{}", imported.out);
    assert_eq!(ids(&host, "a").len(), 1);
    host.run("verify --all").ends(0);
    restic(&host, &["check", "--read-data"]);
}
