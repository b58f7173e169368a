//! Images of another program in archives of the legacy script. QEMU must not follow them to any other file of this
//! host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::lab::{Lab, Program, qemu_img, run, try_virsh};

/// Formats that QEMU can open as a disk besides raw and qcow2: the name of the format in a definition, and arguments of
/// `qemu-img create`. The first three name a file of the host.
const KINDS: [(&str, &[&str]); 10] = [
    ("vmdk", &[]),
    ("qed", &["-f", "qed"]),
    ("qcow", &["-f", "qcow"]),
    ("vmdk", &["-f", "vmdk"]),
    ("vmdk", &["-f", "vmdk", "-o", "subformat=streamOptimized"]),
    ("vdi", &["-f", "vdi"]),
    ("vpc", &["-f", "vpc"]),
    ("vhdx", &["-f", "vhdx"]),
    ("ploop", &["-f", "parallels"]),
    ("parallels", &["-f", "parallels"]),
];

/// An archive of the legacy script with one image.
struct Archive<'a> {
    lab: &'a Lab,
    program: &'a Program,
    /// Name of the domain.
    name: &'a str,
    /// A file of the host.
    secret: &'a Path,
}

impl Archive<'_> {
    fn day(&self) -> PathBuf {
        self.lab.path("2026-11-01")
    }

    /// Creates an image with these arguments of `qemu-img create`; without any, it is a VMDK descriptor that names the
    /// host's file.
    fn image(&self, words: &[&str]) {
        fs::create_dir_all(self.day()).unwrap();
        let (image, secret) = (self.day().join("d.img"), self.secret.to_str().unwrap());
        let _ = fs::remove_file(&image);
        let descriptor = format!(
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
             RW 2048 FLAT \"{secret}\" 0\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"2\"\n\
             ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n"
        );
        match words {
            [] => fs::write(&image, descriptor).unwrap(),
            words => drop(qemu_img(&[&["create", "-q"], words, &[image.to_str().unwrap(), "1M"]].concat())),
        }
    }

    /// Archives the image, with a definition that has these elements for it.
    fn pack(&self, elements: &str) {
        let name = self.name;
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>13b8d9f2-bb55-4bd2-8ac6-5fef68fb3977</uuid><memory unit='MiB'>32</memory>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><devices><disk type='file' device='disk'>{elements}\
             <source file='/img/d.img'/><target dev='vda' bus='virtio'/></disk></devices></domain>"
        );
        for ending in ["", "-inactive", "-migratable"] {
            fs::write(self.day().join(format!("{name}{ending}.xml")), &xml).unwrap();
        }
        let folder = self.program.backups().join(name);
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{name}.tar.gz"));
        run("tar", &["-C", self.lab.dir().to_str().unwrap(), "-czf", file.to_str().unwrap(), "2026-11-01"]);
    }
}

fn driver(format: &str) -> String {
    format!("<driver name='qemu' type='{format}'/>")
}

/// Contents and modification time of a file.
fn state(path: &Path) -> (Vec<u8>, i64, i64) {
    let found = fs::metadata(path).unwrap();
    (fs::read(path).unwrap(), found.ctime(), found.ctime_nsec())
}

