//! Malicious archives: nothing is written outside the directory that the operator chose, QEMU gets no other file to
//! open, memory stays bounded, and everything that a definition reaches for is shown.

use crate::host;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::host::{Host, Run, run};

/// Limit of a command's memory in bytes, including address space.
const MEMORY: &str = "--as=2147483648";

/// A host with an uncompressed restore point of `web`, unpacked.
struct Workshop {
    host: Host,
    archive: PathBuf,
    /// The members.
    parts: PathBuf,
}

impl Workshop {
    fn new() -> Workshop {
        let host = Host::new(&["web"]);
        host.configure("compression: {method: none}", "{\"*\": {day_of_week: daily}}");
        host.run("backup").ends(0);
        let archive = host.archives("web").pop().unwrap();
        let parts = host.path("parts");
        host::unpack(&archive, &parts);
        Workshop { host, archive, parts }
    }

    /// Rebuilds the archive from the current parts, with correct checksums; `more` are arguments of tar.
    fn build(&self, more: &str) {
        host::pack(&self.parts, &self.archive, more);
    }

    fn sh(&self, script: &str) {
        let script = format!("cd {}\n{script}", self.parts.display());
        run("sh", &["-ec", &script]);
    }

    /// Runs a command with bounded memory.
    fn bounded(&self, words: &str) -> Run {
        let mut command = self.host.command("prlimit");
        command.arg(MEMORY).arg(env!("CARGO_BIN_EXE_kvmbackup")).args(words.split_whitespace());
        self.host.finish(command.arg("--config").arg(self.host.path("config.yml")).args(["--host", host::NAME]))
    }

    /// Every name below the host's directory, except for the destination of a restore and files that every command may
    /// write.
    fn names(&self) -> BTreeSet<PathBuf> {
        let all = self.host.modes("");
        let own = [self.host.path("to"), self.host.path("state")];
        all.into_keys().filter(|path| !own.iter().any(|own| path.starts_with(own))).collect()
    }

    /// Panics unless verify refuses the archive, a restore leaves nothing, and salvage, which may create harmless
    /// files, stays in its directory.
    fn is_refused(&self, what: &str) {
        let before = self.names();
        let to = self.host.path("to");
        let ran = self.bounded("verify --json");
        assert_eq!(ran.code, 6, "{what}: {ran:?}");
        assert!([0, 6].contains(&self.bounded("list").code), "{what}");
        let ran = self.bounded(&format!("restore web --to {}", to.display()));
        assert_eq!(ran.code, 6, "{what}: {ran:?}");
        assert!(!to.exists(), "{what}");
        let ran = self.bounded(&format!("restore web --salvage --to {}", to.display()));
        assert_eq!(ran.code, 6, "{what}: {ran:?}");
        for file in files(&to) {
            assert!(file.symlink_metadata().unwrap().is_file(), "{what}: {}", file.display());
        }
        assert_eq!(self.names(), before, "{what}: something was written elsewhere");
        let _ = fs::remove_dir_all(&to);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    run("find", &[text(folder), "!", "-type", "d"]).lines().map(PathBuf::from).collect()
}

#[test]
fn no_name_in_an_archive_leads_out_of_the_directory() {
    let shop = Workshop::new();
    let good = fs::read(&shop.archive).unwrap();
    let evil = shop.host.path("evil");
    for (what, more) in [
        ("dot-dot", "--transform 's,domain.xml,../../evil,'".to_owned()),
        ("absolute", format!("--transform 's,domain.xml,{},'", evil.display())),
        ("a folder", "--no-recursion disks".to_owned()),
    ] {
        shop.build(&more);
        assert_ne!(fs::read(&shop.archive).unwrap(), good, "{what}");
        shop.is_refused(what);
    }
    for (what, make) in [
        ("symbolic link", format!("ln -s {} link", shop.host.path("").display())),
        ("hard link", "ln domain.xml link".to_owned()),
        ("pipe", "mkfifo link".to_owned()),
    ] {
        shop.sh(&make);
        shop.build(if what == "hard link" { "" } else { "link" });
        shop.is_refused(what);
        shop.sh("rm link");
    }
    shop.build("domain.xml domain.xml --hard-dereference");
    shop.is_refused("a member twice");
    assert!(!evil.exists());
}

#[test]
fn absurd_length_needs_no_memory() {
    let shop = Workshop::new();
    shop.build("");
    let good = fs::read(&shop.archive).unwrap();
    // The length field: GNU tar manual, "Basic Tar Format"; base 256 here.
    let header = |name: &str| {
        good.chunks(512).position(|block| block.starts_with(format!("{name}\0").as_bytes())).unwrap() * 512
    };
    for name in ["manifest.json", "domain.xml", "disks/vda.qcow2", "SHA256SUMS"] {
        let mut bad = good.clone();
        let header = &mut bad[header(name)..][..512];
        header[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0]);
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        fs::write(&shop.archive, bad).unwrap();
        shop.is_refused(name);
    }
}

