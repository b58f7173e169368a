//! Repositories forged by an attacker with the password: a restore writes only into its destination, and memory stays bounded.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::{host, restic};
use crate::forge::{self, Forge, dir_node, file_node, tree};
use crate::host::{Host, NAME, Run};

/// Limit of a command's memory in bytes, including address space.
const MEMORY: &str = "--as=2147483648";
/// Size of the forged disk.
const SIZE: usize = 8 << 20;

/// A host with a repository, and the files of a restore point in it.
struct Workshop {
    host: Host,
    files: Vec<(String, String)>,
}

impl Workshop {
    fn new() -> Workshop {
        let host = host(&["web"], "{\"*\": {day_of_week: daily}}");
        host.run("repository init").ends(0);
        host.run("backup").ends(0);
        let names = ["domain-inactive.xml", "domain-migratable.xml", "domain.xml", "manifest.json"];
        let files =
            names.map(|name| (name.to_owned(), restic(&host, &["dump", "latest", &format!("/web/{name}")]))).to_vec();
        fs::write(host.path("password"), forge::PASSWORD).unwrap();
        Workshop { host, files }
    }

    /// Replaces the repository by one with this disk name and changed files.
    fn forge(&self, disk: &str, size: u64, change: impl Fn(&str) -> String) {
        let mut forge = Forge::new();
        let data = forge.blob("data", &vec![7; SIZE]);
        let disks = forge.blob("tree", tree(&[file_node(disk, size, &[&data])]).as_bytes());
        let mut nodes = vec![dir_node("disks", &disks)];
        for (name, text) in &self.files {
            let text = change(text);
            let blob = forge.blob("data", text.as_bytes());
            nodes.push(file_node(name, text.len() as u64, &[&blob]));
        }
        let below = forge.blob("tree", tree(&nodes).as_bytes());
        let root = forge.blob("tree", tree(&[dir_node("web", &below)]).as_bytes());
        let (_, index) = forge.pack();
        forge.object("index", index.as_bytes());
        forge.object("snapshots", change(&forge::snapshot(&root)).as_bytes());
        let repository = self.host.path("repository");
        fs::remove_dir_all(&repository).unwrap();
        fs::create_dir_all(repository.join("locks")).unwrap();
        for (path, bytes) in forge.files {
            let path = repository.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// Runs a command with bounded memory.
    fn bounded(&self, words: &[&str]) -> Run {
        let mut command = self.host.command("prlimit");
        command.arg(MEMORY).arg(env!("CARGO_BIN_EXE_kvmbackup")).args(words);
        self.host.finish(command.arg("--config").arg(self.host.path("config.yml")).args(["--host", NAME]))
    }

    /// Every name below the host's directory, except for the destination and files that every command may write.
    fn names(&self) -> BTreeSet<PathBuf> {
        let all = self.host.modes("");
        let own = ["to", "state", "cache"].map(|name| self.host.path(name));
        all.into_keys().filter(|path| !own.iter().any(|own| path.starts_with(own))).collect()
    }

    /// Asserts that no command writes outside of the destination; returns whether a restore succeeds.
    fn restores(&self, domain: &str, what: &str) -> bool {
        let (before, to) = (self.names(), self.host.path("to"));
        let to_text = to.to_str().unwrap();
        fs::create_dir(&to).unwrap();
        for words in [&["verify", "--all"][..], &["export", domain, "--to", to_text]] {
            let ran = self.bounded(words);
            assert!([0, 1, 6].contains(&ran.code), "{what}: {words:?}: {ran:?}");
            assert_eq!(self.names(), before, "{what}: {words:?} wrote elsewhere");
        }
        fs::remove_dir_all(&to).unwrap();
        let ran = self.bounded(&["restore", domain, "--to", to_text]);
        assert!([0, 1, 6].contains(&ran.code), "{what}: {ran:?}");
        assert_eq!(self.names(), before, "{what}: the restore wrote elsewhere");
        let restored = self.host.modes("").into_keys().filter(|path| path.starts_with(&to) && *path != to).count();
        assert!(ran.code == 0 || restored == 0, "{what}: a refused restore left {restored} files");
        let _ = fs::remove_dir_all(&to);
        ran.code == 0
    }
}

#[test]
fn forged_repository_never_makes_a_restore_write_elsewhere() {
    let workshop = Workshop::new();
    let size = SIZE as u64;
    workshop.forge("vda.raw", size, str::to_owned);
    assert!(workshop.restores("web", "an honest repository"));

    // Names in directories.
    for name in ["../../../x", "..", r"..\\x2f..\\x2f..\\x2fx"] {
        workshop.forge(name, size, str::to_owned);
        assert!(!workshop.restores("web", name), "{name}");
    }
    workshop.forge("vda.raw", 1 << 63, str::to_owned);
    assert!(!workshop.restores("web", "a false size"));
    // The manifest, and where it says that an image was.
    let image = workshop.host.image("web").display().to_string();
    for (from, to) in
        [("\"disks/vda.raw\"", "\"disks/../../../x\""), ("\"target\": \"vda\"", "\"target\": \"../../x\"")]
    {
        let is_there = workshop.files.iter().any(|(_, text)| text.contains(from));
        assert!(is_there, "the manifest does not contain {from}");
        workshop.forge("vda.raw", size, |text| text.replace(from, to));
        assert!(!workshop.restores("web", to), "{to}");
    }
    workshop.forge("vda.raw", size, |text| text.replace(&image, "/x/../../../../x.qcow2"));
    workshop.restores("web", "the path of an image");
    // The name of the domain.
    let name = "../../../x";
    let renamed = |text: &str| {
        let text = text.replace("\"hostname\":\"web\"", &format!("\"hostname\":\"{name}\""));
        text.replace("\"name\": \"web\"", &format!("\"name\": \"{name}\""))
    };
    workshop.forge("vda.raw", size, renamed);
    workshop.restores(name, name);
}