#[test]
fn image_in_a_format_that_names_other_files_is_restored_as_a_file_and_not_defined() {
    let lab = Lab::new();
    let name = "foreign-format";
    let program = Program::new(&lab).domain(name, json!({}));
    let secret = lab.path("secret");
    fs::write(&secret, "TOP-SECRET-HOST-FILE").unwrap();
    fs::File::options().write(true).open(&secret).unwrap().set_len(1 << 20).unwrap();
    let before = state(&secret);
    let archive = Archive { lab: &lab, program: &program, name, secret: &secret };
    for (at, (format, words)) in KINDS.into_iter().enumerate() {
        let names_secret = at < 3;
        let backing: &[&str] =
            if at == 0 || !names_secret { &[] } else { &["-b", secret.to_str().unwrap(), "-F", "raw"] };
        archive.image(&[words, backing].concat());
        archive.pack(&driver(format));
        let to = lab.path(&format!("to-{at}"));
        let copy = format!("{name}-{at}");
        let define = ["restore", name, "--define", "--name", &copy, "--to", to.to_str().unwrap()];
        let ran = program.run(&define);
        assert_eq!(ran.code, 0, "{words:?}: {ran:#?}");
        let told = format!("disk vda: an image in format {format} is restored as a file only");
        assert!(ran.stdout.contains(&told), "{words:?}: {ran:#?}");
        let guest = lab.adopt(&copy);
        assert!(!guest.inactive_xml().contains("<disk"), "{words:?}: {}", guest.inactive_xml());
        let files: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(fs::read(&files[0]).unwrap(), fs::read(archive.day().join("d.img")).unwrap(), "{words:?}");
        if names_secret {
            assert!(try_virsh(&["start", "--paused", &copy]).is_ok());
            guest.destroy();
        }
        // Files without a definition are restored unchanged.
        let files = lab.path(&format!("files-{at}"));
        let ran = program.run(&["restore", name, "--to", files.to_str().unwrap()]);
        assert!(ran.code == 0 && ran.stdout.contains(&told), "{words:?}: {ran:#?}");
        assert_eq!(fs::read(files.join("d.img")).unwrap(), fs::read(archive.day().join("d.img")).unwrap());
        // Images labelled qcow2 are inspected.
        archive.pack(&driver("qcow2"));
        fs::remove_dir_all(&to).unwrap();
        let ran = program.run(&[&define[..4], &["foreign-none"], &define[5..]].concat());
        assert!(ran.code == 6 && ran.stderr.contains("is not a qcow2 image") && !to.exists(), "{words:?}: {ran:#?}");
        assert_eq!(program.run(&["verify", name]).code, 6, "{words:?}");
    }
    archive.image(&["-f", "qcow2", "-b", secret.to_str().unwrap(), "-F", "raw"]);
    archive.pack(&driver("qcow2"));
    let to = lab.path("to-qcow2");
    let ran = program.run(&["restore", name, "--define", "--name", "foreign-q", "--to", to.to_str().unwrap()]);
    assert!(ran.code == 6 && ran.stderr.contains("has a backing file") && !to.exists(), "{ran:#?}");
    assert_eq!(program.run(&["verify", name]).code, 6);
    assert!(state(&secret) == before, "the file that the images name was changed");
}

#[test]
fn file_named_only_by_the_definition_below_an_image_is_not_defined() {
    let lab = Lab::new();
    let name = "foreign-below";
    let program = Program::new(&lab).domain(name, json!({}));
    let secret = lab.path("secret");
    fs::write(&secret, vec![0x53; 1 << 20]).unwrap();
    let archive = Archive { lab: &lab, program: &program, name, secret: &secret };
    let path = secret.display();
    let backing =
        format!("<backingStore type='file'><format type='raw'/><source file='{path}'/><backingStore/></backingStore>");
    let mirror =
        format!("<mirror type='file' job='copy' ready='yes'><format type='raw'/><source file='{path}'/></mirror>");
    for (at, elements) in [backing, mirror].iter().enumerate() {
        archive.image(&["-f", "qcow2"]);
        archive.pack(&(driver("qcow2") + elements));
        let (to, copy) = (lab.path(&format!("to-{at}")), format!("{name}-{at}"));
        let ran = program.run(&["restore", name, "--define", "--name", &copy, "--to", to.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        let guest = lab.adopt(&copy);
        assert!(!guest.inactive_xml().contains(secret.to_str().unwrap()), "{}", guest.inactive_xml());
        guest.start_paused();
        assert!(!guest.live_xml().contains(secret.to_str().unwrap()), "{}", guest.live_xml());
    }
}

#[test]
fn raw_image_stays_raw_regardless_of_its_contents() {
    let lab = Lab::new();
    let name = "foreign-raw";
    let program = Program::new(&lab).domain(name, json!({}));
    let secret = lab.path("secret");
    fs::write(&secret, vec![0x53; 1 << 20]).unwrap();
    let archive = Archive { lab: &lab, program: &program, name, secret: &secret };
    archive.image(&["-f", "qcow2", "-b", secret.to_str().unwrap(), "-F", "raw"]);
    // The definition does not name the format, which libvirt treats as raw.
    archive.pack("");
    let to = lab.path("to");
    let copy = "foreign-raw-copy";
    let ran = program.run(&["restore", name, "--define", "--name", copy, "--to", to.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let guest = lab.adopt(copy);
    assert!(guest.inactive_xml().contains("type='raw'"), "{}", guest.inactive_xml());
    guest.start_paused();
    let live = guest.live_xml();
    assert!(live.contains("type='raw'") && !live.contains("<backingStore type"), "{live}");
}
