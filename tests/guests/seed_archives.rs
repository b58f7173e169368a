//! Archives of the legacy script (`kvmBackup`) are listed, checked and restored, and never removed. They are created
//! here with its tools: `tar`, `pigz --best`, the same layout, the same rotation.

use std::path::{Path, PathBuf};

use crate::host::{Host, run};
use crate::lab::{Disk, Lab, qemu_img, virsh};

/// One run of the script for a guest: `NAME.tar.gz` becomes `.1` and so on; the new one contains a directory `DATE`.
fn seed_backup(target: &Path, guest: &str, date: &str, xml: [&str; 3], images: &[&Path]) {
    let folder = target.join(guest);
    let day = folder.join(date);
    std::fs::create_dir_all(&day).unwrap();
    for (ending, xml) in ["", "-inactive", "-migratable"].iter().zip(xml) {
        std::fs::write(day.join(format!("{guest}{ending}.xml")), xml).unwrap();
    }
    for image in images {
        std::fs::copy(image, day.join(image.file_name().unwrap())).unwrap();
    }
    let archive =
        |n: usize| folder.join(if n == 0 { format!("{guest}.tar.gz") } else { format!("{guest}.tar.gz.{n}") });
    let newest = (0..).find(|n| !archive(*n).exists()).unwrap();
    for n in (0..newest).rev() {
        std::fs::rename(archive(n), archive(n + 1)).unwrap();
    }
    let compress = "cd \"$1\" && tar -cf - \"$2\" | pigz --best >\"$3\"";
    run("sh", &["-c", compress, "sh", text(&folder), date, text(&archive(0))]);
    std::fs::remove_dir_all(day).unwrap();
    run("touch", &["-d", &format!("{date} 03:04:05 UTC"), text(&archive(0))]);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A guest `a` with two old archives of different contents, and the images in them, newest first.
fn with_archives(host: &Host) -> [PathBuf; 2] {
    let xml = run("virsh", &["-c", &host.uri(), "dumpxml", "a"]);
    let dates = ["2023-11-05", "2023-11-12"];
    let images = dates.map(|date| {
        let image = host.path(date).join("a.qcow2");
        std::fs::create_dir(host.path(date)).unwrap();
        qemu_img(&["create", "-q", "-f", "qcow2", text(&image), "8M"]);
        let pattern = if date == dates[0] { "write -P 0x11 3M 128k" } else { "write -P 0x22 5M 128k" };
        run("qemu-io", &["-c", pattern, text(&image)]);
        seed_backup(&host.path("backups"), "a", date, [&xml, &xml, &xml], &[&image]);
        image
    });
    let [old, new] = images;
    [new, old]
}

#[test]
fn legacy_archives_are_listed_with_restore_points_and_not_rotated() {
    let host = Host::new(&["a"]);
    with_archives(&host);
    let before = host.archives("a");
    assert_eq!(before.len(), 2);
    host.configure("", "{a: {day_of_week: daily, rotate: 1}}");
    host.run("backup").ends(0);
    host.age("a", &[2]);
    host.run("backup").ends(0).tells(&["old restore points removed: a (1)"]);
    host.run("prune").ends(0);
    let kept = host.archives("a");
    assert!(before.iter().all(|archive| kept.contains(archive)), "{kept:?}");
    assert_eq!(kept.len(), 3);

    host.run("list a").ends(0).tells(&["20231105T030405Z"]).tells(&["20231112T030405Z"]);
    let list = host.run("list --json").ends(0).json();
    let origins: Vec<_> = list["points"].as_array().unwrap().iter().map(|point| point["origin"].clone()).collect();
    assert_eq!(origins, ["seed", "seed", "kvmbackup"]);
}

#[test]
fn legacy_archives_are_restored_byte_for_byte() {
    let host = Host::new(&["a"]);
    let [newest, oldest] = with_archives(&host);
    for (at, image) in [("2023-11-12", &newest), ("20231105T030405Z", &oldest), ("2023-11-06", &oldest)] {
        let to = host.path(&format!("to-{at}"));
        host.run(&format!("restore a --at {at} --to {}", to.display())).ends(0);
        let restored = walk(&to).into_iter().find(|path| path.extension().is_some_and(|end| end == "qcow2"));
        let restored = restored.unwrap_or_else(|| panic!("no image in {:?}", walk(&to)));
        qemu_img(&["compare", "-s", text(image), text(&restored)]);
        qemu_img(&["check", "-q", text(&restored)]);
        let xml = walk(&to).into_iter().filter(|path| path.extension().is_some_and(|end| end == "xml")).count();
        assert!(xml >= 1, "{:?}", walk(&to));
    }
}

#[test]
fn legacy_archives_are_verified_and_damage_is_found() {
    let host = Host::new(&["a"]);
    with_archives(&host);
    host.run("verify a --all").ends(0);
    let archive = host.path("backups/a/a.tar.gz");
    let mut bytes = std::fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    // A decoder may ignore a single bit.
    bytes[middle..middle + 4].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(&archive, bytes).unwrap();
    run("touch", &["-d", "2023-11-12 03:04:05 UTC", text(&archive)]);
    let ran = host.run("verify a --all").ends(6);
    let told = format!("{}{}", ran.out, ran.err);
    assert!(told.contains("a.tar.gz"), "{told}");
    host.run("verify a --at 2023-11-06").ends(0);
    let to = host.path("to");
    assert_ne!(host.run(&format!("restore a --at 2023-11-12 --to {}", to.display())).code, 0);
    assert!(!to.exists() || walk(&to).is_empty(), "files of a damaged archive were left: {:?}", walk(&to));
}

#[test]
fn legacy_archive_becomes_a_domain_under_a_new_name() {
    let lab = Lab::new();
    let guest = lab.guest("old-guest").disk(Disk::qcow2("vda").size("8M")).paused();
    guest.write("vda", 0x77, 1 << 20, 65536);
    guest.destroy();
    let host = Host::new(&[]);
    host.configure("libvirt_uri: qemu:///system", "{old-guest: {day_of_week: daily}}");
    let [live, inactive, migratable] =
        [&[][..], &["--inactive"], &["--migratable"]].map(|flags| virsh(&[&["dumpxml", "old-guest"], flags].concat()));
    let image = guest.disk_source("vda").unwrap();
    seed_backup(&host.path("backups"), "old-guest", "2023-11-05", [&live, &inactive, &migratable], &[&image]);

    let to = host.path("new-images");
    host.run(&format!("restore old-guest --define --name new-guest --to {}", to.display())).ends(0);
    let restored = lab.adopt("new-guest");
    assert_eq!(restored.state(), "shut off");
    let source = restored.disk_source("vda").unwrap();
    assert!(source.starts_with(&to), "{source:?}");
    qemu_img(&["compare", "-s", text(&image), text(&source)]);
    restored.assert_holds("vda", 0x77, 1 << 20, 65536);
    assert_ne!(virsh(&["domuuid", "old-guest"]), virsh(&["domuuid", "new-guest"]));
    restored.start_paused();
    assert_eq!(restored.state(), "paused");
}

/// All files below a directory.
fn walk(folder: &Path) -> Vec<PathBuf> {
    run("find", &[text(folder), "-type", "f"]).lines().map(PathBuf::from).collect()
}