#[test]
fn seek_table_and_frames_with_absurd_sizes_need_no_memory() {
    let shop = Workshop::new();
    let as_zstd = shop.archive.with_extension("tar.zst");
    fs::remove_file(&shop.archive).unwrap();
    shop.host.configure("compression: {method: zstd}", "{\"*\": {day_of_week: daily}}");
    shop.host.run("backup --force").ends(0);
    let archive = shop.host.archives("web").pop().unwrap();
    assert_eq!(archive.extension(), as_zstd.extension());
    let shop = Workshop { archive, ..shop };
    let good = fs::read(&shop.archive).unwrap();
    let end = good.len();
    let entries = end - 9 - 12 * u32::from_le_bytes(good[end - 9..end - 5].try_into().unwrap()) as usize;
    for (what, at, bytes) in [
        ("the number of frames", end - 9, u32::MAX.to_le_bytes()),
        ("a frame's length in the file", entries, u32::MAX.to_le_bytes()),
        ("a frame's length in the stream", entries + 4, u32::MAX.to_le_bytes()),
        // RFC 8878: descriptor with an eight-byte content size, then a window of 2 GiB.
        ("a frame's own window", 4, [0xc4, 0xa8, 0xff, 0xff]),
    ] {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&bytes);
        fs::write(&shop.archive, bad).unwrap();
        shop.is_refused(what);
    }
}

#[test]
fn disk_that_names_another_file_is_never_given_to_qemu() {
    let shop = Workshop::new();
    let secret = shop.host.path("secret");
    fs::write(&secret, vec![7; 1 << 20]).unwrap();
    let data_file = format!("data_file={},data_file_raw=on", shop.host.path("data").display());
    let nbd = "json:{\"driver\":\"nbd\",\"server\":{\"type\":\"unix\",\"path\":\"/nowhere\"}}";
    for (what, options) in [
        ("a backing file", vec!["-F", "raw", "-b", text(&secret)]),
        ("a protocol", vec!["-F", "raw", "-u", "-b", "nbd:unix:/nowhere"]),
        ("json", vec!["-F", "raw", "-u", "-b", nbd]),
        ("a data file", vec!["-o", &data_file]),
    ] {
        let disk = shop.parts.join("disks/vda.qcow2");
        fs::remove_file(&disk).unwrap();
        let create = [&["create", "-q", "-f", "qcow2"], &options[..], &[text(&disk), "8M"]].concat();
        run("qemu-img", &create);
        shop.build("");
        let to = shop.host.path("to");
        let ran = shop.bounded(&format!("restore web --to {}", to.display()));
        assert_eq!(ran.code, 6, "{what}: {ran:?}");
        assert!(!to.exists(), "{what}");
        shop.bounded(&format!("restore web --salvage --to {}", to.display())).ends(6);
        for image in files(&to).iter().filter(|file| file.extension().is_some_and(|ending| ending == "qcow2")) {
            let told = run("qemu-img", &["info", "-f", "qcow2", text(image)]);
            assert!(!told.contains("backing") && !told.contains("data file"), "{what}: {told}");
        }
        fs::remove_dir_all(&to).unwrap();
    }
}

