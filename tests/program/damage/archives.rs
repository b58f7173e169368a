//! Archives that the program itself creates of guests that are off, in each codec, and the results of restoring them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::host::{Host, run};

/// A host with the restore points of two domains.
pub struct Archives {
    pub host: Host,
    /// As in the configuration; `seed` is the legacy script.
    pub codec: &'static str,
    /// The archive of `web`, whose two disks take several frames.
    pub archive: PathBuf,
}

impl Archives {
    pub fn new(codec: &'static str) -> Archives {
        let mut host = Host::new(&["other"]);
        let second = host.path("second.raw");
        let devices = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
             <target dev='vdb' bus='virtio'/></disk>",
            second.display()
        );
        host.add("web", &devices);
        // Several frames each, with a hole that the archive omits.
        let first = host.path("first.raw");
        let contents = [noise(9 << 20, 1), vec![0; 20 << 20], noise(1 << 20, 2)].concat();
        fs::write(&first, contents).unwrap();
        run("qemu-img", &["convert", "-O", "qcow2", text(&first), text(&host.image("web"))]);
        fs::write(&second, noise(6 << 20, 3)).unwrap();
        let method = if codec == "seed" { "zstd" } else { codec };
        host.configure(&format!("compression: {{method: {method}}}"), "{\"*\": {day_of_week: daily}}");
        host.run("backup").ends(0);
        if codec == "seed" {
            make_seed(&host);
        }
        let archive = host.archives("web").pop().unwrap();
        Archives { host, codec, archive }
    }

    /// All files that a restore of a domain creates.
    pub fn restored(&self, domain: &str) -> Contents {
        let to = self.host.path("good");
        self.host.run(&format!("restore {domain} --to {}", to.display())).ends(0);
        let contents = Contents::of(&to);
        fs::remove_dir_all(&to).unwrap();
        contents
    }
}

/// Replaces the archive of `web` by one that tar creates from the same disks, as the legacy script did.
fn make_seed(host: &Host) {
    let xml = host.path("xml");
    host.run(&format!("restore web --to {}", xml.display())).ends(0);
    let day = host.path("2026-11-15");
    fs::create_dir(&day).unwrap();
    for (from, to) in [
        ("domain.xml", "web.xml"),
        ("domain-inactive.xml", "web-inactive.xml"),
        ("domain-migratable.xml", "web-migratable.xml"),
    ] {
        fs::copy(xml.join(from), day.join(to)).unwrap();
    }
    fs::remove_dir_all(&xml).unwrap();
    for image in [host.image("web"), host.path("second.raw")] {
        fs::copy(&image, day.join(image.file_name().unwrap())).unwrap();
    }
    for archive in host.archives("web") {
        fs::remove_file(archive).unwrap();
    }
    let folder = host.path("backups/web");
    let archive = folder.join("web.tar.gz");
    run("tar", &["-C", text(day.parent().unwrap()), "-czf", text(&archive), "2026-11-15"]);
}

/// The files of a directory, by their relative path.
#[derive(Debug, PartialEq, Eq)]
pub struct Contents(pub BTreeMap<PathBuf, String>);

impl Contents {
    pub fn of(folder: &Path) -> Contents {
        let mut all = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next).into_iter().flatten().map(Result::unwrap) {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => drop(all.insert(path.strip_prefix(folder).unwrap().to_owned(), digest(&path))),
                }
            }
        }
        Contents(all)
    }

    /// Panics unless every file is one of `good`.
    pub fn is_within(&self, good: &Contents, what: &str) {
        assert!(!self.0.is_empty(), "{what}: a successful restore created no files");
        for (name, digest) in &self.0 {
            assert_eq!(good.0.get(name), Some(digest), "{what}: {} is silently wrong", name.display());
        }
    }
}

fn digest(path: &Path) -> String {
    run("sha256sum", &[text(path)]).split(' ').next().unwrap().to_owned()
}

/// Bytes of which half can be saved by compression; they differ by seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed << 1 | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 60) as u8 | 0x40
    };
    (0..length).map(|_| next()).collect()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
