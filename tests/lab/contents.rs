//! The contents of a guest's disks at one moment, copied by `qemu-img`. Backups of that moment are compared with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Guest, Lab, Program, Unpacked, qemu_img, run};

/// Copies of disks of a guest that does not write: it is off or paused.
pub struct Contents {
    folder: PathBuf,
    copies: BTreeMap<String, PathBuf>,
    /// The path and the format of images that the guest's XML does not name.
    named: BTreeMap<String, (PathBuf, String)>,
}

impl Contents {
    /// Copies these disks.
    pub fn of(lab: &Lab, guest: &Guest, targets: &[&str]) -> Self {
        let folder = lab.path("contents").join(guest.name());
        std::fs::create_dir_all(&folder).expect("cannot create a directory");
        let mut contents = Contents { folder, copies: BTreeMap::new(), named: BTreeMap::new() };
        for target in targets {
            let copy = contents.folder.join(target);
            guest.copy_contents(target, &copy);
            contents.copies.insert((*target).to_owned(), copy);
        }
        contents
    }

    /// Copies a disk whose image the guest's XML does not name: a volume of a pool, or one on the network.
    pub fn add(&mut self, target: &str, image: &Path, format: &str) {
        let copy = self.folder.join(target);
        convert(image, format, &copy);
        self.copies.insert(target.to_owned(), copy);
        self.named.insert(target.to_owned(), (image.to_owned(), format.to_owned()));
    }

    /// Adds the copies of another moment.
    pub fn join(&mut self, other: &Contents) {
        self.copies.extend(other.copies.clone());
    }

    /// Panics unless an archive contains these disks and no other, each of the same size and contents.
    pub fn assert_saved_in(&self, archive: &Unpacked) {
        let saved: Vec<_> = archive.members().into_iter().filter(|member| member.starts_with("disks/")).collect();
        let expected: Vec<_> = self.copies.keys().map(|target| format!("disks/{target}.qcow2")).collect();
        assert_eq!(saved, expected, "the disks in the archive");
        for (target, copy) in &self.copies {
            assert_same(copy, "raw", &archive.disk(target), "qcow2");
        }
    }

    /// Panics unless `restore --to` of an archive creates images of these disks, each in its original format.
    pub fn assert_restored_by(&self, program: &Program, domain: &str, archive: &Unpacked) {
        let folder = self.folder.join("restored");
        let to = folder.to_str().expect("paths are UTF-8");
        let ran = program.run(&["restore", domain, "--to", to]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        let manifest = archive.manifest();
        for disk in manifest["disks"].as_array().expect("a manifest has disks") {
            let target = disk["target"].as_str().expect("a disk has a target");
            let format = if disk["format"] == "raw" { "raw" } else { "qcow2" };
            // Its old name, prefixed with the target if two are equal; without an old name, the target.
            let old = Path::new(disk["source"]["at"].as_str().unwrap_or_default()).file_name().unwrap_or_default();
            let old = old.to_str().expect("paths are UTF-8");
            let names = [format!("{target}-{old}"), old.to_owned(), format!("{target}.{format}")];
            let files: Vec<_> = names.iter().map(|name| folder.join(name)).filter(|file| file.is_file()).collect();
            let file = files.first().unwrap_or_else(|| panic!("{target} was not restored: {ran:#?}"));
            if format == "qcow2" {
                qemu_img(&["check", "-q", "-f", format, file.to_str().expect("paths are UTF-8")]);
            }
            assert_same(&self.copies[target], "raw", file, format);
        }
        std::fs::remove_dir_all(folder).expect("cannot remove the restored files");
    }

    /// Panics unless the guest's disks still have these contents. It must be paused or off.
    pub fn assert_still_on(&self, guest: &Guest) {
        let now = self.folder.join("now");
        for (target, copy) in &self.copies {
            match self.named.get(target) {
                Some((image, format)) => convert(image, format, &now),
                None => guest.copy_contents(target, &now),
            }
            assert_same(copy, "raw", &now, "raw");
        }
    }
}

fn convert(image: &Path, format: &str, copy: &Path) {
    let [image, copy] = [image, copy].map(|path| path.to_str().expect("paths are UTF-8"));
    qemu_img(&["convert", "-U", "-f", format, "-O", "raw", image, copy]);
}

/// Panics unless two images have the same size and contents as seen by the guest.
pub fn assert_same(a: &Path, a_format: &str, b: &Path, b_format: &str) {
    let [a, b] = [a, b].map(|path| path.to_str().expect("paths are UTF-8"));
    let size = |path, format| {
        let info = qemu_img(&["info", "--output=json", "-U", "-f", format, path]);
        let info: serde_json::Value = serde_json::from_str(&info).expect("qemu-img speaks JSON");
        info["virtual-size"].as_u64().expect("an image has a size")
    };
    assert_eq!(size(a, a_format), size(b, b_format), "the sizes of {a} and {b}");
    // Without `-s`, because the guest does not see which bytes are allocated.
    qemu_img(&["compare", "-q", "-U", "-f", a_format, "-F", b_format, a, b]);
}

/// The SHA-256 of a file's bytes.
pub fn sha256(path: &Path) -> String {
    let line = run("sha256sum", &["--binary".as_ref(), path.as_os_str()]);
    line.split(' ').next().unwrap_or_default().to_owned()
}