/// A definition may declare any file an image, for example that of the UEFI variables: `<nvram format='qcow2'>`.
#[test]
fn file_beside_the_disks_that_names_another_file_is_refused() {
    let shop = Workshop::new();
    let secret = shop.host.path("secret");
    fs::write(&secret, vec![7; 1 << 20]).unwrap();
    let variables = shop.parts.join("nvram");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", text(&secret), text(&variables), "1M"]);
    let file = shop.parts.join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    manifest["nvram"] = serde_json::json!({"member": "nvram", "path": "/var/lib/libvirt/qemu/nvram/web_VARS.fd"});
    fs::write(&file, manifest.to_string()).unwrap();
    shop.build("");
    let to = shop.host.path("to");
    let ran = shop.bounded(&format!("restore web --to {}", to.display()));
    assert!(ran.code == 6 && ran.err.contains("nvram reads from another file of the host"), "{ran:?}");
    assert!(!to.exists());
}

#[test]
fn definition_is_shown_with_everything_that_it_reaches_for() {
    let shop = Workshop::new();
    let xml = fs::read_to_string(shop.parts.join("domain-inactive.xml")).unwrap();
    let evil = "<emulator>/tmp/evil-emulator</emulator>\
        <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/evil-disk'/>\
        <target dev='vdq' bus='virtio'/><shareable/></disk>\
        <interface type='ethernet'><script path='/tmp/evil-script'/></interface>\
        <serial type='file'><source path='/tmp/evil-serial'/></serial>\
        <hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>";
    let hostile = xml.replacen("<devices>", &format!("<devices>{evil}"), 1);
    assert_ne!(hostile, xml);
    fs::write(shop.parts.join("domain-inactive.xml"), hostile).unwrap();
    shop.build("");
    let to = shop.host.path("to");
    for (name, words, code) in
        [("copy", "--accept-host-access", 0), ("second", "--quiet --accept-host-access", 0), ("third", "", 1)]
    {
        let ran =
            shop.host.run(&format!("restore web {words} --define --name {name} --to {}", to.join(name).display()));
        assert_eq!(ran.code, code, "{ran:?}");
        assert_eq!(to.join(name).exists(), code == 0, "{ran:?}");
        for word in ["evil-emulator", "evil-script", "evil-serial", "0xbeef"] {
            assert!(ran.out.lines().any(|line| line.starts_with("note: ") && line.contains(word)), "{word}: {ran:?}");
        }
        assert!(ran.out.contains("vdq"), "{ran:?}");
        // The places are shown whether the definition is refused or not, and with or without `--quiet`.
        let shown = ran.out.split_once("will be written:\n  ").unwrap_or_else(|| panic!("{ran:?}")).1;
        assert!(shown.starts_with(to.join(name).to_str().unwrap()), "{ran:?}");
    }
}

#[test]
fn host_access_of_a_definition_is_shown_before_it_is_defined() {
    let shop = Workshop::new();
    let file = shop.parts.join("domain-inactive.xml");
    let xml = fs::read_to_string(&file).unwrap();
    let evil = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
        <qemu:arg value='-incoming'/><qemu:arg value='exec:evil-command'/><qemu:env name='LD_PRELOAD' value='evil-library'/>\
        </qemu:commandline></domain>";
    let good = xml.replacen("</domain>", evil, 1);
    // libvirt does not know this processor, so it refuses the definition.
    let refused = good.replacen("arch='", "arch='evil-", 1);
    for (what, text, code) in [("defined", &good, 0), ("refused", &refused, 1)] {
        assert_ne!(*text, xml);
        fs::write(&file, text).unwrap();
        // It would be used in place of one that this host refuses.
        fs::write(shop.parts.join("domain-migratable.xml"), text).unwrap();
        shop.build("");
        let to = shop.host.path(what);
        for words in [vec![], vec!["--start"], vec!["--quiet"]] {
            let name = [&[what], &words[..]].concat().join("");
            let words = words.join(" ");
            let ran = shop.host.run(&format!(
                "restore web {words} --accept-host-access --define --name {name} --to {}",
                to.join(&name).display()
            ));
            assert_eq!(ran.code, code, "{what}: {ran:?}");
            let lines: Vec<&str> = ran.out.lines().collect();
            for word in ["commandline", "exec:evil-command", "LD_PRELOAD", "evil-library"] {
                let note = lines.iter().position(|line| line.starts_with("note: ") && line.contains(word));
                let note = note.unwrap_or_else(|| panic!("{word}: {ran:?}"));
                let defined = lines.iter().position(|line| line.starts_with("defined"));
                assert!(defined.is_none_or(|defined| note < defined), "{ran:?}");
            }
        }
    }
}
