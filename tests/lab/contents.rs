//! What the disks of a guest hold at one moment, copied by `qemu-img`: what a backup of that moment is compared with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Guest, Lab, Unpacked, qemu_img, run};

/// Copies of disks of a guest that stands still: it is off, or its CPU is.
pub struct Contents {
    copies: BTreeMap<String, PathBuf>,
}

impl Contents {
    /// Copies these disks.
    pub fn of(lab: &Lab, guest: &Guest, targets: &[&str]) -> Self {
        let mut contents = Contents { copies: BTreeMap::new() };
        let folder = lab.path("contents").join(guest.name());
        std::fs::create_dir_all(&folder).expect("cannot make a folder");
        for target in targets {
            let copy = folder.join(target);
            guest.copy_contents(target, &copy);
            contents.add(target, copy);
        }
        contents
    }

    /// Takes a raw file for a copy of a disk.
    pub fn add(&mut self, target: &str, copy: PathBuf) {
        self.copies.insert(target.to_owned(), copy);
    }

    /// Panics unless an archive holds these disks and no other, each of the same size and contents.
    pub fn assert_saved_in(&self, archive: &Unpacked) {
        let saved: Vec<_> = archive.members().into_iter().filter(|member| member.starts_with("disks/")).collect();
        let expected: Vec<_> = self.copies.keys().map(|target| format!("disks/{target}.qcow2")).collect();
        assert_eq!(saved, expected, "the disks in the archive");
        for (target, copy) in &self.copies {
            assert_same(copy, "raw", &archive.disk(target), "qcow2");
        }
    }

    /// Panics unless the guest's disks hold this still. It must stand still, or be off.
    pub fn assert_still_on(&self, lab: &Lab, guest: &Guest) {
        let now = lab.path("contents").join("now");
        for (target, copy) in &self.copies {
            guest.copy_contents(target, &now);
            assert_same(copy, "raw", &now, "raw");
        }
    }
}

/// Panics unless two images have the same size and contents as the guest sees them.
pub fn assert_same(a: &Path, a_format: &str, b: &Path, b_format: &str) {
    let [a, b] = [a, b].map(|path| path.to_str().expect("paths are UTF-8"));
    let size = |path, format| {
        let info = qemu_img(&["info", "--output=json", "-U", "-f", format, path]);
        let info: serde_json::Value = serde_json::from_str(&info).expect("qemu-img speaks JSON");
        info["virtual-size"].as_u64().expect("an image has a size")
    };
    assert_eq!(size(a, a_format), size(b, b_format), "the sizes of {a} and {b}");
    // Without `-s`: where the bytes are allocated is no concern of the guest.
    qemu_img(&["compare", "-q", "-U", "-f", a_format, "-F", b_format, a, b]);
}

/// The SHA-256 of a file's bytes.
pub fn sha256(path: &Path) -> String {
    let line = run("sha256sum", &["--binary".as_ref(), path.as_os_str()]);
    line.split(' ').next().unwrap_or_default().to_owned()
}
